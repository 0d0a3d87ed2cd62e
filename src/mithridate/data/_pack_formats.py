"""Poison packs for other programs: PNG folder, parquet, npz, and the layout of the poisoning benchmark.

png        a folder: `ID.png` for each poison, `poisons.json` = {"poisons": [{"file", "id", "label"}, ...]}, and
           `manifest.json` with the claims and the sha256 of each file; `trigger.npz` if the poisons plant one, and
           `trigger.png` to look at where a PNG image can hold it.
parquet    one file: image (struct of bytes and path, PNG), label, id; the metadata lets the Hugging Face library
           `datasets` decode it, and carries the claims and the trigger.
npz        one file: ids, images, labels, the claims as bytes of JSON in `manifest`, `trigger.mask`, `trigger.pattern`.
benchmark  a folder for the scripts of "Just How Toxic is Data Poisoning?" (arXiv 2006.12557): poison images in order,
           `poisons.json`, `base_indices.json`, `target.json`; its README.txt says how to hand it to them. Those scripts
           read pickles, which we do not write. Rows are those of the complete data set. Export only.

The first three come back exactly. Made by other programs, they carry no claims; then a scenario must be given.

Shapes   p poisons of c channels, h rows, w columns.
"""

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mithridate.core.artefacts import disk_errors, new_artefact, open_artefact, write_atomic
from mithridate.core.boundary import Caps, decode_image, read_bytes, read_json, read_npz, read_parquet
from mithridate.core.errors import BadArtefact, Misuse
from mithridate.core.registry import closest
from mithridate.data._pack import PoisonPack, assemble, make_pack
from mithridate.data._pack_claims import CLAIMS
from mithridate.data.examples import ROW, Examples
from mithridate.data.scenarios import Scenario, check_scenario
from mithridate.data.sources import DataSet

EXPORT_FORMATS = ("png", "parquet", "npz", "benchmark")
IMPORT_FORMATS = ("png", "parquet", "npz")

_PNG_KIND = "poison-pack-png"
_BENCHMARK_KIND = "poison-pack-benchmark"
_MODES: Mapping[int, Literal["L", "RGB"]] = {1: "L", 3: "RGB"}
_THREADS = 4
_IMAGE_CAPS = Caps(file_bytes=64 << 20)
_METADATA = b"mithridate"
_METADATA_TRIGGER = b"mithridate.trigger"
_README = """Poisons of one trial in the layout of the poisoning benchmark (arXiv 2006.12557), without pickle.

poisons.json        the poisons in order: file and label
base_indices.json   the row of the training split that each poison replaces, in the same order
target.json         the target: file, row of the test split, true class, and the class wanted by the attacker

The benchmark's scripts read pickles. To make them, where you trust these files:

    import json, pickle
    from PIL import Image
    poisons = json.load(open("poisons.json"))["poisons"]
    target = json.load(open("target.json"))
    pickle.dump([(Image.open(p["file"]).copy(), p["label"]) for p in poisons], open("poisons.pickle", "wb"))
    pickle.dump(json.load(open("base_indices.json")), open("base_indices.pickle", "wb"))
    pickle.dump((Image.open(target["file"]).copy(), target["class"]), open("target.pickle", "wb"))
"""

_Arrays = dict[str, NDArray[Any]]
_Decoded = tuple[_Arrays, Mapping[str, Any] | None, _Arrays | None]
"""Poisons, claims, and mask and pattern of the trigger."""


def export_pack(
    pack: PoisonPack,
    path: str | Path,
    *,
    format: str = "png",
    data: DataSet | None = None,
    overwrite: bool = False,
) -> None:
    """Write a pack for other programs.

    Args:
        pack: What to write.
        path: The new folder or file.
        format: One of `EXPORT_FORMATS`.
        data: The data set that the pack was made for; `benchmark` needs it for the target's image.
        overwrite: Whether to replace what is at `path`.

    Raises:
        Misuse: The format is unknown or cannot hold this pack, the data set is absent or another one, `path` is taken.
        WorkError: The disk is full or not writable.
    """
    _known(format, EXPORT_FORMATS)
    if format != "npz" and pack.images.shape[1] not in _MODES:
        raise Misuse(
            "MTH-0324",
            f"format {format!r} holds images of 1 or 3 channels, these have {pack.images.shape[1]}",
            hint="use format 'npz'",
        )
    path = Path(path)
    if format in ("png", "benchmark"):
        kind = _PNG_KIND if format == "png" else _BENCHMARK_KIND
        files = _png_files(pack) if format == "png" else _benchmark_files(pack, data)
        with new_artefact(path, kind=kind, overwrite=overwrite) as draft:
            draft.manifest.update(pack.manifest)
            for name, content in files:
                with disk_errors(path, len(content)):
                    (draft.path / name).write_bytes(content)
        return
    if path.exists() and not overwrite:
        raise Misuse("MTH-0327", f"{path} exists already", hint="choose another path, or allow overwriting")
    write_atomic(path, _parquet_bytes(pack) if format == "parquet" else _npz_bytes(pack))


def import_pack(
    path: str | Path,
    *,
    format: str,
    data: DataSet,
    scenario: Scenario | None = None,
) -> PoisonPack:
    """Read poisons that `export_pack` or another program wrote.

    Args:
        path: The folder or file.
        format: One of `IMPORT_FORMATS`.
        data: The data set that the poisons belong to.
        scenario: What they are for. Needed when the file carries no claims; its poison ids are then those of the file.

    Raises:
        BadArtefact: The file is damaged, altered or not of this format.
        Misuse: The poisons belong to other data or exceed epsilon, or the scenario is absent or another one.
    """
    _known(format, IMPORT_FORMATS)
    arrays, manifest, trigger = _READERS[format](Path(path), data.train)
    if manifest is not None:
        pack = assemble(arrays, manifest, trigger=trigger, where=str(path))
        if scenario is not None and scenario != pack.scenario:
            raise Misuse(
                "MTH-0325",
                f"{path} was made for scenario {pack.scenario.name!r}, not for the given one ({scenario.name!r})",
                hint="leave the scenario out",
            )
        pack.check_base(data.train)
        return pack
    if scenario is None:
        raise Misuse(
            "MTH-0325", f"{path} does not say what its poisons are for", hint="give the scenario that they belong to"
        )
    for key in ("ids", "labels"):
        if key not in arrays or arrays[key].ndim != 1 or arrays[key].dtype.kind not in "iu":
            raise BadArtefact("MTH-0322", f"{path} holds no list of whole numbers named {key!r}")
    ids = tuple(int(row) for row in arrays["ids"])
    scenario = replace(scenario, poison_ids=ids, poison_ids_from="drawn")
    check_scenario(scenario, data)
    return make_pack(
        data.train,
        scenario,
        torch.from_numpy(np.ascontiguousarray(arrays["images"])),
        attack="imported",
        config={"format": format},
        seed=0,
        record={},
        labels=torch.from_numpy(arrays["labels"].astype(np.int64)),
    )


def _known(name: str, formats: tuple[str, ...]) -> None:
    if name not in formats:
        near = closest(name, formats)
        raise Misuse(
            "MTH-0324",
            f"there is no format {name!r} here; there are {', '.join(formats)}",
            hint=f"did you mean {near!r}?" if near else "",
        )


# Images


def _png(image: UInt8[Tensor, "c h w"]) -> bytes:
    plane = image.cpu().permute(1, 2, 0).contiguous().numpy()
    buffer = io.BytesIO()
    Image.fromarray(plane[:, :, 0] if plane.shape[2] == 1 else plane).save(buffer, format="PNG")
    return buffer.getvalue()


def _pngs(images: UInt8[Tensor, "p c h w"]) -> list[bytes]:
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(_png, images))


def _decode(contents: Iterable[bytes], train: Examples) -> NDArray[np.uint8]:
    """Decode images of the training split's shape into one array (p, c, h, w)."""
    channels, height, width = train.images.shape

    def one(content: bytes) -> NDArray[np.uint8]:
        image = decode_image(content, max_pixels=height * width, mode=_MODES[channels])
        if image.shape != (height, width, channels):
            raise Misuse(
                "MTH-0320",
                f"a poison has {image.shape[1]} x {image.shape[0]} pixels; images of {train.name!r} have "
                f"{width} x {height}",
            )
        return image.transpose(2, 0, 1)

    if channels not in _MODES:
        raise Misuse("MTH-0324", f"images of {channels} channels come in format 'npz' only")
    with ThreadPoolExecutor(_THREADS) as pool:
        images = list(pool.map(one, contents))
    return np.stack(images) if images else np.zeros((0, channels, height, width), dtype=np.uint8)


# PNG folder


def _png_files(pack: PoisonPack) -> Iterable[tuple[str, bytes]]:
    ids, labels = pack.ids.tolist(), pack.labels.tolist()
    rows = [{"file": _file(row), "id": row, "label": label} for row, label in zip(ids, labels, strict=True)]
    yield "poisons.json", _json({"poisons": rows})
    for row, content in zip(ids, _pngs(pack.images), strict=True):
        yield _file(row), content
    if pack.trigger is not None:
        yield "trigger.npz", _npz(pack.trigger.arrays())
        if len(pack.trigger.mask) == 1:
            yield "trigger.png", pack.trigger.png()


def _file(row: int) -> str:
    return f"{row:08d}.png"


def _read_png(path: Path, train: Examples) -> _Decoded:
    manifest = None
    if (path / "manifest.json").exists():
        stored = open_artefact(path, _PNG_KIND).manifest
        manifest = {key: stored[key] for key in CLAIMS if key in stored}
    listing = read_json(path / "poisons.json")
    rows = listing.get("poisons") if isinstance(listing, dict) else None
    if not isinstance(rows, list) or not all(_is_row(row) for row in rows):
        raise BadArtefact(
            "MTH-0322",
            f'{path / "poisons.json"} must hold {{"poisons": [{{"file": NAME.png, "id": ROW, "label": CLASS}}, ...]}}',
        )
    images = _decode((read_bytes(path / row["file"], _IMAGE_CAPS) for row in rows), train)
    found: _Arrays = {"images": images, "ids": _column(rows, "id"), "labels": _column(rows, "label")}
    planted = manifest is not None and manifest.get("trigger") is not None
    return found, manifest, read_npz(path / "trigger.npz") if planted else None


def _is_row(row: object) -> bool:
    """Say whether this is a row of `poisons.json` whose file lies in the folder itself."""
    if not isinstance(row, dict) or set(row) != {"file", "id", "label"}:
        return False
    file, numbers = row["file"], (row["id"], row["label"])
    inside = isinstance(file, str) and file.endswith(".png") and file.isprintable() and not set(file) & set("/\\:")
    return (
        inside and len(file.encode()) < 256 and all(type(number) is int and 0 <= number < 1 << 62 for number in numbers)
    )


def _column(rows: Sequence[Mapping[str, Any]], key: str) -> NDArray[np.int64]:
    return np.array([row[key] for row in rows], dtype=np.int64)


# Single files


def _npz_bytes(pack: PoisonPack) -> bytes:
    claims = np.frombuffer(_json(pack.manifest), dtype=np.uint8)
    arrays: _Arrays = {"ids": pack.ids.numpy(), "images": pack.images.numpy(), "labels": pack.labels.numpy()}
    planted = {} if pack.trigger is None else pack.trigger.arrays()
    return _npz(arrays | {"manifest": claims} | {f"trigger.{key}": array for key, array in planted.items()})


def _npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _read_npz(path: Path, train: Examples) -> _Decoded:
    arrays = dict(read_npz(path))
    claims = arrays.pop("manifest", None)
    planted = {key: arrays.pop(f"trigger.{key}") for key in ("mask", "pattern") if f"trigger.{key}" in arrays}
    return arrays, None if claims is None else _claims(path, claims.tobytes()), planted or None


def _parquet_bytes(pack: PoisonPack) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [
        {"bytes": content, "path": _file(row)}
        for content, row in zip(_pngs(pack.images), pack.ids.tolist(), strict=True)
    ]
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(pack.manifest["dataset"]["classes"]), "_type": "ClassLabel"},
        "id": {"dtype": "int64", "_type": "Value"},
    }
    arrays = {} if pack.trigger is None else pack.trigger.arrays()
    planted = {_METADATA_TRIGGER: _json({key: array.tolist() for key, array in arrays.items()})} if arrays else {}
    schema = pa.schema(
        [
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("label", pa.int64()),
            ("id", pa.int64()),
        ],
        metadata={b"huggingface": _json({"info": {"features": features}}), _METADATA: _json(pack.manifest)} | planted,
    )
    columns = {"image": images, "label": pack.labels.tolist(), "id": pack.ids.tolist()}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), buffer, write_page_checksum=True)
    return buffer.getvalue()


def _read_parquet(path: Path, train: Examples) -> _Decoded:
    table = read_parquet(path, ["image", "label", "id"])
    contents = [image["bytes"] if isinstance(image, dict) else image for image in table.column("image").to_pylist()]
    arrays = {key: table.column(column).to_pylist() for key, column in (("ids", "id"), ("labels", "label"))}
    whole = all(type(number) is int for numbers in arrays.values() for number in numbers)
    if not whole or not all(isinstance(content, bytes) for content in contents):
        raise BadArtefact("MTH-0322", f"{path} must hold an encoded image, a label and an id in each row")
    metadata = table.schema.metadata or {}
    claims, planted = metadata.get(_METADATA), metadata.get(_METADATA_TRIGGER)
    found: _Arrays = {key: np.array(numbers, dtype=np.int64) for key, numbers in arrays.items()}
    found["images"] = _decode(contents, train)
    trigger = None if planted is None else _listed_trigger(path, planted)
    return found, None if claims is None else _claims(path, claims), trigger


def _listed_trigger(path: Path, text: bytes) -> _Arrays:
    """Return mask and pattern from nested JSON lists; their shapes are checked where the trigger is built."""
    lists = read_json(text)
    if not isinstance(lists, dict) or set(lists) != {"mask", "pattern"}:
        raise BadArtefact("MTH-0332", f"{path}: its trigger has no mask and pattern")
    try:
        return {key: np.array(values, dtype=np.float32) for key, values in lists.items()}
    except (TypeError, ValueError) as error:
        raise BadArtefact("MTH-0332", f"{path}: its trigger is no table of numbers: {error}") from None


def _claims(path: Path, text: bytes) -> Mapping[str, Any]:
    claims = read_json(text)
    if not isinstance(claims, dict):
        raise BadArtefact("MTH-0322", f"{path}: its claims are no mapping")
    return claims


# The poisoning benchmark


def _benchmark_files(pack: PoisonPack, data: DataSet | None) -> Iterable[tuple[str, bytes]]:
    if data is None:
        raise Misuse("MTH-0324", "format 'benchmark' needs the data set, for the image of the target")
    pack.check_base(data.train)
    scenario = pack.scenario
    check_scenario(scenario, data)
    if scenario.triggered:
        raise Misuse(
            "MTH-0324",
            f"format 'benchmark' holds one target, scenario {scenario.name!r} has a trigger instead",
            hint="use format 'npz', or 'png'",
        )
    if len(scenario.targets) != 1:
        raise Misuse(
            "MTH-0324",
            f"format 'benchmark' holds one target, scenario {scenario.name!r} has {len(scenario.targets)}",
            hint="use format 'npz'",
        )
    row = scenario.targets[0]
    target = data.test.images.gather(torch.tensor([row]))[0]
    original = data.train.columns[ROW].cpu()[pack.ids] if ROW in data.train.columns else pack.ids
    names = [f"poison_{place:05d}.png" for place in range(len(pack))]
    listing = [{"file": name, "label": label} for name, label in zip(names, pack.labels.tolist(), strict=True)]
    wanted = {"file": "target.png", "row": row, "class": scenario.target_class, "wanted": scenario.adversarial_class}
    yield "README.txt", _README.encode()
    yield "poisons.json", _json({"poisons": listing})
    yield "base_indices.json", _json(original.tolist())
    yield "target.json", _json(wanted)
    yield "target.png", _png(target)
    yield from zip(names, _pngs(pack.images), strict=True)


def _json(value: object) -> bytes:
    return json.dumps(value, allow_nan=False, indent=1).encode()


_READERS: dict[str, Callable[[Path, Examples], _Decoded]] = {
    "png": _read_png,
    "parquet": _read_parquet,
    "npz": _read_npz,
}
