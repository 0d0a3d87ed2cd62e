"""Fold frozen BatchNorm into the convolution or linear layer before it, and carry derivatives through the fold.

    eval-mode BN after a layer:  gamma (W a + b - mu) / sd + beta = W' a + b',
    W' = (gamma / sd) W,   b' = beta + (gamma / sd)(b - mu),   sd = sqrt(var + eps)

The function of the input is unchanged, and so is every mixed derivative: with theta' = effective(theta) and J its
Jacobian, grad_theta = J^T grad_theta', and a direction v in theta acts as J v in theta'. Nothing second-order of the
fold enters a product <grad_theta loss(x), v> differentiated in x. The gain is a network without normalisation passes.

Which layers are adjacent is seen by running the network once. A folded network is believed only after it agrees with
the original at randomly moved parameters; otherwise nothing is folded.

Source   the identity is elementary; that it commutes with the two-pass gradient matching is our own observation.
Promise  exact up to rounding, or no fold.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.func import functional_call

from mithridate.core.seeds import address

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True, kw_only=True, eq=False)
class Fold:
    """One BatchNorm absorbed by the layer before it; names are full parameter prefixes in the module."""

    layer: str
    norm: str
    has_bias: bool
    has_affine: bool
    mean: Float[Tensor, " c"]
    inverse_deviation: Float[Tensor, " c"]

    def effective(self, theta: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weight and bias of the layer that computes layer and norm at once."""
        scale, shift = self.inverse_deviation, -self.mean
        if self.has_bias:
            shift = shift + theta[f"{self.layer}.bias"]
        if self.has_affine:
            scale = scale * theta[f"{self.norm}.weight"]
        shift = shift * scale
        if self.has_affine:
            shift = shift + theta[f"{self.norm}.bias"]
        weight = theta[f"{self.layer}.weight"]
        return {
            f"{self.layer}.weight": weight * scale.reshape(-1, *[1] * (weight.ndim - 1)),
            f"{self.layer}.bias": shift,
        }

    def consumed(self) -> tuple[str, ...]:
        """Names of the original parameters that this fold replaces."""
        names = [f"{self.layer}.weight"]
        names += [f"{self.layer}.bias"] * self.has_bias
        names += [f"{self.norm}.weight", f"{self.norm}.bias"] * self.has_affine
        return tuple(names)

    def made(self) -> tuple[str, str]:
        """Names of the parameters that the folded layer runs on."""
        return f"{self.layer}.weight", f"{self.layer}.bias"


def effective_parameters(theta: Mapping[str, Tensor], folds: tuple[Fold, ...]) -> dict[str, Tensor]:
    """Map the original parameters to those of the folded network; differentiable in `theta`."""
    consumed = {name for fold in folds for name in fold.consumed()}
    out = {name: value for name, value in theta.items() if name not in consumed}
    for fold in folds:
        out.update(fold.effective(theta))
    return out


def fold_norms(module: nn.Module, example: Shaped[Tensor, "b ..."]) -> tuple[nn.Module, tuple[Fold, ...]]:
    """Fold what can be folded.

    Args:
        module: Network in eval mode; it is not changed.
        example: A small batch of inputs that the network accepts.

    Returns:
        A folded copy to be called with `effective_parameters` and the folds, or `module` itself and no folds where
        there is nothing to fold or the folded copy does not agree with the original.
    """
    folds = _find(module, example)
    if not folds:
        return module, ()
    folded = copy.deepcopy(module)
    for fold in folds:
        layer = folded.get_submodule(fold.layer)
        if not fold.has_bias:
            weight = module.get_submodule(fold.layer).get_parameter("weight")
            layer.register_parameter("bias", nn.Parameter(weight.new_zeros(weight.shape[0])))
        parent, _, name = fold.norm.rpartition(".")
        folded.get_submodule(parent).register_module(name, nn.Identity())
    if not _agree(module, folded, folds, example):
        return module, ()
    return folded, folds


def _find(module: nn.Module, example: Tensor) -> tuple[Fold, ...]:
    """Norms whose input is the output of a layer that ran just once."""
    calls: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}

    def record(mod: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls.setdefault(mod, []).append((inputs[0], output))

    # an exact type: a subclass may compute something else with the same weights
    watched = {m: name for name, m in module.named_modules() if type(m) in (*_LAYERS, *_NORMS)}
    handles = [m.register_forward_hook(record) for m in watched]
    try:
        with torch.no_grad():
            module(example)
    finally:
        for handle in handles:
            handle.remove()
    once = {m: seen[0] for m, seen in calls.items() if len(seen) == 1}
    maker = {id(output): m for m, (_, output) in once.items() if type(m) in _LAYERS}
    folds = []
    for norm, (given, _) in once.items():
        layer = maker.get(id(given))
        if layer is not None and isinstance(norm, _NORMS) and norm.running_mean is not None:
            folds.append(_fold(layer, norm, watched[layer], watched[norm]))
    layers = [fold.layer for fold in folds]
    return tuple(fold for fold in folds if layers.count(fold.layer) == 1)


def _fold(layer: nn.Module, norm: Any, layer_name: str, norm_name: str) -> Fold:
    return Fold(
        layer=layer_name,
        norm=norm_name,
        has_bias=layer.bias is not None,
        has_affine=bool(norm.affine),
        mean=norm.running_mean.detach().clone(),
        inverse_deviation=(norm.running_var.detach() + norm.eps).rsqrt(),
    )


def _agree(module: nn.Module, folded: nn.Module, folds: tuple[Fold, ...], example: Tensor) -> bool:
    """Compare both networks at moved parameters (at the given ones an untrained norm would hide a wrong fold)."""
    gen = torch.Generator().manual_seed(address(0, "folding", "probe"))
    theta = {}
    for name, p in module.named_parameters():
        noise = torch.randn(p.shape, generator=gen).to(p)
        theta[name] = p.detach() + noise * (0.1 * p.detach().std(correction=0) + 0.1 * (p.ndim == 1))
    with torch.no_grad():
        want = functional_call(module, theta, (example,))
        try:
            got = functional_call(folded, effective_parameters(theta, folds), (example,))
        except (AttributeError, TypeError, ValueError, RuntimeError):
            return False  # the network looks inside its norms
    tolerance = 1e-3 if want.dtype == torch.float32 else 1e-9
    return bool((got - want).norm() <= tolerance * want.norm())
