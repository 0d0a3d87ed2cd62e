"""The one training loop. It logs nothing and saves nothing: it yields events, and sinks consume them.

It asks the device no question between two events. Randomness is addressed by stage and step, so a run that resumes
from a saved state, or has another stage added, draws the same numbers everywhere else.
"""

from collections.abc import Iterator

import torch
from torch import nn

from mithridate.core.seeds import address
from mithridate.numerics.flat import FlatModule
from mithridate.training._base import AbstractStage, Batch, Clock, Context, Rng, to_unit
from mithridate.training.gradient import Gradient
from mithridate.training.network import (
    autocasting,
    begin_network,
    fill_colour,
    lent_generator,
    may_draw,
    read_only,
)
from mithridate.training.plan import Phase, Plan
from mithridate.training.run import Event, Run
from mithridate.training.step import Step


def train(plan: Plan, seed: int) -> nn.Module:
    """Return the network that the plan trains with this seed, in evaluation mode."""
    run = begin(plan, seed)
    for _event in steps(plan, seed, run):
        pass
    return run.net.module.eval()


def begin(plan: Plan, seed: int) -> Run:
    """Return the run before its first step. Raises `Misuse` if the stages do not fit the model or the data."""
    net = begin_network(plan, address(seed, "init"))
    for phase in plan.phases:
        phase.step.check(net, phase.step.draw.smallest_batch(len(plan.data)))
    return Run(net=FlatModule(net))


def steps(plan: Plan, seed: int, run: Run) -> Iterator[Event]:
    """Advance `run` to the end of the plan, yielding an event after every epoch."""
    rng = Rng(seed, torch.device(plan.device))
    previous: Step | None = plan.phases[run.phase].step if run.states else None
    while run.phase < len(plan.phases):
        phase = plan.phases[run.phase]
        if phase.step is not previous:
            _enter(plan, run, phase, previous, rng)
        yield from _epochs(plan, phase, run, rng)
        previous = phase.step
        run.phase, run.step_in_phase = run.phase + 1, 0


def _stages(step: Step) -> dict[str, AbstractStage]:
    """Return the stages that have a state, by address."""
    views = {f"view/{view.name}": view for view in step.views}
    maps = {f"rows/{row_map.name}": row_map for row_map in step.rows.maps}
    hostile = {"rows/hostile": step.rows.hostile} if step.rows.hostile else {}
    return {"draw": step.draw, **views, "loss": step.loss, "weigh": step.weigh, **maps, **hostile}


def _enter(plan: Plan, run: Run, phase: Phase, previous: Step | None, rng: Rng) -> None:
    """Initialise the stages that are new in this phase; the others keep their state."""
    old = _stages(previous) if previous else {}
    run.states = {key: state for key, state in run.states.items() if key in {*_stages(phase.step), "combine", "update"}}
    clock = Clock(run.step, run.epoch)
    probe, fill = read_only(run.net.module, plan.precision), fill_colour(run.net.module, plan.data)
    for key, stage in _stages(phase.step).items():
        if old.get(key) != stage:
            context = Context(plan.data, probe, fill, rng.child(key).child("init"), clock)
            run.states[key] = stage.init(context)
    if not previous or previous.combine != phase.step.combine:
        run.states["combine"] = phase.step.combine.init()
    if not previous or previous.update != phase.step.update:
        run.states["update"] = phase.step.update.init_update(run.net.values)


def _epochs(plan: Plan, phase: Phase, run: Run, rng: Rng) -> Iterator[Event]:
    step, data, states = phase.step, plan.data, run.states
    autocast = autocasting(plan.precision, rng.device)
    gradient, combine_rng, draw_rng = Gradient(step, run.net, autocast), rng.child("combine"), rng.child("draw")
    view_rngs = {view.name: rng.child(f"view/{view.name}") for view in step.views}
    length = step.draw.steps_per_epoch(len(data))
    run.net.module.train(not plan.head_only)
    dropout = rng.child("dropout") if may_draw(run.net.module) else None
    loss_sum = torch.zeros((), device=rng.device)
    while run.step_in_phase < phase.epochs * length:
        index, weights, states["draw"] = step.draw.draw(states["draw"], draw_rng)
        x = to_unit(data.images.gather(index))
        for view in step.views:
            key = f"view/{view.name}"
            x, states[key] = view.view(x, index, states[key], view_rngs[view.name](run.step))
        columns = {name: column[index] for name, column in data.columns.items()}
        batch = Batch(index, x.contiguous(memory_format=torch.channels_last), data.labels[index], columns)
        with lent_generator(dropout, run.step):
            vector, loss = gradient(batch, weights, states, combine_rng, run.step)
        clock = Clock(run.step, run.epoch + run.step_in_phase % length / length)
        states["update"] = step.update.update(run.net.values, vector, states["update"], clock)
        loss_sum += loss
        run.step, run.step_in_phase = run.step + 1, run.step_in_phase + 1
        if run.step_in_phase % length == 0:
            run.epoch += 1
            yield Event(run.epoch, run.step, loss_sum / length, run)
            loss_sum = torch.zeros_like(loss_sum)
