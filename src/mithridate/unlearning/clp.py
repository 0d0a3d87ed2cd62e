"""Channel Lipschitz pruning: silence the channels whose output a small change of the input can move furthest.

    L_k = sigma_max( W_k ) |gamma_k| / sqrt(var_k + eps),   W_k the kernel of channel k, inputs by places
    channel k of a layer is pruned (weight and bias of its norm 0) where  L_k > mean_j L_j + u sd_j L_j

Paper    Zheng et al., Data-free Backdoor Removal based on Channel Lipschitzness (ECCV 2022), arXiv 2208.03111: u = 3.
Needs    no data: suspects and guard only judge the result. Convolutions or linear layers whose output a batch
         normalisation with running statistics takes as it is.
Promise  nothing but weights and biases of norms changes, and those to zero. No layer is pruned as a whole, and none of
         ten channels or fewer at u = 3: among n numbers none lies further than (n - 1) / sqrt(n) deviations above the
         mean. Pruning once more may prune more, since the others then lie further out; it is done once.
Departs  pairs of layer and norm are those between which a tensor passes unchanged in a forward pass of black images,
         not those that follow each other in the listing of modules. eps is that of the norm. The deviation is that of a
         sample (n - 1).
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from mithridate.core.errors import Misuse
from mithridate.core.params import In, param
from mithridate.unlearning._base import AbstractHealer, Healed, HealKit
from mithridate.unlearning._frame import begin
from mithridate.unlearning._layers import hooked, norms
from mithridate.unlearning._settling import settle


@dataclass(frozen=True, kw_only=True)
class Clp(AbstractHealer):
    """Pruning by bounds of Lipschitz constants."""

    u: float = param(3.0, within=In(0.0, 1e6), doc="deviations above a layer's mean beyond which a channel is pruned")

    def heal(self, kit: HealKit, *, seed: int) -> Healed:
        """Prune once; see `AbstractHealer.heal`.

        Raises:
            Misuse: MTH-0841, no norm stands directly behind a layer.
        """
        session = begin(kit, seed=seed)
        found = pairs(session.model, session.kit.suspects.images.shape)
        if not found:
            raise Misuse(
                "MTH-0841",
                f"{type(kit.model).__name__} has no batch normalisation with running statistics directly behind a "
                "convolution or linear layer, and clp prunes by these",
                hint="choose fine-pruning, nad, i-bau or xlf",
            )
        names = {norm: name for name, norm in norms(session.model).items()}
        pruned: dict[str, list[int]] = {}
        for norm, layers in found.items():
            bound = torch.stack([bounds(layer, norm) for layer in layers]).amax(0)
            rows = outliers(bound, self.u)
            with torch.no_grad():
                norm.weight.index_fill_(0, rows, 0.0)
                norm.bias.index_fill_(0, rows, 0.0)
            pruned[names[norm]] = rows.tolist()
        if not any(pruned.values()):
            session.warn(f"no channel lies more than {self.u:g} deviations above its layer's mean: nothing was pruned")
        details = {
            "pruned": {name: rows for name, rows in pruned.items() if rows},
            "channels": sum(norm.num_features for norm in found),
            "norms": len(found),
            "norms_left_out": len(names) - len(found),
        }
        return settle(session, session.model, method=self.label(), details=details)


def pairs(model: nn.Module, shape: tuple[int, int, int]) -> dict[_BatchNorm, list[nn.Module]]:
    """Return the norms that take the output of a convolution or linear layer as it is, and these layers.

    Args:
        model: The network, in evaluation mode.
        shape: Channels, rows and columns of its images.
    """
    wanted = {norm for norm in norms(model).values() if norm.running_var is not None}
    sources: list[tuple[Tensor, int, nn.Module]] = []  # an output, how often it had been written to, whose it is
    found: dict[_BatchNorm, list[nn.Module]] = {}

    def note(module: nn.Module, args: Any, out: Any) -> None:
        if isinstance(module, _BatchNorm):
            layers = [layer for out, version, layer in sources if out is args[0] and out._version == version]
            if layers and layers[-1] not in found.setdefault(module, []):
                found[module].append(layers[-1])
        else:
            sources.append((out, out._version, module))

    layers = [m for m in model.modules() if isinstance(m, _ConvNd | nn.Linear) and not isinstance(m, _ConvTransposeNd)]
    with hooked([*layers, *wanted], note), torch.no_grad():
        model(torch.zeros(2, *shape, device=next(model.parameters()).device))
    return found


def bounds(layer: nn.Module, norm: _BatchNorm) -> Float[Tensor, " c"]:
    """Return for each channel the bound of how much the layer and its norm stretch their input."""
    assert isinstance(layer, _ConvNd | nn.Linear) and norm.running_var is not None
    weight = layer.weight.detach().float()
    stretch: Tensor = torch.linalg.matrix_norm(weight.flatten(2) if weight.dim() > 2 else weight[:, None], ord=2)
    return stretch * norm.weight.detach().float().abs() / (norm.running_var.float() + norm.eps).sqrt()


def outliers(bound: Float[Tensor, " c"], u: float) -> Int64[Tensor, " k"]:
    """Return the channels whose bound lies more than `u` deviations above the mean; one channel alone never does."""
    if len(bound) < 2:
        return torch.zeros(0, dtype=torch.int64, device=bound.device)
    exact = bound.double()  # the mean of equal numbers is to be that number
    return (exact > exact.mean() + u * exact.std()).nonzero().flatten()


METHOD = Clp
