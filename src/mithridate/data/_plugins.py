"""Data sets of plugins: a stranger's code, so what it returns is checked and what it raises names it."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from mithridate.core.errors import Misuse
from mithridate.data._base import AbstractSource
from mithridate.data._raw import Item, RawSet, RawSplit, check_labels
from mithridate.data.names import PLUGINS

PLUGIN = "plugin"
"""The `kind` in the record of a data set that a plugin read."""


def read_plugin_set(name: str) -> RawSet:
    """Return the data set of a plugin, its record marked with where it came from.

    Raises:
        Misuse: MTH-0102, the plugin cannot be loaded, fails, or returns no data set; labels are out of range, or a
            class has no training image.
    """
    kind = PLUGINS.load(name)
    with PLUGINS.blaming(name):
        if not issubclass(kind, AbstractSource):
            raise TypeError(f"{kind.__name__} does not derive from mithridate.data._base.AbstractSource")
        found = kind().read()
        if not isinstance(found, RawSet):
            raise TypeError(f"read() returned {type(found).__name__} and no RawSet")
        if not isinstance(found.record.get("key"), str):
            raise ValueError("its record has no text under 'key', which identifies the content")
        train, test = _checked(found.train, "training"), _checked(found.test, "test")
    check_labels(train, found.classes, every_class=True)
    check_labels(test, found.classes, every_class=False)
    record = {**found.record, "kind": PLUGIN, PLUGIN: PLUGINS.describe(name).source}
    return RawSet(train, test, found.classes, record, encoded=found.encoded)


def _checked(split: object, what: str) -> RawSplit:
    """Return the split with every image checked as it comes: nothing behind this looks at its type again."""
    if not isinstance(split, RawSplit):
        raise TypeError(f"the {what} split is {type(split).__name__} and no RawSplit")
    labels = split.labels
    if not (isinstance(labels, np.ndarray) and labels.dtype == np.int64 and labels.ndim == 1):
        raise TypeError(f"the {what} labels must be a one-dimensional array of int64")
    if not len(labels):
        raise Misuse("MTH-0252", f"the {what} split of the plugin is empty")

    def batches() -> Iterator[list[Item]]:
        count = 0
        for batch in split.batches():
            for row, item in enumerate(batch, count):
                if not _is_image(item):
                    raise TypeError(f"{split.where(row)} is neither bytes nor uint8 pixels of shape (h, w, 1 or 3)")
            count += len(batch)
            yield batch
        if count != len(labels):
            raise ValueError(f"the {what} split has {len(labels)} labels and {count} images")

    return replace(split, batches=batches)


def _is_image(item: object) -> bool:
    pixels = isinstance(item, np.ndarray) and item.dtype == np.uint8 and item.ndim == 3 and item.shape[2] in (1, 3)
    return pixels or isinstance(item, bytes)
