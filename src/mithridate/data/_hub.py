"""Data sets of the Hugging Face hub (extra `hub`): an id, a revision that is resolved and recorded, and no remote code.

The library `datasets` fetches and keeps the tables; images come out of it encoded and pass our decode boundary.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import pyarrow as pa

from mithridate.core.errors import Misuse
from mithridate.data._parquet import IMAGE_NAMES, LABEL_NAMES, TEST_NAMES, Tables, read_tables
from mithridate.data._raw import RawSet

_ID = re.compile(r"(?P<name>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>\w[\w./-]*))?")


def has_hub() -> bool:
    """Return whether the extra is installed."""
    return find_spec("datasets") is not None


def read_hub_set(source: str, *, classes: tuple[str, ...] = ()) -> RawSet:
    """Return a data set of the hub, written `OWNER/NAME` or `OWNER/NAME@REVISION`.

    Raises:
        Misuse: The id is malformed, the extra is missing, the hub does not answer, or the columns are not recognised.
    """
    parts = _ID.fullmatch(source)
    if parts is None:
        raise Misuse("MTH-0258", f"'hf:{source}' is no id of the hub; expected hf:OWNER/NAME or hf:OWNER/NAME@REVISION")
    if not has_hub():
        raise Misuse("MTH-0258", f"hf:{source} needs the library datasets", hint='pip install "mithridate[hub]"')
    import datasets
    from datasets.exceptions import DatasetsError

    name = parts["name"]
    try:
        builder = datasets.load_dataset_builder(name, revision=parts["revision"])
        builder.download_and_prepare()
        splits = builder.as_dataset()
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        reason = " ".join(str(error).split())[:200]
        raise Misuse(
            "MTH-0258",
            f"hf:{source} cannot be fetched: {type(error).__name__}: {reason}",
            hint="check the id, the revision and the network",
        ) from error
    return from_splits(splits, name, str(builder.hash), classes)


def from_splits(splits: Mapping[str, Any], name: str, revision: str, classes: tuple[str, ...] = ()) -> RawSet:
    """Return a data set of the library `datasets`: its split `train`, and its test or validation split if there is one.

    Raises:
        Misuse: There is no training split, or no image or label column is recognised.
    """
    if "train" not in splits:
        raise Misuse("MTH-0256", f"hf:{name} has the splits {', '.join(splits)}, but none is called train")
    test = next((split for split in TEST_NAMES if split in splits), None)
    tables = [None if split is None else _tables(splits[split], f"hf:{name} {split}") for split in ("train", test)]
    assert tables[0] is not None
    parts, names = read_tables(tables[0], tables[1], classes)
    return RawSet(*parts, names, {"kind": "hub", "key": f"{name}@{revision}", "revision": revision})


def _tables(split: Any, where: str) -> Tables:
    """Return a split as tables; `datasets` keeps it on disk, and nothing is decoded by it."""
    from datasets import ClassLabel, Image

    features = split.features
    image = _column(features, Image, IMAGE_NAMES, where)
    label = _column(features, ClassLabel, LABEL_NAMES, where)
    names = tuple(features[label].names) if isinstance(features[label], ClassLabel) else ()

    def images() -> Iterator[pa.ChunkedArray]:
        yield split.data.column(image)

    return Tables((where,), (split.data.column(label),), names, images)


def _column(features: Mapping[str, Any], kind: type, names: Sequence[str], where: str) -> str:
    """Return the column with a usual name, or the first of this kind."""
    usual = [name for name in names if name in features]
    found = usual + [name for name, feature in features.items() if isinstance(feature, kind)]
    if not found:
        raise Misuse("MTH-0256", f"{where} has the columns {', '.join(features)}; looked for {', '.join(names)}")
    return found[0]
