"""Marking a data set: time beside the surrogate's training, and memory beside the number of marked images.

    python benchmarks/ownership.py [--images 50000] [--model resnet9-w16] [--epochs 40] [--keys 10] [--threads 1]

Time is processor time. Training is that of one epoch on `--sample` images, scaled to all images and epochs; marking is
that of a few steps of one key (with all views), scaled to all steps and keys, plus what is done once. Both scale
exactly: no step depends on the content of an image. The images are noise.

Memory is the peak resident set of a process that marks, and its growth over what the process held before; `result` is
the part that the marked 8-bit images take. With the images of a key fixed it must not grow with the number of keys.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

TIMES = ((0.001, 250, 2), (0.005, 250, 2), (0.01, 250, 2), (0.01, 250, 1), (0.01, 100, 1), (0.01, 60, 1))
"""Share of the data that is marked, steps, views: the first is the released script's setting."""
MEMORY = ((2, 20), (10, 20), (40, 20), (10, 40), (10, 80), (10, 160))
"""Keys, images of each."""
SIZE, CHANNELS, CLASSES = 32, 3, 10


def noise(count):
    """A data set of noise."""
    import torch

    from mithridate.data.examples import Examples
    from mithridate.data.stores import ResidentStore

    gen = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, CHANNELS, SIZE, SIZE), generator=gen, dtype=torch.uint8)
    return Examples("noise", ResidentStore(pixels), torch.arange(count) % CLASSES, tuple(map(str, range(CLASSES))))


def plan_of(args, count):
    """One epoch of the contract paper-wb40 on noise."""
    from mithridate.data.sources import DataSet
    from mithridate.training.contracts import Options, contract

    data = noise(count)
    half = (0.5,) * CHANNELS
    return contract("paper-wb40", DataSet("noise", data, data, half, half), args.model, Options(epochs=1))


def keys_of(count):
    """Keys whose labels go round, so that every class has as many."""
    import numpy as np

    from mithridate.ownership.keys import Key

    rng = np.random.default_rng(0)
    shape = (CHANNELS, SIZE, SIZE)
    return [Key(index=i, label=i % CLASSES, image=rng.integers(0, 256, shape, dtype=np.uint8)) for i in range(count)]


def marking_seconds(args, plan, net, budget, steps, views):
    """Processor time to mark one key."""
    from mithridate.ownership.marking import Marking, mark
    from mithridate.training.contracts import augmentation

    config = Marking(budget=budget, steps=steps, views=views)
    begun = time.process_time()
    mark(plan.data, keys_of(1), [net], config, augment=augmentation(plan))
    return time.process_time() - begun


def times(args):
    """Print the table of times."""
    from mithridate.training.loop import train

    plan = plan_of(args, args.sample)
    begun = time.process_time()
    net = train(plan, 0)
    training = (time.process_time() - begun) * args.epochs * args.images / args.sample
    _ = plan.data.fingerprint
    print(
        f"\n{args.model}, {args.images:,} images of {SIZE} pixels, {args.epochs} epochs: {training:,.0f} s of training"
    )
    print(f"{'marked':>8}{'a key':>7}{'steps':>7}{'views':>7}{'marking':>10}{'of training':>13}")
    marking_seconds(args, plan, net, 2, 2, 2)  # what is imported and compiled once
    for share, steps, views in TIMES:
        budget = max(1, int(share * args.images / args.keys))
        few, more = (
            min(marking_seconds(args, plan, net, budget, count, views) for _ in range(args.repeats))
            for count in (1, 1 + args.timed)
        )
        step = (more - few) / args.timed
        whole = args.keys * (few + (steps - 1) * step)
        cells = f"{share:8.1%}{budget:7}{steps:7}{views:7}{whole:9,.0f}s{whole / training:13.1%}"
        print(cells, flush=True)


def peak():
    """The peak resident set of this process in MiB; `ru_maxrss` would be that of the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def memory_of(args, keys, budget):
    """Run in the child: mark, and say what it took, in MiB."""
    from mithridate.models.spec import ModelSpec
    from mithridate.ownership.marking import Marking, mark

    half = (0.5,) * CHANNELS
    net = ModelSpec(name=args.model, num_classes=CLASSES, channels=CHANNELS, size=SIZE, mean=half, std=half).build(0)
    data = noise(args.sample)
    _ = data.fingerprint
    mark(data, keys_of(1), [net.eval()], Marking(budget=2, steps=1, views=1, chunk=args.chunk))  # imports, kernels
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew at what is held now
    before = peak()
    found = mark(data, keys_of(keys), [net], Marking(budget=budget, steps=2, views=1, chunk=args.chunk))
    sizes = {"peak": peak(), "growth": peak() - before, "result": found.images.numel() / 2**20}
    print(json.dumps({**sizes, "marked": len(found.rows)}))


def memory(args):
    """Print the table of memory."""
    print(f"\n{args.model}, chunks of {args.chunk} images of {SIZE} pixels")
    print(f"{'keys':>6}{'a key':>7}{'marked':>8}{'peak':>12}{'growth':>12}{'result':>12}")
    for keys, budget in MEMORY:
        shared = ["--model", args.model, "--sample", str(args.sample), "--chunk", str(args.chunk)]
        command = [sys.executable, __file__, *shared, "--child", str(keys), str(budget)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        sizes = "".join(f"{found[name]:9.1f}MiB" for name in ("peak", "growth", "result"))
        print(f"{keys:6}{budget:7}{found['marked']:8}{sizes}", flush=True)


def main():
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000, help="of the data set that times are for")
    parser.add_argument("--sample", type=int, default=5000, help="images that are trained on for one epoch")
    parser.add_argument("--model", default="resnet9-w16")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--keys", type=int, default=10)
    parser.add_argument("--timed", type=int, default=4, help="steps that are timed")
    parser.add_argument("--repeats", type=int, default=2, help="of which the fastest counts")
    parser.add_argument("--chunk", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", nargs=2, type=int, metavar=("KEYS", "IMAGES"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(args.threads)
    if args.child:
        memory_of(args, *args.child)
        return
    times(args)
    memory(args)


if __name__ == "__main__":
    main()
