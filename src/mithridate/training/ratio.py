"""The variance-norm ratio of honest rows, recorded in every step without a question to the device.

    r = dev^2 / |mean(g)|^2,   dev^2 = sum_i |g_i - mean(g)|^2 / (h - 1)

Recorded before momentum it is that of the sampled gradients, after momentum that of the submitted ones. Robust rules
promise something where r is below a threshold of theirs; momentum at the workers lowers r wherever gradients keep
their direction over time.

Paper    El Mhamdi, Guerraoui, Rouault, Distributed Momentum (ICLR 2021), arXiv 2003.00010.
"""

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mithridate.aggregation._base import State
from mithridate.core.params import Checked, In, param
from mithridate.training._base import AbstractRowMap

_FIRST_CAPACITY = 256


@dataclass(frozen=True, kw_only=True)
class _AbstractRatio(Checked, AbstractRowMap, ABC):
    """Leaves the rows alone and records the ratio of the first `honest` ones."""

    honest: int = param(2, within=In(2, 1 << 20), doc="how many rows, from the first, are honest")

    def map_rows(
        self, rows: Float[Tensor, "n d"], state: State, gen: torch.Generator
    ) -> tuple[Float[Tensor, "n d"], State]:
        """Return the rows, and the record with one more entry."""
        del gen
        if state is None:
            state = {"count": 0, "values": rows.new_zeros(_FIRST_CAPACITY, dtype=torch.float32)}
        count, values = state["count"], state["values"]
        if count == len(values):
            values = torch.cat([values, torch.zeros_like(values)])
        values[count] = ratio(rows[: self.honest])
        return rows, {"count": count + 1, "values": values}


@dataclass(frozen=True, kw_only=True)
class SampledRatio(_AbstractRatio):
    """The ratio of the gradients that honest workers sampled; stands before momentum."""

    name = "sampled-ratio"


@dataclass(frozen=True, kw_only=True)
class SubmittedRatio(_AbstractRatio):
    """The ratio of the rows that honest workers submit; stands last."""

    name = "submitted-ratio"


def ratio(rows: Float[Tensor, "h d"]) -> Float[Tensor, ""]:
    """Return the variance-norm ratio of two or more rows."""
    variance, mean = torch.var_mean(rows.float(), dim=0)
    return variance.sum() / mean.square().sum()


def recorded(states: Mapping[str, State], kind: type[SampledRatio] | type[SubmittedRatio]) -> Float[Tensor, " t"]:
    """Return what a recorder has seen in a run's states, one entry a step; empty if there was no such recorder."""
    state = states.get(f"rows/{kind.name}")
    return torch.zeros(0) if state is None else state["values"][: state["count"]]
