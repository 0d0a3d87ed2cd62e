"""Collaborative learning: peers without a server agree on averages, although some lie and their data differ.

Paper    El-Mhamdi, Farhadkhani, Guerraoui, Guirguis, Hoang, Rouault, Collaborative Learning in the Jungle (NeurIPS
         2021), arXiv 2008.00742.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any, ClassVar

from mithridate.byzantine.making import Wish, make_cluster
from mithridate.byzantine.quorums import Agreement, bounds
from mithridate.core.pool import Execute, Job, Tell
from mithridate.core.seeds import address
from mithridate.core.verdicts import Status
from mithridate.data.sources import DataSet, load
from mithridate.papers._agreement import Trial, run_trial
from mithridate.papers._base import AbstractGridPaper, Document, Results, Scale
from mithridate.papers._nodes import WORDS, Part, above, accuracies, at_most, run_nodes, whole
from mithridate.papers._stats import Mean, mean_of_runs

Records = Mapping[str, Mapping[str, Any]]

BROADCASTS: Mapping[Agreement, str] = {"mda": "plain", "rb-tm": "reliable", "icwtm": "consistent"}
_PUBLISHED: tuple[Agreement, ...] = ("mda", "rb-tm")
LIES = ("edge", "two-faced")
ARMS: Mapping[str, str] = {
    "local": "local only",
    "mean": "plain mean",
    "mda": "mda",
    "rb-tm": "rb-tm",
    "icwtm": "icwtm",
}
ATTACKS: Mapping[str, dict[str, Any] | None] = {
    "none": None,
    "sign flip x10": {"name": "sign-flip-own", "options": {"scale": 10.0}},
}
EPSILON = 0.05
"""Without attack an agreement may lose this much accuracy to the plain mean."""

_PEERS, _LIARS, _ROUNDS = 10, 1, 3
_ABSTRACT = "abstract of the paper"


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is run at a scale.

    Attributes:
        trials: Peers and liars of the agreements on plain vectors, by agreement.
        vectors: Trials on vectors with each lie.
        rounds: Rounds of agreement on gradients and on models in a step; None follows the theory.
    """

    source: str = "digits"
    model: str = "mlp"
    trials: Mapping[Agreement, tuple[tuple[int, int], ...]]
    vectors: int
    steps: int
    seeds: int
    lr: float = 0.5
    batch: int = 32
    splits: tuple[str, ...] = ("by-label", "iid")
    rounds: int | None = None


_SMALL: Mapping[Agreement, tuple[tuple[int, int], ...]] = {
    "mda": ((7, 1), (13, 2)),
    "rb-tm": ((4, 1), (7, 2)),
    "icwtm": ((5, 1), (9, 2)),
}
_SIZES: dict[Scale, Size] = {
    "smoke": Size(trials=_SMALL, vectors=5, steps=25, seeds=3, rounds=1),
    "cpu": Size(trials=_SMALL, vectors=50, steps=150, seeds=10),
    "paper": Size(source="mnist", trials=_SMALL, vectors=50, steps=600, seeds=5),
}


class CollaborativeLearning(AbstractGridPaper):
    """What averaging agreement promises, measured; and learning that is built on it."""

    name: ClassVar[str] = "collaborative-learning"
    title: ClassVar[str] = "Collaborative learning in the jungle"
    citation: ClassVar[str] = (
        "E. M. El-Mhamdi, S. Farhadkhani, R. Guerraoui, A. Guirguis, L. N. Hoang, S. Rouault. NeurIPS 2021. "
        "arXiv 2008.00742"
    )
    claim: ClassVar[str] = (
        "Peers, some of which lie, can draw their vectors together without moving their mean far, and learning that "
        "averages gradients and models so is better than learning alone, where the plain mean breaks."
    )
    published: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("peers for minimum-diameter averaging", "n >= 6f + 1", _ABSTRACT),
        ("peers for reliable broadcast with trimmed means", "n >= 3f + 1", _ABSTRACT),
    )

    def jobs(self, scale: Scale) -> Sequence[Job]:
        """Return the agreements on vectors, then the runs of learning, those of equal number beside each other."""
        size = _SIZES[scale]
        vectors = [Job(f"{cell}/{number}") for number in range(size.vectors) for cell in _trials(size)]
        return [*vectors, *[Job(f"{cell}/{number}") for number in range(size.seeds) for cell in _learning(size)]]

    def worker(self, scale: Scale, *, seed: int, device: str) -> Execute:
        """Return what runs one job; nodes compute on the CPU."""
        del device
        size = _SIZES[scale]
        return partial(_run, size, load(size.source), seed)

    def setting(self, scale: Scale) -> list[tuple[str, str | int | float]]:
        """Return what is agreed on and what is learnt."""
        size = _SIZES[scale]
        rounds = "as many rounds as the theory asks" if size.rounds is None else f"{size.rounds} round"
        return [
            ("agreements", ", ".join(f"{kind} over {layer} broadcast" for kind, layer in BROADCASTS.items())),
            ("vectors", f"normal, {_ROUNDS} rounds, {size.vectors} trials with each lie"),
            ("lies", "edge: the honest vector furthest out, to all; two-faced: to each peer that on its own side"),
            ("learning", f"{_PEERS} peers, f = {_LIARS}, {size.source}, {size.model}, {size.steps} steps"),
            ("data", "dealt by label: about one class a peer; and at random"),
            ("agreement in a step", f"{rounds} on gradients and on models"),
            ("attacks", ", ".join(ATTACKS)),
            ("seeds", size.seeds),
            ("accuracy", "mean of the honest peers' models after the last step, on all classes"),
        ]

    def departures(self, scale: Scale) -> tuple[str, ...]:
        """Return the differences from the paper."""
        always = (
            "in one process with a simulated network: delays are drawn at random",
            "the batch does not grow with the steps; the output is the last model, not one of a common random step",
            "momentum is kept by each peer; the step size is halved at one half and three quarters of the run",
            "icwtm runs over consistent broadcast: over plain sending it can be stalled at n = 4f + 1",
            "the bound of mda is the one derived for this implementation; for rb-tm and icwtm only contraction itself "
            "is judged",
            "where the liar's data are of its own class alone, no honest peer has that class",
        )
        small = ("data: the embedded 8x8 digits; model: a perceptron",) if scale != "paper" else ("MNIST",)
        few = ("one round of agreement on gradients and on models in every step",) if scale == "smoke" else ()
        return (*always, *small, *few)

    def results(self, scale: Scale, records: Records) -> Results:
        """Hold the agreements to their promises, and learning to its baselines."""
        size = _SIZES[scale]
        trials = [_Trials.read(cell, size, records) for cell in _trials(size)]
        runs = {cell: [records[f"{cell}/{k}"]["accuracy"] for k in range(size.seeds)] for cell in _learning(size)}
        learnt = [part for split in size.splits for kind in BROADCASTS for part in _learnt(runs, split, kind)]
        parts = [*(part for trial in trials for part in trial.parts()), *learnt]
        status = whole(parts)
        mda = [trial for trial in trials if trial.kind == "mda"]
        good = sum(part.status is Status.PASS for part in learnt)
        sentence = (
            f"The claim {WORDS[status]} at this scale: in agreement all honest diameters shrink in every round to at "
            f"most {max(trial.largest for trial in trials):.2f} of what they were (mda to at most "
            f"{max(trial.largest for trial in mda):.2f}, bound {max(trial.bound or 0 for trial in mda):.2f}); of "
            f"{len(learnt)} comparisons of learning with learning alone and with plain means {good} hold."
        )
        return Results(
            status=status,
            sentence=sentence,
            reasons=tuple(part.words for part in parts if part.status is not Status.PASS),
            tables=(_trial_table(trials), *(_learning_table(runs, split) for split in size.splits)),
            measured=(
                *(
                    (label, f"run with {', '.join(f'n = {n}, f = {f}' for n, f in size.trials[kind])}")
                    for kind, (label, _, _) in zip(_PUBLISHED, self.published, strict=True)
                    if kind in size.trials
                ),
                *((part.words.partition(":")[0], part.words.partition(":")[2].strip()) for part in learnt),
            ),
        )


@dataclass(frozen=True, kw_only=True)
class _Trials:
    """Agreements of one kind among as many peers, under one lie."""

    kind: Agreement
    peers: int
    liars: int
    lie: str
    factors: tuple[float, ...]
    drifts: tuple[float, ...]

    @classmethod
    def read(cls, cell: str, size: Size, records: Records) -> "_Trials":
        _, kind, peers, liars, lie = cell.split("/")
        runs = [records[f"{cell}/{number}"] for number in range(size.vectors)]
        known = next(name for name in BROADCASTS if name == kind)
        return cls(
            kind=known,
            peers=int(peers),
            liars=int(liars),
            lie=lie,
            factors=tuple(run["factor"] for run in runs),
            drifts=tuple(run["drift"] for run in runs),
        )

    @property
    def label(self) -> str:
        return f"{self.kind}, n = {self.peers}, f = {self.liars}, {self.lie}"

    @property
    def largest(self) -> float:
        return max(self.factors)

    @property
    def bound(self) -> float | None:
        known = bounds(self.kind, peers=self.peers, f=self.liars)
        return known.factor if known.proven else None

    @property
    def drift_bound(self) -> float | None:
        known = bounds(self.kind, peers=self.peers, f=self.liars)
        return known.drift if known.proven else None

    @property
    def factor(self) -> Mean:
        return mean_of_runs(self.factors, bounds=(0.0, float("inf")))

    @property
    def drift(self) -> Mean:
        return mean_of_runs(self.drifts, bounds=(0.0, float("inf")))

    def parts(self) -> Iterator[Part]:
        """Yield what is promised: contraction by all; for every single trial where a bound is derived."""
        yield Part(f"{self.label} leaves {_range(self.factor)} of the diameter", at_most(self.factor, 1.0))
        for what, values, bound in (
            ("largest factor", self.factors, self.bound),
            ("largest drift", self.drifts, self.drift_bound),
        ):
            if bound is not None:
                held = max(values) <= bound + 1e-5
                words = f"{self.label}: {what} {max(values):.3f}, bound {bound:.3f}"
                yield Part(words, Status.PASS if held else Status.FAIL)


def _learnt(runs: Mapping[str, Sequence[float]], split: str, kind: str) -> Iterator[Part]:
    """Yield the comparisons of an agreement: under attack with both baselines, without attack with the mean."""
    for other, attack, least in (("local", "sign flip x10", 0.0), ("mean", "sign flip x10", 0.0)):
        gain = _gain(runs, split, kind, other, attack)
        yield Part(f"{kind} minus {ARMS[other]}, {split}, {attack}: {gain.points()} points", above(gain, least))
    loss = _gain(runs, split, "mean", kind, "none")
    yield Part(f"plain mean minus {kind}, {split}, no attack: {loss.points()} points", at_most(loss, EPSILON))


def _gain(runs: Mapping[str, Sequence[float]], split: str, one: str, other: str, attack: str) -> Mean:
    pairs = zip(runs[f"learning/{one}/{split}/{attack}"], runs[f"learning/{other}/{split}/{attack}"], strict=True)
    return mean_of_runs([a - b for a, b in pairs])


def _trials(size: Size) -> Iterator[str]:
    for kind, counts in size.trials.items():
        yield from (f"vectors/{kind}/{peers}/{liars}/{lie}" for peers, liars in counts for lie in LIES)


def _learning(size: Size) -> Iterator[str]:
    for split in size.splits:
        yield from (f"learning/{arm}/{split}/{attack}" for attack in ATTACKS for arm in ARMS)


def _run(size: Size, data: DataSet, seed: int, name: str, tell: Tell) -> Mapping[str, Any]:
    begun = time.monotonic()
    match name.split("/"):
        case ["vectors", kind, peers, liars, lie, number]:
            known = next(each for each in BROADCASTS if each == kind)
            trial = Trial(kind=known, broadcast=BROADCASTS[known], peers=int(peers), liars=int(liars))
            own = address(seed, "collaborative-learning", int(number))
            found = run_trial(trial, data, two_faced=lie == "two-faced", rounds=_ROUNDS, seed=own)
        case ["learning", arm, split, attack, number]:
            own = address(seed, "collaborative-learning", int(number))
            found = {"accuracy": _learn(size, data, arm, split, attack, seed=own, tell=tell)}
        case _:
            raise AssertionError(name)
    return {**found, "seconds": round(time.monotonic() - begun, 3)}


def _learn(size: Size, data: DataSet, arm: str, split: str, attack: str, *, seed: int, tell: Tell) -> float:
    """Return the mean accuracy of the honest peers after a run."""
    lies = ATTACKS[attack]
    own: dict[str, Any]
    if arm == "mean":
        own = {"variant": "vanilla"}
    elif arm == "local":
        own = {"agreement": {"kind": "mda", "broadcast": "plain", "gradient_rounds": 0, "model_rounds": 0}}
    else:
        kind = next(each for each in BROADCASTS if each == arm)
        rounds = {"gradient_rounds": size.rounds, "model_rounds": size.rounds}
        own = {"agreement": {"kind": kind, "broadcast": BROADCASTS[kind], **rounds}, "peers": {"f": _LIARS}}
    values = {
        "model": size.model,
        "data": {"source": size.source, "split": split},
        "training": {"steps": size.steps, "evaluate_every": size.steps, "batch": size.batch, "lr": size.lr},
        "seed": seed,
        **own,
    }
    cluster = make_cluster(
        Wish(servers=0, workers=_PEERS, byzantine_workers=0 if lies is None else _LIARS, attack=lies, values=values)
    )
    return fmean(accuracies(cluster, run_nodes(cluster, data, tell=tell)))


def _range(mean: Mean) -> str:
    return f"{mean.point:.2f} ({mean.low:.2f} to {mean.high:.2f})"


def _trial_table(trials: Sequence[_Trials]) -> Document:
    def shown(bound: float | None) -> str:
        return "none derived" if bound is None else f"{bound:.3f}"

    return {
        "title": "Averaging agreement on vectors: what a round leaves of the diameter, and how far the mean drifts",
        "columns": [
            *("agreement", "largest factor of a trial's rounds", "largest of all", "bound"),
            *("drift in diameters", "largest drift", "bound C"),
        ],
        "rows": [
            [
                trial.label,
                _range(trial.factor),
                f"{trial.largest:.3f}",
                shown(trial.bound),
                _range(trial.drift),
                f"{max(trial.drifts):.3f}",
                shown(trial.drift_bound),
            ]
            for trial in trials
        ],
        "note": f"Euclidean diameters of the honest vectors over {_ROUNDS} rounds; 95 % intervals over trials.",
    }


def _learning_table(runs: Mapping[str, Sequence[float]], split: str) -> Document:
    return {
        "title": f"Accuracy of {_PEERS} peers with data dealt {split}, with 95 % intervals over seeds",
        "columns": ["peers", *ATTACKS],
        "rows": [
            [
                words,
                *(
                    mean_of_runs(runs[f"learning/{arm}/{split}/{attack}"], bounds=(0.0, 1.0)).percent()
                    for attack in ATTACKS
                ),
            ]
            for arm, words in ARMS.items()
        ],
        "note": "The mean over the honest peers. Under attack the last peer lies; dealt by label, its class is lost.",
    }


METHOD = CollaborativeLearning
