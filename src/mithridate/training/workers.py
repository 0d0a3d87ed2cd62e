"""The rows of simulated workers: the gradient of each part of a batch.

A network of nothing but linear layers sees the whole batch in one forward pass and one backward pass to the layers'
outputs; the gradient of each worker is then a product of its outputs' slopes with its inputs, for all workers at once.
Other networks take one part after the other: copies of the parameters along a batch dimension (`vmap`) measured no
faster for convolutions. Both ways give the same rows up to rounding, which a test asserts.

Shapes   n workers, b examples in all, d parameters.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mithridate.aggregation._base import State
from mithridate.models._base import AbstractNet
from mithridate.models.facts import has_dropout
from mithridate.models.spec import Classifier
from mithridate.numerics.flat import FlatModule
from mithridate.training._base import Batch, Forward
from mithridate.training.step import Step

Autocast = Callable[[Forward], Forward]
Answer = tuple[Float[Tensor, "n d"], Float[Tensor, " w"], Float[Tensor, ""]]

_TINY = 1e-30  # a worker whose examples all have weight zero sends a zero row


def worker_rows(
    step: Step,
    net: FlatModule,
    autocast: Autocast,
    batch: Batch,
    weights: Float[Tensor, " b"],
    states: dict[str, State],
) -> Answer:
    """Return the rows of the workers that compute, the weight of every worker in the plain mean, and the mean loss.

    Hostile workers whose own rows nobody needs do not compute; the loss is that of those who do.
    """
    parts = torch.arange(len(weights), device=weights.device).tensor_split(step.rows.count)
    if hostile := step.rows.hostile:
        first = sum(map(len, parts[: step.rows.count - hostile.f]))
        batch = hostile.tampered(batch, first, states[f"rows/{hostile.name}"])
    idle = parts[step.rows.computed :]
    parts = parts[: step.rows.computed]
    used = sum(map(len, parts))
    computed = _part(batch, slice(used)) if idle else batch
    shares = [weights[part].sum() for part in idle]
    equal = len(parts[0]) == len(parts[-1])
    if equal and step.loss.separable and fits_at_once(net.module):
        find: Callable[..., tuple[Tensor, Tensor, Tensor]] = _at_once
    else:
        find = _in_turn
    rows, prior, loss = find(step, net, autocast, computed, weights[:used], states, len(parts))
    if not idle:
        return rows, prior, loss
    return rows, torch.cat([prior, torch.stack(shares)]), loss / prior.sum().clamp_min(_TINY)


def fits_at_once(module: nn.Module) -> bool:
    """Tell whether all workers go through the network at once: a built-in one whose parameters are all linear."""
    if not (isinstance(module, Classifier) and isinstance(module.net, AbstractNet)) or has_dropout(module):
        return False
    leaves = [layer for layer in module.modules() if any(True for _ in layer.parameters(recurse=False))]
    return all(type(layer) is nn.Linear for layer in leaves)


def _at_once(
    step: Step,
    net: FlatModule,
    autocast: Autocast,
    batch: Batch,
    weights: Float[Tensor, " b"],
    states: dict[str, State],
    n: int,
) -> tuple[Tensor, Tensor, Tensor]:
    linear = {name: layer for name, layer in net.module.named_modules() if isinstance(layer, nn.Linear)}
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    hooks = [layer.register_forward_hook(partial(_note, seen, name)) for name, layer in linear.items()]
    try:
        losses = step.loss.losses(autocast(net.module), batch)
    finally:
        for hook in hooks:
            hook.remove()
    detached = losses.detach()
    weights, states["weigh"] = step.weigh.weigh(detached, batch, weights, states["weigh"])
    each = torch.unflatten(weights, 0, (n, -1))
    prior = each.sum(1)
    total = torch.dot((each / prior.clamp_min(_TINY)[:, None]).flatten().to(losses.dtype), losses)
    slopes = torch.autograd.grad(total, [output for _, output in seen.values()])
    rows = torch.empty((n, len(net.values)), dtype=net.values.dtype, device=net.values.device)
    places = net.stacked(rows)
    for (name, (x, _)), slope in zip(seen.items(), slopes, strict=True):
        of_parts = torch.unflatten(slope, 0, (n, -1))
        if f"{name}.weight" in places:
            inputs = torch.unflatten(x.to(slope.dtype), 0, (n, -1))
            place = places[f"{name}.weight"]
            if place.dtype == slope.dtype:
                place.baddbmm_(of_parts.mT, inputs, beta=0)  # straight into the rows
            else:
                place.copy_(of_parts.mT @ inputs)
        if f"{name}.bias" in places:
            places[f"{name}.bias"].copy_(of_parts.sum(1))
    return rows, prior, torch.dot(weights, detached)


def _note(
    seen: dict[str, tuple[Tensor, Tensor]], name: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor
) -> None:
    """Keep what went into a linear layer and what came out of it."""
    del layer
    assert name not in seen, f"{name} is used twice in a forward pass"
    seen[name] = (inputs[0].detach(), output)


def _in_turn(
    step: Step,
    net: FlatModule,
    autocast: Autocast,
    batch: Batch,
    weights: Float[Tensor, " b"],
    states: dict[str, State],
    n: int,
) -> tuple[Tensor, Tensor, Tensor]:
    parts = torch.arange(len(weights), device=weights.device).tensor_split(n)
    losses = [step.loss.losses(autocast(net.module), _part(batch, part)) for part in parts]
    detached = torch.cat(losses).detach()
    weights, states["weigh"] = step.weigh.weigh(detached, batch, weights, states["weigh"])
    prior = torch.stack([weights[part].sum() for part in parts])
    rows = torch.empty((n, len(net.values)), dtype=net.values.dtype, device=net.values.device)
    for row, part, loss, share in zip(rows, parts, losses, prior, strict=True):
        net.grads.zero_()
        scaled = (weights[part] / share.clamp_min(_TINY)).to(loss.dtype)
        torch.dot(scaled, loss).backward()  # type: ignore[no-untyped-call]
        row.copy_(net.grads)
    return rows, prior, torch.dot(weights, detached)


def _part(batch: Batch, part: Tensor | slice) -> Batch:
    return replace(
        batch,
        index=batch.index[part],
        x=batch.x[part],
        labels=batch.labels[part],
        columns={name: value[part] for name, value in batch.columns.items()},
    )
