"""Coming back: after a crash of one node, after a stop of all, or after falling too far behind.

    one node    the others are in the middle of the training: take what q of them agree on, and go on from there
    all nodes   nobody is: go on from the newest checkpoint that q of the nodes have
    which       both are waited for, and what happens first decides

A round is in progress when f + 1 nodes at least speak of it, so that liars alone cannot send anybody into the future.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import numpy as np

from mithridate.byzantine.messages import Frame
from mithridate.byzantine.protocols._base import Post
from mithridate.byzantine.transport._base import QuorumLost

FIRST_LOOK_SECONDS, LOOK_SECONDS = 0.2, 3.0
_POLL_SECONDS = 0.05
CatchUp = Callable[[Post], Awaitable[int]]
"""Brings the learner to the others' state and returns the step to go on with."""


class Behind(Exception):  # noqa: N818 - a situation, not a fault
    """The others are further than frames are buffered."""


def reached(post: Post, role: str) -> int:
    """Return a round that one honest node of the role at least has reached: the (f + 1)-th highest spoken of; or -1."""
    nodes = [node for node in post.cluster.ids(role) if node != post.me]
    claims = sorted((post.transport.stats[node].claimed for node in nodes), reverse=True)
    f = post.cluster.f(role)
    return claims[f] if len(claims) > f else -1


async def begin(post: Post, role: str, catch_up: CatchUp) -> int:
    """Return the step to begin with, and have its model in the learner.

    Args:
        post: A node that holds a model.
        role: Of the nodes that hold models.
        catch_up: How to join those who are in the middle of the training.

    Raises:
        QuorumLost: Nobody is there.
    """
    nodes, kept = post.cluster.ids(role), post.keeper.steps()
    step = post.keeper.restore(post.learner)
    if not post.transport.incarnation or len(nodes) == 1:
        return step
    running = asyncio.create_task(_running(post, role))
    restarted = asyncio.create_task(_resume(post, role, nodes, kept or [0]))
    await asyncio.wait({running, restarted}, timeout=post.deadline, return_when=asyncio.FIRST_COMPLETED)
    found = restarted.result() if restarted.done() and restarted.exception() is None else None
    for task in (running, restarted):
        task.cancel()
    await asyncio.gather(running, restarted, return_exceptions=True)
    if found is None:
        step = await catch_up(post)
    elif found != step:
        step = post.keeper.restore(post.learner, found)
    post.tell({"event": "rejoined", "step": step})
    return step


async def _running(post: Post, role: str) -> None:
    """Return when the others turn out to be in the middle of the training."""
    while reached(post, role) < 1:
        await asyncio.sleep(_POLL_SECONDS)


async def _resume(post: Post, role: str, nodes: Iterable[int], kept: list[int]) -> int:
    """Return the newest step of which a quorum has a checkpoint; all of them were stopped.

    Every node says which is its newest. All are awaited for a while, so that all see the same.
    """
    everyone, quorum = tuple(nodes), post.cluster.quorum(role)
    mine = Frame("resume", 0, 0, post.me, np.array([kept[-1], kept[0]], np.int64))
    await post.voice.broadcast(mine, everyone)
    try:
        found = await post.voice.collect(
            "resume", 0, 0, of=everyone, quorum=len(everyone), deadline=LOOK_SECONDS, own=mine
        )
    except QuorumLost:
        found = await post.voice.collect("resume", 0, 0, of=everyone, quorum=quorum, deadline=post.deadline, own=mine)
    newest = sorted((int(frame.array()[0]) for frame in found.frames.values()), reverse=True)
    wanted = newest[min(quorum, len(newest)) - 1]
    return max((step for step in kept if step <= wanted), default=0)
