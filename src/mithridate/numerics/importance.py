"""How much each parameter matters to what a network says of some samples: exact means over samples, in small memory.

    ssd   mean of ( d/dtheta CE(f(x), y) )^2             the diagonal of the empirical Fisher matrix; needs labels
    lf    mean of | d/dtheta ||f(x)||^2 |                the squared norm of the logits
    xlf   mean of | d/dtheta ||f(x)|| |                  the norm itself, so that no sample weighs more by its logits

The network is in evaluation mode: samples do not meet, and running statistics stay as they are. The mean is over
samples, of powers of the gradient of each one; `per_sample=False` takes the gradient of the mean over each given batch
first, as published code does, so that gradients of a batch cancel.

Gradients of single samples are formed for one layer and a few samples at a time (see `_sample_rules`), where a layer
has a rule, is used once in a pass, and shares its parameters with no other. This is believed only after it agrees with
one backward pass for each of three samples; what does not is differentiated by `vmap` over samples, and where that
cannot be, by one backward pass a sample.

Paper    Foster et al., Selective Synaptic Dampening (AAAI 2024), for ssd; Foster et al., Loss-Free SSD (ICLR 2024, tiny
         papers), for lf; Schoepf et al., Potion (2024), for xlf, as its code has it.
Promise  equal to the loop over samples up to rounding; float32 or better whatever the network's precision; a parameter
         that several layers share counts once, one that is frozen not at all.
Cost     a forward and a backward pass a sample; memory for one number a parameter, and the activations of a batch.
"""

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Literal

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from mithridate.core.errors import Misuse
from mithridate.core.pool import Tell, silent
from mithridate.numerics._sample_rules import Rule, Sums, rule_for

Kind = Literal["ssd", "lf", "xlf"]
Batch = tuple[Shaped[Tensor, "..."], Int64[Tensor, "..."] | None]
Importance = dict[str, Tensor]
"""For each trainable parameter, by its first name, one number an entry."""

_PROBE = 3
_SOME = 4096
_NOISE = 1e-5
"""What is smaller than this share of the largest gradient of a layer may be rounding, in single precision."""
_VMAP_NUMBERS = 1 << 24


def importance(
    model: nn.Module, batches: Iterable[Batch], kind: Kind, *, per_sample: bool = True, tell: Tell = silent
) -> Importance:
    """Return the importance of every trainable parameter for some samples.

    Args:
        model: The network; its mode and gradients are left as they were.
        batches: Inputs, and labels for `ssd`. The result does not depend on how samples are cut into batches, unless
            `per_sample` is false.
        kind: What is differentiated; see the module.
        per_sample: Whether powers are taken of the gradient of each sample, or of the mean over each batch.
        tell: Told the number of samples so far.

    Raises:
        Misuse: MTH-0826 naming the layer whose importance is not finite; MTH-0830 for no samples; MTH-0831 for a
            network that cannot be differentiated one sample at a time, MTH-0832 for one without trainable parameters.
    """
    mean = Accumulator(model, kind, per_sample=per_sample)
    with mean:
        for x, labels in batches:
            mean.add(x, labels)
            tell({"what": "importance", "samples": mean.count})
    return mean.result(last=True)


@dataclass
class Accumulator:
    """A running mean of importances: enter, add batches, leave, read the result; sums can be kept and put back.

    Args:
        model: The network.
        kind: What is differentiated.
        per_sample: See `importance`.

    Attributes:
        count: How many gradients they are sums of: samples, or batches.
    """

    model: nn.Module
    kind: Kind
    per_sample: bool = True
    count: int = field(default=0, init=False)
    _net: nn.Module = field(init=False)
    _plan: "_Plan | None" = field(default=None, init=False)
    _modes: dict[nn.Module, bool] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        wide = all(_wide(t) for t in (*self.model.parameters(), *self.model.buffers()))
        self._net = self.model if wide else copy.deepcopy(self.model).float()

    @cached_property
    def sums(self) -> Importance:
        """Sums of powers so far, by parameter; made before the probe, so that what the probe frees is used again."""
        named = trainable(self._net)
        return {name: torch.zeros(p.shape, dtype=p.dtype, device=p.device) for name, p in named.items()}

    def __enter__(self) -> "Accumulator":
        self._modes = {module: module.training for module in self._net.modules()}
        self._net.eval()
        return self

    def __exit__(self, *exc: object) -> None:
        for module, was in self._modes.items():
            module.training = was

    def add(self, x: Shaped[Tensor, "b ..."], labels: Int64[Tensor, " b"] | None = None) -> None:
        """Add the samples of a batch.

        Raises:
            Misuse: MTH-0823 for `ssd` without labels; MTH-0831 and MTH-0832 for networks that cannot be differentiated.
        """
        if not len(x):
            return
        like = next(iter(trainable(self._net).values()))
        x = x.to(like.device, like.dtype) if x.is_floating_point() else x.to(like.device)
        labels = None if labels is None else labels.to(like.device)
        with torch.enable_grad():
            if not self.per_sample:
                found = _one_gradient(self._net, self.kind, x, labels, 1 / len(x))
                for name, g in found.items():
                    self.sums[name] += _power(g, self.kind)
                self.count += 1
                return
            if self._plan is None:
                head = None if labels is None else labels[:_PROBE]
                fresh = "sums" not in vars(self)
                before = None if fresh else {name: total.clone() for name, total in self.sums.items()}
                self._plan = _plan(self._net, self.kind, x[:_PROBE], head, self.sums)
                for name, total in self.sums.items():
                    total.zero_() if before is None else total.copy_(before[name])
            if self._plan.hooked:
                with _recording(self._plan.hooked, self.sums, squared=self.kind == "ssd"):
                    _backward(self._net, self.kind, x, labels, self._plan.first)
            if self._plan.rest:
                _rest(self._net, self.kind, x, labels, self._plan, self.sums)
            self.count += len(x)

    def result(self, *, last: bool = False) -> Importance:
        """Return the means.

        Args:
            last: Whether the sums are not needed any more; they are then turned into the means.

        Raises:
            Misuse: MTH-0830 for no samples, MTH-0826 for sums that are not finite.
        """
        if not self.count:
            raise Misuse("MTH-0830", "importances are means over samples, and there was none")
        for name, total in self.sums.items():
            if total.numel() and not bool(total.max().isfinite()):  # no entry is negative
                raise Misuse(
                    "MTH-0826",
                    f"the importance ({self.kind}) of {name} holds {int((~total.isfinite()).sum())} of {total.numel()} "
                    "values that are NaN or infinite",
                    hint="the network's outputs or gradients overflow on these samples",
                )
        return {name: total.div_(self.count) if last else total / self.count for name, total in self.sums.items()}


def losses(logits: Float[Tensor, "b k"], kind: Kind, labels: Int64[Tensor, " b"] | None = None) -> Float[Tensor, " b"]:
    """Return what is differentiated, for each sample; the norm of a zero vector has the gradient zero."""
    if kind == "ssd":
        if labels is None:
            raise Misuse("MTH-0823", "the importance `ssd` is the gradient of a loss, and there are no labels")
        return functional.cross_entropy(logits, labels, reduction="none")
    squares = logits.flatten(1).square().sum(1)
    if kind == "lf":
        return squares
    positive = squares > 0
    return torch.where(positive, torch.where(positive, squares, 1).sqrt(), 0)


def trainable(net: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are not frozen, each by its first name.

    Raises:
        Misuse: MTH-0832, there is none.
    """
    named = {name: p for name, p in net.named_parameters() if p.requires_grad}
    if not named:
        raise Misuse(
            "MTH-0832",
            f"every parameter of {type(net).__name__} is frozen, so none has a gradient",
            hint="model.requires_grad_(True) thaws all of them; what stays frozen is never changed",
        )
    return named


@dataclass(frozen=True)
class _Hooked:
    """A layer with a rule, and the full names of those of its parameters that count."""

    layer: nn.Module
    rule: Rule
    names: Mapping[str, str]


@dataclass(frozen=True)
class _Plan:
    """Which parameters come from rules, and which from `vmap`, or where that fails from a loop; where backward ends."""

    hooked: tuple[_Hooked, ...]
    first: nn.Module | None
    rest: tuple[str, ...]
    mapped: bool


def _wide(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or tensor.dtype in (torch.float32, torch.float64)


def _power(x: Tensor, kind: Kind) -> Tensor:
    return x.square() if kind == "ssd" else x.abs()


def _total(logits: Tensor, kind: Kind, labels: Tensor | None) -> Float[Tensor, ""]:
    return losses(logits, kind, labels).sum()


def _one_gradient(net: nn.Module, kind: Kind, x: Tensor, labels: Tensor | None, scale: float) -> dict[str, Tensor]:
    named = trainable(net)
    loss = _total(net(x), kind, labels) * scale
    if not loss.requires_grad:
        return {}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: g for name, g in zip(named, found, strict=True) if g is not None}


def _backward(net: nn.Module, kind: Kind, x: Tensor, labels: Tensor | None, first: nn.Module | None) -> None:
    """Run backward for the sake of hooks: no gradient of a weight is formed, and none before the output of `first`."""
    outputs: list[Tensor] = []
    given = x.detach().requires_grad_(first is None) if x.is_floating_point() else x

    def mark(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        del module, inputs
        outputs.append(output)

    handle = None if first is None else first.register_forward_hook(mark)
    try:
        loss = _total(net(given), kind, labels)
    finally:
        if handle is not None:
            handle.remove()
    end = outputs[0] if outputs else given
    if end.requires_grad and loss.requires_grad:
        torch.autograd.grad(loss, end, allow_unused=True)


@contextmanager
def _recording(hooked: tuple[_Hooked, ...], into: Sums, *, squared: bool) -> Iterator[None]:
    """Add to the sums of each layer as soon as the gradient of its output is known."""
    handles: list[RemovableHandle] = []

    def forward(one: _Hooked, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        a = inputs[0].detach()
        if output.requires_grad:
            output.register_hook(partial(backward, one, a))  # type: ignore[no-untyped-call] # torch's stub

    def backward(one: _Hooked, a: Tensor, delta: Tensor) -> None:
        with torch.no_grad():
            one.rule(one.layer, a, delta, squared, {key: into[name] for key, name in one.names.items()})

    try:
        for one in hooked:
            handles.append(one.layer.register_forward_hook(partial(forward, one)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _plan(net: nn.Module, kind: Kind, x: Tensor, labels: Tensor | None, room: Importance) -> _Plan:
    """Decide how each parameter is done, by comparing every way with a backward pass a sample on three samples.

    Some entries of each parameter are compared, so that this needs no memory but the `room` for sums, which are
    overwritten, and one gradient. Their total is not: where most entries are rounding, so is it.
    """
    order = torch.arange(_PROBE, device=x.device) % len(x)
    x, labels = x[order], labels[order.to(labels.device)] if labels is not None else None
    if x.is_floating_point():  # repeated samples would hide that samples meet
        x = x * torch.linspace(1.0, 0.8, _PROBE, dtype=x.dtype, device=x.device).view(-1, *[1] * (x.dim() - 1))
    try:
        want = _probed(net, kind, x, labels)
    except (RuntimeError, ValueError) as error:
        raise Misuse(
            "MTH-0831",
            f"{type(net).__name__} cannot be differentiated one sample at a time: {str(error).splitlines()[0][:200]}",
            hint="per_sample=False (importance_batch) takes gradients of whole batches",
        ) from error
    candidates, first = _candidates(net, x)
    right: tuple[_Hooked, ...] = ()
    for end in dict.fromkeys((first, None)) if candidates else ():
        sums = _zeroed(room)
        with _recording(candidates, sums, squared=kind == "ssd"):
            _backward(net, kind, x, labels, end)
        equal = _agreeing(_spreads(sums), want, kind)
        agreed = tuple(one for one in candidates if equal.issuperset(one.names.values()))
        if len(agreed) > len(right):
            right, first = agreed, end
        if len(agreed) == len(candidates):
            break
    done = {name for one in right for name in one.names.values()}
    rest = tuple(name for name in want if name not in done)
    mapped = False
    if rest:
        try:
            sums = _zeroed(room)
            _mapped(net, kind, x, labels, rest, sums)
            mapped = _agreeing(_spreads(sums), want, kind).issuperset(rest)
        except (RuntimeError, ValueError, NotImplementedError):
            mapped = False  # in-place or data-dependent code; the loop does it
    return _Plan(hooked=right, first=first, rest=rest, mapped=mapped)


def _candidates(net: nn.Module, x: Tensor) -> tuple[tuple[_Hooked, ...], nn.Module | None]:
    """Return the layers that have a rule, ran once, and own their parameters alone, and which of them ran first."""
    owners: dict[int, int] = {}
    for module in net.modules():
        for p in module.parameters(recurse=False):
            owners[id(p)] = owners.get(id(p), 0) + 1
    calls: dict[nn.Module, int] = {}

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        del inputs, output
        calls[module] = calls.get(module, 0) + 1

    handles = [module.register_forward_hook(count) for module in net.modules()]
    try:
        with torch.no_grad():
            net(x)
    finally:
        for handle in handles:
            handle.remove()
    found = []
    for prefix, module in net.named_modules():
        rule = rule_for(module)
        own = dict(module.named_parameters(recurse=False))
        sound = calls.get(module) == 1 and all(owners[id(p)] == 1 for p in own.values())
        dot = f"{prefix}." if prefix else ""
        names = {key: dot + key for key, p in own.items() if p.requires_grad}
        if rule is not None and names and sound:
            found.append(_Hooked(layer=module, rule=rule, names=names))
    layers = {one.layer for one in found}
    return tuple(found), next((module for module in calls if module in layers), None)


def _zeroed(sums: Importance) -> Importance:
    for total in sums.values():
        total.zero_()
    return sums


def _spread(total: Tensor) -> Tensor:
    """Return some entries, over the whole of a tensor: at every place of a kernel, in every column."""
    step = max(1, total.numel() // _SOME)
    while math.gcd(step, total.numel()) > 1:  # else all would lie at the same few places of each row
        step -= 1
    return total.take(torch.arange(0, total.numel(), step, device=total.device))  # copies nothing else


def _spreads(sums: Importance) -> dict[str, Tensor]:
    return {name: _spread(total) for name, total in sums.items()}


def _probed(net: nn.Module, kind: Kind, x: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
    """Return some entries of sums by one backward pass for each sample."""
    found = {name: torch.zeros_like(_spread(p)) for name, p in trainable(net).items()}
    for row in range(len(x)):
        label = None if labels is None else labels[row : row + 1]
        for name, g in _one_gradient(net, kind, x[row : row + 1], label, 1.0).items():
            found[name] += _power(_spread(g), kind)
    return found


def _agreeing(found: Mapping[str, Tensor], want: Mapping[str, Tensor], kind: Kind) -> set[str]:
    """Return the parameters whose entries are equal but for rounding.

    A gradient that is zero by cancellation (of a bias before a norm, of the keys of an attention) is all rounding, so
    what is small beside the other parameters of its layer is not compared.
    """
    scale: dict[str, float] = {}
    for name, value in want.items():
        layer = name.rpartition(".")[0]
        scale[layer] = max(scale.get(layer, 0.0), float(value.max()) if value.numel() else 0.0)
    noise = _NOISE**2 if kind == "ssd" else _NOISE
    agreed = set()
    for name, value in want.items():
        largest = float(value.max()) if value.numel() else 0.0
        slack = 1e-3 * value + 1e-4 * largest + noise * scale[name.rpartition(".")[0]]
        if bool(((found[name] - value).abs() <= slack).all()):
            agreed.add(name)
    return agreed


def _rest(net: nn.Module, kind: Kind, x: Tensor, labels: Tensor | None, plan: _Plan, into: Importance) -> None:
    (_mapped if plan.mapped else _looped)(net, kind, x, labels, plan.rest, into)


def _looped(
    net: nn.Module, kind: Kind, x: Tensor, labels: Tensor | None, names: tuple[str, ...], into: Importance
) -> None:
    """Add powers of the gradients of each sample, by one backward pass for each."""
    named = trainable(net)
    for row in range(len(x)):
        loss = _total(net(x[row : row + 1]), kind, labels[row : row + 1] if labels is not None else None)
        if not loss.requires_grad:
            continue
        found = torch.autograd.grad(loss, [named[name] for name in names], allow_unused=True)
        for name, g in zip(names, found, strict=True):
            if g is not None:
                into[name] += _power(g, kind)


def _mapped(
    net: nn.Module, kind: Kind, x: Tensor, labels: Tensor | None, names: tuple[str, ...], into: Importance
) -> None:
    """The same by `vmap`, a few samples at a time."""
    constant = {name: p.detach() for name, p in net.named_parameters()}
    chosen = {name: constant.pop(name) for name in names}

    def loss(theta: dict[str, Tensor], sample: Tensor, label: Tensor | None) -> Tensor:
        logits = functional_call(net, {**constant, **theta}, (sample.unsqueeze(0),))
        return _total(logits, kind, None if label is None else label.unsqueeze(0))

    size = max(1, _VMAP_NUMBERS // max(1, sum(value.numel() for value in chosen.values())))
    each = vmap(grad(loss), in_dims=(None, 0, None if labels is None else 0))
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        found = each(chosen, x[part], None if labels is None else labels[part])
        for name, grads in found.items():
            into[name] += _power(grads, kind).sum(0)
