"""Averaging agreement on plain vectors in the simulator, with liars that know all honest vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, final

import numpy as np
import torch

from mithridate.byzantine.cluster import ClusterConfig
from mithridate.byzantine.making import Wish, make_cluster
from mithridate.byzantine.messages import Frame
from mithridate.byzantine.mouths import AbstractMouth, Speaker
from mithridate.byzantine.programs import layer_of, learner_of, limits_of, post_of
from mithridate.byzantine.protocols._base import schema_of
from mithridate.byzantine.protocols.p2p import MODELS, agree
from mithridate.byzantine.quorums import Agreement
from mithridate.byzantine.source import Vector
from mithridate.byzantine.transport._base import AbstractTransport
from mithridate.byzantine.transport.schedules import RandomDelays
from mithridate.byzantine.transport.simulator import run_simulation
from mithridate.core.seeds import address
from mithridate.data.sources import DataSet
from mithridate.papers._nodes import Noted, require_finished

DIM = 20
"""Entries of a vector."""

_NOTHING = 1e-5
"""A diameter below this share of the first one is rounding."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Who agrees, and how."""

    kind: Agreement
    broadcast: str
    peers: int
    liars: int

    def cluster(self, seed: int) -> ClusterConfig:
        """Return the cluster of the peers; the last ones lie."""
        values = {
            "agreement": {"kind": self.kind, "broadcast": self.broadcast},
            "peers": {"f": self.liars},
            "model": "mlp-w8",
            "training": {"steps": 1},
            "seed": seed,
        }
        attack = {"name": "silent"}
        return make_cluster(
            Wish(servers=0, workers=self.peers, byzantine_workers=self.liars, attack=attack, values=values)
        )


@final
@dataclass
class Pushing(AbstractMouth):
    """Says honest extremes, so that it is not to be told from an honest peer, and keeps the honest apart.

    Attributes:
        vectors: What the honest peers said last, by peer.
        two_faced: Whether each peer is told the extreme on its own side; else all are told the same one.
    """

    vectors: Mapping[int, Vector]
    two_faced: bool

    async def say(self, speaker: Speaker, frame: Frame, to: Sequence[int]) -> None:
        """Send extremes, past any broadcast layer where peers are told different ones."""
        honest = sorted(self.vectors)
        gaps = _gaps(np.stack([self.vectors[node] for node in honest]))
        ends = [self.vectors[honest[int(k)]] for k in np.unravel_index(gaps.argmax(), gaps.shape)]
        if not self.two_faced:
            await speaker.broadcast(_saying(frame, ends[0]), to)
            return
        for peer in to:
            if peer != speaker.me:
                at = self.vectors.get(peer, ends[0])
                nearer = min(ends, key=lambda end: float(np.linalg.norm(end - at)))
                await speaker.send(peer, _saying(frame, nearer))


def run_trial(trial: Trial, data: DataSet, *, two_faced: bool, rounds: int, seed: int) -> dict[str, Any]:
    """Return the largest factor by which a round changed the honest diameter, and the drift in first diameters.

    Args:
        trial: Who agrees.
        data: Any data set; nothing is learnt.
        two_faced: What the liars do, see `Pushing`.
        rounds: How many rounds.
        seed: Of the vectors and of the deliveries.

    Raises:
        WorkError: An honest peer stopped.
    """
    cluster = trial.cluster(seed)
    honest = range(trial.peers - trial.liars)
    rng = np.random.default_rng(address(seed, "vectors"))
    starts = {node: rng.standard_normal(DIM).astype(np.float32) for node in honest}
    latest, history = dict(starts), [dict[int, Vector]() for _ in range(rounds)]
    learner = learner_of(cluster, data, 0)

    def note(frame: Frame) -> None:
        if frame.kind == MODELS:
            latest[frame.sender] = history[frame.phase][frame.sender] = frame.array().copy()

    async def program(transport: AbstractTransport) -> Vector:
        async with layer_of(cluster, transport, None) as layer:
            post = post_of(cluster, transport, learner, layer=layer)
            post.mouth = Noted(post.mouth, note) if transport.me in starts else Pushing(latest, two_faced)
            found = await agree(post, MODELS, 0, starts.get(transport.me, starts[0]), rounds)
            done = Frame("done", 0, 0, transport.me, b".")
            everyone, enough = cluster.ids("peer"), cluster.quorum("peer")
            await post.voice.broadcast(done, everyone)
            await post.voice.collect("done", 0, 0, of=everyone, quorum=enough, deadline=post.deadline, own=done)
            return found

    found = run_simulation(
        dict.fromkeys(cluster.ids("peer"), program),
        schema=schema_of(cluster, DIM),
        limits=limits_of(cluster),
        schedule=RandomDelays(),
        seed=seed,
        until=list(honest),
    )
    require_finished(found, honest)
    return judged([*history, {node: found.results[node] for node in honest}])


def judged(history: Sequence[Mapping[int, Vector]]) -> dict[str, float]:
    """Return the largest factor of a round and the drift, given the honest vectors before each round and at the end."""
    rows = [np.stack([said[node] for node in sorted(said)]).astype(np.float64) for said in history]
    widths = [float(_gaps(each).max()) for each in rows]
    factors = [after / before for before, after in pairwise(widths) if before > _NOTHING * widths[0]]
    drift = float(np.linalg.norm(rows[-1].mean(0) - rows[0].mean(0))) / widths[0]
    return {"factor": float(f"{max(factors):.6g}"), "drift": float(f"{drift:.6g}")}


def _gaps(rows: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
    points = torch.from_numpy(rows.astype(np.float64))
    result: np.ndarray[Any, np.dtype[Any]] = torch.cdist(points, points).numpy()
    return result


def _saying(frame: Frame, vector: Vector) -> Frame:
    return Frame(frame.kind, frame.round, frame.phase, frame.sender, vector)
