"""Potion: unlearn a trigger from a fraction of the poisons, against dampening, fine-tuning and retraining.

Paper    S. Schoepf, J. Foster, A. Brintrup: Potion: Towards Poison Unlearning (2024), arXiv 2406.09173, in the
         corrective-unlearning protocol of Goel et al. (TMLR 2024), arXiv 2402.14015.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from mithridate.core.intervals import wilson
from mithridate.core.pool import Execute, Job
from mithridate.core.verdicts import Status
from mithridate.data.sources import load
from mithridate.papers._base import AbstractGridPaper, Document, Results, Scale
from mithridate.papers._stats import Mean, mean_of_runs
from mithridate.papers._unlearning import Bench, Setting
from mithridate.training.contracts import Options

Records = Mapping[str, Mapping[str, Any]]

_SETTINGS: dict[Scale, Setting] = {
    "smoke": Setting(),
    "cpu": Setting(
        source="cifar10",
        per_class=500,
        model="resnet9-w16",
        recipe="fast-light",
        options=Options(epochs=30, batch=20, lr=0.05, precision="bf16"),
        poisons=50,
        found=(1, 10, 25),
        seeds=3,
    ),
    "paper": Setting(
        source="cifar10",
        model="resnet9-celu",
        recipe="potion-cifar",
        poisons=500,
        threat="random-subset",
        found=(1, 50, 250, 500),
        seeds=3,
    ),
}
_TITLES = {
    "xlf": "Potion (XLF and search)",
    "ssd": "SSD importance and search",
    "ssd-fixed": "SSD, fixed thresholds",
    "fine-tune": "fine-tuning",
    "retrain": "retraining",
}
_LEAST_ATTACK = 0.5


class Potion(AbstractGridPaper):
    """Healing from one, some and all of the poisons."""

    name: ClassVar[str] = "potion"
    title: ClassVar[str] = "Potion: Towards Poison Unlearning"
    citation: ClassVar[str] = "S. Schoepf, J. Foster, A. Brintrup. 2024. arXiv 2406.09173"
    claim: ClassVar[str] = (
        "From a fraction of the poisons, dampening what matters to the norm of their logits, no further than until "
        "they are forgotten, heals more of the poison than selective synaptic dampening and than retraining without "
        "what was found, and costs less accuracy than the former."
    )
    published: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("poison healed, Potion (XLF and search)", "93.72 %", "published average over its CIFAR-10 and -100 settings"),
        ("poison healed, SSD, fixed thresholds", "83.41 %", "published average; its SSD may use a grid of constants"),
        ("poison healed, retraining", "40.68 %", "published average; full retraining without what was found"),
        ("clean accuracy change, Potion (XLF and search)", "-1.41 points", "published average"),
        ("clean accuracy change, SSD, fixed thresholds", "-5.68 points", "published average"),
    )

    def jobs(self, scale: Scale) -> Sequence[Job]:
        """Return one training for each seed, and behind it every healing of its network."""
        own = _SETTINGS[scale]
        return [
            job
            for number in range(own.seeds)
            for job in (
                Job(f"train/{number}"),
                *(
                    Job(f"{method}/{found}/{number}", (f"train/{number}",))
                    for found in own.found
                    for method in own.methods
                ),
            )
        ]

    def worker(self, scale: Scale, *, seed: int, device: str) -> Execute:
        """Refuse: networks are kept in the run folder; see `worker_in`."""
        raise NotImplementedError

    def worker_in(self, folder: Path, scale: Scale, *, seed: int, device: str) -> Execute:
        """Return what trains, heals and judges one network."""
        own = _SETTINGS[scale]
        data = load(own.source, per_class=own.per_class)
        return Bench(setting=own, data=data, folder=folder, seed=seed, device=device)

    def setting(self, scale: Scale) -> list[tuple[str, str | int | float]]:
        """Return the setting of a scale."""
        own = _SETTINGS[scale]
        return [
            ("data", own.source if own.per_class is None else f"{own.source}, {own.per_class} images of each class"),
            ("model", own.model),
            ("recipe", own.recipe if own.options.epochs is None else f"{own.recipe}, {own.options.epochs} epochs"),
            ("poisons", f"{own.poisons}, a white patch in a corner, class 0"),
            ("discovered", ", ".join(map(str, own.found))),
            ("seeds", own.seeds),
        ]

    def departures(self, scale: Scale) -> tuple[str, ...]:
        """Return the differences from the paper."""
        own = _SETTINGS[scale]
        always = (
            "healed: held-out test images with the trigger that are seen as what they are, those of the target class "
            "left out; the public code indexes shuffled predictions by poison id and counts the target class",
            "importances are means over samples, on at most 1,000 of the reference; the code takes batches of 512 of "
            "all data",
            "the trigger is stamped on 8-bit images before augmentation, in white; the code stamps after normalisation",
            "discovered poisons are nested: those of a smaller share are among those of a larger",
            "SSD with fixed thresholds takes alpha 10 and lambda 1; the paper's baseline may have searched a grid",
            "one trigger and one size of poison; CIFAR-100 is left out",
        )
        single = "networks are trained in single precision"
        if scale == "paper":
            return (*always, single)
        drawn = "poisons are drawn from the classes other than the target; the paper draws from all"
        if scale == "smoke":
            small = "data: the embedded 8x8 digits; a small convolutional network; 28 poisons (2 %)"
            return (*always, single, drawn, small)
        return (
            *always,
            drawn,
            f"{own.per_class} training images of each class in place of 5,000; {own.options.epochs} epochs of "
            f"{own.recipe} at batch {own.options.batch} and step size {own.options.lr}, in bfloat16 autocast",
            f"{own.model}: the ResNet-9 of the paper (CELU, strided) does not learn the trigger from so few images (4 "
            "to 6 % of test images, as without poisons)",
        )

    def results(self, scale: Scale, records: Records) -> Results:
        """Compare the healers share by share."""
        own = _SETTINGS[scale]
        before = [records[f"train/{number}"]["outcome"] for number in range(own.seeds)]
        cells = {(method, found): _cell(own, records, method, found) for method in own.methods for found in own.found}
        partial = tuple(found for found in own.found if found < own.poisons)
        status, sentence, reasons = _verdict(own, before, cells, partial)
        means = {method: _over(cells, method, partial) for method in own.methods}
        return Results(
            status=status,
            sentence=sentence,
            reasons=reasons,
            tables=(_table(own, cells), _before_table(before)),
            measured=tuple(
                row
                for method, (healed, change) in means.items()
                for row in (
                    (f"poison healed, {_TITLES[method]}", f"{100 * healed:.1f} % (mean over partial discovery)"),
                    (f"clean accuracy change, {_TITLES[method]}", f"{100 * change:+.2f} points"),
                )
            )
            + tuple(
                (f"poison healed, {_TITLES[method]}, {found} of {own.poisons} found", cell.heal)
                for (method, found), cell in cells.items()
            ),
        )


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """One healer at one share of discovery."""

    healed: tuple[float, ...]
    attack: tuple[float, ...]
    change: tuple[float, ...]
    successes: int
    trials: int
    converged: int

    @property
    def heal(self) -> str:
        """The share healed with its interval: Student's over seeds, Wilson's over images where there is one seed."""
        if len(self.healed) > 1:
            return mean_of_runs(self.healed, bounds=(0.0, 1.0)).percent()
        found = wilson(self.successes, self.trials)
        return Mean(found.point, found.low, found.high).percent()


def _cell(own: Setting, records: Records, method: str, found: int) -> _Cell:
    runs = [records[f"{method}/{found}/{number}"] for number in range(own.seeds)]
    first = [records[f"train/{number}"]["outcome"] for number in range(own.seeds)]
    after = [run["outcome"] for run in runs]
    return _Cell(
        healed=tuple(one["heal_test"]["rate"] for one in after),
        attack=tuple(one["attack"]["rate"] for one in after),
        change=tuple(b["clean"]["rate"] - a["clean"]["rate"] for a, b in zip(first, after, strict=True)),
        successes=sum(one["heal_test"]["successes"] for one in after),
        trials=sum(one["heal_test"]["trials"] for one in after),
        converged=sum(bool(run["converged"]) for run in runs),
    )


def _over(cells: Mapping[tuple[str, int], _Cell], method: str, found: Sequence[int]) -> tuple[float, float]:
    chosen = [cells[method, count] for count in found]
    return fmean(fmean(cell.healed) for cell in chosen), fmean(fmean(cell.change) for cell in chosen)


def _verdict(
    own: Setting,
    before: Sequence[Mapping[str, Any]],
    cells: Mapping[tuple[str, int], _Cell],
    partial: Sequence[int],
) -> tuple[Status, str, tuple[str, ...]]:
    attack = fmean(one["attack"]["rate"] for one in before)
    if attack < _LEAST_ATTACK:
        sentence = f"The trigger works on {attack:.1%} of the images only: there was nothing to heal."
        return Status.INCONCLUSIVE, sentence, ()
    ours, cost = _over(cells, "xlf", partial)
    reasons = []
    for rival in (name for name in ("ssd-fixed", "retrain") if name in own.methods):
        pairs = [
            a - b
            for found in partial
            for a, b in zip(cells["xlf", found].healed, cells[rival, found].healed, strict=True)
        ]
        gain = mean_of_runs(pairs)
        reasons.append((gain.low > 0, f"healed more than {_TITLES[rival]}: {gain.points()} points", gain.high < 0))
    _, rival_cost = _over(cells, "ssd-fixed", partial) if "ssd-fixed" in own.methods else (0.0, cost)
    cheaper = cost >= rival_cost
    words = (*[text for _, text, _ in reasons], f"accuracy change {100 * cost:+.2f} against {100 * rival_cost:+.2f}")
    if cheaper and all(holds for holds, _, _ in reasons):
        status, head = Status.PASS, "The claim holds at this scale"
    elif any(fails for _, _, fails in reasons) or not cheaper:
        status, head = Status.FAIL, "The claim did not reproduce at this scale"
    else:
        status, head = Status.INCONCLUSIVE, "Undecided at this scale"
    return status, f"{head}: Potion heals {ours:.1%} under partial discovery (trigger before: {attack:.1%}).", words


def _table(own: Setting, cells: Mapping[tuple[str, int], _Cell]) -> Document:
    return {
        "title": "Healed by share of discovery, with 95 % intervals",
        "columns": ["found", "method", "healed", "trigger still works", "accuracy change, points", "reached its aim"],
        "rows": [
            [
                f"{found} of {own.poisons}",
                _TITLES[method],
                cells[method, found].heal,
                f"{100 * fmean(cells[method, found].attack):.1f} %",
                f"{100 * fmean(cells[method, found].change):+.2f}",
                f"{cells[method, found].converged} of {own.seeds}",
            ]
            for found in own.found
            for method in own.methods
        ],
        "note": "Healed: triggered test images of other classes seen as what they are. No guard.",
    }


def _before_table(before: Sequence[Mapping[str, Any]]) -> Document:
    return {
        "title": "The poisoned networks",
        "columns": ["seed", "trigger works", "clean accuracy"],
        "rows": [
            [number, f"{100 * one['attack']['rate']:.1f} %", f"{100 * one['clean']['rate']:.1f} %"]
            for number, one in enumerate(before)
        ],
        "note": "",
    }


METHOD = Potion
