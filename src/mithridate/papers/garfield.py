"""Garfield: what Byzantine resilience costs, from one trusted server to peers without any.

Paper    Guerraoui, Guirguis, Plassmann, Ragot, Rouault, Garfield: System Support for Byzantine Machine Learning (DSN
         2021), arXiv 2010.05888.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from mithridate.byzantine.cluster import ClusterConfig
from mithridate.byzantine.local import run_local
from mithridate.byzantine.making import Wish, make_cluster
from mithridate.byzantine.summary import split_of
from mithridate.core.pool import Execute, Job, Tell
from mithridate.core.seeds import address
from mithridate.core.verdicts import Status
from mithridate.data.sources import DataSet, load
from mithridate.papers._base import AbstractGridPaper, Document, Results, Scale
from mithridate.papers._nodes import WORDS, Part, above, accuracies, at_most, run_nodes, whole
from mithridate.papers._stats import Mean, mean_of_runs

Records = Mapping[str, Mapping[str, Any]]

BARS: Mapping[str, str] = {
    "vanilla": "vanilla: one server, mean of all",
    "crash-tolerant": "crash-tolerant: one server, mean of the first n - f",
    "ssmw": "SSMW: one trusted server, multi-krum",
    "msmw": "MSMW: replicated servers, mda",
    "p2p": "decentralised: peers, mda agreement",
}
ROBUST = ("ssmw", "msmw", "p2p")
ATTACKS: Mapping[str, dict[str, Any] | None] = {
    "none": None,
    "reverse": {"name": "reverse"},
    "random": {"name": "random-model"},
}
PARTS = ("gradient", "communication", "aggregation")
_SAME = 0.01
"""Crash tolerance may lose this much accuracy and still cost none."""

_STANDS = 0.05
"""Under attack a robust deployment may lose this much accuracy to its own run without attack."""

_ABSTRACT = "abstract of the paper"


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is run at a scale.

    Attributes:
        timed: Steps of a run that is timed.
        repeats: Timed runs of every bar, in turn.
    """

    source: str = "digits"
    model: str = "mlp"
    workers: int = 8
    servers: int = 5
    batch: int = 32
    lr: float = 0.5
    steps: int
    seeds: int
    timed: int
    repeats: int


_SIZES: dict[Scale, Size] = {
    "smoke": Size(steps=60, seeds=3, timed=15, repeats=3),
    "cpu": Size(steps=300, seeds=20, timed=100, repeats=10),
    "paper": Size(source="cifar10", model="resnet18", workers=10, lr=0.1, steps=5000, seeds=3, timed=50, repeats=5),
}


class Garfield(AbstractGridPaper):
    """Five deployments: their accuracy in the simulator, their throughput on real sockets."""

    name: ClassVar[str] = "garfield"
    title: ClassVar[str] = "Garfield: system support for Byzantine machine learning"
    citation: ClassVar[str] = (
        "R. Guerraoui, A. Guirguis, J. M. Plassmann, A. Ragot, S. Rouault. DSN 2021. arXiv 2010.05888"
    )
    claim: ClassVar[str] = (
        "Byzantine resilience, unlike crash resilience, costs accuracy; its overhead in throughput is more of "
        "communication than of robust aggregation; bearing lying servers costs more than bearing lying workers."
    )
    published: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("accuracy", "Byzantine resilience induces a loss, crash resilience does not", _ABSTRACT),
        ("throughput overhead", "more from communication than from robust aggregation", _ABSTRACT),
        ("lying servers", "cost more than lying workers", _ABSTRACT),
    )

    def jobs(self, scale: Scale) -> Sequence[Job]:
        """Return the simulated runs, then the timed ones, which run one at a time when nothing else does."""
        size = _SIZES[scale]
        found = [Job(f"{cell}/{number}") for number in range(size.seeds) for cell in _cells()]
        before = tuple(job.name for job in found)
        for name in (f"speed/{bar}/{number}" for number in range(size.repeats) for bar in BARS):
            found.append(Job(name, before))
            before = (name,)
        return found

    def worker(self, scale: Scale, *, seed: int, device: str) -> Execute:
        """Return what runs one cluster; nodes compute on the CPU."""
        del device
        size = _SIZES[scale]
        return partial(_run, size, load(size.source), seed)

    def setting(self, scale: Scale) -> list[tuple[str, str | int | float]]:
        """Return the deployments, and what is measured where."""
        size = _SIZES[scale]
        rows: list[tuple[str, str | int | float]] = [("data and model", f"{size.source}, {size.model}")]
        for bar, words in BARS.items():
            cluster = _cluster(size, bar, "none", steps=1, seed=0)
            who = [
                f"{len(cluster.ids(role))} {role}s, f = {cluster.f(role)}, quorum {cluster.quorum(role)}"
                for role in dict.fromkeys(node.role for node in cluster.nodes)
                if len(cluster.ids(role)) > 1
            ]
            rows.append((words, "; ".join(who)))
        return [
            *rows,
            ("attacks", f"{', '.join(ATTACKS)}: by one worker or peer, and for MSMW by one server as well"),
            ("accuracy", f"in the simulator, {size.steps} steps, {size.seeds} seeds; the worst honest model"),
            ("throughput", f"processes on loopback, mutual TLS, {size.timed} steps, {size.repeats} runs; nobody lies"),
        ]

    def departures(self, scale: Scale) -> tuple[str, ...]:
        """Return the differences from the paper."""
        always = (
            "all processes share the cores of one machine and talk over loopback: communication counts coding, "
            "encryption, sockets, and waiting for others and for a core",
            "gRPC and NumPy frames of ours in place of the paper's library; MSMW gathers models by their median",
            "the peers agree by minimum-diameter averages of gradients and of models, one round each a step",
            "momentum is kept at the workers; figures of the paper could not be confirmed in a source, only the three "
            "sentences of its abstract are judged",
        )
        if scale == "paper":
            return (*always, "no GPU, no cluster of machines; 5000 steps of batch 32")
        return (*always, "data: the embedded 8x8 digits; model: a perceptron")

    def results(self, scale: Scale, records: Records) -> Results:
        """Judge each of the three sentences, and whether there was an attack to bear."""
        size = _SIZES[scale]
        rates = {cell: [records[f"{cell}/{k}"]["worst"] for k in range(size.seeds)] for cell in _cells()}
        speed = {bar: [records[f"speed/{bar}/{k}"] for k in range(size.repeats)] for bar in BARS}
        sentences = {"accuracy": _cost(rates), "overhead": _overhead(speed), "servers": _servers(speed)}
        parts = [*(part for found in sentences.values() for part in found), *_stands(rates)]
        status = whole(parts)
        slower = {bar: _slower(speed, bar) for bar in ROBUST}
        judged = {name: whole(found) for name, found in sentences.items()}
        sentence = (
            f"The claim {WORDS[status]} at this scale: that resilience costs accuracy {WORDS[judged['accuracy']]}, "
            f"that communication costs more than aggregation {WORDS[judged['overhead']]}, that lying servers cost more "
            f"than lying workers {WORDS[judged['servers']]}; a step takes "
            f"{', '.join(f'{_range(slower[bar])} times as long with {bar}' for bar in ROBUST)} as with vanilla."
        )
        return Results(
            status=status,
            sentence=sentence,
            reasons=tuple(part.words for part in parts if part.status is not Status.PASS),
            tables=(_accuracy_table(rates), _speed_table(speed)),
            measured=tuple(
                (label, "; ".join(part.words for part in found))
                for (label, _, _), found in zip(self.published, sentences.values(), strict=True)
            ),
        )


def _cost(rates: Mapping[str, Sequence[float]]) -> list[Part]:
    """Crash tolerance loses nothing that matters; every robust deployment loses something."""
    crash = _lost(rates, "crash-tolerant")
    found = [Part(f"crash-tolerant loses {crash.points()} points to vanilla", at_most(crash, _SAME))]
    for bar in ROBUST:
        loss = _lost(rates, bar)
        found.append(Part(f"{bar} loses {loss.points()} points to vanilla", above(loss, 0.0)))
    return found


def _overhead(speed: Mapping[str, Sequence[Mapping[str, float]]]) -> list[Part]:
    """What a step takes longer than with vanilla is more of communication than of aggregation."""
    found = []
    for bar in ROBUST:
        extra = {part: _extra(speed, bar, part) for part in PARTS}
        gaps = [a - b for a, b in zip(extra["communication"], extra["aggregation"], strict=True)]
        shown = ", ".join(f"{part} {1000 * mean_of_runs(extra[part], bounds=_ALL).point:+.1f} ms" for part in PARTS[1:])
        found.append(Part(f"a step with {bar} takes longer by {shown}", above(mean_of_runs(gaps, bounds=_ALL), 0.0)))
    return found


def _servers(speed: Mapping[str, Sequence[Mapping[str, float]]]) -> list[Part]:
    gaps = [a["step"] - b["step"] for a, b in zip(map(_timed, speed["msmw"]), map(_timed, speed["ssmw"]), strict=True)]
    found = mean_of_runs(gaps, bounds=_ALL)
    words = f"a step with msmw takes {1000 * found.point:+.1f} ms ({1000 * found.low:+.1f} to {1000 * found.high:+.1f})"
    return [Part(f"{words} more than with ssmw", above(found, 0.0))]


def _stands(rates: Mapping[str, Sequence[float]]) -> Iterator[Part]:
    """Some attack breaks vanilla; each robust deployment bears every attack."""
    broken = False
    for attack in ATTACKS:
        if attack == "none":
            continue
        broken |= above(_fall(rates, "vanilla", attack), _STANDS) is Status.PASS
        for bar in ROBUST:
            fall = _fall(rates, bar, attack)
            yield Part(f"{bar} loses {fall.points()} points under {attack}", at_most(fall, _STANDS))
    yield Part("no attack breaks vanilla", Status.PASS if broken else Status.INCONCLUSIVE)


_ALL = (float("-inf"), float("inf"))


def _timed(record: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds of a step by part, and in all without measuring accuracy."""
    return {part: record[part] for part in PARTS} | {"step": sum(record[part] for part in PARTS)}


def _extra(speed: Mapping[str, Sequence[Mapping[str, float]]], bar: str, part: str) -> list[float]:
    return [a[part] - b[part] for a, b in zip(speed[bar], speed["vanilla"], strict=True)]


def _slower(speed: Mapping[str, Sequence[Mapping[str, float]]], bar: str) -> Mean:
    pairs = zip(speed[bar], speed["vanilla"], strict=True)
    return mean_of_runs([_timed(a)["step"] / _timed(b)["step"] for a, b in pairs], bounds=(0.0, float("inf")))


def _lost(rates: Mapping[str, Sequence[float]], bar: str) -> Mean:
    pairs = zip(rates["accuracy/vanilla/none"], rates[f"accuracy/{bar}/none"], strict=True)
    return mean_of_runs([a - b for a, b in pairs])


def _fall(rates: Mapping[str, Sequence[float]], bar: str, attack: str) -> Mean:
    pairs = zip(rates[f"accuracy/{bar}/none"], rates[f"accuracy/{bar}/{attack}"], strict=True)
    return mean_of_runs([a - b for a, b in pairs])


def _cells() -> Iterator[str]:
    yield from (f"accuracy/{bar}/{attack}" for attack in ATTACKS for bar in BARS)


def _cluster(size: Size, bar: str, attack: str, *, steps: int, seed: int) -> ClusterConfig:
    """Return the cluster of a bar; all have as many nodes that compute gradients, and declare one liar of a kind."""
    own: dict[str, dict[str, Any]] = {
        "vanilla": {"variant": "vanilla"},
        "crash-tolerant": {"variant": "crash-tolerant", "workers": {"f": 1}},
        "ssmw": {"rule": "multi-krum", "workers": {"f": 1}},
        "msmw": {"rule": "mda", "workers": {"f": 1}, "servers": {"f": 1}},
        "p2p": {
            "agreement": {"kind": "mda", "broadcast": "plain", "gradient_rounds": 1, "model_rounds": 1},
            "peers": {"f": 1},
        },
    }
    lies = ATTACKS[attack]
    values = {
        "model": size.model,
        "data": {"source": size.source},
        "training": {"steps": steps, "evaluate_every": steps, "batch": size.batch, "lr": size.lr},
        "checkpoint_every": 1_000_000,
        "seed": seed,
        **own[bar],
    }
    return make_cluster(
        Wish(
            servers={"p2p": 0, "msmw": size.servers}.get(bar, 1),
            workers=size.workers,
            byzantine_workers=0 if lies is None else 1,
            byzantine_servers=1 if lies is not None and bar == "msmw" else 0,
            attack=lies,
            server_attack=lies,
            values=values,
        )
    )


def _run(size: Size, data: DataSet, seed: int, name: str, tell: Tell) -> Mapping[str, Any]:
    begun = time.monotonic()
    found: dict[str, Any]
    match name.split("/"):
        case ["accuracy", bar, attack, number]:
            own = address(seed, "garfield", int(number))
            cluster = _cluster(size, bar, attack, steps=size.steps, seed=own)
            rates = accuracies(cluster, run_nodes(cluster, data, tell=tell))
            found = {"worst": min(rates)}
        case ["speed", bar, number]:
            own = address(seed, "garfield", int(number))
            with tempfile.TemporaryDirectory(prefix="mithridate-garfield-") as folder:
                finished = run_local(_cluster(size, bar, "none", steps=size.timed, seed=own), Path(folder))
                received = sum(
                    peer["received_bytes"] for node in finished.records.values() for peer in node["peers"].values()
                )
                found = split_of(finished.cluster, finished.records) | {"bytes": received / size.timed}
        case _:
            raise AssertionError(name)
    return {**found, "seconds": round(time.monotonic() - begun, 3)}


def _range(mean: Mean) -> str:
    return f"{mean.point:.2f} ({mean.low:.2f} to {mean.high:.2f})"


def _accuracy_table(rates: Mapping[str, Sequence[float]]) -> Document:
    return {
        "title": "Accuracy of the worst honest model, with 95 % intervals over seeds",
        "columns": ["deployment", *ATTACKS],
        "rows": [
            [
                words,
                *(mean_of_runs(rates[f"accuracy/{bar}/{attack}"], bounds=(0.0, 1.0)).percent() for attack in ATTACKS),
            ]
            for bar, words in BARS.items()
        ],
        "note": "In the simulator. One worker or peer lies, and with replicated servers one server as well.",
    }


def _speed_table(speed: Mapping[str, Sequence[Mapping[str, float]]]) -> Document:
    def entry(bar: str, part: str) -> str:
        own = mean_of_runs([1000 * _timed(run)[part] for run in speed[bar]], bounds=(0.0, float("inf")))
        return _range(own)

    return {
        "title": "A step on real sockets: milliseconds by part, with 95 % intervals over runs",
        "columns": ["deployment", "steps per second", *PARTS, "step", "times vanilla", "MB a step"],
        "rows": [
            [
                words,
                _range(mean_of_runs([1 / _timed(run)["step"] for run in speed[bar]], bounds=(0.0, float("inf")))),
                *(entry(bar, part) for part in (*PARTS, "step")),
                "1" if bar == "vanilla" else _range(_slower(speed, bar)),
                f"{sum(run['bytes'] for run in speed[bar]) / len(speed[bar]) / 1e6:.2f}",
            ]
            for bar, words in BARS.items()
        ],
        "note": (
            "Aggregation is measured where the model is; the gradient is the median honest worker's; communication is "
            "the rest of the step. Ratios are paired by run. Figures of one machine, on which all processes share the "
            "cores."
        ),
    }


METHOD = Garfield
