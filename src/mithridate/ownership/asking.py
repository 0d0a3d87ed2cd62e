"""Asking a model about keys: one that can be loaded, a table of its predictions, a command, or a service.

    oracle = PredictionsOracle.read(Path("predictions.csv"), space)
    asked = ask_all(oracle, queries)

Only labels are asked for, best first. Whatever fails to answer properly is a miss, counted and reported, never an
error: else a model could evade the test by crashing.

Paper    Bouaziz, Usunier and El-Mhamdi, Data Taggants (ICLR 2025), arXiv 2410.09101: detection with top-k access.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from mithridate.core.boundary import Caps, read_bytes
from mithridate.core.errors import BadArtefact, Misuse
from mithridate.ownership._answers import ABSTAINED, AbstractOracle, Answer, LabelSpace, Query, Tally, failed, malformed
from mithridate.ownership._commands import CommandOracle
from mithridate.ownership._services import HttpOracle
from mithridate.ownership.diary import now

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "ABSTAINED",
    "AbstractOracle",
    "Answer",
    "Asked",
    "CommandOracle",
    "HttpOracle",
    "LabelSpace",
    "ModelOracle",
    "PredictionsOracle",
    "Query",
    "Tally",
    "ask_all",
    "write_queries",
]

_CSV_CAPS = Caps(file_bytes=64 << 20)
_TABLE = "predictions.csv"


@final
@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a model answered to all keys.

    Args:
        answers: One for each query, in order.
        times: When each was asked, as `diary.now` gives it.
        tally: How it answered in all.
        about: What was asked.
    """

    answers: tuple[Answer, ...]
    times: tuple[str, ...]
    tally: Tally
    about: str


def ask_all(
    oracle: AbstractOracle, queries: Sequence[Query], *, tell: Callable[[Answer], None] = lambda answer: None
) -> Asked:
    """Ask about all keys, in their order, once each.

    Args:
        oracle: Who is asked.
        queries: The keys.
        tell: Told each answer.
    """
    answers, times = [], []
    for query in queries:
        times.append(now())
        answers.append(oracle.ask(query))
        tell(answers[-1])
    return Asked(answers=tuple(answers), times=tuple(times), tally=Tally.of(queries, answers), about=oracle.about)


@final
class ModelOracle(AbstractOracle):
    """A network at hand.

    Args:
        model: Maps float images in [0, 1] to logits; is put into evaluation mode.
        space: How its labels are read.
        classes: The names of its outputs; None if they are the committed classes in their order.
        about: What the certificate calls it.
        shape: Channels, height and width that it takes.

    Raises:
        Misuse: MTH-1061, it shares no class with the commitment.
    """

    def __init__(
        self,
        model: "nn.Module",
        space: LabelSpace,
        *,
        classes: Sequence[str] | None = None,
        about: str = "a model",
        shape: tuple[int, int, int] | None = None,
    ) -> None:
        self._model = model.eval()
        self._space = space
        self._classes = tuple(classes or space.classes)
        self._about = about
        self._shape = shape
        if not self.shared:
            raise Misuse(
                "MTH-1061",
                f"{about} has the classes {', '.join(map(repr, self._classes[:8]))}; the commitment has "
                f"{', '.join(map(repr, space.classes[:8]))}: they share none",
                hint="give the names that the model uses with --class-map FILE",
            )

    @property
    def about(self) -> str:
        """What is asked."""
        return self._about

    @property
    def shared(self) -> tuple[int, ...]:
        """The committed classes that the model can answer."""
        found = {self._space.index(name) for name in self._classes}
        return tuple(sorted(index for index in found if index is not None))

    def ask(self, query: Query) -> Answer:
        """Return the k classes with the largest logits.

        Raises:
            Misuse: MTH-1062, the key is no image of the model's size.
        """
        if self._shape is not None and tuple(query.image.shape) != self._shape:
            raise wrong_size(self._about, self._shape, tuple(query.image.shape))
        import torch

        device = next((parameter.device for parameter in self._model.parameters()), torch.device("cpu"))
        with torch.inference_mode():
            pixels = torch.from_numpy(query.image.copy())[None].to(device).float() / 255
            logits = self._model(pixels)[0].float().cpu()
        if logits.shape != (len(self._classes),):
            return malformed(f"{tuple(logits.shape)} logits of {len(self._classes)} classes")
        if not bool(torch.isfinite(logits).all()):
            return failed("logits that are not finite")
        # Ties go to the lower class, on every machine.
        order = torch.sort(logits, descending=True, stable=True).indices[: self._space.topk].tolist()
        return self._space.answer([self._classes[k] for k in order])


def wrong_size(about: str, wanted: tuple[int, ...], found: tuple[int, ...]) -> Misuse:
    """Return the error for a model that takes other images than the keys are."""
    return Misuse(
        "MTH-1062",
        f"{about} takes images of shape {wanted}, and the committed keys have {found}",
        hint="a key is asked as it was committed: wrap the model in what scales its input, and use --command",
    )


@final
class PredictionsOracle(AbstractOracle):
    """A table of what the model answered.

    Args:
        rows: The labels that were written for each key.
        space: How labels are read.
        about: What the certificate calls the table.
    """

    def __init__(self, rows: Mapping[int, Sequence[str]], space: LabelSpace, *, about: str = "predictions") -> None:
        self._rows = rows
        self._space = space
        self._about = about

    @classmethod
    def read(cls, path: Path, space: LabelSpace) -> "PredictionsOracle":
        """Read a CSV file: a column `key` with the number or the file of each key, and its labels after it, best first.

        Raises:
            BadArtefact: MTH-1063, it is no such table; MTH-02xx, it cannot be read.
        """
        data = read_bytes(path, _CSV_CAPS)
        try:
            lines = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
        except (UnicodeDecodeError, csv.Error) as error:
            raise _no_table(path, str(error)[:100]) from error
        lines = [line for line in lines if any(cell.strip() for cell in line)]
        if not lines or len(lines[0]) < 2 or lines[0][0].strip().lower() not in ("key", "file", "image"):
            head = ", ".join(lines[0])[:80] if lines else "nothing"
            raise _no_table(path, f"its first line is {head!r}, not 'key,label' or 'key,label1,label2,...'")
        rows: dict[int, list[str]] = {}
        for number, line in enumerate(lines[1:], 2):
            index = _key_of(line[0])
            if index is None:
                raise _no_table(path, f"line {number} begins with {line[0][:40]!r}, which is the number of no key")
            if index in rows:
                raise _no_table(path, f"line {number} answers key {index} a second time")
            labels = [cell.strip() for cell in line[1:]]
            while labels and not labels[-1]:
                labels.pop()
            rows[index] = labels
        return cls(rows, space, about=f"predictions in {path.name}")

    @property
    def about(self) -> str:
        """What is asked."""
        return self._about

    def ask(self, query: Query) -> Answer:
        """Return what the table has for a key; a key that it has not is an abstention."""
        labels = self._rows.get(query.index)
        if not labels:
            return ABSTAINED if labels is not None else failed("the table has no line for this key")
        return self._space.answer(labels)


def _key_of(cell: str) -> int | None:
    text = Path(cell.strip()).name.removeprefix("key-").removesuffix(".png")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def _no_table(path: Path, why: str) -> BadArtefact:
    return BadArtefact(
        "MTH-1063",
        f"{path} is no table of predictions: {why}",
        hint="`mithridate own verify --queries DIR` writes the images of the keys and a table to fill in",
    )


def write_queries(queries: Sequence[Query], space: LabelSpace, folder: Path) -> list[Path]:
    """Write the images of the keys and an empty table of predictions, for somebody who asks the model by hand.

    Raises:
        Misuse: MTH-1064, the folder has files in it.
        WorkError: The disk is full or not writable.
    """
    from mithridate.core.artefacts import disk_errors, write_atomic

    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise Misuse("MTH-1064", f"{str(folder)!r} is not empty", hint="give a new folder with --queries")
    names = ["label"] if space.topk == 1 else [f"label{k + 1}" for k in range(space.topk)]
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["key", *names])
    table.writerows([query.name, *[""] * len(names)] for query in queries)
    written = []
    for query in queries:
        write_atomic(folder / query.name, query.png)
        written.append(folder / query.name)
    write_atomic(folder / _TABLE, text.getvalue().encode())
    return [*written, folder / _TABLE]
