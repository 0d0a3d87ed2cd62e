"""Time and memory of one step of gradient matching: every form against whole-batch double backward.

    python benchmarks/brewing.py [--poisons 500] [--models resnet18-w16,convnet64] [--repeats 2] [--threads 1]

Each row is measured in a process of its own. Time is processor time of one step, the best of the repeats. Memory is the
growth of the peak resident set over what the process held before its first step (`extra`), and the peak itself.
Agreement is with the gradient of whole-batch double backward on the unfolded network: cosine and share of equal signs.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ORACLE = "whole-batch double backward"
FORWARD = "bare forward passes x 9"
ROWS = {
    ORACLE: {},
    FORWARD: {},
    "reverse-over-forward": {"form": "reverse-over-forward"},
    "forward-over-reverse": {"form": "forward-over-reverse"},
    "double-backward, chunked": {"form": "double-backward"},
    "reverse-over-forward, norms not folded": {"form": "reverse-over-forward", "fold": False},
    "reverse-over-forward, bf16": {"form": "reverse-over-forward", "precision": "bf16"},
}


def measure(model, row, poisons, chunk, repeats, folder):
    """Run in the child: build everything, take the memory, time the steps, write the gradient."""
    import numpy as np
    import torch
    from torch.nn.functional import cross_entropy

    from mithridate.models.spec import ModelSpec
    from mithridate.numerics.directional import loss_gradient, prepare
    from mithridate.numerics.matching import Matcher
    from mithridate.numerics.matching_problem import MatchingProblem, Surrogate
    from mithridate.numerics.rng import generator

    net = ModelSpec(
        name=model, num_classes=10, channels=3, size=32, mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26)
    ).build(0)
    net = net.to(memory_format=torch.channels_last)
    gen = generator(0, "bench")
    with torch.no_grad():  # statistics of noise images, so that the norms are not the identity
        for _ in range(4):
            net.train()(torch.rand(32, 3, 32, 32, generator=gen))
    net.eval()
    base = torch.randint(0, 256, (poisons, 3, 32, 32), generator=gen, dtype=torch.uint8)
    labels = torch.randint(10, (poisons,), generator=gen)
    target, wanted = torch.rand(1, 3, 32, 32, generator=gen), torch.tensor([3])
    x = (base.float() / 255).contiguous(memory_format=torch.channels_last)
    parameters = list(net.parameters())

    def oracle():
        leaf = x.detach().requires_grad_()
        flat = [
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, create_graph=graph)])
            for loss, graph in ((cross_entropy(net(target), wanted), False), (cross_entropy(net(leaf), labels), True))
        ]
        distance = 1 - flat[0] @ flat[1] / (flat[0].norm() * flat[1].norm())
        return torch.autograd.grad(distance, leaf)[0]

    def forward():
        with torch.no_grad():
            for part in x.split(chunk):
                net(part)

    options = ROWS[row]
    if row == ORACLE:
        step, factor = oracle, 1
    elif row == FORWARD:
        step, factor = forward, 9
    else:
        ready = prepare(net, target, fold=options.get("fold", True), precision=options.get("precision", "fp32"))
        _, t = loss_gradient(ready, target, lambda z: cross_entropy(z, wanted))
        matcher = Matcher(objective="similarity", target=ready.pull(t), sizes=ready.sizes)
        problem = MatchingProblem(
            surrogates=(Surrogate(network=ready, matchers=(matcher,), form=options["form"]),),
            base=base,
            labels=labels,
            epsilon=16 / 255,
            augment=None,
            fill=torch.zeros(3),
            chunk=chunk,
        )
        step, factor = (lambda: problem.gradient(x, None)[1]), 1
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(repeats):
        begun = time.process_time()
        gradient = step()
        seconds.append(time.process_time() - begun)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if gradient is not None:
        np.save(Path(folder) / f"{model} {row}.npy", gradient.contiguous().numpy())
    print(json.dumps({"seconds": factor * min(seconds), "extra": peak - before, "peak": peak}))


def agreement(folder, model, row):
    """Cosine and share of equal signs with the oracle."""
    import numpy as np

    path = Path(folder) / f"{model} {row}.npy"
    if not path.exists():
        return "", ""
    a, b = (np.load(p).astype("float64").ravel() for p in (Path(folder) / f"{model} {ORACLE}.npy", path))
    cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    return f"1 - {1 - cosine:.0e}", f"{(np.sign(a) == np.sign(b)).mean():.3%}"


def main():
    """Print one table for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--poisons", type=int, default=500)
    parser.add_argument("--models", default="resnet18-w16,convnet64")
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", nargs=3, metavar=("MODEL", "ROW", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        model, row, folder = args.child
        measure(model, row, args.poisons, args.chunk, args.repeats, folder)
        return
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        for model in args.models.split(","):
            print(f"\n{model}, {args.poisons} poisons 3x32x32, chunks of {args.chunk}, {args.threads} thread(s)")
            print(f"{'':42}{'time':>8}{'ratio':>7}{'extra':>9}{'ratio':>7}{'peak':>9}{'ratio':>7}  cosine    signs")
            first = None
            for row in ROWS:
                shared = ["--poisons", args.poisons, "--chunk", args.chunk, "--repeats", args.repeats]
                command = [sys.executable, __file__, *map(str, shared), "--child", model, row, folder]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found = json.loads(done.stdout.splitlines()[-1])
                first = first or found
                cells = [f"{found['seconds']:7.2f}s{found['seconds'] / first['seconds']:7.2f}"]
                for key in ("extra", "peak"):
                    cells.append(f"{found[key] / 1024:6.0f}MiB{found[key] / first[key]:7.2f}")
                print(f"{row:42}" + "".join(cells) + "  " + "  ".join(agreement(folder, model, row)), flush=True)


if __name__ == "__main__":
    main()
