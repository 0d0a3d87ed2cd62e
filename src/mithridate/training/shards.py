"""Which examples each of n workers has: everyone all of them, equal random parts, skewed parts, or parts by label.

A split is an order of the row ids together with the place where each worker's part begins and its length, so that a
draw for all workers is one lookup. All of it is decided once, when a phase begins.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from mithridate.core.errors import Misuse
from mithridate.core.seeds import address

SHARDS = ("all", "iid", "dirichlet", "label")


@dataclass(frozen=True, eq=False)
class Split:
    """The parts of n workers.

    Attributes:
        order: Row ids, those of one worker side by side.
        start: Where each worker's ids begin in `order`, shape (n,).
        size: How many each worker has, at least one, shape (n,).
    """

    order: Int64[Tensor, " m"]
    start: Int64[Tensor, " n"]
    size: Int64[Tensor, " n"]


def split(law: str, labels: Int64[Tensor, " m"], num_workers: int, *, alpha: float, seed: int) -> Split:
    """Return the parts of `num_workers` workers.

    Args:
        law: `all`: everyone samples from the whole set; `iid`: a random partition into equal parts; `dirichlet`: of
            each class, worker i gets a share drawn from Dirichlet(alpha, ..., alpha); `label`: consecutive parts of
            the set sorted by label, so that a worker sees few classes.
        labels: The class of every example.
        num_workers: The number n.
        alpha: Concentration of `dirichlet`; small is skewed.
        seed: The seed of the split.

    Raises:
        Misuse: MTH-0553 if there are fewer examples than workers.
    """
    if len(labels) < num_workers:
        raise Misuse(
            "MTH-0553",
            f"{num_workers} workers cannot share {len(labels)} examples: each needs at least one",
            hint="lower the number of workers or use more data",
        )
    device = labels.device
    if law == "all":
        zero, whole = torch.zeros(num_workers, dtype=torch.int64), torch.full((num_workers,), len(labels))
        return Split(torch.arange(len(labels), device=device), zero.to(device), whole.to(device))
    rng = np.random.default_rng(address(seed, "shards"))
    shuffled = rng.permutation(len(labels))
    classes = labels.cpu().numpy()
    if law == "dirichlet":
        parts = _dirichlet(classes, shuffled, num_workers, alpha, rng)
    else:
        order = shuffled if law == "iid" else shuffled[np.argsort(classes[shuffled], kind="stable")]
        parts = np.array_split(order, num_workers)
    sizes = np.array([len(part) for part in parts])
    starts = np.concatenate([[0], sizes.cumsum()[:-1]])
    return Split(*(torch.from_numpy(array).to(device) for array in (np.concatenate(parts), starts, sizes)))


def _dirichlet(
    classes: np.ndarray, shuffled: np.ndarray, num_workers: int, alpha: float, rng: np.random.Generator
) -> list[np.ndarray]:
    """Return the parts; a worker that would get nothing takes one example from the largest part."""
    parts: list[list[np.ndarray]] = [[] for _ in range(num_workers)]
    for label in np.unique(classes):
        members = shuffled[classes[shuffled] == label]
        shares = rng.dirichlet(np.full(num_workers, alpha))
        cuts = np.floor(shares.cumsum()[:-1] * len(members) + 0.5).astype(np.int64)
        for part, chunk in zip(parts, np.split(members, cuts), strict=True):
            part.append(chunk)
    whole = [np.concatenate(part) for part in parts]
    for worker in range(num_workers):
        if not len(whole[worker]):
            largest = max(range(num_workers), key=lambda i: len(whole[i]))
            whole[worker], whole[largest] = whole[largest][-1:], whole[largest][:-1]
    return whole
