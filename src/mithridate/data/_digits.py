"""The digits of scikit-learn: 1,797 grey images of 8 x 8 pixels inside that package, so no network is needed."""

import numpy as np

from mithridate.data._raw import RawSet, RawSplit

TRAIN_ROWS = 1437


def read_digits() -> RawSet:
    """Return the digits with levels 0 to 16 scaled to bytes, shuffled and split as in the project's specifications.

    The first 1,437 rows of the permutation of `RandomState(0)` are for training, the other 360 for testing.
    """
    import sklearn
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.RandomState(0).permutation(len(found.target))
    pixels = np.rint(found.images * 255 / 16).astype(np.uint8)[order][..., None]
    labels = found.target[order].astype(np.int64)
    train, test = (
        RawSplit.of_pixels(pixels[part], labels[part], f"digits {name}")
        for name, part in (("train", slice(None, TRAIN_ROWS)), ("test", slice(TRAIN_ROWS, None)))
    )
    classes = tuple(str(name) for name in found.target_names)
    return RawSet(train, test, classes, {"kind": "scikit-learn", "key": f"digits {sklearn.__version__}"}, encoded=False)
