"""What a model is made of: its size, and the layers that restrict what may be computed with it."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

_STOCHASTIC_DEPTH = frozenset({"DropPath", "StochasticDepth"})


def num_parameters(model: nn.Module) -> int:
    """Return the number of trainable numbers; a tensor used twice counts once."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def has_dropout(model: nn.Module) -> bool:
    """Tell whether the model drops units, layers or attention weights at random in training mode.

    Seen are torch's dropout layers, recurrent and attention layers with dropout, and stochastic depth by class name;
    a call of `functional.dropout` in somebody's `forward` is not.
    """
    return any(
        (isinstance(module, _DropoutNd) and module.p > 0)
        or (isinstance(module, (nn.MultiheadAttention, nn.RNNBase)) and module.dropout > 0)
        or type(module).__name__ in _STOCHASTIC_DEPTH
        for module in model.modules()
    )


def couples_examples(model: nn.Module) -> bool:
    """Tell whether, in the modes its layers are in now, the output for one image depends on the others of the batch.

    That is batch normalisation in training mode, or without running statistics. A freshly built ResNet says True;
    after `model.eval()` it says False.
    """
    return any(
        isinstance(module, _BatchNorm)
        and not isinstance(module, nn.modules.instancenorm._InstanceNorm)
        and (module.training or module.running_mean is None)
        for module in model.modules()
    )


def wrong_reverse_over_forward(model: nn.Module) -> tuple[str, ...]:
    """Return the layers through which reverse-over-forward differentiation is silently wrong.

    `grad(x -> jvp(theta -> loss(theta, x), v))` treats the statistics that layer normalisation, instance normalisation
    and batch normalisation with batch statistics compute as constants: measured with torch 2.13 against central
    differences in double precision, the result is off by 8 to 24 %. Forward-over-reverse and double backward are exact.
    """
    return tuple(
        f"{name} ({type(module).__name__})"
        for name, module in model.named_modules()
        if isinstance(module, (nn.LayerNorm, nn.modules.instancenorm._InstanceNorm))
        or (isinstance(module, _BatchNorm) and (module.training or module.running_mean is None))
    )
