"""Counting: from the ledger's records to cells, per-target rows, traces and comparisons. Plain Python, no torch.

A cell is an attack under a defense, pooled over the scenarios and victim seeds. Outcomes are nearly all-or-nothing per
target, so targets are the sampling unit of every interval; tests ask about targets of their kind, or about these ones.

Where attacks plant a trigger, the units are the test images that carry it; victims whose training differs are runs over
the same images. Controls are asked about the trigger of every attack, and compared with an attack under its own.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from mithridate.core.intervals import Rate, clustered, fisher_greater, paired_greater, repeated, stratified_greater

Records = Mapping[str, Mapping[str, Any]]
STRATIFIED = "exact, stratified by target, one-sided"


@dataclass(frozen=True)
class Victim:
    """One victim's record under its address."""

    attack: str
    defense: str
    number: int
    record: Mapping[str, Any]


@dataclass(frozen=True)
class Tally:
    """All victims of an attack under a defense.

    Attributes:
        hits: For each target (by scenario and test row), its hits over the victims.
        chances: For each target, the victims' probabilities of the adversarial class.
    """

    attack: str
    defense: str
    victims: tuple[Victim, ...]
    hits: Mapping[tuple[str, int], tuple[int, ...]]
    chances: Mapping[tuple[str, int], tuple[float, ...]]

    @property
    def triggered(self) -> bool:
        """Whether the victims were asked about images with a trigger."""
        return bool(self.victims) and "triggered" in self.victims[0].record

    @property
    def unit(self) -> str:
        """What is hit or not, in the plural."""
        return "images with its trigger" if self.triggered else "targets"

    @property
    def asked(self) -> str:
        """What the trials are, in words that follow their number."""
        several = not self.triggered and self.trials > len(self.hits)
        return f"victims over {len(self.hits)} targets" if several else self.unit

    def against(self, attack: str) -> "Tally":
        """Return what these victims did under the trigger of an attack; the same tally where there are targets."""
        if not self.triggered:
            return self
        return replace(self, hits={key: hits for key, hits in self.hits.items() if key[0].startswith(f"{attack} ")})

    @property
    def successes(self) -> int:
        """Hits over all targets and victims."""
        return sum(map(sum, self.hits.values()))

    @property
    def trials(self) -> int:
        """Target images times the victims that were asked about them."""
        return sum(map(len, self.hits.values()))

    def success(self) -> Rate:
        """Return the attack success rate, clustered by target."""
        per_target = list(self.hits.values())
        if self.triggered:
            runs = self._runs()
            return repeated(runs, self.trials // len(runs))
        return clustered([sum(hits) for hits in per_target], [len(hits) for hits in per_target])

    def _runs(self) -> list[int]:
        """Return the hits of each number of victim over all scenarios."""
        return [sum(hits) for hits in zip(*self.hits.values(), strict=True)]

    def accuracy(self) -> Rate:
        """Return the accuracy on the clean test images, which all victims share."""
        return repeated([victim.record["correct"] for victim in self.victims], self.victims[0].record["tested"])


def victims(records: Records) -> Iterator[Victim]:
    """Yield the victims among the records."""
    for name, record in records.items():
        match name.split("/"):
            case ["victim", attack, defense, *_, number]:
                yield Victim(attack, defense, int(number), record)


def tallies(records: Records, attacks: Sequence[str], defenses: Sequence[str]) -> dict[tuple[str, str], Tally]:
    """Return the tally of every attack and defense that has victims, in the order of the grid."""
    everyone = list(victims(records))
    grid = {(attack, defense): _tally(attack, defense, everyone) for defense in defenses for attack in attacks}
    return {cell: tally for cell, tally in grid.items() if tally.victims}


def _tally(attack: str, defense: str, everyone: Iterable[Victim]) -> Tally:
    ours = [victim for victim in everyone if (victim.attack, victim.defense) == (attack, defense)]
    chosen = tuple(sorted(ours, key=lambda victim: victim.number))  # records come in the order in which jobs ended
    hits: dict[tuple[str, int], list[int]] = {}
    chances: dict[tuple[str, int], list[float]] = {}
    for victim in chosen:
        for target in victim.record["targets"]:
            key = (target["scenario"], target["target"])
            hits.setdefault(key, []).append(int(target["hit"]))
            chances.setdefault(key, []).append(target["adversarial_probability"])
        for asked in victim.record.get("triggered", ()):
            name = f"{asked['attack']} {asked['scenario']}"
            for place, hit in enumerate(unpacked(asked["hits"], asked["images"])):
                hits.setdefault((name, place), []).append(hit)
    return Tally(
        attack,
        defense,
        chosen,
        {key: tuple(value) for key, value in hits.items()},
        {key: tuple(value) for key, value in chances.items()},
    )


def packed(hits: Sequence[bool]) -> str:
    """Return truth values as hexadecimal digits, four a digit."""
    return format(int("1" + "".join("01"[hit] for hit in hits), 2), "x")


def unpacked(text: str, count: int) -> list[int]:
    """Return the ones and zeros that `packed` was given."""
    return [int(bit) for bit in format(int(text, 16), "b")[1:]] if count else []


def cells(grid: Mapping[tuple[str, str], Tally], scenario: str) -> list[dict[str, Any]]:
    """Return the cells of the report."""
    return [_cell(tally, scenario) for tally in grid.values()]


def _cell(tally: Tally, scenario: str) -> dict[str, Any]:
    success, accuracy = tally.success(), tally.accuracy()
    method = "wilson" if all(len(hits) == 1 for hits in tally.hits.values()) else "clustered"
    return {
        "scenario": scenario,
        "attack": tally.attack,
        "defense": tally.defense,
        "targets": len(tally.hits),
        "trials": tally.trials,
        "successes": tally.successes,
        "attack_success_rate": success.point,
        "interval": [success.low, success.high],
        "interval_method": "repeated" if tally.triggered and method != "wilson" else method,
        "clean_accuracy": accuracy.point,
        "clean_accuracy_interval": [accuracy.low, accuracy.high],
        "victims": len(tally.victims),
        "seconds": round(sum(victim.record["seconds"] for victim in tally.victims), 3),
        **_diagnostics([victim.record["diagnostics"] for victim in tally.victims if "diagnostics" in victim.record]),
    }


def _diagnostics(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the cell's defense measured of itself: every figure over the victims that have it, every warning."""
    values: dict[str, list[float]] = {}
    warnings: dict[str, None] = {}
    for record in records:
        for name, value in record["figures"].items():
            values.setdefault(name, []).append(value)
        warnings |= dict.fromkeys(record["warnings"])
    figures = [
        {"name": name, "mean": fmean(found), "low": min(found), "high": max(found), "victims": len(found)}
        for name, found in values.items()
    ]
    return {"diagnostics": figures, "warnings": list(warnings)}


def comparisons(grid: Mapping[tuple[str, str], Tally]) -> list[dict[str, Any]]:
    """Return one-sided exact tests: attacks against both controls, defenses against attacks.

    Fisher's test has targets as its units and asks about targets of their kind. The test stratified by target has
    victims as its units and asks about these targets and packs; with one victim each it is McNemar's. Verdicts go by
    the first.
    """
    found = []
    for (attack, defense), tally in grid.items():
        if attack in ("none", "noise"):
            continue
        if defense != "none":
            found += _greater(grid[attack, "none"], tally, f"{defense} saves {tally.unit} from {attack}")
            continue
        noise = "the same labels without it" if tally.triggered else "noise of the same size"
        for control, label in (("none", "no attack"), ("noise", noise)):
            if (control, "none") in grid:
                found += _greater(
                    tally, grid[control, "none"].against(attack), f"{attack} hits more {tally.unit} than {label}"
                )
    return found


def _greater(more: Tally, fewer: Tally, what: str) -> list[dict[str, Any]]:
    both = [target for target in more.hits if target in fewer.hits]
    most = min((len(tally.hits[target]) for tally in (more, fewer) for target in both), default=0)
    k1, n1, k2, n2 = (*_targets_hit(more, most), *_targets_hit(fewer, most))
    text = f"{what} ({k1} of {n1} against {k2} of {n2})"
    fisher = {"what": text, "p_value": fisher_greater(k1, n1, k2, n2), "test": "Fisher exact, one-sided"}
    if more.triggered:  # every victim is asked about all images: within an image they are no independent trials
        hits = [(fmean(more.hits[target]), fmean(fewer.hits[target])) for target in both]
        return [fisher, {"what": text, "p_value": paired_greater(hits), "test": "paired sign test, one-sided"}]
    strata = [(*_hit(more, target), *_hit(fewer, target)) for target in both]
    k1, n1, k2, n2 = (sum(stratum[i] for stratum in strata) for i in range(4))
    within = {
        "what": f"{what}, target by target ({k1} of {n1} victims against {k2} of {n2})",
        "p_value": stratified_greater(strata),
        "test": STRATIFIED,
    }
    chances = [(fmean(more.chances[target]), fmean(fewer.chances[target])) for target in both]
    raised = sum(a > b for a, b in chances)
    likelier = f"{what}, by the probability of the adversarial class ({raised} of {len(both)} targets)"
    return [
        fisher,
        within,
        {"what": likelier, "p_value": paired_greater(chances), "test": "paired sign test, one-sided"},
    ]


def _hit(tally: Tally, target: tuple[str, int]) -> tuple[int, int]:
    """Return how many victims of a target are hit, and of how many."""
    return sum(tally.hits[target]), len(tally.hits[target])


def _targets_hit(tally: Tally, most: int) -> tuple[int, int]:
    """Return how many targets are hit in more than half of their first `most` victims, and of how many.

    Two cells are compared by equally many victims: two hits of three are asked for more than one of one.
    """
    first = [hits[:most] for hits in tally.hits.values()]
    return sum(2 * sum(hits) > len(hits) for hits in first), len(first)


def traces(grid: Mapping[tuple[str, str], Tally]) -> list[dict[str, Any]]:
    """Return the alignment of every cell by epoch: mean and extremes over the targets."""
    found = []
    for (attack, defense), tally in grid.items():
        curves = [curve for victim in tally.victims for curve in victim.record.get("alignment", {}).values()]
        if not curves:
            continue
        columns = list(zip(*curves, strict=True))
        found.append(
            {
                "attack": attack,
                "defense": defense,
                "epochs": list(range(1, len(columns) + 1)),
                "mean": [round(fmean(column), 6) for column in columns],
                "low": [min(column) for column in columns],
                "high": [max(column) for column in columns],
            }
        )
    return found
