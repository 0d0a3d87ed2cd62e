"""Images per second of the training loop against the bare network: forward, backward, torch.optim.SGD, one fixed batch.

The bare side has its batch ready in memory; the loop also draws, gathers, converts, augments, and keeps its state. The
two alternate in pairs of equal length within one process, and the median over pairs of (bare time / loop time) is
printed with its quartiles: 1.00 means that the loop costs nothing. The goal is one of images per second, so wall time
judges, on however many threads; on a busy machine raise `--pairs`. The ratio of processor times beside it is for
information: where it is much the better one, the loop waits, for other threads or for a machine that does other work.
`--profile` prints where the loop's time goes.

    python benchmarks/training_loop.py [--pairs 15] [--only resnet18-w16] [--profile]
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional

from mithridate.data.examples import Examples
from mithridate.data.sources import load
from mithridate.data.stores import ResidentStore
from mithridate.models.spec import ModelSpec
from mithridate.numerics.warp import Shift
from mithridate.training._base import AbstractView
from mithridate.training.draw import Shuffle
from mithridate.training.loop import begin, steps
from mithridate.training.network import autocasting
from mithridate.training.plan import Phase, Plan
from mithridate.training.step import Step
from mithridate.training.update import SGD
from mithridate.training.view import Warp

GOAL = 0.95
ENDLESS = 100_000
WARP = Warp(law=Shift(law="bilinear", max_px=4.0))


@dataclass(frozen=True)
class Case:
    """One network on one kind of data; an epoch of so many steps is the unit of timing."""

    model: str
    batch: int
    steps: int
    precision: str
    views: tuple[AbstractView, ...]

    @property
    def name(self) -> str:
        """What the table calls it."""
        return f"{self.model} {self.precision} batch {self.batch}{' warp' if self.views else ''}"

    def data(self) -> Examples:
        """Return one epoch of images."""
        n = self.batch * self.steps
        if self.model == "mlp":
            digits = load("digits").train
            return digits.select(torch.arange(n) % len(digits))
        gen = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (n, 3, 32, 32), generator=gen, dtype=torch.uint8)
        labels = torch.randint(0, 10, (n,), generator=gen)
        return Examples("random", ResidentStore(pixels), labels, tuple("0123456789"))

    def plan(self) -> Plan:
        """Return a plan that does not end."""
        data = self.data()
        channels, size, _ = data.images.shape
        spec = ModelSpec(
            name=self.model,
            num_classes=10,
            channels=channels,
            size=size,
            mean=(0.5,) * channels,
            std=(0.25,) * channels,
        )
        step = Step(draw=Shuffle(batch=self.batch), views=self.views, update=SGD(lr=0.01))
        precision = "bf16" if self.precision == "bf16" else "fp32"
        return Plan(data=data, model=spec, phases=(Phase(step=step, epochs=ENDLESS),), precision=precision)


def cases() -> Iterator[Case]:
    """Yield every case of the table."""
    for precision in ("fp32", "bf16"):
        for views in ((), (WARP,)):
            yield Case("resnet18-w16", 128, 3, precision, views)
            yield Case("convnet64", 32, 1, precision, views)
        yield Case("mlp", 64, 400, precision, ())


def bare(case: Case, plan: Plan) -> Callable[[], None]:
    """Return a function that does the steps of an epoch on one fixed batch, with nothing around them."""
    net = plan.model.build(0).to(memory_format=torch.channels_last).train()
    index = torch.arange(case.batch)
    x = (plan.data.images.gather(index).float() / 255).contiguous(memory_format=torch.channels_last)
    labels = plan.data.labels[index]
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    forward = autocasting(plan.precision, torch.device("cpu"))(net)

    def epoch() -> None:
        for _ in range(case.steps):
            optimiser.zero_grad()
            functional.cross_entropy(forward(x).float(), labels).backward()
            optimiser.step()

    return epoch


def looped(plan: Plan) -> Callable[[], None]:
    """Return a function that trains for one more epoch."""
    events = steps(plan, 0, begin(plan, 0))

    def epoch() -> None:
        next(events)

    return epoch


@dataclass(frozen=True)
class Cost:
    """What a call took, in seconds."""

    wall: float
    processor: float


def cost(work: Callable[[], None]) -> Cost:
    """Return what a call takes."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return Cost(time.perf_counter() - wall, time.process_time() - processor)


def compare(case: Case, pairs: int) -> list[tuple[Cost, Cost]]:
    """Return what an epoch cost, bare and in the loop, for each pair."""
    plan = case.plan()
    first, second = bare(case, plan), looped(plan)
    first()
    second()
    found = []
    for number in range(pairs):
        if number % 2:
            loop, alone = cost(second), cost(first)
        else:
            alone, loop = cost(first), cost(second)
        found.append((alone, loop))
    return found


def report(case: Case, found: list[tuple[Cost, Cost]]) -> str:
    """Return the line of one case."""
    low, middle, high = statistics.quantiles([alone.wall / loop.wall for alone, loop in found], n=4)
    processor = statistics.median(alone.processor / loop.processor for alone, loop in found)
    rate = case.batch * case.steps / statistics.median(loop.wall for _, loop in found)
    verdict = "" if middle >= GOAL else "  BELOW THE GOAL"
    times = f"ratio {middle:.3f} [{low:.3f}, {high:.3f}] (processor {processor:.3f})"
    return f"{case.name:34s} {rate:9.0f} images/s  {times}, n={len(found)}{verdict}"


def profile(case: Case) -> None:
    """Print the operations of the loop by their own time, outside the network as well."""
    epoch = looped(case.plan())
    epoch()
    with torch.profiler.profile() as recorded:
        epoch()
    print(recorded.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=40))


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--only", default="")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; goal: ratio >= {GOAL}")
    for case in cases():
        if options.only not in case.name:
            continue
        if options.profile:
            profile(case)
            continue
        print(report(case, compare(case, options.pairs)), flush=True)


if __name__ == "__main__":
    main()
