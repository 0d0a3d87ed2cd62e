"""The table of a scan: every row with its scores, ranks and votes, and whether it is suspected; as a parquet file.

Columns: `row`, `label`, `class`, for each detector `score:NAME` and `rank:NAME` (1 is the most suspicious, by the
deviation from its class), `votes`, `rank`, `suspect`. The schema's metadata hold, as JSON under `mithridate`, what was
scanned with what, and what the jury saw in each class. Reading checks all of it.
"""

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from mithridate.core.artefacts import write_atomic
from mithridate.core.boundary import read_json, read_parquet
from mithridate.core.environment import versions
from mithridate.core.errors import BadArtefact, Misuse, MithridateError
from mithridate.data.examples import ROW, Examples

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA = "mithridate.suspects/1"
LISTED = "listed"
"""The setting under which a table that no scan has made keeps its name."""
_KEY = b"mithridate"


@dataclass(frozen=True, kw_only=True, eq=False)
class Suspects:
    """What a scan found.

    Args:
        rows: The id of each row: its place in the data, or in the complete data if these are a part of them.
        labels: The labels as found.
        classes: The name of each class.
        scores: What each detector gave each row.
        ranks: The place of each row for each detector, 1 for the most suspicious.
        votes: How many detectors voted for each row.
        rank: The place of each row, 1 for the most suspicious.
        suspect: Which rows are suspected.
        anomalies: For each class that was judged, its mean anomaly; see `votes`.
        gate: The anomaly above which a class stands out.
        decided: Whether there were enough classes to tell.
        data: The fingerprint of the data.
        model: The sha256 of the model's weights.
        settings: Detectors with their options, the jury, the seed: how to repeat the scan.
        moved: For each class that was tried, see `transplant`, the share of other images that was moved there; empty if
            the votes were enough.
    """

    rows: Int64[Tensor, " n"]
    labels: Int64[Tensor, " n"]
    classes: tuple[str, ...]
    scores: Mapping[str, Float64[Tensor, " n"]]
    ranks: Mapping[str, Int64[Tensor, " n"]]
    votes: Int64[Tensor, " n"]
    rank: Int64[Tensor, " n"]
    suspect: Bool[Tensor, " n"]
    anomalies: Mapping[int, float]
    gate: float
    decided: bool
    data: str
    model: str
    settings: Mapping[str, Any]
    moved: Mapping[int, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def found(self) -> Int64[Tensor, " s"]:
        """The ids of the suspected rows, the most suspicious first."""
        places = self.suspect.nonzero().squeeze(1)
        return self.rows[places[self.rank[places].argsort()]]

    @property
    def leading(self) -> int | None:
        """The class that stands out most, None if none was judged."""
        return max(self.anomalies, key=self.anomalies.__getitem__, default=None)

    @property
    def label(self) -> int | None:
        """The label that most of the suspected rows carry, None without any."""
        return int(self.labels[self.suspect].mode().values) if bool(self.suspect.any()) else None

    @property
    def statement(self) -> str:
        """What the scan says, in one or two sentences."""
        if LISTED in self.settings:
            labels = sorted(set(self.labels[self.suspect].tolist()))
            return (
                f"{len(self.found)} rows labelled {named(labels, self.classes)} were named in {self.settings[LISTED]}."
            )
        leading = self.leading
        if not self.decided or leading is None:
            return (
                f"Undecided: {len(self.anomalies)} classes are large enough to be judged, and it takes 4 to tell "
                f"whether one of them stands out. The rows are ranked all the same."
            )
        name, anomaly = self.classes[leading], self.anomalies[leading]
        if self.moved and self.label is not None:
            others = max((rate for label, rate in self.moved.items() if label != self.label), default=0.0)
            return (
                f"Class {self.classes[self.label]!r} stands out: what a part of its rows have in common turns "
                f"{self.moved[self.label]:.0%} of other images into it (in other classes at most {others:.0%}); "
                f"{len(self.found)} of its {int((self.labels == self.label).sum())} rows are suspected."
            )
        if not len(self.found):
            most = f"class {name!r} stands out most, with an anomaly of {anomaly:.1f} (a class is suspected above "
            if anomaly <= self.gate:
                return f"Nothing suspicious: {most}{self.gate:.1f})."
            return f"Nothing suspicious: {most}{self.gate:.1f}), but the detectors agree on no row of it."
        return (
            f"Class {name!r} stands out, with an anomaly of {anomaly:.1f} (suspected above {self.gate:.1f}); "
            f"{len(self.found)} of its {int((self.labels == leading).sum())} rows are suspected."
        )

    def select(self, examples: Examples) -> Examples:
        """Return the suspected examples, with the labels under which they were found, the most suspicious first.

        Raises:
            Misuse: MTH-0869 when these are not the examples that were scanned.
        """
        if examples.fingerprint != self.data:
            raise Misuse(
                "MTH-0869",
                f"the suspects were found in data with fingerprint {self.data[:12]}..., {examples.name} has "
                f"{examples.fingerprint[:12]}...",
                hint="use the data that were scanned, read as they were then (--pack, --per-class, --size), or scan "
                "these",
            )
        places = self.suspect.nonzero().squeeze(1)
        return examples.select(places[self.rank[places].argsort()])

    def write(self, path: Path) -> None:
        """Write the table as parquet, whole or not at all.

        Raises:
            WorkError: MTH-0706 when the disk is full or not writable.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = [self.classes[label] for label in self.labels.tolist()]
        columns: dict[str, pa.Array] = {
            "row": pa.array(self.rows.numpy()),
            "label": pa.array(self.labels.numpy()),
            "class": pa.array(names, pa.string()).dictionary_encode().cast(pa.string()),
        }
        for name, values in self.scores.items():
            columns[f"score:{name}"] = pa.array(values.numpy())
            columns[f"rank:{name}"] = pa.array(self.ranks[name].numpy())
        columns |= {
            "votes": pa.array(self.votes.numpy()),
            "rank": pa.array(self.rank.numpy()),
            "suspect": pa.array(self.suspect.numpy()),
        }
        facts = {
            "schema": SCHEMA,
            "classes": list(self.classes),
            "detectors": list(self.scores),
            "anomalies": {str(label): anomaly for label, anomaly in self.anomalies.items()},
            "gate": self.gate,
            "decided": self.decided,
            "data": self.data,
            "model": self.model,
            "settings": dict(self.settings),
            "moved": {str(label): rate for label, rate in self.moved.items()},
            "versions": versions(),
        }
        table = pa.table(columns).replace_schema_metadata({_KEY: json.dumps(facts, allow_nan=False)})
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        write_atomic(path, buffer.getvalue())

    @classmethod
    def read(cls, path: Path) -> "Suspects":
        """Read a table and check it.

        Raises:
            BadArtefact: 02xx for a damaged file, MTH-0867 for one that is no table of suspects or contradicts itself.
        """
        table = read_parquet(path)
        facts = _facts(table, path)
        try:
            return _of_table(table, facts)
        except MithridateError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise BadArtefact("MTH-0867", f"{path} is no table of suspects: {reason}", hint=_AGAIN) from error


_AGAIN = "make it again with `mithridate scan`"


def ids_of(examples: Examples) -> Int64[Tensor, " n"]:
    """Return the ids of the rows: their places in the complete data set, where these are known."""
    return examples.columns[ROW].to("cpu", torch.int64) if ROW in examples.columns else torch.arange(len(examples))


def ranking(values: Float64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """Return the place of each value, 1 for the largest; equal values in the order in which they stand."""
    places = torch.empty(len(values), dtype=torch.int64)
    places[values.argsort(descending=True, stable=True)] = torch.arange(1, len(values) + 1)
    return places


def _facts(table: "pa.Table", path: Path) -> dict[str, Any]:
    text = (table.schema.metadata or {}).get(_KEY)
    facts = read_json(text) if text else None
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        schema = facts.get("schema") if isinstance(facts, dict) else None
        raise BadArtefact(
            "MTH-0867",
            f"{path} is no table of suspects: its schema is {str(schema)[:60]!r}, this version reads {SCHEMA!r}",
            hint=_AGAIN,
        )
    return facts


def _of_table(table: "pa.Table", facts: Mapping[str, Any]) -> Suspects:
    """Rebuild what `write` wrote; raises ValueError or TypeError in words for whatever does not fit."""
    detectors, classes = _strings(facts, "detectors"), _strings(facts, "classes")
    _check_names(table, detectors)
    rows, labels = _column(table, "row", "int64"), _column(table, "label", "int64")
    _check_rows(rows, labels, table["class"].to_pylist(), classes)
    votes, suspect = _column(table, "votes", "int64"), _column(table, "suspect", "bool")
    if len(votes) and not 0 <= int(votes.min()) <= int(votes.max()) <= len(detectors):
        raise ValueError(f"it has votes outside [0, {len(detectors)}]")
    scores = {name: _column(table, f"score:{name}", "double") for name in detectors}
    for name, values in scores.items():
        if not bool(values.isfinite().all()):
            raise ValueError(f"it has scores of {name!r} that are not finite")
    anomalies = {int(label): _number(anomaly) for label, anomaly in facts["anomalies"].items()}
    moved = {int(label): _number(rate) for label, rate in facts.get("moved", {}).items()}
    if not set(anomalies) | set(moved) <= set(range(len(classes))):
        raise ValueError("it judges a class that it does not have")
    for key, kind in {"data": str, "model": str, "decided": bool, "settings": dict}.items():
        if not isinstance(facts[key], kind):
            raise TypeError(f"{key!r} is {facts[key]!r}")
    return Suspects(
        rows=rows,
        labels=labels,
        classes=classes,
        scores=scores,
        ranks={name: _places(table, f"rank:{name}") for name in detectors},
        votes=votes,
        rank=_places(table, "rank"),
        suspect=suspect,
        anomalies=anomalies,
        gate=_number(facts["gate"]),
        decided=facts["decided"],
        data=facts["data"],
        model=facts["model"],
        settings=facts["settings"],
        moved=moved,
    )


def _check_names(table: "pa.Table", detectors: Sequence[str]) -> None:
    wanted = ["row", "label", "class", "votes", "rank", "suspect"]
    wanted += [f"{kind}:{name}" for name in detectors for kind in ("score", "rank")]
    if sorted(table.column_names) != sorted(wanted):
        odd = sorted(set(table.column_names) ^ set(wanted)) or ["one twice"]
        raise ValueError(f"its columns are not those of its detectors: {odd[0]!r}")


def _check_rows(rows: Tensor, labels: Tensor, names: Sequence[str], classes: Sequence[str]) -> None:
    if not len(rows) or len(set(rows.tolist())) < len(rows) or int(rows.min()) < 0:
        raise ValueError("its row ids are not distinct whole numbers from 0")
    if not 0 <= int(labels.min()) <= int(labels.max()) < len(classes):
        raise ValueError(f"it has a label outside [0, {len(classes) - 1}]")
    if names != [classes[label] for label in labels.tolist()]:
        raise ValueError("its column 'class' contradicts its labels")


def _strings(facts: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = facts[key]
    if not isinstance(found, list) or not found or not all(isinstance(item, str) for item in found):
        raise TypeError(f"{key!r} is no list of names")
    if len(set(found)) < len(found) and key == "detectors":
        raise ValueError("it names a detector twice")
    return tuple(found)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _column(table: "pa.Table", name: str, kind: str) -> Tensor:
    column = table[name]
    if str(column.type) != kind or column.null_count:
        raise TypeError(f"its column {name!r} is {column.type} with {column.null_count} values missing, not {kind}")
    return torch.from_numpy(column.to_numpy().copy())


def _places(table: "pa.Table", name: str) -> Int64[Tensor, " n"]:
    places = _column(table, name, "int64")
    if not torch.equal(places.sort().values, torch.arange(1, len(places) + 1)):
        raise ValueError(f"its column {name!r} is no ranking")
    return places


def named(labels: Sequence[int], classes: Sequence[str]) -> str:
    """Return class names for a message, at most five of them."""
    shown = ", ".join(repr(classes[label]) for label in labels[:5])
    return shown + (", ..." if len(labels) > 5 else "")
