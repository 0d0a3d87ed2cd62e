"""One rank of the test of the communication hook: trains with every rule and writes its gradients and parameters.

python ddp_worker.py FOLDER RANK WORLD
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from mithridate.aggregation._base import AbstractCombiner
from mithridate.aggregation.aggregate import named_rule
from mithridate.aggregation.mean import Mean
from mithridate.byzantine.ddp import aggregate_with
from mithridate.core.errors import Misuse

STEPS, LR = 3, 0.2
SEED = 5


def rules() -> dict[str, AbstractCombiner]:
    return {
        "mean": Mean(),
        "krum": named_rule("krum", f=1, neighbours="hetero"),
        "mda": named_rule("mda", f=1),
        "centered-clipping": named_rule("centered-clipping", f=1, tau=0.05),
        "nnm trimmed-mean": named_rule("trimmed-mean", f=1, pre=["nnm"]),
        "dnc": named_rule("dnc", f=1, sub_dim=30),
    }


def net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 16), nn.Tanh(), nn.Linear(16, 5))


def batch(rank: int, step: int) -> tuple[Tensor, Tensor]:
    gen = torch.Generator().manual_seed(100 * rank + step)
    return torch.randn(6, 1, 8, 8, generator=gen), torch.randint(0, 5, (6,), generator=gen)


def lie(bucket: Tensor) -> Tensor:
    return -20 * bucket


def spoil(bucket: Tensor) -> Tensor:
    return torch.full_like(bucket, torch.nan)


def main(folder: Path, rank: int, world: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=world)
    found: dict[str, Tensor] = {}
    for name, rule in rules().items():
        for cap in (0.001, 25.0):
            ddp = DistributedDataParallel(net(), bucket_cap_mb=cap)
            hook = aggregate_with(ddp, rule, seed=SEED, corrupt=lie if rank == world - 1 else None)
            for step in range(STEPS):
                ddp.zero_grad()
                images, labels = batch(rank, step)
                cross_entropy(ddp(images), labels).backward()
                for number, parameter in enumerate(ddp.parameters()):
                    assert parameter.grad is not None
                    found[f"{name}/{cap}/{step}/{number}"] = parameter.grad.clone()
                    parameter.data.sub_(parameter.grad, alpha=LR)
            assert hook.steps == STEPS
    save_file(found, folder / f"{rank}.safetensors")
    words = {}
    for name, rule in (("mean", Mean()), ("krum", rules()["krum"])):
        ddp = DistributedDataParallel(net(), bucket_cap_mb=0.001)
        aggregate_with(ddp, rule, corrupt=spoil if rank == world - 1 else None)
        images, labels = batch(rank, 0)
        try:
            cross_entropy(ddp(images), labels).backward()
            finite = all(bool(each.grad.isfinite().all()) for each in ddp.parameters() if each.grad is not None)
            words[name] = f"finite: {finite}"
        except (Misuse, RuntimeError) as error:
            words[name] = f"{type(error).__name__}: {error}"
    (folder / f"{rank}.json").write_text(json.dumps(words), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
