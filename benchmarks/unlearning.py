"""Poison unlearning: the nested search against the published one, importances against one backward pass a sample.

Search: networks of about a million parameters, trained for a few epochs on digits of which 28 carry a patch. The
published search takes, at every step, a deep copy, a NumPy percentile of all ratios, masks of all tensors and a pass
over all suspects; it reads no importances from disk here, which the public code does. Printed are processor times of
one thread, their ratio, and whether step, dampened set and weights are equal. Importances: batches of 64 against a loop
of single backward passes, timed on a part of the samples. Both do the same multiplications, so where a single sample
keeps the processor busy, as in wide convolutions, batches gain little; what is asked for is asked for the models named
in `HELD`. Memory is by how much the resident set of a process of its own grows, for models of which other things that a
process loads are a small part; activations are what a forward pass over a batch takes, which keeps what backward needs.
What is asked for is asked where freed memory goes back to the system at once (glibc's MALLOC_MMAP_THRESHOLD_); beside
it stands the growth with the allocator's own habits, which keeps up to a model's size more in pieces.

    python benchmarks/unlearning.py [--rounds 2] [--suspects 10 28] [--samples 1000] [--loop 200] [--json FILE]
"""

import argparse
import copy
import json
import math
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from mithridate.data.examples import Examples
from mithridate.data.sources import load
from mithridate.data.stores import ResidentStore
from mithridate.models.spec import ModelSpec
from mithridate.numerics.importance import importance, losses
from mithridate.numerics.rng import generator
from mithridate.unlearning._dampening import DampeningPath, Schedule
from mithridate.unlearning._search import Rule, SuspectView, Trail, search

SEARCHED = ("mlp-w4096", "convnet3-w135")
EPOCHS = {"mlp-w4096": 12, "convnet3-w135": 4}
HELD = ("mlp-w4096", "resnet9-w24")
MEASURED = ("mlp-w4096", "convnet3", "convnet3-w135", "resnet9-w24")
LARGE = ("resnet9-w96", "convnet3-w540")
SIZE = 50_000
LEAST = {"search": 20.0, "importance": 5.0}
MOST_MEMORY = 3.0


def side(name: str) -> int:
    """Return the side of a model's images: the perceptron gets its million parameters from larger ones."""
    return 16 if name.startswith("mlp") else 8


def model_of(name: str) -> nn.Module:
    spec = ModelSpec(name=name, num_classes=10, channels=1, size=side(name), mean=(0.5,), std=(0.5,))
    return spec.build(0).eval()


def numbers(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def poisoned(name: str, count: int) -> tuple[nn.Module, Examples, dict, dict]:
    """Return a trained network, some of its poisons, and the importances of these and of other training data."""
    data = load("digits").train
    images = data.images.gather(torch.arange(len(data)))
    images = images.repeat_interleave(side(name) // 8, 2).repeat_interleave(side(name) // 8, 3)
    labels = data.labels.clone()
    rows = (labels != 0).nonzero().flatten()[:28]
    patch = side(name) // 4
    images[rows, :, -patch:, -patch:] = 255
    labels[rows] = 0
    net, x = model_of(name).train(), images.float() / 255
    update = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for epoch in range(EPOCHS[name]):
        for part in torch.randperm(len(x), generator=generator(0, "epoch", epoch)).split(64):
            update.zero_grad()
            functional.cross_entropy(net(x[part]), labels[part]).backward()
            update.step()
    net.eval()
    found, others = rows[:count], torch.arange(len(x) - 400, len(x))
    forget = importance(net, [(x[part], None) for part in found.split(64)], "xlf")
    keep = importance(net, [(x[part], None) for part in others.split(64)], "xlf")
    suspects = Examples("suspects", ResidentStore(images[found]), labels[found], data.classes)
    return net, suspects, forget, keep


def published(net: nn.Module, forget: dict, keep: dict, suspects: Examples) -> tuple[int, nn.Module, torch.Tensor]:
    """The search as it is published."""
    x, labels = suspects.images.gather(torch.arange(len(suspects))).float() / 255, suspects.labels

    def accuracy(tried: nn.Module) -> float:
        with torch.no_grad():
            return float((tried(x).argmax(1) == labels).double().mean())

    before, q = accuracy(net), len(suspects) / SIZE / 25
    for step in range(500):
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.concatenate([(forget[name].numpy() / keep[name].numpy()).ravel() for name in forget])
        alpha = float(np.percentile(ratio[np.isfinite(ratio)].astype(np.float64), 100 - math.log(1 + 100 * q)))
        tried = copy.deepcopy(net)
        masks = []
        with torch.no_grad():
            for name, p in tried.named_parameters():
                chosen = forget[name].double() > alpha * keep[name].double()
                p[chosen] *= (keep[name][chosen] / forget[name][chosen]).clamp(max=1.0)
                masks.append(chosen.flatten())
        if accuracy(tried) <= 0.2 * before:
            return step, tried, torch.cat(masks)
        q *= 1.1
    return -1, tried, torch.cat(masks)


def nested(net: nn.Module, forget: dict, keep: dict, suspects: Examples, *, walk: bool) -> tuple[int, nn.Module, int]:
    """Ours."""
    walker = copy.deepcopy(net)
    path = DampeningPath(walker, forget, keep, Schedule(start=len(suspects) / SIZE / 25, factor=1.1))
    rule = Rule(rho=0.2, max_tries=500, walk=walk)
    view = SuspectView(walker, suspects)
    trail = search(path, view, rule, lambda: True, trail=Trail(), tell=lambda word: None, keep=lambda trail: None)
    return (-1 if trail.found is None else trail.found), walker, path.position


def flat(net: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def searched(name: str, count: int, rounds: int) -> dict:
    """Time both searches, alternately."""
    net, suspects, forget, keep = poisoned(name, count)
    taken: dict[str, list[float]] = {"published": [], "walk": [], "bisect": []}
    for _ in range(rounds):
        for who, times in taken.items():
            start = time.process_time()
            if who == "published":
                step, want, mask = published(net, forget, keep, suspects)
            else:
                found, walker, size = nested(net, forget, keep, suspects, walk=who == "walk")
                close = torch.allclose(flat(walker), flat(want), rtol=1e-6, atol=0)
                moved = flat(walker) != flat(net)
                equal = found == step and size == int(mask.sum()) and close and bool((mask | ~moved).all())
                assert equal or who == "bisect", f"{name}: step {found} of {size} entries, published {step}"
            times.append(time.process_time() - start)
    least = {who: min(times) for who, times in taken.items()}
    line = {
        "what": "search",
        "model": name,
        "parameters": numbers(net),
        "suspects": count,
        "steps": step + 1,
        "dampened": int(mask.sum()),
        "seconds": least,
        "ratio_walk": least["published"] / least["walk"],
        "ratio_bisect": least["published"] / least["bisect"],
        "bisect_equal": equal,
    }
    print(
        f"search      {name:14} {line['parameters']:>9,} parameters, {count:4} suspects, step {step + 1:3}: "
        f"published {least['published']:7.2f} s, walk {least['walk']:6.3f} s ({line['ratio_walk']:.0f}x), bisect "
        f"{least['bisect']:6.3f} s ({line['ratio_bisect']:.0f}x{'' if equal else ', another step'})",
        flush=True,
    )
    return line


def samples_of(name: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    gen = generator(0, "samples")
    return torch.rand(count, 1, side(name), side(name), generator=gen), torch.randint(10, (count,), generator=gen)


def looped(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    """One backward pass a sample."""
    total = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    named = list(net.named_parameters())
    for row in range(len(x)):
        loss = losses(net(x[row : row + 1]), "xlf", y[row : row + 1]).sum()
        for (name, _), g in zip(named, torch.autograd.grad(loss, [p for _, p in named]), strict=True):
            total[name] += g.abs()
    return {name: value / len(x) for name, value in total.items()}


def ours(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    parts = torch.arange(len(x)).split(64)
    return importance(net, [(x[part], y[part]) for part in parts], "xlf")


def measured(name: str, count: int, loop: int, rounds: int) -> dict:
    """Time both ways, and read memory off processes of their own."""
    net = model_of(name)
    x, y = samples_of(name, count)
    taken: dict[str, list[float]] = {"loop": [], "ours": []}
    for _ in range(rounds):
        start = time.process_time()
        want = looped(net, x[:loop], y[:loop])
        taken["loop"].append((time.process_time() - start) * count / loop)
        start = time.process_time()
        ours(net, x, y)
        taken["ours"].append(time.process_time() - start)
    found = ours(net, x[:loop], y[:loop])
    worst = max(float((found[key] - want[key]).abs().max() / want[key].abs().max().clamp(min=1e-30)) for key in want)
    least = {who: min(times) for who, times in taken.items()}
    line = {
        "what": "importance",
        "model": name,
        "parameters": numbers(net),
        "samples": count,
        "seconds": least,
        "ratio": least["loop"] / least["ours"],
        "worst_relative_error": worst,
    }
    print(
        f"importance  {name:14} {line['parameters']:>9,} parameters, {count} samples: loop {least['loop']:6.2f} s, "
        f"ours {least['ours']:6.2f} s ({line['ratio']:.1f}x), error {worst:.0e}",
        flush=True,
    )
    return line


def weighed(name: str) -> dict:
    """Measure the memory of importances in models, the model itself among them, beside activations."""
    weights = 4 * numbers(model_of(name)) / 2**20
    line: dict = {"what": "memory", "model": name, "model_mib": weights}
    shares = {}
    for how, lean in (("freed", True), ("kept", False)):
        peaks = {what: peak(name, what, lean=lean) for what in ("forward", "ours")}
        shares[how] = (peaks["ours"] - peaks["forward"] + weights) / weights
        line[f"growth_mib_{how}"] = peaks
    print(
        f"memory      {name:14} model {weights:.1f} MiB, growth in a forward pass and in importances "
        + ", ".join(
            f"{line[f'growth_mib_{how}']['forward']:.0f} and {line[f'growth_mib_{how}']['ours']:.0f} MiB "
            f"({how}): {share:.1f} models beside activations"
            for how, share in shares.items()
        ),
        flush=True,
    )
    return {**line, "memory_in_models": shares["freed"], "memory_in_models_kept": shares["kept"]}


def peak(name: str, what: str, *, lean: bool) -> float:
    """Return in MiB by how much the resident set of a fresh process grows at most.

    Args:
        name: The model.
        what: What the process does.
        lean: Whether what is freed goes back to the system at once.
    """
    command = [sys.executable, __file__, "--probe", name, what]
    setting = {"MALLOC_MMAP_THRESHOLD_": "131072"} if lean else {}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **setting})
    return float(done.stdout)


def resident(line: str) -> float:
    """Return a line of the process's status, in MiB."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{line}:")[1].split()[0]) / 2**10


def probe(name: str, what: str) -> None:
    torch.set_num_threads(1)
    small, (a, b) = model_of("convnet3-w8"), samples_of("convnet3-w8", 64)
    ours(small, a, b)  # what torch itself takes
    looped(small, a[:2], b[:2])
    net = model_of(name)
    x, y = samples_of(name, 256)
    before = resident("VmRSS")
    if what == "forward":
        assert losses(net(x[:64]), "xlf", y[:64]).sum().requires_grad
    else:
        ours(net, x, y)
    print(max(0.0, resident("VmHWM") - before))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--suspects", type=int, nargs="+", default=[10, 28])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--loop", type=int, default=200)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--probe", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.probe:
        probe(*args.probe)
        return 0
    torch.set_num_threads(1)
    lines = [searched(name, count, args.rounds) for name in SEARCHED for count in args.suspects]
    lines += [measured(name, args.samples, min(args.loop, args.samples), args.rounds) for name in MEASURED]
    lines += [weighed(name) for name in LARGE]
    if args.json:
        machine = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
        args.json.write_text(json.dumps({**machine, "lines": lines}, indent=1) + "\n")
    slow = [
        x
        for x in lines
        if x["what"] == "search"
        and x["model"] in HELD
        and not (x["bisect_equal"] and x["ratio_bisect"] >= LEAST["search"])
    ]
    slow += [x for x in lines if x["what"] == "importance" and x["model"] in HELD and x["ratio"] < LEAST["importance"]]
    large = [x for x in lines if x["what"] == "memory" and x["memory_in_models"] > MOST_MEMORY]
    for line in slow:
        print(f"too slow: {line['what']} of {line['model']}")
    for line in large:
        print(f"too large: {line['what']} of {line['model']}")
    return int(bool(slow or large))


if __name__ == "__main__":
    raise SystemExit(main())
