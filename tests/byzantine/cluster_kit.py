"""Small clusters in the simulator: a quadratic problem in place of a network, so that a run takes milliseconds."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mithridate.byzantine.cluster import ClusterConfig, build_cluster
from mithridate.byzantine.keeper import Keeper
from mithridate.byzantine.pins import identity_of
from mithridate.byzantine.programs import layer_of, limits_of, post_of, run_program
from mithridate.byzantine.protocols._base import Outcome, Post, schema_of
from mithridate.byzantine.source import Accuracy, Learner, Vector
from mithridate.byzantine.transport.schedules import AbstractSchedule, RandomDelays
from mithridate.byzantine.transport.simulator import Crash, Simulation, run_simulation

SIZE = 20


class Quadratic(Learner):
    """Gradients of |x - c|^2 / 2 with a little noise; c differs a little from worker to worker."""

    def __init__(self, cluster: ClusterConfig, node: int, *, noise: float = 0.1) -> None:
        self.node, self.lr, self.noise = node, cluster.training.lr, noise
        self.size = self.parameters = SIZE
        self.momentum = None
        self.x = np.full(SIZE, 5.0, np.float32)
        self.centre = 0.05 * np.random.default_rng(node).standard_normal(SIZE).astype(np.float32)
        self.applied: list[int] = []

    def vector(self) -> Vector:
        return self.x.copy()

    def load(self, vector: Vector) -> None:
        self.x = np.array(vector, np.float32)

    def gradient(self, step: int) -> tuple[Vector, float]:
        rng = np.random.default_rng((self.node, step))
        noise = self.noise * rng.standard_normal(SIZE).astype(np.float32)
        with np.errstate(all="ignore"):
            return self.x - self.centre + noise, float(np.abs(self.x).max())

    def apply(self, combined: Vector, step: int) -> None:
        self.applied.append(step)
        with np.errstate(all="ignore"):
            self.x = self.x - np.float32(self.lr) * combined

    def accuracy(self) -> Accuracy:
        error = float(np.abs(self.x).max()) if np.isfinite(self.x).all() else np.inf
        return Accuracy(correct=int(error < 0.5), tested=1)


def nodes(
    *,
    servers: int = 0,
    workers: int = 0,
    peers: int = 0,
    bad: Mapping[int, Any] | None = None,
) -> list[dict[str, Any]]:
    """Servers, then workers, then peers; `bad` gives some of them a behaviour."""
    roles = ["server"] * servers + ["worker"] * workers + ["peer"] * peers
    return [
        {"id": n, "role": role, "address": f"127.0.0.1:{4000 + n}", "behaviour": (bad or {}).get(n)}
        for n, role in enumerate(roles)
    ]


def cluster_of(protocol: str, listed: Sequence[Mapping[str, Any]], **values: Any) -> ClusterConfig:
    training = {"steps": 30, "lr": 0.2, "evaluate_every": 10, **values.pop("training", {})}
    return build_cluster({"protocol": protocol, "nodes": list(listed), "training": training, **values}, {})


def play(
    cluster: ClusterConfig,
    *,
    schedule: AbstractSchedule | None = None,
    seed: int = 0,
    folder: Path | None = None,
    crashes: Sequence[Crash] = (),
    watch: Callable[[Post], None] = lambda post: None,
    noise: float = 0.1,
    until: Sequence[int] | None = None,
) -> Simulation[Outcome | None]:
    """Run a cluster in the simulator; the honest nodes that hold a model are waited for."""

    async def program(transport: Any, node: int) -> Outcome | None:
        keeper = Keeper(
            None if folder is None else folder / f"node-{node}",
            identity=f"{identity_of(cluster)}/{node}",
            every=cluster.checkpoint_every,
        )
        async with layer_of(cluster, transport, None) as layer:
            post = post_of(cluster, transport, Quadratic(cluster, node, noise=noise), layer=layer, keeper=keeper)
            watch(post)
            return await run_program(post)

    programs = {node.id: (lambda transport, i=node.id: program(transport, i)) for node in cluster.nodes}
    role = "peer" if cluster.protocol == "p2p" else "server"
    waited = [node for node in cluster.ids(role) if node not in cluster.byzantine(role)] if until is None else until
    return run_simulation(
        programs,
        schema=schema_of(cluster, SIZE),
        limits=limits_of(cluster),
        schedule=schedule or RandomDelays(),
        seed=seed,
        until=waited,
        crashes=crashes,
    )


def models(simulation: Simulation[Outcome | None]) -> np.ndarray:
    """The final models of the honest nodes that hold one, a row each."""
    assert not simulation.failures, simulation.failures
    return np.stack([outcome.vector for outcome in simulation.results.values() if outcome and outcome.accuracy])


def diameter(rows: np.ndarray) -> float:
    return float(torch.pdist(torch.tensor(rows, dtype=torch.float64)).max())
