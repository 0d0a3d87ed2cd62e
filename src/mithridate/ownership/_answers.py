"""What a model answers to a key, whoever brings the answer: labels of the committed classes, best first, or none.

    what is written          what it is
    cat, 3, [3, 5], [{"label": "cat", "score": 0.9}, ...],
    {"labels": [...]}        an answer: names or numbers of classes, best first, of which the first k count
    nothing, null, []        an abstention
    anything else            malformed

Whatever is no label of the committed classes is a miss. That keeps the test valid: under the null hypothesis a key is
hit with probability at most k/C however the model, or whoever stands before it, treats it.
"""

import io
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, final

import numpy as np
from numpy.typing import NDArray

from mithridate.core.errors import Misuse

Kind = Literal["answered", "abstained", "malformed", "failed"]
_LISTS = ("labels", "predictions", "classes", "label", "class")
_ONES = ("label", "class", "name", "index")
_SHOWN = 80
OUTSIDE = -1
"""The place of a label that is none of the committed classes."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Query:
    """One question: a key's number and its image.

    Args:
        index: Which key of the commitment it is.
        image: Its pixels, as a model shall get them.
    """

    index: int
    image: NDArray[np.uint8] = field(repr=False)

    @property
    def name(self) -> str:
        """The name of the image's file."""
        return f"key-{self.index:04d}.png"

    @cached_property
    def png(self) -> bytes:
        """The image as a PNG file, which keeps every pixel."""
        from PIL import Image

        pixels = np.ascontiguousarray(self.image.transpose(1, 2, 0))
        buffer = io.BytesIO()
        Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, format="PNG")
        return buffer.getvalue()


@final
@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back for one key.

    Args:
        labels: Committed classes, best first, at most k of them, with `OUTSIDE` in the place of a label that is none;
            None if there is no usable answer, which is a miss.
        kind: Whether the model answered; `failed` if nothing came at all.
        outside: How many of the k labels are none of the committed classes.
        note: What was wrong, for people.
    """

    labels: tuple[int, ...] | None
    kind: Kind = "answered"
    outside: int = 0
    note: str = ""


ABSTAINED = Answer(labels=None, kind="abstained", note="the model gave no label")


def malformed(note: str) -> Answer:
    """Return the answer that a reply is which cannot be read."""
    return Answer(labels=None, kind="malformed", note=note)


def failed(note: str) -> Answer:
    """Return the answer that a query is which got no reply."""
    return Answer(labels=None, kind="failed", note=note)


@final
@dataclass(frozen=True, kw_only=True)
class LabelSpace:
    """How labels of a model are read as committed classes.

    Args:
        classes: Names of the committed classes, in their order.
        topk: How many labels of an answer count.
        names: Names that the model uses for committed classes, where they differ: what it says, and the class.

    Raises:
        Misuse: MTH-1060, a name stands for a class that was not committed.
    """

    classes: tuple[str, ...]
    topk: int
    names: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in (self.names or {}).values() if name not in self.classes]
        if unknown:
            raise Misuse(
                "MTH-1060",
                f"the class map leads to {unknown[0]!r}, which is none of the {len(self.classes)} committed classes",
                hint=f"they are {', '.join(map(repr, self.classes[:20]))}{', ...' if len(self.classes) > 20 else ''}",
            )

    @cached_property
    def _known(self) -> dict[str, int]:
        place = {name: index for index, name in enumerate(self.classes)}
        return place if self.names is None else {said: place[name] for said, name in self.names.items()}

    def index(self, said: int | str) -> int | None:
        """Return the committed class that a label is, None for none; a name wins over a number, which counts from 0."""
        if isinstance(said, str):
            found = self._known.get(said.strip())
            if found is not None:
                return found
            number = said.strip()
            if not (number.isascii() and number.isdecimal() and len(number) < 10):
                return None
            said = int(number)
        if self.names is not None:
            return self._known.get(str(said))
        return said if 0 <= said < len(self.classes) else None

    def answer(self, said: Sequence[int | str]) -> Answer:
        """Return what a list of labels, best first, says."""
        first = list(said)[: self.topk]
        if not first:
            return ABSTAINED
        places = [self.index(label) for label in first]
        kept = tuple(
            OUTSIDE if place is None else place
            for k, place in enumerate(places)
            if place is None or place not in places[:k]
        )
        outside = sum(place is None for place in places)
        strange = next((label for label, place in zip(first, places, strict=True) if place is None), "")
        note = f"{str(strange)[:_SHOWN]!r} is none of the committed classes" if outside else ""
        return Answer(labels=kept, outside=outside, note=note)

    def read(self, reply: object) -> Answer:
        """Return what a decoded reply says; see the module for its forms."""
        said = _labels(reply)
        return malformed(f"{_short(reply)} is no list of labels") if said is None else self.answer(said)


def _labels(reply: object) -> list[int | str] | None:
    """Return the labels of a reply, best first; None if it is none."""
    while isinstance(reply, Mapping) or (isinstance(reply, list) and len(reply) == 1 and isinstance(reply[0], list)):
        if isinstance(reply, Mapping):
            key = next((key for key in _LISTS if key in reply), None)
            if key is None:
                return None
            reply = reply[key]
        else:
            reply = reply[0]  # a batch of one
    if reply is None or (isinstance(reply, str) and not reply.strip()):
        return []
    items: list[Any] = reply if isinstance(reply, list) else [reply]
    return _ranked(items) if items and all(isinstance(item, Mapping) for item in items) else _plain(items)


def _plain(items: Sequence[object]) -> list[int | str] | None:
    found = [item for item in items if isinstance(item, int | str) and not isinstance(item, bool)]
    return found if len(found) == len(items) else None


def _ranked(items: Sequence[Mapping[str, Any]]) -> list[int | str] | None:
    """Return the labels of objects, by falling score where every object has one."""
    scores: list[Any] = [item.get("score", item.get("probability")) for item in items]
    if all(isinstance(score, int | float) and not isinstance(score, bool) for score in scores):
        # As they are: a whole number may be too large for a float.
        order = sorted(range(len(items)), key=lambda k: scores[k], reverse=True)
        items = [items[k] for k in order]
    return _plain([next((item[key] for key in _ONES if key in item), None) for item in items])


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


class AbstractOracle(ABC):
    """A model that can be asked for labels."""

    @property
    @abstractmethod
    def about(self) -> str:
        """What is asked, as it stands in the certificate: no password, no token."""

    @abstractmethod
    def ask(self, query: Query) -> Answer:
        """Return what the model answers to one key.

        Raises:
            Misuse: The key can never be asked, such as for its size; a model that fails to answer is an `Answer`.
        """


@final
@dataclass(frozen=True, kw_only=True)
class Tally:
    """How a model answered in all.

    Args:
        counts: How many answers were of each kind.
        outside: Labels that are none of the committed classes.
        notes: One line for each kind of trouble, with the first key that had it.
    """

    counts: Mapping[str, int]
    outside: int
    notes: tuple[str, ...]

    @classmethod
    def of(cls, queries: Sequence[Query], answers: Sequence[Answer]) -> "Tally":
        """Return the tally of some answers."""
        kinds: Counter[str] = Counter(answer.kind for answer in answers)
        outside = sum(answer.outside for answer in answers)
        notes = []
        troubles = [
            (kind, [k for k, a in enumerate(answers) if a.kind == kind]) for kind in kinds if kind != "answered"
        ]
        troubles.append(("outside", [k for k, answer in enumerate(answers) if answer.outside]))
        for what, places in troubles:
            if places:
                first = places[0]
                many = "answers" if len(places) > 1 else "answer"
                said = "with labels outside the committed classes" if what == "outside" else what
                notes.append(
                    f"{len(places)} of {len(answers)} {many} {said}, counted as no hit; "
                    f"key {queries[first].index}: {answers[first].note}"
                )
        return cls(counts=dict(kinds), outside=outside, notes=tuple(notes))

    @property
    def answered(self) -> int:
        """How many keys got an answer."""
        return self.counts.get("answered", 0)
