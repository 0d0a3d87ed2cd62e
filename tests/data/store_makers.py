"""The same images in every kind of store, and small data sets on disk."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from mithridate.data._importing import Gauge, write_mapped
from mithridate.data._raw import RawSplit
from mithridate.data.examples import Examples
from mithridate.data.stores import MappedStore, OverlayStore, ResidentStore, Store, SubsetStore

KINDS = ("resident", "mapped", "subset", "overlay", "overlay of overlay", "subset of overlay")


def random_pixels(count: int, *, shape: tuple[int, int, int] = (3, 6, 5), seed: int = 0) -> torch.Tensor:
    gen = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *shape), generator=gen, dtype=torch.uint8)


def mapped(folder: Path, pixels: torch.Tensor, threads: int | None = None) -> MappedStore:
    """Import pixels into a mapped file (as PNG) and open it."""
    (folder / "index").mkdir(parents=True)
    split = RawSplit.of_pixels(pixels.permute(0, 2, 3, 1).numpy(), np.zeros(len(pixels), np.int64), "made")
    write_mapped(folder, folder / "index", "train", split, Gauge())
    return MappedStore(folder, "train", tuple(pixels.shape[1:]), threads=threads)


def make_store(kind: str, pixels: torch.Tensor, folder: Path) -> Store:
    """Return a store of this kind that shows exactly these pixels."""
    count = len(pixels)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    some = order[: count // 3]
    other = pixels.clone()
    other[some] = 255 - other[some]
    if kind == "resident":
        return ResidentStore(pixels)
    if kind == "mapped":
        return mapped(folder / "mapped", pixels)
    if kind == "subset":
        return SubsetStore(ResidentStore(pixels[order.argsort()]), order)
    if kind == "overlay":
        return OverlayStore(ResidentStore(other), some, pixels[some])
    if kind == "overlay of overlay":
        below = OverlayStore(ResidentStore(other), order, 255 - pixels[order])
        return OverlayStore(below, order, pixels[order])
    assert kind == "subset of overlay"
    return SubsetStore(OverlayStore(ResidentStore(other), some, pixels[some]), torch.arange(count))


def make_examples(store: Store, *, classes: int = 3, name: str = "made") -> Examples:
    labels = torch.arange(len(store)) % classes
    return Examples(name, store, labels, tuple("abcdefgh"[:classes]))


def encode(pixels: np.ndarray, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(buffer, format=format)
    return buffer.getvalue()


def random_images(count: int, *, size: tuple[int, int] = (6, 5), channels: int = 3, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*size, channels), dtype=np.uint8) for _ in range(count)]


def write_folder(root: Path, images: dict[str, list[np.ndarray]], format: str = "PNG") -> Path:
    """Write `root/CLASS/K.png` for each class."""
    for name, members in images.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for k, pixels in enumerate(members):
            (root / name / f"{k:03}.{format.lower()}").write_bytes(encode(pixels, format))
    return root


def write_parquet(
    path: Path, images: list[bytes | None], labels: list[int | None], *, names: list[str] | None = None
) -> Path:
    """Write a table as Hugging Face writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    column = pa.array(
        [{"bytes": data, "path": None} for data in images], pa.struct({"bytes": pa.binary(), "path": pa.string()})
    )
    table = pa.table({"image": column, "label": pa.array(labels, pa.int64())})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=7)
    return path


def write_pair(root: Path, *, names: list[str] | None = None, format: str = "PNG", **shape) -> Path:
    """Write a folder with 20 training and 10 test images of two classes."""
    for split, count, seed in (("train", 20, 1), ("test", 10, 2)):
        images = [encode(pixels, format) for pixels in random_images(count, seed=seed, **shape)]
        write_parquet(root / f"{split}.parquet", images, [k % 2 for k in range(count)], names=names)
    return root


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
