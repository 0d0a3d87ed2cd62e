"""What `check` says that an audit costs: cells, operations, minutes and memory, each against a count of its own."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import mithridate.audit.estimate as module
from mithridate.audit.assembly import Assembly, assemble
from mithridate.audit.config import AuditConfig
from mithridate.audit.estimate import estimate
from mithridate.core.errors import Misuse
from mithridate.models.flops import forward_flops
from mithridate.numerics.matching_problem import MatchingProblem
from mithridate.training.plan import Plan

BREW: dict[str, Any] = {"name": "witches-brew", "options": {"restarts": 2, "steps": 5}}
NOISE = {"name": "friendly-noise", "options": {"components": "random"}}


def assembled(folder: Path, **changes: Any) -> Assembly:
    """Return a small audit of digits."""
    values = {"scenarios": {"count": 2}, "attacks": [BREW], **changes}
    return assemble(AuditConfig.model_validate(values), folder)


@pytest.mark.parametrize(
    ("changes", "cells"),
    [
        ({}, 2 * 3),
        ({"defenses": [NOISE]}, 2 * 3 * 2),
        ({"defenses": [NOISE], "controls": "undefended"}, 2 * (3 * 2 - 1)),
        ({"defenses": [NOISE, "robust-aggregation"], "controls": "undefended", "victims": 3}, 2 * (3 * 3 - 2)),
        ({"attacks": ["none"], "defenses": [NOISE], "controls": "undefended"}, 2 * (2 * 2 - 1)),
        ({"attacks": ["badnets", "blended"], "scenarios": {"count": 3}, "defenses": [NOISE]}, 3 * 4 * 2),
        ({"attacks": ["badnets"], "scenarios": {}, "defenses": [NOISE], "controls": "undefended"}, 3 * 2 - 1),
        ({"scenarios": {"source": "random:3"}}, 3),
    ],
)
def test_cells_are_those_in_which_victims_train(tmp_path: Path, changes: dict[str, Any], cells: int) -> None:
    assembly = assembled(tmp_path, **changes)
    assert estimate(assembly, calibrate=False).cells == assembly.config.num_cells == cells


@pytest.mark.parametrize(
    "surrogates", [("mlp",), ("mlp-w128",), ("convnet3",), ("mlp", "mlp-w128", "mlp", "mlp-w128", "convnet3", "mlp")]
)
def test_every_network_counts_with_its_own_operations(tmp_path: Path, surrogates: tuple[str, ...]) -> None:
    """An oracle by hand: operations of the surrogates' training, of two craftings and of all victims."""
    many = {"name": "witches-brew", "options": {**BREW["options"], "num_surrogates": len(surrogates)}}
    assembly = assembled(tmp_path, attacks=[many], surrogate={"models": list(surrogates)})
    rows, poisons = len(assembly.data.train), len(assembly.scenarios[0].poison_ids)
    own = [forward_flops(plan.model) for plan in assembly.surrogates]
    trained = sum(3 * rows * plan.epochs * flops for plan, flops in zip(assembly.surrogates, own, strict=True))
    crafted = 2 * (2 * 5) * 9 * poisons * sum(own)
    victims = (3 + 2 * 2) * 3 * rows * assembly.plan.epochs * forward_flops(assembly.plan.model)
    found = estimate(assembly, calibrate=False)
    assert found.petaflops == pytest.approx((trained + crafted + victims) / 1e15, rel=5e-3)
    left = estimate(assembly, calibrate=False, done={f"surrogate/{k}" for k in range(len(surrogates))})
    assert left.petaflops == pytest.approx((crafted + victims) / 1e15, rel=5e-3)


def test_every_network_takes_the_time_of_its_own_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is timed once; an epoch of a surrogate ten times slower than the victim takes ten times as long."""
    timed: list[str] = []

    def speed(plan: Plan) -> float:
        timed.append(plan.model.name)
        return {"mlp": 1000.0, "mlp-w128": 100.0}[plan.model.name]

    monkeypatch.setattr(module, "_images_per_second", speed)
    monkeypatch.setattr(module, "_crafting_seconds", lambda *_: None)
    three = {"name": "witches-brew", "options": {**BREW["options"], "num_surrogates": 3}}
    models = ["mlp-w128", "mlp", "mlp-w128"]
    assembly = assembled(tmp_path, attacks=[three], surrogate={"models": models}, jobs=1)
    jobs = {job.name for job in assembly.jobs()}
    seconds = len(assembly.data.train) * assembly.plan.epochs / 1000
    for number, times in enumerate((10, 1, 10)):
        found = estimate(assembly, calibrate=True, done=jobs - {f"surrogate/{number}"})
        assert found.minutes == pytest.approx(times * seconds / 60, rel=0.05)
        assert found.images_per_second == 1000
    assert timed == ["mlp", "mlp-w128", "mlp", "mlp", "mlp-w128"]


class Bench:
    """A machine of known speed: a matched poison takes 10 ms a network and leaves the process at 700 MiB.

    Training runs at 1,000 images a second and needs 500 MiB.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.mib = 0.0, 500
        self.steps: list[tuple[int, list[int]]] = []  # poisons, and parameters of every network
        gradient = MatchingProblem.gradient

        def matched(problem: MatchingProblem, x: Tensor, draw: Any) -> tuple[Tensor, Tensor]:
            self.now += 0.01 * len(x) * len(problem.surrogates)
            self.mib = 700
            self.steps.append((len(x), [sum(surrogate.network.sizes) for surrogate in problem.surrogates]))
            self.augment, self.threads = problem.augment, torch.get_num_threads()
            return gradient(problem, x, draw)

        monkeypatch.setattr(MatchingProblem, "gradient", matched)
        monkeypatch.setattr(module, "_images_per_second", lambda _: 1000.0)
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: self.now))
        usage = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda _: SimpleNamespace(ru_maxrss=self.mib << 10))
        monkeypatch.setattr(module, "resource", usage)
        monkeypatch.setattr(module, "sys", SimpleNamespace(platform="linux"))


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def others(assembly: Assembly) -> set[str]:
    """Return all jobs but the craftings of the attack."""
    return {job.name for job in assembly.jobs() if not job.name.startswith("craft/witches-brew/")}


@pytest.mark.parametrize("options", [{}, {"chunk": 16}, {"num_surrogates": 3}, {"steps": 1}, {"save_every": 1000}])
def test_a_crafting_takes_what_its_steps_take(tmp_path: Path, bench: Bench, options: dict[str, Any]) -> None:
    """Whatever part of the poisons is measured: two scenarios, each all steps of all restarts on all networks."""
    brew = {"name": "witches-brew", "options": {**BREW["options"], **options}}
    assembly = assembled(tmp_path, attacks=[brew], jobs=1)
    found = estimate(assembly, calibrate=True, done=others(assembly))
    passes, poisons = assembly.attacks["witches-brew"].crafting_passes, len(assembly.scenarios[0].poison_ids)
    assert found.minutes == pytest.approx(2 * passes * poisons * 0.01 / 60, rel=0.05)
    assert {rows for rows, _ in bench.steps} == {options.get("chunk", poisons)}
    assert len(bench.steps) <= 4  # it has seen enough
    assert bench.threads == 1


def test_the_measured_networks_are_of_the_attackers_kinds(tmp_path: Path, bench: Bench) -> None:
    brew = {"name": "witches-brew", "options": {**BREW["options"], "num_surrogates": 2}}
    models = ("mlp-w128", "convnet3")
    recipe = {"augment": True}
    assembly = assembled(tmp_path, attacks=[brew], surrogate={"models": list(models)}, recipe_options=recipe)
    estimate(assembly, calibrate=True)
    nets = [plan.model.build(0) for plan in assembly.surrogates]
    sizes = [sum(p.numel() for p in net.parameters()) for net in nets]
    assert bench.steps[0][1] == pytest.approx(sizes, rel=0.05)  # norms are folded
    assert bench.augment is not None and not list(tmp_path.iterdir())


def test_peak_memory_covers_crafting_and_the_poisons_beyond_a_chunk(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FLOATS_PER_POISON_PIXEL", 2**20 // (4 * 64))  # a MiB for each image of digits
    for options, more in (({}, 0), ({"chunk": 16}, 87 - 16)):
        brew = {"name": "witches-brew", "options": {**BREW["options"], **options}}
        assembly = assembled(tmp_path, attacks=[brew], jobs=3)
        crafts = {job.name for job in assembly.jobs() if job.name.startswith("craft/")}
        bench.mib = 500
        assert estimate(assembly, calibrate=True, done=crafts).peak_memory_mib == 3 * 500
        assert estimate(assembly, calibrate=False).peak_memory_mib == 3 * 500
        found = estimate(assembly, calibrate=True)
        assert (found.peak_memory_mib, found.peak_device_mib) == (3 * (700 + more), None)


def test_what_is_done_is_not_measured_again(tmp_path: Path, bench: Bench) -> None:
    assembly = assembled(tmp_path, jobs=1)
    jobs = {job.name for job in assembly.jobs()}
    assert estimate(assembly, calibrate=True, done=jobs).minutes == 0
    victim = "victim/witches-brew/none/0/0"
    seconds = len(assembly.data.train) * assembly.plan.epochs / 1000
    found = estimate(assembly, calibrate=True, done=jobs - {victim})
    assert found.minutes == pytest.approx(seconds / 60, rel=0.05)
    assert not bench.steps


def test_an_attack_that_bears_no_untrained_surrogates_is_estimated_by_its_operations(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assembly = assembled(tmp_path, jobs=1)
    brew = assembly.attacks["witches-brew"]

    def refuse(*_: object, **__: object) -> None:
        raise Misuse("MTH-0603", "no usable gradient")

    monkeypatch.setattr(type(brew), "craft", refuse)
    found = estimate(assembly, calibrate=True, done=others(assembly))
    images = 2 * 9 / 3 * brew.crafting_passes * len(assembly.scenarios[0].poison_ids)
    assert found.minutes == pytest.approx(images / 1000 / 60, rel=0.05)


def test_measuring_a_crafting_changes_no_thread_count_and_no_generator(tmp_path: Path) -> None:
    assembly = assembled(tmp_path)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    found = estimate(assembly, calibrate=True)
    assert found.minutes is not None and found.minutes > 0
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_memory_of_the_device_is_a_figure_of_its_own(tmp_path: Path) -> None:
    found = estimate(assembled(tmp_path, device="cuda"), calibrate=True)
    assert found.peak_device_mib is not None and found.peak_device_mib > 0
