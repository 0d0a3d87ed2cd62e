"""Image folders: DIR/train/CLASS/* with DIR/test/CLASS/* (or val), or DIR/CLASS/* which is split 80/20 by a fixed seed.

Class folders are numbered in the order of their names. Files and folders whose name begins with a dot are ignored, and
so are files that do not end like an image; whether a file is an image is decided by its content.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mithridate.core.errors import Misuse
from mithridate.data._raw import BATCH, Item, RawSet, RawSplit, check_labels, read_file, split_rows

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_TEST_NAMES = ("test", "val", "valid", "validation")


def read_folder(root: Path) -> RawSet:
    """List an image folder; no image is opened.

    Raises:
        Misuse: There is no image, a class is empty, or train and test have different classes.
    """
    train_root = root / "train"
    test_root = next((root / name for name in _TEST_NAMES if (root / name).is_dir()), None)
    if train_root.is_dir() and test_root is not None:
        classes, files = _classes(train_root, root)
        test_classes, test_files = _classes(test_root, root)
        unknown = [name for name in test_classes if name not in classes]
        if unknown:
            raise Misuse(
                "MTH-0260",
                f"{test_root} has the class {unknown[0]!r}, which {train_root} has not; its classes are "
                f"{', '.join(classes[:10])}",
            )
        renumber = np.array([classes.index(name) for name in test_classes], dtype=np.int64)
        train = _split(files, root)
        test = _split([(path, int(renumber[label])) for path, label in test_files], root)
    else:
        classes, files = _classes(root, root)
        parts = split_rows(np.array([label for _, label in files]), len(classes))
        train, test = (_split([files[row] for row in rows], root) for rows in parts)
        test_files = []
    check_labels(train, classes, every_class=True)
    if not len(test):
        raise Misuse(
            "MTH-0253", f"{root}: no class has two images, so none is left to test on", hint="add images to each class"
        )
    return RawSet(train, test, classes, {"kind": "folder", "key": _key(root, [*files, *test_files])})


def _classes(folder: Path, root: Path) -> tuple[tuple[str, ...], list[tuple[Path, int]]]:
    """Return the class names and (file, label) pairs below `folder`."""
    subfolders = sorted(
        (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")), key=lambda p: p.name
    )
    files: list[tuple[Path, int]] = []
    empty: list[str] = []
    for label, subfolder in enumerate(subfolders):
        found = sorted(path for path in subfolder.rglob("*") if _is_image_name(path))
        files += [(path, label) for path in found]
        if not found:
            empty.append(subfolder.name)
    if not files:
        raise Misuse(
            "MTH-0252",
            f"{folder} has no images in class folders; expected CLASS/*.png, or train/CLASS/*.png with "
            f"test/CLASS/*.png, below {root}; the formats are {', '.join(SUFFIXES)}",
        )
    if empty:
        raise Misuse(
            "MTH-0253",
            f"{folder}: the class {empty[0]!r} has no images; {len(empty)} of {len(subfolders)} classes are empty",
            hint="remove the folder or add images to it",
        )
    return tuple(path.name for path in subfolders), files


def _is_image_name(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _split(files: list[tuple[Path, int]], root: Path) -> RawSplit:
    paths = [path for path, _ in files]

    def batches() -> Iterator[list[Item]]:
        for start in range(0, len(paths), BATCH):
            yield [read_file(path) for path in paths[start : start + BATCH]]

    labels = np.array([label for _, label in files], dtype=np.int64)
    return RawSplit(labels, batches, lambda row: str(paths[row].relative_to(root)))


def _key(root: Path, files: list[tuple[Path, int]]) -> str:
    """Identify the folder's content by names, sizes and times, as reading it all at every start would take too long."""
    digest = hashlib.sha256(repr(str(root.resolve())).encode())
    for path, label in files:
        stat = path.stat()
        digest.update(repr((str(path.relative_to(root)), label, stat.st_size, stat.st_mtime_ns)).encode())
    return digest.hexdigest()
