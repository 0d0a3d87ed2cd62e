"""Marked images back in their own files: only listed files change, and what counts is measured after encoding.

    for every key, from its files' own quality upwards
        for every image: the largest share of its change that the decoded file keeps within epsilon
        done when the decoded images carry the key at `keep` times the cosine that the marks reached

An image whose file cannot hold the bound at any quality is left as it was, and the manifest says so. Images that were
resized on import get their change enlarged (bilinear, which keeps its bound) onto the central square that was seen.

Needs    the data set as an image folder or parquet files with encoded images; others are written as parquet first.
Promise  |decoded new file - decoded old file| <= epsilon in every pixel; every other file and cell is the same bytes.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mithridate.core.artefacts import as_json, disk_errors
from mithridate.core.boundary import decode_image
from mithridate.core.errors import Misuse
from mithridate.core.pool import Tell, silent
from mithridate.data.examples import ROW, Examples
from mithridate.data.rewriting import Located, Place, encoded, locate, resize, write_changed
from mithridate.numerics.ball import LinfBall
from mithridate.numerics.matching_problem import MatchingProblem
from mithridate.ownership.encoding import AbstractContainer, container
from mithridate.ownership.keys import Key
from mithridate.ownership.marking import KeyMark, Marked, Signal, cosine

_SHARES = (1.0, 0.9, 0.8, 0.7)
_LAST_SHARES = (*_SHARES, 0.55, 0.4, 0.25)
_PEAK = 255.0
_PRIVATE = 0o600


@dataclass(frozen=True, kw_only=True)
class WrittenImage:
    """One line of the private manifest.

    Args:
        row: Of the training set as it was marked.
        key: The key that it carries.
        file: Its file, below the root of the data set.
        row_in_file: Its row, if the file is a table.
        sha256_before: Of the encoded image.
        sha256_after: Of the encoded image as it was written.
        levels: The largest change of a pixel after decoding, in steps of 1/255.
        psnr: After decoding, in decibels; None where nothing changed.
        share: The share of the change that was kept; 0 for an image that was left out.
        grade: Steps of quality above the file's own.
        note: Why an image was left out.
    """

    row: int
    key: int
    file: str
    row_in_file: int | None
    sha256_before: str
    sha256_after: str
    levels: int
    psnr: float | None
    share: float
    grade: int
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class WrittenKey:
    """How a key fared: the cosine of its marks in memory and in the written files."""

    index: int
    marked: float
    written: float
    grade: int


@dataclass(frozen=True, kw_only=True)
class Written:
    """What was written."""

    images: tuple[WrittenImage, ...]
    keys: tuple[WrittenKey, ...]

    @property
    def left_out(self) -> tuple[WrittenImage, ...]:
        """Images that stayed as they were."""
        return tuple(image for image in self.images if not image.share)


@dataclass(frozen=True)
class _Encoded:
    """One image at one grade: its new bytes, what they decode to, and what was given up."""

    data: bytes
    pixels: NDArray[np.uint8]
    share: float
    grade: int
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Writing:
    """Where a marked data set goes.

    Args:
        out: A new folder for it.
        manifest: A new file that only the owner may read: it says which images are marked.
        whole: Copy all that does not change; otherwise write changed files only.
        keep: The share of a key's cosine that its files must keep, or their quality is raised.
    """

    out: Path
    manifest: Path
    whole: bool = True
    keep: float = 0.8


def write(
    source: str,
    data: Examples,
    marked: Marked,
    keys: Sequence[Key],
    *,
    signal: Signal,
    to: Writing,
    tell: Tell = silent,
) -> Written:
    """Write a marked data set, and the private manifest of what changed.

    Args:
        source: The data set on disk, as `data.sources.load` takes it.
        data: What was loaded from it and marked: its training examples, possibly resized, possibly a part.
        marked: The marks.
        keys: The keys.
        signal: The surrogates, to measure the keys in the written files.
        to: Where.
        tell: Told `done` and `key`.

    Raises:
        Misuse: The source is not what was marked, or a path is taken.
        WorkError: The disk is full or not writable.
    """
    if to.manifest.exists():
        raise Misuse("MTH-1042", f"{to.manifest} exists already", hint="give a new file: it is the record of a marking")
    marked.apply(data)
    to.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".marks-", dir=to.out.parent) as scratch:
        located = locate(source, scratch=Path(scratch) / "set")
        changed, found = _fitted(located, _places(source, data, located), data, marked, keys, signal, to.keep, tell)
        document = {
            "schema": "mithridate.marks/1",
            "source": source,
            **marked.to_json(),
            "written": [asdict(image) for image in found.images],
            "signal": [asdict(key) for key in found.keys],
        }
        # The manifest first: marked data without it would be marked for nothing.
        with _private_file(to.manifest, as_json(document)):
            write_changed(located, changed, to.out, whole=to.whole)
    return found


@contextlib.contextmanager
def _private_file(path: Path, data: bytes) -> Iterator[None]:
    """Write a new file that only its owner may read; it goes again if what follows fails."""
    with disk_errors(path, len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    done = False
    try:
        yield
        done = True
    finally:
        if not done:
            path.unlink(missing_ok=True)


def _fitted(
    located: Located,
    places: Sequence[Place],
    data: Examples,
    marked: Marked,
    keys: Sequence[Key],
    signal: Signal,
    keep: float,
    tell: Tell,
) -> tuple[dict[Place, bytes], Written]:
    """Fit every key's images into their files."""
    by_index = {key.index: key for key in keys}
    changed: dict[Place, bytes] = {}
    images: list[WrittenImage] = []
    fared: list[WrittenKey] = []
    for place, mark in enumerate(marked.marks):
        files = [places[row] for row in mark.rows]
        old = list(encoded(files))
        carrier = _Carrier.of(data, mark, by_index[mark.index], signal)
        fit = carrier.fitted(old, marked.of_key(place), LinfBall(marked.config.epsilon).levels, keep)
        for row, file, before, after in zip(mark.rows, files, old, fit.images, strict=True):
            if after.share:
                changed[file] = after.data
            images.append(_line(row, mark.index, file, located.root, before, after))
        fared.append(WrittenKey(index=mark.index, marked=mark.cosine, written=fit.cosine, grade=fit.grade))
        tell({"done": (place + 1) / len(marked.marks), "key": mark.index})
    return changed, Written(images=tuple(images), keys=tuple(fared))


def _places(source: str, data: Examples, located: Located) -> list[Place]:
    """The place of every loaded row; only some rows of the source may have been loaded."""
    rows = data.columns[ROW].tolist() if ROW in data.columns else list(range(len(data)))
    there = len(located.places)
    if (ROW not in data.columns and len(rows) != there) or max(rows, default=-1) >= there:
        raise Misuse(
            "MTH-1043",
            f"{source} has {there} training images, and {len(data)} were loaded to be marked",
            hint="the files changed since: load and mark them again",
        )
    return [located.places[row] for row in rows]


@dataclass(frozen=True)
class _Fit:
    images: list[_Encoded]
    cosine: float
    grade: int


@dataclass(frozen=True, eq=False)
class _Carrier:
    """The images of one key, and how to measure what they carry."""

    problem: MatchingProblem
    wanted: float
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, data: Examples, mark: KeyMark, key: Key, signal: Signal) -> "_Carrier":
        rows = torch.tensor(mark.rows)
        base = data.images.gather(rows.to(data.device)).to(signal.device)
        labels = data.labels[rows.to(data.labels.device)].to(signal.device)
        return cls(signal.problem(key, base, labels), mark.cosine, data.images.shape)

    def fitted(self, old: Sequence[bytes], wanted: UInt8[Tensor, "n c h w"], levels: int, keep: float) -> _Fit:
        """Encode the images at the lowest quality that keeps the signal, or at the one that keeps most of it."""
        boxes = [container(each) for each in old]
        base = self.problem.base
        changes = wanted.cpu().numpy().astype(np.int16) - base.cpu().numpy()
        grades = max((box.grades for box in boxes if isinstance(box, AbstractContainer)), default=1)
        best: _Fit | None = None
        for grade in range(grades):
            images = [_encoded(*each, grade, levels) for each in zip(boxes, old, changes, strict=True)]
            seen = torch.from_numpy(np.stack([_seen(each.pixels, self.shape) for each in images]))
            fit = _Fit(images, cosine(self.problem, seen.to(base.device)), grade)
            if best is None or fit.cosine > best.cosine:
                best = fit
            if fit.cosine >= keep * self.wanted:
                break
        assert best is not None
        return best


def _encoded(box: AbstractContainer | str, old: bytes, change: NDArray[np.int16], grade: int, levels: int) -> _Encoded:
    """One image at `grade` or the next that holds the bound, with as much of its change as possible."""
    if isinstance(box, str):
        return _Encoded(old, decode_image(old), 0.0, 0, box)
    clean = box.pixels
    native = _native(change, clean.shape)
    for step in range(min(grade, box.grades - 1), box.grades):
        for share in _LAST_SHARES if step == box.grades - 1 else _SHARES:
            new = np.rint(np.clip(clean + share * native, 0, 255)).astype(np.uint8)
            data = box.encode(new, step)
            pixels = decode_image(data)
            if pixels.shape == clean.shape and int(np.abs(pixels.astype(np.int16) - clean).max()) <= levels:
                return _Encoded(data, pixels, share, step)
    return _Encoded(old, clean, 0.0, 0, f"no quality keeps the change within {levels}/255 after encoding")


def _native(change: NDArray[np.int16], shape: tuple[int, ...]) -> NDArray[np.floating]:
    """A change at the size of the file: enlarged onto the central square that the import cut out."""
    height, width, channels = shape
    local = change.astype(np.float32).transpose(1, 2, 0)
    if local.shape[2] != channels:
        local = local.mean(2, keepdims=True) if channels == 1 else np.repeat(local, channels, axis=2)
    if local.shape[:2] == (height, width):
        return local
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    whole = np.zeros(shape, dtype=np.float32)
    for channel in range(channels):
        layer = Image.fromarray(local[..., channel]).resize((side, side), Image.Resampling.BILINEAR)
        whole[top : top + side, left : left + side, channel] = np.asarray(layer)
    return whole


def _seen(pixels: NDArray[np.uint8], shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """A file's pixels as the import gives them to a network."""
    channels, height, width = shape
    if pixels.shape[2] != channels:
        grey = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        pixels = np.asarray(grey.convert("RGB" if channels == 3 else "L")).reshape(*pixels.shape[:2], channels)
    if pixels.shape[:2] != (height, width):
        pixels = resize(pixels, height)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _line(row: int, key: int, file: Place, root: Path, before: bytes, after: _Encoded) -> WrittenImage:
    clean = decode_image(before).astype(np.float64)
    error = float(((after.pixels - clean) ** 2).mean())
    return WrittenImage(
        row=row,
        key=key,
        file=str(file.file.relative_to(root)),
        row_in_file=file.row,
        sha256_before=hashlib.sha256(before).hexdigest(),
        sha256_after=hashlib.sha256(after.data).hexdigest(),
        levels=int(np.abs(after.pixels - clean).max()),
        psnr=round(float(10 * np.log10(_PEAK**2 / error)), 3) if error else None,
        share=after.share,
        grade=after.grade,
        note=after.note,
    )
