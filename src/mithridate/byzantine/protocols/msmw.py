"""MSMW: replicated servers, of which f_ps may lie, and workers, of which f_w may. Nobody is trusted.

    scatter   server i -> workers: theta_i;  worker: median of the first q_ps models, gradient there -> all servers
    combine   server: rule of the first q_w gradients, theta_i <- theta_i - lr G
    gather    every T steps, server i -> servers: theta_i <- median of the first q_ps models, its own included

Papers   El-Mhamdi, Guerraoui, Guirguis, Hoang, Rouault, Genuinely Distributed Byzantine Machine Learning (PODC 2020),
         arXiv 1905.03853: ByzSGD, whose first version GuanYu has Multi-Krum on gradients and gathers every step.
Promise  the servers' models contract at every gather, in expectation over the order of delivery. An adversary who
         chooses every delivery can stall it (tests/byzantine), so nothing is promised against one.
Departs  a node that comes back, or has fallen behind by more than is buffered, takes the median of q_ps models of a
         round in progress and goes on from there: a server at a gather, a worker at a scatter. Which round is in
         progress is what f_ps + 1 servers at least speak of. When all servers were stopped they go on from the newest
         checkpoint that q_ps of them have.
"""

import asyncio
from collections.abc import Iterable

import numpy as np

from mithridate.byzantine.messages import Frame
from mithridate.byzantine.protocols._base import Outcome, Post
from mithridate.byzantine.source import Vector
from mithridate.byzantine.transport._base import QuorumLost

_GOODBYE_SECONDS = 5.0
_LOOK_SECONDS = 3.0
_POLL_SECONDS = 0.05


class Behind(Exception):  # noqa: N818 - a situation, not a fault
    """The others are further than frames are buffered."""


async def server(post: Post) -> Outcome:
    """Run one of the servers to the last step.

    Raises:
        QuorumLost: Too few nodes answered; the state is saved.
    """
    workers = post.cluster.ids("worker")
    step = await _begin(post)
    with post.saving():
        while step < post.steps:
            post.at = step
            try:
                await post.say("model", step, post.learner.vector(), to=workers)
                step = await _server_step(post, step)
            except Behind:
                step = await _catch_up(post)
                post.tell({"event": "rejoined", "step": step})
            post.finish(step)
    await post.transport.drain(_GOODBYE_SECONDS)
    return post.outcome(step, judged=True)


async def _server_step(post: Post, step: int) -> int:
    cluster = post.cluster
    servers, workers = cluster.ids("server"), cluster.ids("worker")
    gradients = await _collect(post, "gradient", step, of=workers, quorum=cluster.quorum("worker"))
    post.learner.apply(post.aggregate(gradients, step), step)
    if len(servers) > 1 and _gathers(post, step):
        mine = post.learner.vector()
        await post.say("gather", step, mine, to=servers)
        models = await _collect(post, "gather", step, of=servers, quorum=cluster.quorum("server"), own=mine)
        post.learner.load(post.median(models))
    return step + 1


async def worker(post: Post) -> Outcome:
    """Answer the servers' median model of every round until the last.

    Raises:
        QuorumLost: Too few servers answered.
    """
    servers, quorum = post.cluster.ids("server"), post.cluster.quorum("server")
    post.keeper.restore(post.learner)
    step = 0
    while step < post.steps:
        try:
            models = await _collect(post, "model", step, of=servers, quorum=quorum)
        except Behind:
            step = _reached(post, servers)
            continue
        post.learner.load(post.median(models))
        await post.say("gradient", step, post.gradient(step), to=servers)
        step += 1
        post.answered(step)
    await post.transport.drain(_GOODBYE_SECONDS)
    return post.outcome(step, judged=False)


def _gathers(post: Post, step: int) -> bool:
    """Tell whether the models are gathered after this step; always after the last, so that the end is one model."""
    return (step + 1) % post.cluster.gather_every == 0 or step + 1 == post.steps


async def _collect(
    post: Post, kind: str, step: int, *, of: Iterable[int], quorum: int, own: Vector | None = None
) -> list[Vector]:
    """Collect as `Post.collect` does, but look now and then whether the others have left us behind.

    Raises:
        Behind: They have.
        QuorumLost: At the deadline.
    """
    servers = [node for node in post.cluster.ids("server") if node != post.me]
    wanted, waited, deadline = tuple(of), 0.0, post.deadline
    mine = None if own is None else post.frame(kind, step, 0, own)
    with post.meter.timing("waiting"):
        while True:
            look = min(_LOOK_SECONDS, deadline - waited)
            try:
                found = await post.transport.collect(kind, step, 0, of=wanted, quorum=quorum, deadline=look, own=mine)
            except QuorumLost as lost:
                waited += look
                if _reached(post, servers) > step + post.transport.limits.window:
                    raise Behind from None
                if waited >= deadline:
                    raise QuorumLost(
                        f"{kind}, round {step}", needed=quorum, got=lost.got, missing=lost.missing, seconds=deadline
                    ) from None
                continue
            return post.noted(found)


def _reached(post: Post, servers: Iterable[int]) -> int:
    """Return a round that one honest server at least has reached: the (f_ps + 1)-th highest that servers speak of."""
    claims = sorted((post.transport.stats[node].claimed for node in servers if node != post.me), reverse=True)
    f = post.cluster.f("server")
    return claims[f] if len(claims) > f else -1


async def _begin(post: Post) -> int:
    """Return the step to begin with, and have its model in the learner."""
    servers = post.cluster.ids("server")
    kept = post.keeper.steps()
    step = post.keeper.restore(post.learner)
    if not post.transport.incarnation or len(servers) == 1:
        return step
    running = asyncio.create_task(_running(post, servers))
    restarted = asyncio.create_task(_resume(post, kept or [0]))
    await asyncio.wait({running, restarted}, timeout=post.deadline, return_when=asyncio.FIRST_COMPLETED)
    found = restarted.result() if restarted.done() and restarted.exception() is None else None
    for task in (running, restarted):
        task.cancel()
    await asyncio.gather(running, restarted, return_exceptions=True)
    if found is None:
        step = await _catch_up(post)
    elif found != step:
        step = post.keeper.restore(post.learner, found)
    post.tell({"event": "rejoined", "step": step})
    return step


async def _running(post: Post, servers: Iterable[int]) -> None:
    """Return when the others turn out to be in the middle of the training."""
    while _reached(post, servers) < 1:
        await asyncio.sleep(_POLL_SECONDS)


async def _resume(post: Post, kept: list[int]) -> int:
    """Return the newest step of which q_ps servers have a checkpoint; all of them were stopped.

    Every server says which its two newest checkpoints are. All are awaited for a while, so that all see the same.
    """
    servers, quorum = post.cluster.ids("server"), post.cluster.quorum("server")
    said = np.array([kept[-1], kept[0]], np.int64)
    mine = Frame("resume", 0, 0, post.me, said)
    await post.transport.broadcast(mine, servers)
    try:
        found = await post.transport.collect(
            "resume", 0, 0, of=servers, quorum=len(servers), deadline=_LOOK_SECONDS, own=mine
        )
    except QuorumLost:
        found = await post.transport.collect(
            "resume", 0, 0, of=servers, quorum=quorum, deadline=post.deadline, own=mine
        )
    newest = sorted((int(frame.array()[0]) for frame in found.frames.values()), reverse=True)
    wanted = newest[min(quorum, len(newest)) - 1]
    return max((step for step in kept if step <= wanted), default=0)


async def _catch_up(post: Post) -> int:
    """Take the median of q_ps other servers' models at a gather in progress, and return the step after it.

    Raises:
        QuorumLost: At the deadline.
    """
    others = [node for node in post.cluster.ids("server") if node != post.me]
    quorum = min(post.cluster.quorum("server"), len(others))
    waited, deadline = 0.0, max(post.deadline, _LOOK_SECONDS)
    while True:
        step = max(0, _reached(post, others))
        while not _gathers(post, step):
            step += 1
        try:
            found = await post.transport.collect("gather", step, 0, of=others, quorum=quorum, deadline=_LOOK_SECONDS)
        except QuorumLost:
            waited += _LOOK_SECONDS
            if waited >= deadline:
                raise
            continue
        post.learner.load(post.median(post.noted(found)))
        return step + 1
