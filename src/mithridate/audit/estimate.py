"""What an audit will cost, before it starts: FLOPs counted, and minutes from a short calibration on this machine.

Units: a FLOP is one multiplication or addition; a training step on b images costs 3 b forward passes, a crafting step
on p poisons 9 p (a forward and backward pass, and the directional derivative of another), once per surrogate. Every
network counts with its own operations and its own speed: surrogates need not be of the victim's kind.

Minutes and memory of a crafting with surrogates come from steps of the attack itself, on fresh networks of the right
kinds: a step costs the same whatever their weights. For large networks all poisons would take too long, so one chunk of
them is enough: activations are those of a chunk, and time and images grow in proportion to the poisons.
"""

import math
import resource
import shutil
import sys
import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from mithridate.attacks._base import AbstractAttack, AttackKit
from mithridate.audit.assembly import Assembly, assemble, job_key
from mithridate.audit.config import AuditConfig
from mithridate.audit.machine import num_workers, one_thread
from mithridate.core.errors import Misuse
from mithridate.models.flops import forward_flops
from mithridate.numerics.matching_problem import fitting_chunk
from mithridate.training.contracts import augmentation
from mithridate.training.loop import begin, steps
from mithridate.training.plan import Phase, Plan

_FORWARDS_PER_TRAINING_IMAGE = 3
_FORWARDS_PER_CRAFTED_IMAGE = 9
_CALIBRATION_STEPS = 6
_CRAFTING_SECONDS = 0.2
_FLOATS_PER_POISON_PIXEL = 13
"""Clean images, their change, its moments, gradient and update: `brew` holds 12 to 14 at its peak, as measured."""


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
        peak_device_mib: What torch had allocated on the CUDA device at most by then; None elsewhere or without one.
        disk_mib: Size of the run folder when finished.
    """

    jobs: Mapping[str, int]
    cells: int
    petaflops: float
    images_per_second: float | None
    minutes: float | None
    workers: int
    peak_memory_mib: int
    peak_device_mib: int | None
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
        calibrate: Time a few real steps of training and crafting; without it there are no minutes.
        done: Names of jobs whose results are there already and cost nothing.
    """
    names = [job.name for job in assembly.jobs() if job.name not in done]
    kinds = [name.split("/")[0] for name in names]
    flops = sum(forwards * forward_flops(plan.model) for plan, forwards in _work(assembly, names))
    workers = num_workers(assembly.config)
    timing = _calibrated(assembly, names) if calibrate else _Timing()
    on_cuda = assembly.config.device.startswith("cuda")
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if sys.platform == "linux" else 1)
    host += 0 if on_cuda else timing.unseen_bytes
    device = torch.cuda.max_memory_allocated(assembly.plan.device) + timing.unseen_bytes if on_cuda else 0
    channels, height, width = assembly.data.train.images.shape
    poisons = len(assembly.scenarios[0].poison_ids)
    packs = kinds.count("craft") * poisons * channels * height * width
    free = shutil.disk_usage(next(p for p in (assembly.folder, *assembly.folder.absolute().parents) if p.exists())).free
    return Estimate(
        jobs={kind: kinds.count(kind) for kind in ("surrogate", "craft", "victim")},
        cells=_num_cells(assembly),
        petaflops=float(f"{flops / 1e15:.3g}"),
        images_per_second=None if timing.speed is None else round(timing.speed, 1),
        minutes=None if timing.seconds is None else float(f"{timing.seconds / workers / 60:.2g}"),
        workers=workers,
        peak_memory_mib=(host >> 20) * workers,
        peak_device_mib=device >> 20 if on_cuda and calibrate else None,
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


@dataclass(frozen=True, kw_only=True)
class _Timing:
    """What a calibration found.

    Attributes:
        speed: Images per second of the victim's training.
        seconds: Of all jobs, one after another.
        unseen_bytes: Memory of those poisons that a measured crafting left out.
    """

    speed: float | None = None
    seconds: float | None = None
    unseen_bytes: int = 0


class _Enough(Exception):  # noqa: N818 - it is no error: it ends a crafting of which enough was seen
    pass


def _calibrated(assembly: Assembly, names: Sequence[str]) -> _Timing:
    """Train and craft for a few steps, and return what the named jobs will take by that."""
    labels = {name.split("/")[1] for name in names if name.startswith("craft/")}
    crafted = {label: _crafting_seconds(assembly, assembly.attacks[label]) for label in sorted(labels)}
    seen = {label: seconds for label, seconds in crafted.items() if seconds is not None}
    seconds, counted = 0.0, []
    for name in names:
        kind, label, *_ = name.split("/")
        if kind == "craft" and label in seen:
            seconds += seen[label]
        else:
            counted.append(name)
    work = _work(assembly, counted)
    speeds = {plan.model.name: _images_per_second(plan) for plan, _ in work}
    passes = sum(forwards / speeds[plan.model.name] for plan, forwards in work)
    unseen = max((_unseen_poisons(assembly, assembly.attacks[label]) for label in seen), default=0)
    return _Timing(
        speed=speeds[assembly.plan.model.name],
        seconds=seconds + passes / _FORWARDS_PER_TRAINING_IMAGE,
        unseen_bytes=unseen * _FLOATS_PER_POISON_PIXEL * 4 * math.prod(assembly.data.train.images.shape),
    )


def _crafting_seconds(assembly: Assembly, attack: AbstractAttack) -> float | None:
    """Return how long a crafting takes on one thread, by a few of its steps on untrained surrogates.

    None for an attack that has none, that cannot be told to report every step, or that does not bear such surrogates:
    whether it bears the real ones is for the run to find out. The steps run from the first report to the second, and on
    until enough time has passed to be measured: what comes before them comes once, and warms up.
    """
    scenario = assembly.scenarios[0]
    if not attack.surrogates_needed or not {"steps", "save_every"} <= {field.name for field in fields(attack)}:
        return None
    short: AbstractAttack = replace(attack, **{"save_every": 1, "steps": max(2, getattr(attack, "steps", 2))})
    left = len(scenario.poison_ids) - _unseen_poisons(assembly, attack)
    reports: list[tuple[float, float]] = []

    def tell(word: Mapping[str, Any]) -> None:
        if "done" in word:
            reports.append((time.perf_counter(), float(word["done"])))
        if len(reports) > 1 and reports[-1][0] - reports[0][0] >= _CRAFTING_SECONDS:
            raise _Enough

    kit = AttackKit(
        data=assembly.data,
        surrogates=tuple(p.model.build(0).to(p.device) for p in assembly.surrogates[: attack.surrogates_needed]),
        augment=augmentation(assembly.plan),
        progress=tell,
    )
    with _on_one_thread(), suppress(_Enough, Misuse):
        short.craft(kit, replace(scenario, poison_ids=scenario.poison_ids[:left]), seed=0)
    if len(reports) < 2:
        return None
    (begun, before), (ended, after) = reports[0], reports[-1]
    seconds_per_pass = (ended - begun) / ((after - before) * short.crafting_passes)
    return seconds_per_pass * attack.crafting_passes * len(scenario.poison_ids) / left


def _unseen_poisons(assembly: Assembly, attack: AbstractAttack) -> int:
    """Return how many poisons a measured crafting leaves out: those beyond one chunk of the attack."""
    _, height, width = assembly.data.train.images.shape
    chunk = getattr(attack, "chunk", None) or fitting_chunk((height, width), torch.device(assembly.plan.device))
    return max(0, len(assembly.scenarios[0].poison_ids) - chunk)


def _images_per_second(plan: Plan) -> float:
    """Time a few real steps on one thread, after one that warms up."""
    step = plan.phases[0].step
    short = replace(plan, phases=(Phase(step=step, epochs=1),))
    one_step = replace(short, data=short.data.select(_first(short, 1)))
    with _on_one_thread():
        for _ in steps(one_step, 0, begin(one_step, 0)):
            pass
        some = replace(short, data=short.data.select(_first(short, _CALIBRATION_STEPS)))
        run = begin(some, 0)
        begun = time.perf_counter()
        for _ in steps(some, 0, run):
            pass
        return len(some.data) / (time.perf_counter() - begun)


@contextmanager
def _on_one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    one_thread()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _first(plan: Plan, num_steps: int) -> torch.Tensor:
    """Return the ids of so many rows as fill the given number of steps."""
    batch = -(-len(plan.data) // plan.phases[0].step.draw.steps_per_epoch(len(plan.data)))
    return torch.arange(min(len(plan.data), num_steps * batch), device=plan.data.labels.device)


def _weights_mib(assembly: Assembly) -> int:
    nets = [plan.model.build(0) for plan in assembly.surrogates]
    return sum(4 * p.numel() for net in nets for p in net.parameters()) >> 20
