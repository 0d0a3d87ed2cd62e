"""Activation clustering: whether an example lies in the smaller of two clusters of its class.

    score(x) = s (d_large(x) - d_small(x)) / max(d_large(x), d_small(x)),   s = share of the large cluster

d_large and d_small are the distances to the two centres of k-means on the leading principal coordinates of the class,
so that the fraction is a simplified silhouette with the sign of the smaller cluster.

Paper    Chen, Carvalho, Baracaldo, Ludwig, Edwards, Lee, Molloy, Srivastava (2018), arXiv 1811.03728, section 4.
Promise  positive for rows of the smaller cluster, and higher the better that cluster is separated.
Needs    penultimate features.
Cost     one decomposition of each class, and k-means of ten starts in ten dimensions.
Departs  principal for independent components; a score for each row in place of a decision for each cluster (there:
         smaller than a share, or a silhouette above a bound); retraining without the cluster is not tried.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from mithridate.core.params import In, param
from mithridate.core.seeds import address
from mithridate.detection._base import AbstractDetector, ScanInput, class_by_class, principal


@dataclass(frozen=True, kw_only=True)
class ActivationClustering(AbstractDetector):
    """Two clusters in each class; the smaller one is suspicious."""

    per_class: ClassVar[bool] = True

    dims: int = param(10, within=In(1, 1000), doc="principal coordinates that are clustered")

    def scores(self, given: ScanInput, *, seed: int = 0) -> Float64[Tensor, " n"]:
        """Return the signed silhouettes; a class whose features are all equal scores zero."""
        from sklearn.cluster import KMeans

        def score(rows: Float64[Tensor, "m e"], label: int) -> Float64[Tensor, " m"]:
            points, spread = principal(rows - rows.mean(0), self.dims)
            if not len(spread):
                return torch.zeros(len(rows), dtype=torch.float64)
            start = address(seed, "activation-clustering", label) % 2**32
            # sorted, so that the random starts are the same rows wherever they stand
            fit = KMeans(n_clusters=2, n_init=10, random_state=np.random.RandomState(start))
            fit.fit(points[points[:, 0].argsort(stable=True)].numpy())
            distances = torch.from_numpy(fit.transform(points.numpy()))
            sizes = np.bincount(fit.labels_, minlength=2)
            small = int(sizes.argmin())
            near, far = distances[:, small], distances[:, 1 - small]
            share = float(sizes[1 - small]) / len(rows)
            return share * (far - near) / torch.maximum(near, far).clamp(min=1e-300)

        return class_by_class(given, score)


METHOD = ActivationClustering
