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

from collections.abc import Iterable

from mithridate.byzantine.protocols._base import Outcome, Post
from mithridate.byzantine.protocols._rejoin import FIRST_LOOK_SECONDS, LOOK_SECONDS, Behind, begin, reached
from mithridate.byzantine.source import Vector
from mithridate.byzantine.transport._base import QuorumLost

_GOODBYE_SECONDS = 5.0


async def server(post: Post) -> Outcome:
    """Run one of the servers to the last step.

    Raises:
        QuorumLost: Too few nodes answered; the state is saved.
    """
    workers = post.cluster.ids("worker")
    step = await begin(post, "server", _catch_up)
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
            step = reached(post, "server")
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
    wanted, waited, deadline, look = tuple(of), 0.0, post.deadline, FIRST_LOOK_SECONDS
    mine = None if own is None else post.frame(kind, step, 0, own)
    with post.meter.timing("waiting"):
        while True:
            look = min(look, deadline - waited)
            try:
                found = await post.transport.collect(kind, step, 0, of=wanted, quorum=quorum, deadline=look, own=mine)
            except QuorumLost as lost:
                waited += look
                if reached(post, "server") > step + post.transport.limits.window:
                    raise Behind from None
                if waited >= deadline:
                    raise QuorumLost(
                        f"{kind}, round {step}", needed=quorum, got=lost.got, missing=lost.missing, seconds=deadline
                    ) from None
                look = min(2 * look, LOOK_SECONDS)
                continue
            return post.noted(found)


async def _catch_up(post: Post) -> int:
    """Take the median of q_ps other servers' models at a gather in progress, and return the step after it.

    Raises:
        QuorumLost: At the deadline.
    """
    others = [node for node in post.cluster.ids("server") if node != post.me]
    quorum = min(post.cluster.quorum("server"), len(others))
    waited, deadline = 0.0, max(post.deadline, LOOK_SECONDS)
    while True:
        step = max(0, reached(post, "server"))
        while not _gathers(post, step):
            step += 1
        try:
            found = await post.transport.collect("gather", step, 0, of=others, quorum=quorum, deadline=LOOK_SECONDS)
        except QuorumLost:
            waited += LOOK_SECONDS
            if waited >= deadline:
                raise
            continue
        post.learner.load(post.median(post.noted(found)))
        return step + 1
