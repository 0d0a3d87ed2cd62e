"""What every node program has: its place in the cluster, a mouth, ears with a deadline, and a rule.

An honest node and a Byzantine one run the same program; they differ in the mouth (see `mouths`), which decides what
leaves the node. Nothing else of an honest node depends on who is Byzantine.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from mithridate.aggregation._base import AbstractCombiner, State
from mithridate.aggregation.aggregate import named_rule
from mithridate.aggregation.combine import combine
from mithridate.aggregation.names import PRE_AGGREGATORS
from mithridate.byzantine.broadcast import (
    LAYERS_OF,
    AbstractBroadcast,
    witness_expected,
    witness_kind,
)
from mithridate.byzantine.cluster import ClusterConfig
from mithridate.byzantine.keeper import Keeper
from mithridate.byzantine.messages import Expected, Frame, Schema
from mithridate.byzantine.meter import Meter, Tell, quiet
from mithridate.byzantine.mouths import AbstractMouth, Honest, Speaker
from mithridate.byzantine.quorums import Broadcast
from mithridate.byzantine.source import Accuracy, Learner, Vector, stacked
from mithridate.byzantine.transport._base import AbstractTransport, Collected, QuorumLost
from mithridate.core.errors import Misuse
from mithridate.core.methods import instantiate
from mithridate.numerics.order import Median, order_statistic
from mithridate.numerics.rng import generator
from mithridate.numerics.row_view import RowView

VECTOR_KINDS = ("model", "gradient", "gather", "leak")
PEER_KINDS = ("agree-g", "agree-m")
GENERATION = 1 << 32
"""Rounds of a restarted trusted server begin at its next multiple of this, so that no round is used twice."""


def schema_of(cluster: ClusterConfig, size: int) -> Schema:
    """Return what nodes read: float32 vectors of `size` entries, and what the broadcast among peers takes."""
    peers = cluster.protocol == "p2p"
    kinds = {kind: Expected(dtype="float32", numel=size) for kind in (PEER_KINDS if peers else VECTOR_KINDS)}
    kinds |= {witness_kind(kind): witness_expected(len(cluster.nodes)) for kind in PEER_KINDS if peers}
    layers = LAYERS_OF[broadcast_of(cluster)]
    kinds["resume"] = Expected(dtype="int64", numel=2)
    kinds |= {kind: Expected(dtype="bytes", numel=1) for kind in ("go", "done")}
    return Schema(kinds=kinds, layers=layers, phases=4096)


def broadcast_of(cluster: ClusterConfig) -> Broadcast:
    """Return the broadcast layer of a cluster: plain unless its peers agree over another; baselines have none."""
    return cluster.agreement.broadcast if cluster.protocol == "p2p" and not cluster.is_baseline else "plain"


@final
class Voice:
    """A broadcast layer as something to speak through; past it where a liar speaks to one node alone.

    Args:
        layer: A running layer.
    """

    def __init__(self, layer: AbstractBroadcast) -> None:
        self.layer = layer
        self.me = layer.transport.me

    async def send(self, to: int, frame: Frame) -> None:
        """Send a frame to one node, past the layer."""
        await self.layer.transport.send(to, frame)

    async def send_bytes(self, to: int, data: bytes) -> None:
        """Send bytes that need be no frame."""
        await self.layer.transport.send_bytes(to, data)

    async def broadcast(self, frame: Frame, to: Iterable[int]) -> None:
        """Say a frame to all nodes."""
        del to
        await self.layer.broadcast(frame)

    async def collect(
        self,
        kind: str,
        round: int,
        phase: int,
        *,
        of: Iterable[int],
        quorum: int,
        deadline: float,
        own: Frame | None = None,
    ) -> Collected:
        """Return the first frames of a kind, round and phase that were delivered."""
        return await self.layer.collect(kind, round, phase, of=of, quorum=quorum, deadline=deadline, own=own)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a node ended.

    Attributes:
        step: Updates that its model has seen.
        vector: Its model.
        accuracy: On the test set; None for nodes that hold no model of their own.
        meter: Where its time went.
    """

    step: int
    vector: Vector
    accuracy: Accuracy | None
    meter: Meter


@final
@dataclass(kw_only=True, eq=False)
class Post:
    """A node while it runs.

    Attributes:
        cluster: The cluster file.
        transport: The way to the others.
        learner: Its model and its shard.
        layer: The broadcast among peers, if there is one.
        mouth: What leaves the node.
        keeper: Where its state is kept.
        tell: Takes events.
        meter: Its time.
        at: The step that it works on.
        loss: The loss of its last gradient.
        senders: Whose vectors were collected last, in the order of the rows.
    """

    cluster: ClusterConfig
    transport: AbstractTransport
    learner: Learner
    layer: AbstractBroadcast | None = None
    mouth: AbstractMouth = field(default_factory=Honest)
    keeper: Keeper = field(default_factory=Keeper)
    tell: Tell = quiet
    meter: Meter = field(default_factory=Meter)
    at: int = 0
    loss: float = 0.0
    senders: tuple[int, ...] = ()
    voice: Speaker = field(init=False)
    _rule: AbstractCombiner | None = field(init=False)
    _state: State = field(init=False)

    def __post_init__(self) -> None:
        self.voice = self.transport if self.layer is None else Voice(self.layer)
        self._rule = None if self.cluster.protocol == "p2p" else gradient_rule(self.cluster)
        self._state = None if self._rule is None else self._rule.init()

    @property
    def me(self) -> int:
        """The number of this node."""
        return self.transport.me

    @property
    def steps(self) -> int:
        """Updates in all."""
        return self.cluster.training.steps

    @property
    def deadline(self) -> float:
        """Seconds to wait for a quorum now."""
        waits = self.cluster.deadlines
        return waits.round if self.meter.begun else max(waits.start, waits.round)

    def frame(self, kind: str, number: int, phase: int, vector: Vector) -> Frame:
        """Return a frame of our own."""
        return Frame(kind, number, phase, self.me, vector)

    async def say(self, kind: str, number: int, vector: Vector, *, to: Iterable[int]) -> None:
        """Let the mouth speak for us."""
        await self.mouth.say(self.transport, self.frame(kind, number, 0, vector), tuple(to))

    async def collect(
        self, kind: str, number: int, *, of: Iterable[int], quorum: int, own: Vector | None = None
    ) -> list[Vector]:
        """Return the vectors of the first `quorum` senders, sorted by their numbers.

        Raises:
            QuorumLost: At the deadline, naming who is missing.
        """
        mine = None if own is None else self.frame(kind, number, 0, own)
        with self.meter.timing("waiting"):
            found = await self.transport.collect(
                kind, number, 0, of=of, quorum=quorum, deadline=self.deadline, own=mine
            )
        return self.noted(found)

    def noted(self, found: Collected) -> list[Vector]:
        """Count who was late, and return the vectors."""
        self.meter.quorums += 1
        self.senders = tuple(found.frames)
        for node in found.late:
            self.meter.late[node] = self.meter.late.get(node, 0) + 1
        return [frame.array() for frame in found.frames.values()]

    def aggregate(self, gradients: list[Vector], step: int) -> Vector:
        """Return what the rule makes of the gradients; buffers get the median.

        Raises:
            Misuse: More rows hold NaN or infinity than the rule bears.
        """
        with self.meter.timing("aggregation"):
            rows = stacked(gradients)
            if self.cluster.rule_method.name == "mean" and not self.cluster.pre:
                return _flat(rows.mean(0))
            assert self._rule is not None
            split = self.learner.parameters
            gen = generator(self.cluster.seed, "rule", step)
            try:
                head, self._state = combine(RowView.of(rows[:, :split]), self._rule, state=self._state, gen=gen)
            except Misuse as error:
                raise self._named(rows, error) from None
            return _flat(torch.cat([head, self._median_of(rows[:, split:])]))

    def _named(self, rows: Float[Tensor, "n s"], error: Misuse) -> Misuse:
        """Say which nodes are meant, where rows hold what is not finite."""
        dead = [str(self.senders[row]) for row in (~rows.isfinite().all(1)).nonzero().flatten().tolist()]
        if not dead:
            return error
        return Misuse(
            "MTH-0963",
            f"nodes {', '.join(dead)} sent NaN or infinity, and f = {self.cluster.f('worker')} is declared",
            hint=f"with {self.cluster.method_name} declare a larger f; it takes more workers",
        )

    def median(self, models: list[Vector]) -> Vector:
        """Return the coordinate-wise median of models; in the baselines their mean."""
        with self.meter.timing("aggregation"):
            rows = stacked(models)
            return _flat(rows.mean(0) if self.cluster.is_baseline else self._median_of(rows))

    def _median_of(self, rows: Float[Tensor, "n c"]) -> Float[Tensor, " c"]:
        if not rows.shape[1]:
            return rows[0]
        return order_statistic(RowView.of(rows), Median())

    def gradient(self, step: int) -> Vector:
        """Return our own gradient at the present model."""
        with self.meter.timing("gradient"):
            vector, loss = self.learner.gradient(step)
        self.loss = loss
        return vector

    def finish(self, step: int) -> None:
        """Do what is due after an update of the model: measure, save, tell."""
        self.meter.step()
        event: dict[str, object] = {"event": "step", "step": step}
        if step % self.cluster.training.evaluate_every == 0 or step == self.steps:
            with self.meter.timing("evaluation"):
                found = self.learner.accuracy()
            event |= {"correct": found.correct, "tested": found.tested}
        self.tell(event | {"late": self.meter.latest()})
        if self.keeper.due(step) or step == self.steps:
            self.keeper.save(step, self.learner)

    def answered(self, step: int) -> None:
        """Do what is due after a worker's answer: save, tell."""
        self.meter.step()
        self.tell({"event": "step", "step": step, "loss": self.loss, "late": self.meter.latest()})
        if self.keeper.due(step):
            self.keeper.save(step, self.learner)

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Save the state when a quorum is lost inside, then let the error pass."""
        try:
            yield
        except QuorumLost:
            self.keeper.save(self.at, self.learner)
            raise

    def outcome(self, step: int, *, judged: bool) -> Outcome:
        """Return how this node ended."""
        accuracy = self.learner.accuracy() if judged else None
        return Outcome(step=step, vector=self.learner.vector(), accuracy=accuracy, meter=self.meter)


def gradient_rule(cluster: ClusterConfig) -> AbstractCombiner:
    """Return the rule of a cluster behind its pre-aggregators, with its declared f.

    Raises:
        Misuse: The rule's own conditions do not hold for the quorum, or an option is unknown.
    """
    method = cluster.rule_method
    f = cluster.f("worker")
    pre = [
        instantiate(PRE_AGGREGATORS.load(stage.name), stage.name, _with_f(stage.name, f) | stage.options)
        for stage in cluster.pre
    ]
    given = None if method.name == "mean" else method.options.get("f", f)
    options = {key: value for key, value in method.options.items() if key != "f"}
    assert given is None or isinstance(given, int)
    rule = named_rule(method.name, f=_taken(method.name, given), pre=pre, **options)
    try:
        rule.check(cluster.quorum("worker"))
    except Misuse as error:
        raise Misuse(error.code, f"{error.message} (a quorum of the workers)", hint=error.hint) from None
    return rule


def _with_f(name: str, f: int) -> dict[str, object]:
    return {"f": f} if _has_f(PRE_AGGREGATORS.load(name)) else {}


def _taken(name: str, f: int | None) -> int | None:
    from mithridate.aggregation.names import RULES

    return f if _has_f(RULES.load(name)) else None


def _has_f(method: type) -> bool:
    from dataclasses import fields, is_dataclass

    return is_dataclass(method) and any(item.name == "f" for item in fields(method))


def _flat(vector: Tensor) -> Vector:
    result: Vector = vector.detach().numpy()
    return result
