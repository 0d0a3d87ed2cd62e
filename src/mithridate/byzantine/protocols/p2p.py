"""P2P: peers without any server, of which f may lie; data may differ from peer to peer.

    step t     g = gradient(theta);  gamma = agree(g, ceil(log2 t) halvings);  theta' = theta - lr gamma
               theta = agree(theta', one halving)

Papers   El-Mhamdi, Farhadkhani, Guerraoui, Guirguis, Hoang, Rouault (NeurIPS 2021), arXiv 2008.00742: learning from
         averaging agreement. Garfield (DSN 2021), arXiv 2010.05888, calls its application LEARN.
Departs  rounds carry tags, so that agreements of two peers never mix; nobody sleeps for a barrier. The batch stays as
         it is, where the theory lets it grow with t. The output is the last model, not one of a common random step. In
         the first step there are no halvings of the gradients: log2 1 = 0.
"""

import contextlib
from collections.abc import Sequence
from math import ceil, log2

from mithridate.byzantine.agreement import Average, averaging, plain_mean
from mithridate.byzantine.broadcast import Reliable
from mithridate.byzantine.cluster import ClusterConfig
from mithridate.byzantine.messages import Frame
from mithridate.byzantine.protocols._base import Outcome, Post
from mithridate.byzantine.protocols._rejoin import LOOK_SECONDS, begin, reached
from mithridate.byzantine.quorums import agreement_rounds
from mithridate.byzantine.source import Vector, stacked
from mithridate.byzantine.transport._base import Collected, QuorumLost

GRADIENTS, MODELS = "agree-g", "agree-m"
_GOODBYE_SECONDS = 5.0


async def peer(post: Post) -> Outcome:
    """Run a peer to the last step.

    Raises:
        QuorumLost: Too few peers answered; the state is saved.
    """
    step = await begin(post, "peer", _catch_up)
    with post.saving():
        while step < post.steps:
            post.at = step
            gradient = post.gradient(step)
            gradient = await agree(post, GRADIENTS, step, gradient, gradient_rounds(post.cluster, step))
            post.learner.apply(gradient, step)
            model = await agree(post, MODELS, step, post.learner.vector(), model_rounds(post.cluster))
            post.learner.load(model)
            step += 1
            post.finish(step)
    await _part(post, step)
    return post.outcome(step, judged=True)


async def agree(post: Post, kind: str, step: int, vector: Vector, rounds: int) -> Vector:
    """Return our vector after some rounds of averaging agreement.

    Args:
        post: This peer.
        kind: What is agreed on: `GRADIENTS` or `MODELS`.
        step: The training step.
        vector: What we begin with.
        rounds: How many rounds.
    """
    average = _average(post.cluster)
    for phase in range(rounds):
        frame = post.frame(kind, step, phase, vector)
        await post.mouth.say(post.voice, frame, post.cluster.ids("peer"))
        with post.meter.timing("waiting"):
            found = await _take(post, frame)
        taken = post.noted(found)
        post.mouth.hear([taken[place] for place, node in enumerate(found.frames) if node != post.me])
        vector = _averaged(post, taken, average)
    return vector


async def _take(post: Post, frame: Frame) -> Collected:
    """Return the vectors of a round: the first q, or for rb-tm all that are here once n - f peers are witnesses."""
    place = (frame.kind, frame.round, frame.phase)
    if isinstance(post.layer, Reliable) and post.cluster.agreement.kind == "rb-tm" and not post.cluster.is_baseline:
        return await post.layer.collect_witnessed(*place, deadline=post.deadline, own=frame)
    peers, quorum = post.cluster.ids("peer"), post.cluster.quorum("peer")
    return await post.voice.collect(*place, of=peers, quorum=quorum, deadline=post.deadline, own=frame)


def _averaged(post: Post, vectors: Sequence[Vector], average: Average) -> Vector:
    with post.meter.timing("aggregation"):
        result: Vector = average(stacked(vectors)).detach().numpy()
        return result


def _average(cluster: ClusterConfig) -> Average:
    return plain_mean if cluster.is_baseline else averaging(cluster.agreement.kind, cluster.f("peer"))


def gradient_rounds(cluster: ClusterConfig, step: int) -> int:
    """Return the rounds on gradients in a step: those of the file, or of ceil(log2 t) halvings; a baseline has one."""
    if cluster.is_baseline:
        return 1
    wanted = cluster.agreement.gradient_rounds
    return _rounds(cluster, ceil(log2(step + 1))) if wanted is None else wanted


def model_rounds(cluster: ClusterConfig) -> int:
    """Return the rounds on models in a step: those of the file, or of one halving; a baseline has one."""
    if cluster.is_baseline:
        return 1
    wanted = cluster.agreement.model_rounds
    return _rounds(cluster, 1) if wanted is None else wanted


def _rounds(cluster: ClusterConfig, halvings: int) -> int:
    peers, f = len(cluster.ids("peer")), cluster.f("peer")
    return agreement_rounds(cluster.agreement.kind, halvings=halvings, peers=peers, f=f)


async def _catch_up(post: Post) -> int:
    """Average the models of a quorum of other peers in a step that is in progress, and return the step after it.

    Raises:
        QuorumLost: At the deadline.
    """
    others = [node for node in post.cluster.ids("peer") if node != post.me]
    quorum, last = min(post.cluster.quorum("peer"), len(others)), max(0, model_rounds(post.cluster) - 1)
    waited, deadline = 0.0, max(post.deadline, LOOK_SECONDS)
    while True:
        step = max(0, reached(post, "peer"))
        try:
            found = await post.voice.collect(MODELS, step, last, of=others, quorum=quorum, deadline=LOOK_SECONDS)
        except QuorumLost:
            waited += LOOK_SECONDS
            if waited >= deadline:
                raise
            continue
        post.learner.load(_averaged(post, post.noted(found), _average(post.cluster)))
        return step + 1


async def _part(post: Post, step: int) -> None:
    """Stay until the others are done too, or for a while: slower peers need our echoes."""
    mine = Frame("done", step, 0, post.me, b".")
    peers = post.cluster.ids("peer")
    await post.voice.broadcast(mine, peers)
    with contextlib.suppress(QuorumLost):
        await post.voice.collect("done", step, 0, of=peers, quorum=len(peers), deadline=_GOODBYE_SECONDS, own=mine)
    await post.transport.drain(_GOODBYE_SECONDS)
