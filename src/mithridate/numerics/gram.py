"""Gram matrices of long rows, accumulated in double precision."""

import torch
from jaxtyping import Float
from torch import Tensor

_CHUNK = 1 << 16


def gram(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    """Return `rows @ rows.T` in float64, in chunks over d so that no second copy of the rows exists."""
    n, d = rows.shape
    total = torch.zeros(n, n, dtype=torch.float64, device=rows.device)
    for start in range(0, d, _CHUNK):
        part = rows[:, start : start + _CHUNK].double()
        total.addmm_(part, part.T)
    return total
