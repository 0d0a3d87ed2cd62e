"""Worker momentum: momentum before the rule lowers the variance that attacks hide in; momentum after it does not.

Paper    El Mhamdi, Guerraoui, Rouault, Distributed Momentum for Byzantine-resilient Stochastic Gradient Descent
         (ICLR 2021), arXiv 2003.00010.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, median
from typing import Any, ClassVar

from mithridate.aggregation.resilience import coefficients
from mithridate.core.intervals import paired_greater
from mithridate.core.pool import Execute, Job, Tell
from mithridate.core.verdicts import Status
from mithridate.data.sources import DataSet, load
from mithridate.papers._base import AbstractGridPaper, Document, Results, Scale
from mithridate.papers._stats import Mean, mean_of_runs
from mithridate.papers._workers import Arm, Recipe, run_arm

Records = Mapping[str, Mapping[str, Any]]

HURT = 0.2
"""An attack counts as harmful if it costs this share of the best accuracy without an attack, as in the paper."""

_STRENGTHS = {"alie": 1.5, "empire": 1.1}
_ALL_RULES = ("krum", "median", "trimmed-mean", "meamed", "phocas", "bulyan")
_PLACES = {"update": "at the server", "worker": "at the workers", "server": "at the server, before the rule"}


@dataclass(frozen=True, kw_only=True)
class Block:
    """A part of the grid: one recipe, and all combinations of the rest."""

    recipe: Recipe
    fs: tuple[int, ...]
    rules: tuple[str, ...]
    places: tuple[str, ...] = ("update", "worker")
    seeds: int = 5

    def arms(self) -> Iterator[Arm]:
        """Yield the arms: the mean of honest workers first, then the attacked ones that have enough workers."""
        for place in self.places[:2]:
            yield Arm(f=0, rule="mean", momentum=place)
        for f in self.fs:
            for rule in self.rules:
                if rule == "bulyan" and self.recipe.workers < 4 * f + 3:
                    continue
                for adversary, strength in _STRENGTHS.items():
                    for place in self.places:
                        yield Arm(f=f, rule=rule, adversary=adversary, strength=strength, momentum=place)


def _mnist(lr: float, source: str = "mnist") -> Recipe:
    return Recipe(
        source=source,
        model="mlp-w100",
        workers=51,
        batch=83,
        lr=lr,
        decay=1e-4,
        every=5,
        flip=source == "fashion-mnist",
    )


_THREE = ("krum", "median", "trimmed-mean")
_DIGITS_ALL = Block(recipe=Recipe(), fs=(11, 5), rules=_ALL_RULES, places=("update", "worker", "server"), seeds=10)
_BLOCKS: dict[Scale, dict[str, Block]] = {
    "smoke": {"digits": Block(recipe=Recipe(), fs=(11, 5), rules=_THREE)},
    "cpu": {
        "digits": _DIGITS_ALL,
        "mnist, lr 0.5": Block(recipe=_mnist(0.5), fs=(24, 12), rules=_THREE, seeds=2),
        "mnist, lr 0.02": Block(recipe=_mnist(0.02), fs=(24, 12), rules=_THREE, seeds=2),
    },
    "paper": {
        f"{source}, lr {lr}": Block(recipe=_mnist(lr, source), fs=(24, 12), rules=_ALL_RULES)
        for source in ("mnist", "fashion-mnist")
        for lr in (0.5, 0.02)
    },
}


class WorkerMomentum(AbstractGridPaper):
    """Momentum at the workers against momentum at the server, under two attacks."""

    name: ClassVar[str] = "worker-momentum"
    title: ClassVar[str] = "Distributed momentum for Byzantine-resilient stochastic gradient descent"
    citation: ClassVar[str] = "E. M. El Mhamdi, R. Guerraoui, S. Rouault. ICLR 2021. arXiv 2003.00010"
    claim: ClassVar[str] = (
        "Keeping momentum at the workers, before the aggregation rule, in place of the server, after it, lowers the "
        "variance-norm ratio of what honest workers submit, and so gives robust rules back the accuracy that attacks "
        "which hide in that variance take from them."
    )
    published: ClassVar[tuple[tuple[str, str, str], ...]] = (
        (
            "settings in which the attack costs 20 % or more of the best accuracy",
            "momentum at the workers always better; 20 % or more of it recovered in over 60 % of them",
            "published summary of the paper's 736 settings with 5 seeds each; all data sets",
        ),
    )

    def jobs(self, scale: Scale) -> Sequence[Job]:
        """Return the runs, those of equal number beside each other."""
        return [
            Job(_name(block, arm, number))
            for block, part in _BLOCKS[scale].items()
            for number in range(part.seeds)
            for arm in part.arms()
        ]

    def worker(self, scale: Scale, *, seed: int, device: str) -> Execute:
        """Return what trains one network."""
        blocks = _BLOCKS[scale]
        data = {source: load(source) for source in {part.recipe.source for part in blocks.values()}}
        return partial(_run, blocks, data, seed, device)

    def setting(self, scale: Scale) -> list[tuple[str, str | int | float]]:
        """Return the recipes of the blocks."""
        rows: list[tuple[str, str | int | float]] = []
        for block, part in _BLOCKS[scale].items():
            r = part.recipe
            rows.append(
                (
                    block,
                    f"{r.model}, n = {r.workers} workers, f = {' and '.join(map(str, part.fs))}, batch {r.batch} each, "
                    f"step {r.lr:g}, momentum {r.beta:g}, clip {r.clip:g}, {r.steps} steps, {part.seeds} seeds",
                )
            )
        strengths = ", ".join(f"{name} {value:g}" for name, value in _STRENGTHS.items())
        return [*rows, ("attacks", strengths), ("accuracy", "best over the evaluations of a run, as in the paper")]

    def departures(self, scale: Scale) -> tuple[str, ...]:
        """Return the differences from the paper."""
        always = (
            "weight decay is that of the update (half the square of the norm); the paper's code adds the norm itself "
            "to the loss of every worker",
            "networks begin with He's initialisation; Nesterov momentum is left out",
            "intervals are Student's over seeds, on differences between runs of equal seed",
        )
        small = (
            "data: the embedded 8x8 digits; model: 64-48-10; n = 25, batch 16, step 0.02, no weight decay",
            "best accuracies are over evaluations every 10 steps of 300",
        )
        if scale == "smoke":
            return (*always, *small, "three rules, two placements, five seeds")
        if scale == "cpu":
            return (*always, *small, "MNIST with three rules and two seeds; no CIFAR")
        return (*always, "MNIST and Fashion-MNIST only: the convolutional networks of the CIFAR settings are left out")

    def results(self, scale: Scale, records: Records) -> Results:
        """Compare placements cell by cell."""
        cells = [cell for block, part in _BLOCKS[scale].items() for cell in _cells(block, part, records)]
        hurt = [cell for cell in cells if cell.cost >= HURT]
        pairs = [pair for cell in hurt for pair in zip(cell.best["worker"], cell.best["update"], strict=True)]
        p_value = paired_greater(pairs)
        behind = [cell for cell in cells if cell.gain.high < -0.01]
        recovered = sum(cell.gain.point >= HURT * cell.clean for cell in hurt)
        ahead = sum(cell.gain.point > 0 for cell in hurt)
        status, sentence = _verdict(cells, hurt, behind, p_value)
        less = sum(cell.ratio("worker", "submitted") < cell.ratio("worker", "sampled") for cell in cells)
        return Results(
            status=status,
            sentence=sentence,
            reasons=tuple(f"worker momentum is behind in {cell.label}: {cell.gain.points()} points" for cell in behind),
            tables=(_accuracy_table(cells), _ratio_table(cells)),
            measured=(
                (
                    self.published[0][0],
                    f"{len(hurt)} of {len(cells)}; momentum at the workers better on average in {ahead} of "
                    f"{len(hurt)}; it gains {HURT:.0%} of the best accuracy without attack in {recovered}",
                ),
                ("ratio of submitted rows below that of sampled ones", f"in {less} of {len(cells)} settings (medians)"),
                *[
                    (f"gain of worker momentum, {cell.label}", f"{cell.gain.points()} points over {cell.runs} seeds")
                    for cell in hurt
                ],
            ),
            comparisons=(
                {
                    "what": f"worker momentum is more accurate where the attack is harmful ({len(pairs)} pairs)",
                    "p_value": p_value,
                    "test": "paired sign test, one-sided",
                },
            )
            if pairs
            else (),
        )


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """One rule under one attack in one block, at every place of momentum."""

    label: str
    block: str
    arm: Arm
    dim: int
    workers: int
    clean: float
    best: Mapping[str, list[float]]
    series: Mapping[str, Mapping[str, list[float]]]

    @property
    def runs(self) -> int:
        return len(self.best["update"])

    @property
    def cost(self) -> float:
        """The share of the clean accuracy that the attack takes from momentum at the server."""
        return 1 - fmean(self.best["update"]) / self.clean

    @property
    def gain(self) -> Mean:
        """The paired difference in best accuracy, workers minus server."""
        return mean_of_runs([a - b for a, b in zip(self.best["worker"], self.best["update"], strict=True)])

    def accuracy(self, place: str) -> str:
        return mean_of_runs(self.best[place], bounds=(0.0, 1.0)).percent() if place in self.best else "not run"

    def ratio(self, place: str, kind: str) -> float:
        return median(self.series[place][kind])

    def below(self, place: str, kind: str) -> str:
        """The share of steps in which the ratio is below the square of the rule's threshold."""
        known = coefficients(self.arm.rule, num_rows=self.workers, f=self.arm.f, dim=self.dim)
        thresholds = [c.value for c in known if c.measure == "threshold"]
        if not thresholds:
            return "none known"
        values = self.series[place][kind]
        return f"{sum(value < thresholds[0] ** 2 for value in values) / len(values):.1%}"


def _cells(block: str, part: Block, records: Records) -> Iterator[_Cell]:
    def runs(arm: Arm) -> list[Mapping[str, Any]]:
        return [records[_name(block, arm, number)] for number in range(part.seeds)]

    clean = fmean(run["best"] for run in runs(Arm(f=0, rule="mean", momentum="update")))
    arms = [arm for arm in part.arms() if arm.adversary != "none"]
    for arm in arms:
        if arm.momentum != "update":
            continue
        found = {place: runs(_at(arm, place)) for place in part.places}
        yield _Cell(
            label=f"{block}: {arm.rule} against {arm.adversary}, f = {arm.f}",
            block=block,
            arm=arm,
            dim=found["update"][0]["dim"],
            workers=part.recipe.workers,
            clean=clean,
            best={place: [run["best"] for run in these] for place, these in found.items()},
            series={
                place: {
                    kind: [value for run in these for value in run[kind] if value is not None] or [float("inf")]
                    for kind in ("sampled", "submitted")
                }
                for place, these in found.items()
            },
        )


def _verdict(cells: list[_Cell], hurt: list[_Cell], behind: list[_Cell], p_value: float) -> tuple[Status, str]:
    if not hurt:
        return Status.INCONCLUSIVE, (
            f"No attack cost {HURT:.0%} of the accuracy in any of {len(cells)} settings: there was nothing to win back."
        )
    best = max(hurt, key=lambda cell: cell.gain.point)
    held = not behind and p_value < 0.05
    return Status.PASS if held else Status.FAIL, (
        f"The claim {'holds' if held else 'did not reproduce'} at this scale: in the {len(hurt)} of {len(cells)} "
        f"settings where the attack costs {HURT:.0%} or more, momentum at the workers gains "
        f"{100 * fmean(cell.gain.point for cell in hurt):.1f} points on average (most in {best.label}: "
        f"{best.gain.points()}), p = {p_value:.2g}; it is clearly behind in {len(behind)} settings."
    )


def _accuracy_table(cells: list[_Cell]) -> Document:
    places = [place for place in _PLACES if any(place in cell.best for cell in cells)]
    return {
        "title": "Best accuracy by place of momentum, with 95 % intervals over seeds",
        "columns": ["setting", "no attack", *(_PLACES[place] for place in places), "workers minus server, points"],
        "rows": [
            [
                cell.label,
                f"{100 * cell.clean:.1f} %",
                *(cell.accuracy(place) for place in places),
                cell.gain.points(),
            ]
            for cell in cells
        ],
        "note": "No attack: the mean of n honest workers with momentum at the server. Differences are paired by seed.",
    }


def _ratio_table(cells: list[_Cell]) -> Document:
    return {
        "title": "Variance-norm ratio of honest rows, median over steps and seeds",
        "columns": [
            "setting",
            *("sampled, server", "submitted, server", "sampled, workers", "submitted, workers"),
            *("steps below threshold, server", "steps below threshold, workers"),
        ],
        "rows": [
            [
                cell.label,
                *(
                    _number(cell.ratio(place, kind))
                    for place in ("update", "worker")
                    for kind in ("sampled", "submitted")
                ),
                *(cell.below(place, "submitted") for place in ("update", "worker")),
            ]
            for cell in cells
        ],
        "note": (
            "Sampled: gradients after clipping. Submitted: what the rule gets. The threshold is that under which the "
            "rule's theory promises something, as far as one is known."
        ),
    }


def _number(value: float) -> float | str:
    return float(f"{value:.4g}") if value < float("inf") else "not finite"


def _at(arm: Arm, place: str) -> Arm:
    return Arm(f=arm.f, rule=arm.rule, adversary=arm.adversary, strength=arm.strength, momentum=place)


def _name(block: str, arm: Arm, number: int) -> str:
    return f"{block}/f={arm.f}/{arm.rule}/{arm.adversary}/{arm.momentum}/{number}"


def _run(
    blocks: Mapping[str, Block], data: Mapping[str, DataSet], seed: int, device: str, name: str, tell: Tell
) -> Mapping[str, Any]:
    block, f, rule, adversary, place, number = name.split("/")
    recipe = blocks[block].recipe
    arm = Arm(
        f=int(f.removeprefix("f=")), rule=rule, adversary=adversary, strength=_STRENGTHS.get(adversary), momentum=place
    )
    return run_arm(data[recipe.source], recipe, arm, seed=seed, number=int(number), device=device, tell=tell)


METHOD = WorkerMomentum
