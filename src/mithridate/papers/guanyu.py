"""GuanYu, or ByzSGD: replicated servers among which some lie, and workers among which some lie; nobody is trusted.

Paper    El-Mhamdi, Guerraoui, Guirguis, Hoang, Rouault, Genuinely Distributed Byzantine Machine Learning (PODC 2020;
         Distributed Computing 2022), arXiv 1905.03853, whose first version is called GuanYu.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from statistics import fmean, median
from typing import Any, ClassVar, final

import numpy as np

from mithridate.byzantine.cluster import ClusterConfig
from mithridate.byzantine.making import Wish, make_cluster
from mithridate.byzantine.messages import Frame
from mithridate.byzantine.source import Vector
from mithridate.core.pool import Execute, Job, Tell
from mithridate.core.seeds import address
from mithridate.core.verdicts import Status
from mithridate.data.sources import DataSet, load
from mithridate.papers._base import AbstractGridPaper, Document, Results, Scale
from mithridate.papers._nodes import WORDS, Part, above, accuracies, at_most, noting, run_nodes, whole
from mithridate.papers._stats import Mean, mean_of_runs

Records = Mapping[str, Mapping[str, Any]]

MARGIN = 0.03
"""Replicated servers may lose this much accuracy to the trusted one under the same lying workers."""

_LEARNS = 0.10
"""If the trusted server itself loses more than this to a run without liars, there is nothing to compare with."""

_Z = 1.5
_FAR = 1e30
"""Written down for a ratio of models that are no numbers any more."""

_ABSTRACT = "abstract of the journal version (Distributed Computing, 2022)"


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is run at a scale."""

    source: str = "digits"
    model: str = "mlp"
    liars: int = 3
    batch: int = 32
    lr: float = 0.5
    steps: int
    seeds: int
    attacks: tuple[str, ...]
    periods: tuple[int, ...] = (1, 5)


_SIZES: dict[Scale, Size] = {
    "smoke": Size(steps=100, seeds=5, attacks=("reverse",)),
    "cpu": Size(steps=300, seeds=20, attacks=("reverse", "random-model", "equivocate")),
    "paper": Size(source="cifar10", model="convnet3", lr=0.1, steps=5000, seeds=5, attacks=("reverse", "random-model")),
}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A kind of cluster.

    Attributes:
        words: What the report calls it.
        servers: Number of servers; of several the last one lies.
        spare: Workers beyond three times the liars.
        liars: Whether workers lie.
        values: Further values of the cluster file.
        reference: The arm with a trusted server that it is held against.
    """

    words: str
    servers: int
    spare: int = 1
    liars: bool = True
    values: Mapping[str, Any]
    reference: str = ""


ARMS: Mapping[str, Arm] = {
    "clean": Arm(words="one trusted server, nobody lies, mean", servers=1, liars=False, values={"variant": "vanilla"}),
    "trusted-mda": Arm(words="one trusted server, mda", servers=1, values={"rule": "mda"}),
    "trusted-krum": Arm(words="one trusted server, multi-krum", servers=1, spare=3, values={"rule": "multi-krum"}),
    "byzsgd": Arm(words="ByzSGD: 5 servers, mda", servers=5, values={}, reference="trusted-mda"),
    "guanyu": Arm(
        words="GuanYu: 6 servers, multi-krum",
        servers=6,
        spare=3,
        values={"variant": "guanyu"},
        reference="trusted-krum",
    ),
    "mean": Arm(
        words="5 servers, mean of models, honest workers",
        servers=5,
        liars=False,
        values={"variant": "crash-tolerant", "servers": {"f": 1}},
        reference="clean",
    ),
}
_REPLICATED = ("byzsgd", "guanyu")


class GuanYu(AbstractGridPaper):
    """Replicated servers against a trusted one, and against plain averaging of models."""

    name: ClassVar[str] = "guanyu"
    title: ClassVar[str] = "Genuinely distributed Byzantine machine learning"
    citation: ClassVar[str] = (
        "E. M. El-Mhamdi, R. Guerraoui, A. Guirguis, L. N. Hoang, S. Rouault. PODC 2020. arXiv 1905.03853"
    )
    claim: ClassVar[str] = (
        "With lying servers among replicated ones and lying workers, the median of models draws the honest servers "
        "together and training is as accurate as with one trusted server, where averaging the models breaks."
    )
    published: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("liars that are borne", "n_ps > 3 f_ps + 1 servers, n_w > 3 f_w workers", _ABSTRACT),
        ("convergence against vanilla SGD", "about 32 % overhead", _ABSTRACT),
    )

    def jobs(self, scale: Scale) -> Sequence[Job]:
        """Return the runs, those of equal number beside each other."""
        size = _SIZES[scale]
        return [Job(f"{cell}/{number}") for number in range(size.seeds) for cell in _cells(size)]

    def worker(self, scale: Scale, *, seed: int, device: str) -> Execute:
        """Return what runs one cluster; nodes compute on the CPU."""
        del device
        size = _SIZES[scale]
        return partial(_run, size, load(size.source), seed)

    def setting(self, scale: Scale) -> list[tuple[str, str | int | float]]:
        """Return the clusters, and what liars do."""
        size = _SIZES[scale]
        rows: list[tuple[str, str | int | float]] = [("data and model", f"{size.source}, {size.model}")]
        for name in ARMS:
            cluster = _cluster(size, name, size.attacks[0], 1, 0)
            workers, servers = cluster.ids("worker"), cluster.ids("server")
            who = [f"{len(servers)} servers, quorum {cluster.quorum('server')}"] if len(servers) > 1 else []
            who.append(f"{len(workers)} workers, {len(cluster.byzantine('worker'))} of them lie")
            rows.append((ARMS[name].words, "; ".join([*who, f"quorum {cluster.quorum('worker')}"])))
        return [
            *rows,
            ("lying workers", f"alie with z = {_Z:g}, omniscient and first to speak"),
            ("the lying server", ", ".join(size.attacks)),
            ("gathers", f"every {' or '.join(map(str, size.periods))} steps"),
            ("training", f"{size.steps} steps of {size.lr:g}, batch {size.batch} a worker, momentum at the workers"),
            ("seeds", size.seeds),
            ("accuracy", "that of the worst honest server after the last step"),
        ]

    def departures(self, scale: Scale) -> tuple[str, ...]:
        """Return the differences from the paper."""
        always = (
            "in one process with a simulated network: delays are drawn at random, so every order of delivery may occur",
            "momentum is kept at the workers; the step size is halved at one half and three quarters of the run",
            "f_ps = 1 and f_w = 3 are ours: the clusters of the paper could not be confirmed in a source",
            "the comparison is of accuracy after equally many steps; overheads of time are not measured here",
            "the mean of models also averages gradients; its workers are honest, so that one server alone breaks it",
            "the synchronous variant with its filters is not run",
        )
        if scale == "paper":
            return (*always, "CIFAR-10 with a small convolutional network of ours")
        return (*always, "data: the embedded 8x8 digits; model: a perceptron")

    def results(self, scale: Scale, records: Records) -> Results:
        """Compare every replicated cluster with the trusted server of its rule."""
        size = _SIZES[scale]
        found = {cell: _Cell.read(cell, size, records) for cell in _cells(size)}
        replicated = [cell for cell in found.values() if cell.arm in _REPLICATED]
        averaged = [cell for cell in found.values() if cell.arm == "mean"]
        worst = max(replicated, key=lambda cell: cell.loss(found).point)
        loosest = max(replicated, key=lambda cell: cell.contraction.point)
        best_mean = min(averaged, key=lambda cell: cell.loss(found).point)
        parts = [
            *(_reference(found, name) for name in ("trusted-mda", "trusted-krum")),
            *(
                Part(f"{cell.label} loses {cell.loss(found).points()} points", at_most(cell.loss(found), MARGIN))
                for cell in replicated
            ),
            *(
                Part(f"models after / before a gather, {cell.label}: {_ratio(cell)}", at_most(cell.contraction, 1.0))
                for cell in replicated
            ),
            *(_broken(cell, found) for cell in averaged),
        ]
        status = whole(parts)
        sentence = (
            f"The claim {WORDS[status]} at this scale: against a trusted server under the same lying workers, "
            f"replicated servers lose at most {worst.loss(found).points()} points ({worst.label}); a gather leaves at "
            f"most {_ratio(loosest)} of the distance between honest models ({loosest.label}); averaging models loses "
            f"at least {best_mean.loss(found).points()} points ({best_mean.label})."
        )
        return Results(
            status=status,
            sentence=sentence,
            reasons=tuple(part.words for part in parts if part.status is not Status.PASS),
            tables=(_accuracy_table(found), _contraction_table(replicated)),
            measured=(
                (
                    self.published[0][0],
                    f"{3 * size.liars + 1} workers with f_w = {size.liars}, 5 servers with f_ps = 1",
                ),
                (self.published[1][0], "not measured; accuracies after equally many steps are in the table"),
                *[
                    (f"loss against the trusted server, {c.label}", f"{c.loss(found).points()} points")
                    for c in replicated
                ],
            ),
        )


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """The runs of one cluster."""

    arm: str
    attack: str
    period: int
    accuracies: tuple[float, ...]
    ratios: tuple[float, ...]
    contracted: float

    @classmethod
    def read(cls, cell: str, size: Size, records: Records) -> "_Cell":
        runs = [records[f"{cell}/{number}"] for number in range(size.seeds)]
        arm, attack, period = cell.split("/")
        gathers = [run["gathers"] for run in runs if run["gathers"]]
        return cls(
            arm=arm,
            attack=attack,
            period=int(period),
            accuracies=tuple(run["worst"] for run in runs),
            ratios=tuple(median(values) for values in gathers),
            contracted=fmean(value < 1 for values in gathers for value in values) if gathers else 0.0,
        )

    @property
    def label(self) -> str:
        words = ARMS[self.arm].words
        return words if self.attack == "none" else f"{words}, {self.attack}, T = {self.period}"

    @property
    def accuracy(self) -> Mean:
        return mean_of_runs(self.accuracies, bounds=(0.0, 1.0))

    @property
    def contraction(self) -> Mean:
        """The median ratio of a run's gathers; a run without gathers says nothing."""
        return mean_of_runs(self.ratios or (float("nan"),), bounds=(0.0, float("inf")))

    def loss(self, cells: Mapping[str, "_Cell"]) -> Mean:
        """The accuracy that is lost to the reference, paired by seed."""
        reference = cells[f"{ARMS[self.arm].reference or 'clean'}/none/0"]
        return mean_of_runs([a - b for a, b in zip(reference.accuracies, self.accuracies, strict=True)])


def _reference(cells: Mapping[str, _Cell], name: str) -> Part:
    cell = cells[f"{name}/none/0"]
    loss = cell.loss(cells)
    words = f"{cell.label} itself loses {loss.points()} points to the run without liars"
    return Part(words, Status.PASS if loss.point <= _LEARNS else Status.INCONCLUSIVE)


def _broken(cell: _Cell, cells: Mapping[str, _Cell]) -> Part:
    """If averaging is not broken, there was nothing to withstand."""
    broken = above(cell.loss(cells), MARGIN) is Status.PASS
    words = f"averaging is not broken: {cell.label} loses {cell.loss(cells).points()} points"
    return Part(words, Status.PASS if broken else Status.INCONCLUSIVE)


def _cells(size: Size) -> Iterator[str]:
    for name, arm in ARMS.items():
        if arm.servers == 1:
            yield f"{name}/none/0"
    for name, arm in ARMS.items():
        if arm.servers > 1:
            yield from (f"{name}/{attack}/{period}" for attack in size.attacks for period in size.periods)


def _cluster(size: Size, name: str, attack: str, period: int, seed: int) -> ClusterConfig:
    arm = ARMS[name]
    replicated = arm.servers > 1
    values = {
        "model": size.model,
        "data": {"source": size.source},
        "training": {"steps": size.steps, "evaluate_every": size.steps, "batch": size.batch, "lr": size.lr},
        "omniscient": arm.liars,
        "seed": seed,
        **({"gather_every": period} if replicated else {}),
        **arm.values,
    }
    return make_cluster(
        Wish(
            servers=arm.servers,
            workers=3 * size.liars + arm.spare,
            byzantine_workers=size.liars if arm.liars else 0,
            byzantine_servers=1 if replicated else 0,
            attack={"name": "alie", "options": {"z": _Z}},
            server_attack={"name": attack} if replicated else None,
            values=values,
        )
    )


@final
@dataclass
class Gathers:
    """How far apart the honest servers' models are before and after each gather: the greatest gap in a coordinate.

    Attributes:
        honest: How many honest servers there are.
        ratios: After over before, for each gather with models apart.
    """

    honest: int
    ratios: list[float] = field(default_factory=list)
    _open: dict[tuple[str, int], list[Vector]] = field(default_factory=dict)
    _before: dict[int, float] = field(default_factory=dict)

    def note(self, frame: Frame) -> None:
        """Take a server's frame: what it brings to a gather, or the model of the step after it."""
        if frame.kind not in ("gather", "model"):
            return
        said = self._open.setdefault((frame.kind, frame.round), [])
        said.append(frame.array().copy())
        if len(said) < self.honest:
            return
        gap = float(np.ptp(np.stack(self._open.pop((frame.kind, frame.round))), axis=0).max())
        if frame.kind == "gather":
            self._before[frame.round] = gap
        elif before := self._before.pop(frame.round - 1, 0.0):
            self.ratios.append(gap / before)


def _run(size: Size, data: DataSet, seed: int, name: str, tell: Tell) -> Mapping[str, Any]:
    begun = time.monotonic()
    arm, attack, period, number = name.split("/")
    cluster = _cluster(size, arm, attack, int(period), address(seed, "guanyu", int(number)))
    gathers = Gathers(honest=ARMS[arm].servers - 1)
    found = run_nodes(cluster, data, prepare=noting(cluster, gathers.note), tell=tell)
    rates = accuracies(cluster, found)
    return {
        "worst": min(rates),
        "best": max(rates),
        "gathers": [float(f"{ratio:.5g}") if isfinite(ratio) else _FAR for ratio in gathers.ratios],
        "messages": found.sent,
        "seconds": round(time.monotonic() - begun, 3),
    }


def _ratio(cell: _Cell) -> str:
    mean = cell.contraction
    return f"{mean.point:.2f} ({mean.low:.2f} to {mean.high:.2f})"


def _accuracy_table(cells: Mapping[str, _Cell]) -> Document:
    return {
        "title": "Accuracy after the last step, with 95 % intervals over seeds",
        "columns": ["cluster", "the lying server", "gather every", "accuracy", "reference minus this, points"],
        "rows": [
            [
                ARMS[cell.arm].words,
                cell.attack,
                cell.period or "-",
                cell.accuracy.percent(),
                cell.loss(cells).points() if cell.arm != "clean" else "-",
            ]
            for cell in cells.values()
        ],
        "note": (
            "The reference of ByzSGD and GuanYu is the trusted server with the same rule under the same lying workers; "
            "that of all others is the run without liars. The worst honest server counts. Differences are paired by "
            "seed."
        ),
    }


def _contraction_table(cells: Sequence[_Cell]) -> Document:
    return {
        "title": "Honest servers' models at a gather: greatest gap in a coordinate, after over before",
        "columns": ["cluster", "the lying server", "gather every", "median gather", "gathers that contract"],
        "rows": [
            [ARMS[cell.arm].words, cell.attack, cell.period, _ratio(cell), f"{100 * cell.contracted:.1f} %"]
            for cell in cells
        ],
        "note": (
            "The median over the gathers of a run, averaged over seeds with a 95 % interval. Contraction is promised "
            "in expectation over the order of delivery; whoever chooses every delivery can stall it."
        ),
    }


METHOD = GuanYu
