"""One run of a whole cluster in the simulator for the papers on distributed training, and what to write down of it.

The nodes are those of `byzantine`, with real models and real data; only the network is simulated, with random delays.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from mithridate.byzantine.cluster import ClusterConfig
from mithridate.byzantine.messages import Frame
from mithridate.byzantine.mouths import AbstractMouth, Speaker
from mithridate.byzantine.programs import layer_of, learner_of, limits_of, post_of, run_program
from mithridate.byzantine.protocols._base import Outcome, Post, schema_of
from mithridate.byzantine.source import Vector
from mithridate.byzantine.summary import holders
from mithridate.byzantine.transport._base import AbstractTransport
from mithridate.byzantine.transport.schedules import RandomDelays
from mithridate.byzantine.transport.simulator import Simulation, run_simulation
from mithridate.core.errors import WorkError
from mithridate.core.pool import Tell, silent
from mithridate.core.verdicts import Status
from mithridate.data.sources import DataSet
from mithridate.papers._stats import Mean

_EVERY = 20

Note = Callable[[Frame], None]
"""Takes down what an honest node says."""


@final
@dataclass
class Noted(AbstractMouth):
    """Lets another mouth speak, and notes the truth.

    Attributes:
        inner: The mouth.
        note: Is given every frame as the honest program made it.
    """

    inner: AbstractMouth
    note: Note

    async def say(self, speaker: Speaker, frame: Frame, to: Sequence[int]) -> None:
        """Note the frame, then let the mouth say what it likes."""
        self.note(frame)
        await self.inner.say(speaker, frame, to)

    def hear(self, vectors: Sequence[Vector]) -> None:
        """Let the mouth's owner listen."""
        self.inner.hear(vectors)


def ready(post: Post) -> None:
    """Prepare nothing."""
    del post


def run_nodes(
    cluster: ClusterConfig, data: DataSet, *, prepare: Callable[[Post], None] = ready, tell: Tell = silent
) -> Simulation[Outcome | None]:
    """Run a cluster in the simulator until its honest nodes that hold a model are finished.

    Args:
        cluster: The cluster; its addresses are not used.
        data: Its data set.
        prepare: Called with every node before it runs.
        tell: Is told how far the first of these nodes is.

    Raises:
        WorkError: An honest node stopped; with the code of its error.
    """
    first = holders(cluster)[0]

    def told(event: Mapping[str, Any]) -> None:
        if event["event"] == "step" and event["step"] % _EVERY == 0:
            tell({"done": event["step"] / cluster.training.steps})

    learners = {node.id: learner_of(cluster, data, node.id) for node in cluster.nodes}

    async def program(transport: AbstractTransport) -> Outcome | None:
        async with layer_of(cluster, transport, None) as layer:
            post = post_of(cluster, transport, learners[transport.me], layer=layer)
            prepare(post)
            if post.me == first:
                post.tell = told
            return await run_program(post)

    programs: Mapping[int, Callable[[AbstractTransport], Awaitable[Outcome | None]]] = dict.fromkeys(learners, program)
    found = run_simulation(
        programs,
        schema=schema_of(cluster, next(iter(learners.values())).size),
        limits=limits_of(cluster),
        schedule=RandomDelays(),
        seed=cluster.seed,
        until=holders(cluster),
    )
    require_finished(found, holders(cluster))
    return found


def require_finished(found: Simulation[Any], nodes: Iterable[int]) -> None:
    """Raise `WorkError` if one of the nodes stopped.

    Raises:
        WorkError: With the code and the words of its error.
    """
    for node in nodes:
        if node in found.failures:
            error = found.failures[node]
            raise WorkError(error.code, f"node {node}: {error.message}", hint=error.hint)


def accuracies(cluster: ClusterConfig, found: Simulation[Outcome | None]) -> list[float]:
    """Return the accuracy of every honest model."""
    outcomes = [found.results[node] for node in holders(cluster)]
    return [outcome.accuracy.rate for outcome in outcomes if outcome is not None and outcome.accuracy is not None]


def noting(cluster: ClusterConfig, note: Note) -> Callable[[Post], None]:
    """Return what makes the honest nodes that hold a model note what they say."""
    honest = set(holders(cluster))

    def prepare(post: Post) -> None:
        if post.me in honest:
            post.mouth = Noted(post.mouth, note)

    return prepare


WORDS: Mapping[Status, str] = {
    Status.PASS: "holds",
    Status.FAIL: "did not reproduce",
    Status.INCONCLUSIVE: "is undecided",
}
"""What is said of a claim."""


@final
@dataclass(frozen=True)
class Part:
    """One sentence of a claim that has several, and what came of it."""

    words: str
    status: Status


def at_most(found: Mean, bound: float) -> Status:
    """Return whether a mean is at most a bound, as far as its interval says."""
    if found.high <= bound:
        return Status.PASS
    return Status.FAIL if found.low > bound else Status.INCONCLUSIVE


def above(found: Mean, bound: float) -> Status:
    """Return whether a mean is above a bound, as far as its interval says."""
    if found.low > bound:
        return Status.PASS
    return Status.FAIL if found.high <= bound else Status.INCONCLUSIVE


def whole(parts: Sequence[Part]) -> Status:
    """Return the status of a claim: it fails with any of its parts, and is open while any of them is."""
    found = {part.status for part in parts}
    return next((status for status in (Status.FAIL, Status.INCONCLUSIVE) if status in found), Status.PASS)
