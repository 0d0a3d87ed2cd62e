"""Sources: data sets by name, from an image folder, or from parquet and npz files.

    digits                      inside scikit-learn, offline
    mnist fashion-mnist cifar10 $MITHRIDATE_DATA/NAME/{train,test}.parquet
    DIR                         an image folder, or a folder with train.parquet and test.parquet

Nothing is ever written beside the sources.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch

from mithridate.data._digits import read_digits
from mithridate.data._importing import Gauge, import_resident
from mithridate.data.examples import Examples


@dataclass(frozen=True, eq=False)
class DataSet:
    """Training and test examples with the channel statistics that a model's first layer uses.

    Args:
        name: The source as the user wrote it.
        train: The training split.
        test: The test split; the same classes and the same shape.
        mean: Mean of each channel in [0, 1] units.
        std: Standard deviation of each channel in [0, 1] units.
    """

    name: str
    train: Examples
    test: Examples
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @cached_property
    def fingerprint(self) -> str:
        """The sha256, in hex, of the fingerprints of both splits."""
        return hashlib.sha256(f"{self.train.fingerprint} {self.test.fingerprint}".encode()).hexdigest()


def load(
    source: str,
    *,
    per_class: int | None = None,
    size: int | None = None,
    device: torch.device | str = "cpu",
    store: Literal["resident", "mapped"] = "resident",
    cache: Path | None = None,
) -> DataSet:
    """Return a data set."""
    raw = read_digits()
    gauge = Gauge()
    train = import_resident(raw.train, gauge, size=size)
    mean, std = gauge.sums.mean_and_std(gauge.channels or 1)
    test = import_resident(raw.test, gauge.for_test(), size=size)
    splits = [
        Examples(f"{source} {name}", images.to(device), torch.from_numpy(part.labels).to(device), raw.classes)
        for name, images, part in (("train", train, raw.train), ("test", test, raw.test))
    ]
    return DataSet(source, splits[0], splits[1], mean, std)
