"""SSMW: one trusted server, workers of which f_w may lie.

    server    theta(t) -> all workers;  first n_w - f_w gradients of round t;  theta(t+1) = theta(t) - lr rule(...)
    worker    on a model newer than the last: send its gradient there, under the model's round

Papers   Garfield (DSN 2021), arXiv 2010.05888, which calls it SSMW; AggregaThor (MLSys 2019).
Departs  workers follow the newest model, so a slow worker skips what is over and never answers late. A restarted server
         begins at its last checkpoint, with rounds that were never used before (`GENERATION`), which workers take for
         newer ones.
"""

from mithridate.byzantine.protocols._base import GENERATION, Outcome, Post

_GOODBYE_SECONDS = 5.0


async def server(post: Post) -> Outcome:
    """Run the trusted server to the last step.

    Raises:
        QuorumLost: Too few workers answered; the state is saved.
    """
    workers, quorum = post.cluster.ids("worker"), post.cluster.quorum("worker")
    generation = post.transport.incarnation * GENERATION
    step = post.keeper.restore(post.learner)
    with post.saving():
        while step < post.steps:
            post.at = step
            await post.say("model", generation + step, post.learner.vector(), to=workers)
            gradients = await post.collect("gradient", generation + step, of=workers, quorum=quorum)
            post.learner.apply(post.aggregate(gradients, step), step)
            step += 1
            post.finish(step)
    await post.say("model", generation + step, post.learner.vector(), to=workers)
    await post.transport.drain(_GOODBYE_SECONDS)
    return post.outcome(step, judged=True)


async def worker(post: Post) -> Outcome:
    """Answer every newer model until the last.

    Raises:
        QuorumLost: The server was silent for too long.
    """
    servers = post.cluster.ids("server")
    post.keeper.restore(post.learner)
    last, step = -1, 0
    while True:
        with post.meter.timing("waiting"):
            model = await post.transport.newest("model", of=servers, after=last, deadline=post.deadline)
        last, step = model.round, model.round % GENERATION
        if step >= post.steps:
            return post.outcome(step, judged=False)
        post.learner.load(model.array())
        await post.say("gradient", last, post.gradient(step), to=servers)
        post.answered(step + 1)
