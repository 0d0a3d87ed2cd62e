"""Several victims at once: one process a victim against weights stacked along a batch dimension.

Both train the same number of victims for the same steps on random pixels. `processes` is the library's own pool and
loop, one thread a process; `stacked` is vmap over stacked parameters with the plainest SGD, all cores, which flatters
it (no momentum, no augmentation, no bookkeeping). The ratio says how many times faster processes are.

    python benchmarks/victims.py [--victims 8] [--repeats 5]
"""

import argparse
import os
import statistics
import time

import torch
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional

from mithridate.core.pool import Job, run_jobs
from mithridate.data.examples import Examples
from mithridate.data.stores import ResidentStore
from mithridate.models.spec import ModelSpec
from mithridate.training.draw import Shuffle
from mithridate.training.loop import train
from mithridate.training.plan import Phase, Plan
from mithridate.training.step import Step

CASES = (("mlp", 1, 8, 64, 60), ("lenet", 1, 28, 64, 4), ("convnet64-w16", 3, 32, 32, 2))


def examples(channels: int, size: int, count: int) -> Examples:
    gen = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, channels, size, size), generator=gen, dtype=torch.uint8)
    labels = torch.randint(0, 10, (count,), generator=gen)
    return Examples(name="random", images=ResidentStore(pixels), labels=labels, classes=tuple("0123456789"))


def spec_of(model: str, channels: int, size: int) -> ModelSpec:
    mean, std = (0.5,) * channels, (0.25,) * channels
    return ModelSpec(name=model, num_classes=10, channels=channels, size=size, mean=mean, std=std)


def by_processes(spec: ModelSpec, data: Examples, batch: int, victims: int) -> float:
    plan = Plan(data=data, model=spec, phases=(Phase(step=Step(draw=Shuffle(batch=batch)), epochs=1),))

    def execute(name: str, _tell: object) -> dict[str, int]:
        train(plan, int(name))
        return {}

    begun = time.perf_counter()
    cores = len(os.sched_getaffinity(0))
    jobs = [Job(str(k)) for k in range(victims)]
    for _ in run_jobs(jobs, execute, workers=cores, setup=lambda: torch.set_num_threads(1)):
        pass
    return time.perf_counter() - begun


def by_stacking(spec: ModelSpec, data: Examples, batch: int, victims: int) -> float:
    nets = [spec.build(k) for k in range(victims)]
    parameters, buffers = stack_module_state(nets)
    base = nets[0]

    def loss(weights: dict, state: dict, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(functional_call(base, (weights, state), (x,)), y)

    begun = time.perf_counter()
    orders = torch.stack([torch.randperm(len(data)) for _ in range(victims)])
    pixels = data.images.gather(torch.arange(len(data)))
    for part in orders.split(batch, dim=1):
        x = pixels[part].float() / 255
        gradients = vmap(grad(loss))(parameters, buffers, x, data.labels[part])
        parameters = {name: value - 0.01 * gradients[name] for name, value in parameters.items()}
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--victims", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    print(f"{options.victims} victims, {options.repeats} paired repeats, median (min-max)")
    for model, channels, size, batch, steps in CASES:
        spec, data = spec_of(model, channels, size), examples(channels, size, batch * steps)
        pairs = []
        for repeat in range(options.repeats + 1):
            pair = (by_processes(spec, data, batch, options.victims), by_stacking(spec, data, batch, options.victims))
            pairs += [pair] if repeat else []
        ratios = [stacked / processes for processes, stacked in pairs]
        print(
            f"{model:10s} processes {statistics.median(p for p, _ in pairs):6.2f} s   "
            f"stacked {statistics.median(s for _, s in pairs):6.2f} s   "
            f"stacked/processes {statistics.median(ratios):5.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
