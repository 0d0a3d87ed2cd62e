"""What an audit will cost, before it starts: FLOPs counted, and minutes from a short calibration on this machine.

Units: a FLOP is one multiplication or addition; a training step on b images costs 3 b forward passes, a crafting step
on p poisons 9 p (a forward and backward pass, and the directional derivative of another), once per surrogate. Every
network counts with its own operations and its own speed: surrogates need not be of the victim's kind.
"""

import dataclasses
import resource
import shutil
import sys
import time
from collections.abc import Container, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mithridate.audit.assembly import Assembly, assemble, job_key
from mithridate.audit.config import AuditConfig
from mithridate.audit.machine import num_workers, one_thread
from mithridate.models.flops import forward_flops
from mithridate.training.loop import begin, steps
from mithridate.training.plan import Phase, Plan

_FORWARDS_PER_TRAINING_IMAGE = 3
_FORWARDS_PER_CRAFTED_IMAGE = 9
_CALIBRATION_STEPS = 6


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The cost of a run.

    Attributes:
        jobs: Trainings and craftings, by kind.
        cells: Combinations of scenario, attack and defense in the whole grid, finished ones as well.
        petaflops: Floating-point operations in all, in 1e15.
        images_per_second: Measured training speed on one thread, or None without a calibration.
        minutes: Wall-clock estimate with `workers` at once, or None without a calibration.
        workers: Processes that will run.
        peak_memory_mib: Memory of this process after the calibration, times the number of workers that add to it.
        disk_mib: Size of the run folder when finished.
    """

    jobs: Mapping[str, int]
    cells: int
    petaflops: float
    images_per_second: float | None
    minutes: float | None
    workers: int
    peak_memory_mib: int
    disk_mib: int
    disk_free_mib: int

    def to_record(self) -> dict[str, Any]:
        """Return the estimate as plain JSON."""
        return asdict(self)


def check(config: AuditConfig, folder: Path, *, calibrate: bool = True) -> Estimate:
    """Validate a configuration against its data and estimate the cost of running it; nothing is written."""
    return estimate(assemble(config, folder), calibrate=calibrate)


def estimate(assembly: Assembly, *, calibrate: bool, done: Container[str] = ()) -> Estimate:
    """Return what the audit will cost.

    Args:
        assembly: The resolved audit.
        calibrate: Time a few real training steps; without it there are no minutes.
        done: Names of jobs whose results are there already and cost nothing.
    """
    names = [job.name for job in assembly.jobs() if job.name not in done]
    kinds = [name.split("/")[0] for name in names]
    work = _work(assembly, names)
    flops = sum(forwards * forward_flops(plan.model) for plan, forwards in work)
    workers = num_workers(assembly.config)
    speed = minutes = None
    if calibrate:
        speeds = {plan.model.name: _images_per_second(plan) for plan, _ in work}
        speed = speeds[assembly.plan.model.name]
        passes = sum(forwards / speeds[plan.model.name] for plan, forwards in work)
        minutes = passes / _FORWARDS_PER_TRAINING_IMAGE / workers / 60
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "linux" else 1 << 20)
    channels, height, width = assembly.data.train.images.shape
    poisons = len(assembly.scenarios[0].poison_ids)
    packs = kinds.count("craft") * poisons * channels * height * width
    free = shutil.disk_usage(next(p for p in (assembly.folder, *assembly.folder.absolute().parents) if p.exists())).free
    return Estimate(
        jobs={kind: kinds.count(kind) for kind in ("surrogate", "craft", "victim")},
        cells=_num_cells(assembly),
        petaflops=float(f"{flops / 1e15:.3g}"),
        images_per_second=None if speed is None else round(speed, 1),
        minutes=None if minutes is None else float(f"{minutes:.2g}"),
        workers=workers,
        peak_memory_mib=peak * workers,
        disk_mib=2 + packs // 2**20 + _weights_mib(assembly),
        disk_free_mib=free >> 20,
    )


def _num_cells(assembly: Assembly) -> int:
    """Count the cells that have a victim; a clean victim is one of every scenario."""
    cells = set()
    for job in assembly.jobs():
        match job.name.split("/"):
            case ["victim", "none", defense, _]:
                cells |= {(job_key(scenario), "none", defense) for scenario in assembly.scenarios}
            case ["victim", label, defense, key, _]:
                cells.add((key, label, defense))
    return len(cells)


def _work(assembly: Assembly, names: Iterable[str]) -> list[tuple[Plan, float]]:
    """Return the work of the named jobs: for each network, by name, forward passes of single images.

    The plan stands for its network; the victim's is always there. A crafting divides its passes among its surrogates.
    """
    plans = {plan.model.name: plan for plan in (*assembly.surrogates, assembly.plan)}
    total = {assembly.plan.model.name: 0.0}
    for name in names:
        for plan, forwards in _job_work(assembly, name):
            total[plan.model.name] = total.get(plan.model.name, 0.0) + forwards
    return [(plans[model], forwards) for model, forwards in total.items()]


def _job_work(assembly: Assembly, name: str) -> list[tuple[Plan, float]]:
    """Return the networks that a job works on, each with the forward passes that it makes."""
    rows = len(assembly.data.train)
    match name.split("/"):
        case ["craft", label, _]:
            attack = assembly.attacks[label]
            plans = assembly.surrogates[: attack.surrogates_needed] or (assembly.plan,)
            passes = _FORWARDS_PER_CRAFTED_IMAGE * attack.crafting_passes / len(plans)
            return [(plan, passes * len(assembly.scenarios[0].poison_ids)) for plan in plans]
        case ["surrogate", number]:
            plan = assembly.surrogates[int(number)]
            return [(plan, float(_FORWARDS_PER_TRAINING_IMAGE * rows * plan.epochs))]
        case ["victim", _, defense, *_]:
            chosen, plan = assembly.defenses[defense], assembly.plan
            extra = 0.0 if chosen is None else 2 * chosen.extra_passes(plan)
            return [(plan, rows * (_FORWARDS_PER_TRAINING_IMAGE * plan.epochs + extra))]
    raise AssertionError(name)


def _images_per_second(plan: Plan) -> float:
    """Time a few real steps on one thread, after one that warms up."""
    step = plan.phases[0].step
    short = dataclasses.replace(plan, phases=(Phase(step=step, epochs=1),))
    one_step = dataclasses.replace(short, data=short.data.select(_first(short, 1)))
    threads = torch.get_num_threads()
    one_thread()
    try:
        for _ in steps(one_step, 0, begin(one_step, 0)):
            pass
        some = dataclasses.replace(short, data=short.data.select(_first(short, _CALIBRATION_STEPS)))
        run = begin(some, 0)
        begun = time.perf_counter()
        for _ in steps(some, 0, run):
            pass
        return len(some.data) / (time.perf_counter() - begun)
    finally:
        torch.set_num_threads(threads)


def _first(plan: Plan, num_steps: int) -> torch.Tensor:
    """Return the ids of so many rows as fill the given number of steps."""
    batch = -(-len(plan.data) // plan.phases[0].step.draw.steps_per_epoch(len(plan.data)))
    return torch.arange(min(len(plan.data), num_steps * batch), device=plan.data.labels.device)


def _weights_mib(assembly: Assembly) -> int:
    nets = [plan.model.build(0) for plan in assembly.surrogates]
    return sum(4 * p.numel() for net in nets for p in net.parameters()) >> 20
