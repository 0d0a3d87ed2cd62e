"""Sums over samples of |gradient| or gradient^2 for the parameters of one layer, from its input and output gradient.

Linear, one token      |g_n| = |delta_n| (x) |a_n|, so the sum over samples is one product of two matrices
Linear over tokens,    the gradients of a few samples at a time are formed, folded into the sum, and freed; an output of
convolutions           one position is the case of one token
Norms in evaluation    sums over positions for every sample, then over samples

Source   the identity for linear layers is elementary. Convolutions by unfolding: Rochette et al. (2019), arXiv
         1912.06015; here nothing but one chunk of one layer exists at a time.
Shapes   b samples; i, o inputs and outputs; t tokens or positions; g groups.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

Sums = Mapping[str, Tensor]
Rule = Callable[[nn.Module, Tensor, Tensor, bool, Sums], None]
"""Layer, input, gradient of the output, whether to square; adds to contiguous sums of those parameters that count."""

WORKSPACE = 1 << 19
"""Numbers that the gradients, or the unfolded inputs, of a chunk of samples may take: they should stay in the cache."""

_TILE = 1 << 17
_MANY_POSITIONS = 128


def rule_for(layer: nn.Module) -> Rule | None:
    """Return the rule of a layer, or None; subclasses may compute something else with the same weights."""
    return _RULES.get(type(layer))


def _power(x: Tensor, squared: bool) -> Tensor:
    return x.square() if squared else x.abs()


def _add(into: Sums, name: str, grads: Float[Tensor, "b ..."], squared: bool) -> None:
    """Add gradients of single samples, if they count."""
    if name in into:
        into[name].add_(_power(grads, squared).sum(0))


def _fold(
    total: Float[Tensor, "*g o i"], delta: Float[Tensor, "b *g o t"], a: Float[Tensor, "b *g i t"], squared: bool
) -> None:
    """Form the gradients of some samples, and add what they are folded into."""
    if delta.dim() == 3 and len(delta) == 1:  # a large layer: some rows of it at a time stay in the cache
        for start in range(0, len(total), rows := max(1, _TILE // a.shape[1])):
            grad = delta[0, start : start + rows] @ a[0].T
            total[start : start + rows] += grad.square_() if squared else grad.abs_()
        return
    grads = delta @ a.transpose(-1, -2)
    total += (grads.square_() if squared else grads.abs_()).sum(0)


def _chunks(count: int, numbers: int) -> Iterator[slice]:
    """Cut samples so that each cut takes about the workspace, with `numbers` for every sample."""
    size = max(1, WORKSPACE // max(1, numbers))
    return (slice(start, start + size) for start in range(0, count, size))


def _linear(
    layer: nn.Module, a: Shaped[Tensor, "b *t i"], delta: Shaped[Tensor, "b *t o"], squared: bool, into: Sums
) -> None:
    assert isinstance(layer, nn.Linear)
    total = into.get("weight")
    if a.dim() == 2:
        if total is not None:
            total.addmm_(_power(delta, squared).T, _power(a, squared))
    else:
        a, delta = a.flatten(1, -2), delta.flatten(1, -2)
        for cut in _chunks(len(a), layer.weight.numel()) if total is not None else ():
            assert total is not None
            _fold(total, delta[cut].transpose(1, 2), a[cut].transpose(1, 2), squared)
        delta = delta.sum(1)
    _add(into, "bias", delta, squared)


def _conv2d(
    layer: nn.Module, a: Float[Tensor, "b i h w"], delta: Float[Tensor, "b o h2 w2"], squared: bool, into: Sums
) -> None:
    assert isinstance(layer, nn.Conv2d)
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        a = functional.pad(a, layer._reversed_padding_repeated_twice, mode=_pad_mode(layer.padding_mode))
        padding: tuple[int, ...] = (0, 0)
    else:
        padding = tuple(layer.padding)
    positions = delta.shape[2] * delta.shape[3]
    if "weight" in into:
        large = a.device.type == "cpu" and layer.groups == 1 and positions >= _MANY_POSITIONS
        (_grouped if large else _unfolded)(layer, a, delta, padding, squared, into["weight"])
    if "bias" in into:
        _add(into, "bias", delta.sum((2, 3)), squared)


def _unfolded(
    layer: nn.Conv2d,
    a: Float[Tensor, "b i h w"],
    delta: Float[Tensor, "b o h2 w2"],
    padding: tuple[int, ...],
    squared: bool,
    into: Tensor,
) -> None:
    """Sum over samples by products of unfolded inputs with gradients of outputs."""
    groups, count, positions = layer.groups, len(a), delta.shape[2] * delta.shape[3]
    outputs, rows = layer.out_channels // groups, layer.weight[0].numel()
    lead = () if groups == 1 else (groups,)
    flat = delta.reshape(count, *lead, outputs, positions)
    total = into.view(*lead, outputs, rows)
    plain = layer.kernel_size == (1, 1) and layer.stride == (1, 1) and padding == (0, 0)
    formed = 0 if positions == 1 else layer.weight.numel()
    for cut in _chunks(count, max(formed, groups * rows * positions)):
        cols = a[cut]
        if not plain:
            cols = functional.unfold(
                cols, layer.kernel_size, dilation=layer.dilation, padding=padding, stride=layer.stride
            )
        cols = cols.reshape(-1, *lead, rows, positions)
        if positions == 1:
            left, right = _power(flat[cut], squared)[..., 0], _power(cols, squared)[..., 0]
            total += torch.einsum("b...o,b...i->...oi", left, right)
        else:
            _fold(total, flat[cut], cols, squared)


def _grouped(
    layer: nn.Conv2d,
    a: Float[Tensor, "b i h w"],
    delta: Float[Tensor, "b o h2 w2"],
    padding: tuple[int, ...],
    squared: bool,
    into: Tensor,
) -> None:
    """The same by one backward pass of a convolution whose groups are the samples: faster where images are large."""
    outputs, inputs, height, width = layer.weight.shape
    for cut in _chunks(len(a), layer.weight.numel()):
        x, d = a[cut].contiguous(), delta[cut].contiguous()
        count = len(x)
        _, grads, _ = torch.ops.aten.convolution_backward(
            d.view(1, count * outputs, *d.shape[2:]),
            x.view(1, count * inputs, *x.shape[2:]),
            x.new_empty(1).expand(count * outputs, inputs, height, width),
            None,
            layer.stride,
            padding,
            layer.dilation,
            False,
            [0, 0],
            count,
            [False, True, False],
        )
        into += _power(grads.view(count, *layer.weight.shape), squared).sum(0)


def _pad_mode(mode: str) -> str:
    return "constant" if mode == "zeros" else mode


def _affine(normal: Tensor, delta: Tensor, squared: bool, keep: int, into: Sums) -> None:
    """Weight and bias of a norm whose parameters run along dimension 1 (keep = 1) or the last `-keep` ones."""
    over = tuple(range(2, delta.dim())) if keep > 0 else tuple(range(1, delta.dim() + keep))
    for name, grads in (("weight", delta * normal), ("bias", delta)):
        _add(into, name, grads.sum(over) if over else grads, squared)


def _batch_norm(layer: nn.Module, a: Tensor, delta: Tensor, squared: bool, into: Sums) -> None:
    assert isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
    assert layer.running_mean is not None and layer.running_var is not None
    shape = (1, -1, *[1] * (a.dim() - 2))
    mean, deviation = layer.running_mean.to(a), (layer.running_var.to(a) + layer.eps).sqrt()
    _affine((a - mean.view(shape)) / deviation.view(shape), delta, squared, 1, into)


def _group_norm(layer: nn.Module, a: Tensor, delta: Tensor, squared: bool, into: Sums) -> None:
    assert isinstance(layer, nn.GroupNorm)
    _affine(functional.group_norm(a, layer.num_groups, eps=layer.eps), delta, squared, 1, into)


def _layer_norm(layer: nn.Module, a: Tensor, delta: Tensor, squared: bool, into: Sums) -> None:
    assert isinstance(layer, nn.LayerNorm)
    shape = list(layer.normalized_shape)
    _affine(functional.layer_norm(a, shape, eps=layer.eps), delta, squared, -len(shape), into)


_RULES: dict[type, Rule] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm3d: _batch_norm,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
}
