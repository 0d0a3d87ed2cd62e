"""Draws: which examples a step sees."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mithridate.aggregation._base import State
from mithridate.core.params import Checked, In, OneOf, param
from mithridate.training._base import AbstractDraw, Context, Rng
from mithridate.training.shards import SHARDS, split

_WIDE = 1 << 62  # a random integer below it modulo a shard's size is uniform to one part in 2^30 and more


@dataclass(frozen=True, kw_only=True)
class Shuffle(Checked, AbstractDraw):
    """Every example once per epoch in a fresh random order; the last, smaller batch is kept unless dropped."""

    batch: int = param(128, within=In(1, 1 << 24), doc="examples per step")
    drop_last: bool = param(False, doc="leave out the last, smaller batch of an epoch")

    def init(self, context: Context) -> State:
        """Return the state before the first epoch."""
        return {"n": len(context.data), "epoch": -1, "cursor": len(context.data), "order": None}

    def steps_per_epoch(self, num_examples: int) -> int:
        """Return the number of batches per epoch."""
        full, rest = divmod(num_examples, self.batch)
        return full if full and (self.drop_last or not rest) else full + 1

    def smallest_batch(self, num_examples: int) -> int:
        """Return the size of the last batch of an epoch."""
        full, rest = divmod(num_examples, self.batch)
        return rest if rest and not (full and self.drop_last) else self.batch

    def draw(self, state: State, rng: Rng) -> tuple[Int64[Tensor, " b"], Float[Tensor, " b"], State]:
        """Return the next slice of the epoch's permutation with equal weights."""
        n, epoch, cursor, order = state["n"], state["epoch"], state["cursor"], state["order"]
        left = n - cursor
        if left <= 0 or (self.drop_last and left < self.batch and n >= self.batch):
            epoch, cursor = epoch + 1, 0
            order = torch.randperm(n, generator=rng(epoch), device=rng.device)
        index = order[cursor : cursor + self.batch]
        weights = torch.full((len(index),), 1 / len(index), device=rng.device)
        return index, weights, {"n": n, "epoch": epoch, "cursor": cursor + self.batch, "order": order}


@dataclass(frozen=True, kw_only=True)
class PerWorker(Checked, AbstractDraw):
    """Every worker draws its batch from its own part of the data, with replacement; the batches stand side by side.

    An epoch is as many steps as make one pass over the data in expectation, rounded up, unless `steps` says otherwise.
    """

    workers: int = param(10, within=In(1, 1 << 20), doc="number of workers")
    batch: int = param(32, within=In(1, 1 << 20), doc="examples per worker and step")
    shards: str = param("all", within=OneOf(*SHARDS), doc="what a worker draws from: all, iid, dirichlet or label")
    alpha: float = param(1.0, within=In(0.0, 1e6, open_lo=True), doc="concentration of dirichlet; small is skewed")
    steps: int | None = param(None, within=In(1, 1 << 40), doc="steps per epoch; by default one pass over the data")

    def init(self, context: Context) -> State:
        """Return the parts of all workers and the number of the first step."""
        parts = split(
            self.shards, context.data.labels, self.workers, alpha=self.alpha, seed=context.rng.child("shards").seed
        )
        return {"order": parts.order, "start": parts.start, "size": parts.size, "step": 0}

    def steps_per_epoch(self, num_examples: int) -> int:
        """Return the number of steps of one pass."""
        return self.steps or -(-num_examples // (self.workers * self.batch))

    def smallest_batch(self, num_examples: int) -> int:
        """Return the examples of a step, which are always equally many."""
        del num_examples
        return self.workers * self.batch

    def draw(self, state: State, rng: Rng) -> tuple[Int64[Tensor, " b"], Float[Tensor, " b"], State]:
        """Return the batches of all workers in order, with equal weights."""
        shape = (self.workers, self.batch)
        random = torch.randint(_WIDE, shape, generator=rng(state["step"]), device=rng.device)
        place = state["start"][:, None] + random % state["size"][:, None]
        index = state["order"][place.flatten()]
        weights = torch.full((len(index),), 1 / len(index), device=rng.device)
        return index, weights, {**state, "step": state["step"] + 1}
