"""Draws: which examples a step sees."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mithridate.aggregation._base import State
from mithridate.core.params import Checked, In, param
from mithridate.training._base import AbstractDraw, Context, Rng


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
