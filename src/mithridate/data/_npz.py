"""NumPy archives: images and labels as arrays, already split or to be split 80/20 by a fixed seed.

Known layouts: `train_images, train_labels, test_images, test_labels`; `x_train, y_train, x_test, y_test`; and
`images, labels`. An optional array `classes` names the classes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mithridate.core.boundary import read_npz
from mithridate.core.errors import Misuse
from mithridate.data._raw import RawSet, RawSplit, as_rows_hwc, check_labels, file_key, split_rows, to_uint8

_SPLIT = (("train_images", "train_labels", "test_images", "test_labels"), ("x_train", "y_train", "x_test", "y_test"))
_WHOLE = (("images", "labels"), ("x", "y"))


def read_npz_set(path: Path) -> RawSet:
    """Return the data set in an npz file.

    Raises:
        Misuse: The arrays are not named as above, disagree in length, or hold no pixels or labels.
        BadArtefact: The file is damaged.
    """
    arrays = read_npz(path)
    for names in _SPLIT:
        if set(names) <= arrays.keys():
            train = _split(arrays, names[0], names[1], path.name)
            test = _split(arrays, names[2], names[3], path.name)
            classes = _classes(arrays, train)
            check_labels(train, classes, every_class=True)
            check_labels(test, classes, every_class=False)
            break
    else:
        pair = next((names for names in _WHOLE if set(names) <= arrays.keys()), None)
        if pair is None:
            raise Misuse(
                "MTH-0256",
                f"{path} has the arrays {', '.join(sorted(arrays)[:12])}; expected {', '.join(_SPLIT[0])}, or "
                f"{', '.join(_WHOLE[0])}",
            )
        pixels, labels = _arrays(arrays, *pair, path.name)
        whole = RawSplit.of_pixels(pixels, labels, path.name)
        classes = _classes(arrays, whole)
        check_labels(whole, classes, every_class=True)
        train, test = (
            RawSplit.of_pixels(pixels[rows], labels[rows], f"{path.name}, split {part}")
            for part, rows in zip(("train", "test"), split_rows(labels, len(classes)), strict=True)
        )
    if not len(test):
        raise Misuse("MTH-0253", f"{path}: no class has two images, so none is left to test on")
    return RawSet(train, test, classes, {"kind": "npz", "key": file_key([path])}, encoded=False)


def _classes(arrays: Mapping[str, NDArray[Any]], train: RawSplit) -> tuple[str, ...]:
    if "classes" in arrays:
        return tuple(str(name) for name in arrays["classes"].reshape(-1))
    return tuple(str(label) for label in range(int(train.labels.max(initial=-1)) + 1))


def _arrays(
    arrays: Mapping[str, NDArray[Any]], image_name: str, label_name: str, what: str
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images, labels = arrays[image_name], arrays[label_name]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise Misuse(
            "MTH-0256",
            f"{what}: {label_name} has shape {labels.shape} and type {labels.dtype}, but labels are n whole numbers",
        )
    if len(images) != len(labels):
        raise Misuse("MTH-0241", f"{what}: {len(images)} {image_name} but {len(labels)} {label_name}")
    if not len(images):
        raise Misuse("MTH-0252", f"{what}: {image_name} is empty")
    rows = as_rows_hwc(images, f"{what}: {image_name}")
    pixels = to_uint8(rows, f"{what}: {image_name}", lambda row: f"{what}: {image_name}, row {row}")
    return pixels, labels.astype(np.int64)


def _split(arrays: Mapping[str, NDArray[Any]], image_name: str, label_name: str, what: str) -> RawSplit:
    return RawSplit.of_pixels(*_arrays(arrays, image_name, label_name, what), f"{what}: {image_name}")
