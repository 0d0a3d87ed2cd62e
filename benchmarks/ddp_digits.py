"""Data-parallel training on digits with one lying rank: the plain mean against a rule, by communication hook and gloo.

The last rank sends its gradient times -10. Every rank trains on its share of the training set; rank 0 prints the
accuracy on the test set for the mean and for the rule, with and without the liar, and the time of a step.

    torchrun --nproc-per-node 4 benchmarks/ddp_digits.py [--rule krum] [--f 1] [--epochs 5] [--nnm]
"""

import argparse
import time

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from mithridate.aggregation._base import AbstractCombiner
from mithridate.aggregation.aggregate import named_rule
from mithridate.aggregation.mean import Mean
from mithridate.byzantine.ddp import aggregate_with
from mithridate.data.sources import DataSet, load
from mithridate.models.spec import ModelSpec
from mithridate.numerics.rng import generator


def reversed_tenfold(bucket: Tensor) -> Tensor:
    return -10 * bucket


def pixels(data: DataSet, split: str) -> tuple[Tensor, Tensor]:
    examples = data.train if split == "train" else data.test
    return examples.images.gather(torch.arange(len(examples))).float() / 255, examples.labels


def trained(
    data: DataSet, rule: AbstractCombiner, *, epochs: int, batch: int, lr: float, liar: bool
) -> tuple[float, float]:
    """Return the test accuracy and the seconds per step."""
    rank, world = dist.get_rank(), dist.get_world_size()
    x, y = pixels(data, "train")
    mine = torch.arange(len(y)) % world == rank
    x, y = x[mine], y[mine]
    spec = ModelSpec(
        name="mlp",
        num_classes=len(data.train.classes),
        channels=x.shape[1],
        size=x.shape[-1],
        mean=data.mean,
        std=data.std,
    )
    ddp = DistributedDataParallel(spec.build(0), bucket_cap_mb=0.01)
    lies = liar and rank == world - 1
    aggregate_with(ddp, rule, seed=0, corrupt=reversed_tenfold if lies else None)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=lr, momentum=0.9)
    steps = len(load_order(len(y), batch, 0, rank, world))
    begin = time.perf_counter()
    for epoch in range(epochs):
        for chosen in load_order(len(y), batch, epoch, rank, world)[:steps]:
            optimizer.zero_grad()
            cross_entropy(ddp(x[chosen]), y[chosen]).backward()
            optimizer.step()
    seconds = (time.perf_counter() - begin) / (epochs * steps)
    tested, labels = pixels(data, "test")
    with torch.no_grad():
        right = (ddp.module(tested).argmax(1) == labels).float().mean()
    return float(right), seconds


def load_order(count: int, batch: int, epoch: int, rank: int, world: int) -> list[Tensor]:
    """Return the batches of an epoch; whole ones only, so that all ranks take as many steps."""
    order = torch.randperm(count, generator=generator(0, "ddp", rank, epoch))
    return list(order.split(batch))[: (count - 1) // batch]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rule", default="krum")
    parser.add_argument("--f", type=int, default=None, help="default 1, or 0 if there are too few ranks for the rule")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--nnm", action="store_true", help="mix nearest neighbours before the rule")
    options = parser.parse_args()
    dist.init_process_group("gloo")
    try:
        torch.set_num_threads(1)
        extra = {"neighbours": "hetero"} if options.rule == "krum" else {}
        rule = named_rule(options.rule, f=1 if options.f is None else options.f, pre=["nnm"] * options.nnm, **extra)
        data = load("digits")
        for name, chosen in (("mean", Mean()), (options.rule, rule)):
            for liar in (False, True):
                accuracy, seconds = trained(
                    data, chosen, epochs=options.epochs, batch=options.batch, lr=options.lr, liar=liar
                )
                if dist.get_rank() == 0:
                    who = "one liar" if liar else "no liar "
                    print(f"{name:20} {who}  accuracy {accuracy:.3f}  {1000 * seconds:.1f} ms/step", flush=True)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
