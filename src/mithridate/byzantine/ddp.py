"""Any aggregation rule as a communication hook of DistributedDataParallel.

    every rank, per bucket     gather the bucket of all ranks (all_gather of flat tensors)
    after the last bucket      rows = whole gradients of the ranks; inner products are added over buckets;
                               the rule decides once; the result is written back bucket by bucket

    ddp = DistributedDataParallel(model)
    aggregate_with(ddp, named_rule("multi-krum", f=1), seed=0)

Example  torchrun --nproc-per-node 4 benchmarks/ddp_digits.py --rule krum

Promise  equal to `mithridate.aggregate` of the ranks' gradients, laid out in the order of the model's parameters,
         whatever the buckets are: a rule per bucket would be another rule.
Needs    n gradients in the memory of each rank. The process group is trusted: collectives have no authentication and
         wait for everyone, so this protects from wrong gradients, not from silent or impersonated ranks; for those see
         `protocols`. Tensors travel as they are, nothing is pickled.
Departs  all ranks compute the result, from the same bytes and the same seed: on machines whose last bits differ,
         replicas drift. Every rank knows the seed, so bucketing and DnC are not secret from a liar here. Start
         parameters and, unless that is switched off, running statistics are those of rank 0.

Shapes   n ranks, c entries of a bucket.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import final

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch._C._distributed_c10d import GradBucket  # what torch.distributed.GradBucket is, with types
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from mithridate.aggregation._base import AbstractCombiner, State
from mithridate.aggregation.combine import combine
from mithridate.numerics.rng import generator
from mithridate.numerics.row_view import RowView

Corrupt = Callable[[Float[Tensor, " c"]], Float[Tensor, " c"]]
"""What a lying rank sends in the place of a bucket of its gradient."""


@dataclass(frozen=True, eq=False)
class _Bucket:
    """A bucket on its way.

    Attributes:
        buffer: This rank's part, where the result goes.
        parts: For each parameter, its number in the model and its number of entries, in the order of the bucket.
        gathered: The bucket of every rank.
        work: The collective that fills `gathered`.
        done: What DistributedDataParallel waits for.
    """

    buffer: Float[Tensor, " c"]
    parts: tuple[tuple[int, int], ...]
    gathered: Float[Tensor, "n c"]
    work: dist.Work
    done: Future[Tensor]

    def rows(self, rank: int) -> dict[str, Tensor]:
        """Return one rank's gradient of the parameters in the bucket, by number."""
        ends = list(accumulate(size for _, size in self.parts))
        return {
            f"{number:08d}": self.gathered[rank, end - size : end]
            for (number, size), end in zip(self.parts, ends, strict=True)
        }


@final
class Aggregation:
    """The rule, its state, and the buckets that have arrived in this step.

    Attributes:
        rule: What combines the gradients of the ranks.
        state: The rule's state, for a checkpoint.
        steps: How many gradients were combined.
    """

    def __init__(
        self,
        rule: AbstractCombiner,
        parameters: list[Tensor],
        *,
        seed: int,
        group: dist.ProcessGroup | None,
        corrupt: Corrupt | None,
    ) -> None:
        rule.check(dist.get_world_size(group))
        self.rule = rule
        self.state: State = rule.init()
        self.steps = 0
        self._numbers = {id(parameter): number for number, parameter in enumerate(parameters)}
        self._seed, self._group, self._corrupt = seed, group, corrupt
        self._pending: list[_Bucket] = []

    def take(self, bucket: GradBucket) -> Future[Tensor]:
        """Send a bucket on its way; with the last one, decide and fill in all of them."""
        done: Future[Tensor] = Future()
        self._pending.append(self._sent(bucket, done))
        if bucket.is_last():
            pending, self._pending = self._pending, []
            self._decide(pending)
        return done

    def _sent(self, bucket: GradBucket, done: Future[Tensor]) -> _Bucket:
        buffer = bucket.buffer()
        mine = buffer if self._corrupt is None else self._corrupt(buffer.clone()).to(buffer).contiguous()
        gathered = buffer.new_empty(dist.get_world_size(self._group), len(buffer))
        work = dist.all_gather(list(gathered), mine, group=self._group, async_op=True)
        assert work is not None, "this rank is outside the process group"
        parts = tuple((self._numbers[id(each)], each.numel()) for each in bucket.parameters())
        return _Bucket(buffer, parts, gathered, work, done)

    def _decide(self, pending: list[_Bucket]) -> None:
        for bucket in pending:
            bucket.work.wait()
        ranks = range(dist.get_world_size(self._group))
        # sorted by parameter: coordinates keep their places when DistributedDataParallel rebuilds its buckets
        rows = [dict(sorted(item for each in pending for item in each.rows(rank).items())) for rank in ranks]
        view = RowView.of(rows)
        gen = generator(self._seed, "ddp", self.steps, device=view.device)
        vector, self.state = combine(view, self.rule, state=self.state, gen=gen)
        shaped = view.like(vector)
        assert isinstance(shaped, dict), "rows were dicts"
        for bucket in pending:
            torch.cat([shaped[f"{number:08d}"] for number, _ in bucket.parts], out=bucket.buffer)
            bucket.done.set_result(bucket.buffer)
        self.steps += 1


def aggregate_with(
    ddp: DistributedDataParallel,
    rule: AbstractCombiner,
    *,
    seed: int = 0,
    group: dist.ProcessGroup | None = None,
    corrupt: Corrupt | None = None,
) -> Aggregation:
    """Combine the ranks' gradients with a rule from now on, in place of their mean.

    Args:
        ddp: The wrapped model; it has no hook yet.
        rule: Any combiner, behind pre-aggregators or not.
        seed: For rules that draw; the same on all ranks.
        group: The ranks that take part; all if None. Must be the group of `ddp`.
        corrupt: On a lying rank, for tests and demonstrations: what it sends in the place of its gradient.

    Returns:
        The hook, whose state belongs into a checkpoint.

    Raises:
        Misuse: The rule is not defined for so many ranks; later, in backward, more ranks are not finite than it bears.
    """
    parameters = [parameter for parameter in ddp.module.parameters() if parameter.requires_grad]
    aggregation = Aggregation(rule, parameters, seed=seed, group=group, corrupt=corrupt)
    ddp.register_comm_hook(aggregation, _hook)
    return aggregation


def _hook(state: Aggregation, bucket: GradBucket) -> Future[Tensor]:
    return state.take(bucket)
