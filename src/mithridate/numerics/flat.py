"""One flat vector behind all parameters of a module.

Parameters and their gradients become views of two flat vectors, so that an update, a combiner or a checkpoint is one
operation on one vector, and a row of any training step is the same object: a gradient of length d.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn


class FlatModule:
    """A module whose trainable parameters are views of `values` and whose gradients are views of `grads`.

    The module keeps its identity: forward passes, `state_dict` and hooks work as before. Weights of convolutions keep
    the channels-last layout if they have it. Parameters with `requires_grad=False` stay outside the vector.

    Attributes:
        values: The parameters, shape (d,).
        grads: Their gradients, shape (d,).
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        like = self._named[0][1]
        size = sum(p.numel() for _, p in self._named)
        self.values: Float[Tensor, " d"] = torch.empty(size, dtype=like.dtype, device=like.device)
        self.grads: Float[Tensor, " d"] = torch.zeros_like(self.values)
        self._slots: list[tuple[str, slice, torch.Size, bool]] = []
        start = 0
        for name, p in self._named:
            slot = slice(start, start + p.numel())
            last = p.dim() == 4 and p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous()
            self._slots.append((name, slot, p.shape, last))
            view = _shaped(self.values[slot], p.shape, last)
            view.copy_(p.detach())
            p.data = view
            p.grad = _shaped(self.grads[slot], p.shape, last)
            start = slot.stop

    def views(self, flat: Float[Tensor, " d"]) -> dict[str, Tensor]:
        """Return the named parameters that a flat vector stands for, as views of it."""
        return {name: _shaped(flat[slot], shape, last) for name, slot, shape, last in self._slots}

    def stacked(self, rows: Float[Tensor, "n d"]) -> dict[str, Tensor]:
        """Return the named parameters that n flat vectors stand for, stacked along a first dimension, as views."""
        return {name: _stacked(rows[:, slot], shape, last) for name, slot, shape, last in self._slots}

    def buffers(self) -> dict[str, Tensor]:
        """Return the module's buffers by name (not copies)."""
        return dict(self.module.named_buffers())

    def load(self, flat: Float[Tensor, " d"], buffers: Mapping[str, Tensor]) -> None:
        """Overwrite parameters and buffers in place."""
        self.values.copy_(flat)
        for name, buffer in self.module.named_buffers():
            buffer.copy_(buffers[name])


def _shaped(flat: Tensor, shape: torch.Size, channels_last: bool) -> Tensor:
    """View a contiguous slice as a parameter, in channels-last layout if asked."""
    if not channels_last:
        return flat.view(shape)
    out, channels, height, width = shape
    return flat.view(out, height, width, channels).permute(0, 3, 1, 2)


def _stacked(rows: Tensor, shape: torch.Size, channels_last: bool) -> Tensor:
    if not channels_last:
        return rows.view(len(rows), *shape)
    out, channels, height, width = shape
    return rows.view(len(rows), out, height, width, channels).permute(0, 1, 4, 2, 3)
