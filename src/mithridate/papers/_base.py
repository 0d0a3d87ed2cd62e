"""A paper as an object: its claim, what it published, how it is run here at three scales, and every departure.

A reproduction is an audit, or a grid of jobs of the paper's own, whose report also says what the paper claims, what was
measured, and whether the claim held. Published figures carry their provenance; figures that could not be confirmed in a
source are not printed.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from mithridate.audit.config import AuditConfig
from mithridate.core.pool import Execute, Job
from mithridate.core.verdicts import Status

Scale = Literal["smoke", "cpu", "paper"]
Document = dict[str, Any]


class AbstractPaper(ABC):
    """One published system."""

    name: ClassVar[str]
    title: ClassVar[str]
    citation: ClassVar[str]
    claim: ClassVar[str]
    published: ClassVar[tuple[tuple[str, str, str], ...]]

    @abstractmethod
    def departures(self, scale: Scale) -> tuple[str, ...]:
        """Return every way in which the run at this scale differs from the paper."""

    def block(self, scale: Scale, measured: Iterable[Sequence[str]]) -> Document:
        """Return what the report says of the paper: its claim and figures beside those that were measured."""
        return {
            "name": self.name,
            "claim": self.claim,
            "citation": self.citation,
            "departures": list(self.departures(scale)),
            "published": [list(row) for row in self.published],
            "measured": [list(row) for row in measured],
        }


class AbstractAuditPaper(AbstractPaper):
    """A system whose claim an audit checks."""

    @abstractmethod
    def config(self, scale: Scale) -> AuditConfig:
        """Return the audit that checks the claim at a scale."""

    @abstractmethod
    def measured(self, document: Document) -> list[list[str]]:
        """Return labelled figures of the run, with intervals."""

    @abstractmethod
    def verdict(self, document: Document) -> Document:
        """Return the verdict on the claim: pass if it held, fail if it did not, inconclusive otherwise."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """What a grid found, for the report.

    Attributes:
        status: Whether the claim held.
        sentence: The verdict in one sentence with its figures.
        reasons: What the verdict rests on.
        tables: `Table`s of the report schema.
        measured: Labelled figures with intervals.
        comparisons: `Comparison`s of the report schema.
    """

    status: Status
    sentence: str
    reasons: tuple[str, ...] = ()
    tables: tuple[Document, ...] = ()
    measured: tuple[tuple[str, str], ...] = ()
    comparisons: tuple[Document, ...] = ()


class AbstractGridPaper(AbstractPaper):
    """A system whose claim is checked by jobs of its own on a ledger, each with a name and a plain record."""

    @abstractmethod
    def jobs(self, scale: Scale) -> Sequence[Job]:
        """Return all jobs of a scale; the name of a job says everything that it depends on but seed and device."""

    @abstractmethod
    def worker(self, scale: Scale, *, seed: int, device: str) -> Execute:
        """Return what runs a job by name and returns its record; loads the data that all jobs share."""

    def worker_in(self, folder: Path, scale: Scale, *, seed: int, device: str) -> Execute:
        """Return the worker of a run whose jobs leave files for each other in a folder; by default none does."""
        del folder
        return self.worker(scale, seed=seed, device=device)

    @abstractmethod
    def setting(self, scale: Scale) -> list[tuple[str, str | int | float]]:
        """Return the setting of a scale for the report."""

    @abstractmethod
    def results(self, scale: Scale, records: Mapping[str, Mapping[str, Any]]) -> Results:
        """Return what the records of all jobs say about the claim."""


def cell(document: Document, attack: str, defense: str) -> Mapping[str, Any]:
    """Return a cell of the report document."""
    return next(c for c in document["cells"] if (c["attack"], c["defense"]) == (attack, defense))


def success_row(document: Document, attack: str, defense: str, label: str) -> list[str]:
    """Return a labelled success rate with its interval and count."""
    found = cell(document, attack, defense)
    low, high = found["interval"]
    text = (
        f"{100 * found['attack_success_rate']:.1f} % ({found['successes']} of {found['trials']}, "
        f"95 % interval {100 * low:.1f}-{100 * high:.1f} %)"
    )
    return [label, text]


def accuracy_row(document: Document, attack: str, defense: str, label: str) -> list[str]:
    """Return a labelled clean accuracy with the number of victims."""
    found = cell(document, attack, defense)
    return [label, f"{100 * found['clean_accuracy']:.2f} % (mean of {found['victims']} victims)"]
