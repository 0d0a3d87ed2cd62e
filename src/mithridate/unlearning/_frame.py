"""What every healer does first and last: a checked copy of the model, the guard's watch, the report."""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from mithridate.core.errors import Misuse
from mithridate.data.examples import Examples
from mithridate.evaluation.outcome import logits_of
from mithridate.models._base import mode
from mithridate.numerics.rng import generator
from mithridate.unlearning._base import ASSUMED_RATE, Healed, HealKit, finite
from mithridate.unlearning.undo import Undo

COLLAPSE = 0.2
"""A class whose accuracy falls by this or more is called collapsed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Watch:
    """The guard at work.

    Args:
        data: What is watched.
        truth: The labels of the data, or the given model's predictions where there are none.
        right: Which of them the given model has right.
        budget: The largest drop that is allowed, a share.
        trusted: Whether the data hold no poison.
        enabled: False measures, and lets everything pass.
    """

    data: Examples
    truth: Int64[Tensor, " n"]
    right: Bool[Tensor, " n"]
    budget: float
    trusted: bool
    enabled: bool

    @property
    def before(self) -> int:
        """How many of the examples the given model has right."""
        return int(self.right.sum())

    def hits(self, model: nn.Module) -> Bool[Tensor, " n"]:
        """Return which of the watched examples a model has right."""
        return predictions(model, self.data) == self.truth

    def loss(self, model: nn.Module) -> float:
        """Return the accuracy that was lost, a share; negative for a gain."""
        return (self.before - int(self.hits(model).sum())) / len(self.data)

    def allows(self, model: nn.Module) -> bool:
        """Tell whether the model is within budget."""
        return not self.enabled or self.loss(model) <= self.budget + 1e-9


@dataclass(frozen=True, kw_only=True, eq=False)
class Session:
    """A healing under way.

    Args:
        kit: What the defender has, with all data on the model's device.
        model: The copy that may be changed, in evaluation mode.
        original: The model that was given; only read.
        watch: The guard.
        suspects_before: Accuracy of the given model on the suspects, with respect to the labels found.
        warnings: Grows as the method goes on.
        began: When, on the clock of `time.perf_counter`.
    """

    kit: HealKit
    model: nn.Module
    original: nn.Module
    watch: Watch
    suspects_before: float
    began: float
    warnings: list[str] = field(default_factory=list)

    def fresh(self) -> nn.Module:
        """Return another copy of the given model, in evaluation mode."""
        return copy.deepcopy(self.original).eval()

    def warn(self, text: str) -> None:
        """Add a warning to the report, once."""
        if text not in self.warnings:
            self.warnings.append(text)


def begin(kit: HealKit, *, seed: int = 0, labels: bool = False) -> Session:
    """Check the kit against its model and return a copy to work on.

    Args:
        kit: What the defender has.
        seed: Which examples the guard watches derives from it.
        labels: Whether the method needs labels of the reference.

    Raises:
        Misuse: Weights that are not finite, images or labels that do not fit the model, or no labels where they are
            needed.
    """
    began = time.perf_counter()
    check_finite(kit.model)
    if labels and not kit.labelled:
        raise Misuse(
            "MTH-0823",
            "the method needs labels of the reference, and it has none",
            hint="xlf and lfssd need none",
        )
    device = next(iter(kit.model.parameters())).device
    kit = _moved(kit, device)
    num_classes = check_fit(kit.model, kit.suspects)
    for data in (kit.suspects, *([kit.reference] if kit.labelled else [])):
        check_labels(data, num_classes)
    model = copy.deepcopy(kit.model).eval()
    watch = begin_watch(kit, num_classes, seed=seed)
    before = accuracy(model, kit.suspects)
    return Session(kit=kit, model=model, original=kit.model, watch=watch, suspects_before=before, began=began)


def begin_watch(kit: HealKit, num_classes: int, *, seed: int) -> Watch:
    """Measure what the guard is to protect."""
    guard = kit.guard
    own = guard is not None and guard.data is not None
    data = guard.data if guard is not None and guard.data is not None else kit.reference
    limit = guard.limit if guard is not None else 1000
    if len(data) > limit:
        gen = generator(seed, "unlearning", "guard")
        data = data.select(torch.randperm(len(data), generator=gen)[:limit].sort().values)
    found = predictions(kit.model, data)
    if own or kit.labelled:
        check_labels(data, num_classes)
        truth = data.labels.to(found.device)
    else:
        truth = found
    trusted = guard is not None and guard.trusted
    budget = guard.budget if guard is not None else None
    if budget is None:
        rate = ASSUMED_RATE if kit.poison_rate is None else kit.poison_rate
        budget = 0.01 + (0.0 if trusted else rate)
    return Watch(
        data=data,
        truth=truth,
        right=found == truth,
        budget=budget,
        trusted=trusted,
        enabled=guard is not None,
    )


def finish(
    session: Session,
    model: nn.Module,
    *,
    method: str,
    converged: bool,
    details: Mapping[str, Any] | None = None,
    steps: int = 0,
) -> Healed:
    """Return the result of a method with its report.

    Args:
        session: As begun.
        model: The healed network; a new one, in evaluation mode.
        method: The method's name.
        converged: Whether it reached what it was to reach.
        details: What else belongs in the report, plain JSON; replaces general entries of the same name.
        steps: How many steps it took.
    """
    kit, watch = session.kit, session.watch
    undo = Undo.between(session.original, model)
    hits = watch.hits(model)
    changes = _class_changes(watch.truth, watch.right, hits, kit.suspects.classes)
    for name, change in changes.items():
        if change <= -COLLAPSE:
            session.warn(
                f"accuracy of class {name} fell by {-100 * change:.0f} points on the guard's data: it may have "
                "collapsed"
            )
    total = sum(p.numel() for p in model.parameters())
    lost = (watch.before - int(hits.sum())) / len(watch.data)
    report: dict[str, Any] = {
        "method": method,
        "converged": converged,
        "steps": steps,
        "alpha": None,
        "percentile": None,
        "frac_dampened": undo.count / total,
        "accuracies": {
            "suspects_before": session.suspects_before,
            "suspects_after": accuracy(model, kit.suspects),
            "guard_before": watch.before / len(watch.data),
            "guard_after": int(hits.sum()) / len(watch.data),
            "class_changes": changes,
        },
        "guard": {
            "enabled": watch.enabled,
            "trusted": watch.trusted,
            "budget": watch.budget,
            "examples": len(watch.data),
            "lost": lost,
            "held": lost <= watch.budget + 1e-9,
        },
        "suspects": len(kit.suspects),
        "reference": len(kit.reference),
        "seconds": time.perf_counter() - session.began,
    }
    report |= {key: finite(value) if isinstance(value, float) else value for key, value in (details or {}).items()}
    report["warnings"] = list(session.warnings)
    return Healed(model=model.eval(), report=report, undo=undo)


def predictions(model: nn.Module, data: Examples, ids: Int64[Tensor, " k"] | None = None) -> Int64[Tensor, " n"]:
    """Return the classes that a model predicts, in evaluation mode; NaN logits predict no class, -1."""
    logits: Float[Tensor, "n k"] = logits_of(model, data, ids)
    found = logits.argmax(1)
    return torch.where(logits.isnan().any(1), torch.full_like(found, -1), found)


def accuracy(model: nn.Module, data: Examples) -> float:
    """Return the share of examples that a model predicts as labelled."""
    found = predictions(model, data)
    return float((found == data.labels.to(found.device)).double().mean())


def check_finite(model: nn.Module) -> None:
    """Check every number of a model.

    Raises:
        Misuse: MTH-0826, naming the tensor.
    """
    empty = True
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        empty = False
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            count = int((~tensor.isfinite()).sum())
            raise Misuse(
                "MTH-0826", f"{name} of the model holds {count} of {tensor.numel()} values that are NaN or infinite"
            )
    if empty or not any(True for _ in model.parameters()):
        raise Misuse("MTH-0827", f"{type(model).__name__} has no parameters, so there is nothing to heal")


def check_fit(model: nn.Module, data: Examples) -> int:
    """Run a model on two examples and return its number of classes.

    Raises:
        Misuse: MTH-0827 if it does not take such images, or gives no logits for them; MTH-0826 if these are not finite.
    """
    shape = data.images.shape
    try:
        with mode(model, training=False):
            logits = logits_of(model, data, torch.arange(min(2, len(data))))
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        narrow = {p.dtype for p in model.parameters()} & {torch.float16, torch.bfloat16}
        raise Misuse(
            "MTH-0827",
            f"the model does not take images of shape {shape}: {first[:200]}",
            hint="images come in single precision; heal model.float()"
            if narrow
            else "give the data that the model was trained on, at its size",
        ) from error
    rows = min(2, len(data))
    if logits.dim() != 2 or len(logits) != rows or logits.shape[1] < 2:
        raise Misuse(
            "MTH-0827",
            f"the model gives {tuple(logits.shape)} for {rows} images, not a row of two or more logits for each",
        )
    if not bool(logits.isfinite().all()):
        raise Misuse(
            "MTH-0826",
            f"the model's logits for row 0 or 1 of {data.name} hold NaN or infinity, though its weights do not",
            hint="its layers overflow: look at the statistics of its norms and the range of its inputs",
        )
    return int(logits.shape[1])


def check_labels(data: Examples, num_classes: int) -> None:
    """Check labels against a model.

    Raises:
        Misuse: MTH-0828, naming a row.
    """
    bad = ((data.labels < 0) | (data.labels >= num_classes)).nonzero().flatten()
    if len(bad):
        row = int(bad[0])
        raise Misuse(
            "MTH-0828",
            f"{data.name}: row {row} has label {int(data.labels[row])}, but the model knows {num_classes} classes, "
            f"numbered from 0",
            hint="labels must be numbered as when the model was trained",
        )


def _class_changes(
    truth: Int64[Tensor, " n"], was: Bool[Tensor, " n"], now: Bool[Tensor, " n"], classes: Sequence[str]
) -> dict[str, float]:
    changes = {}
    for label in torch.bincount(truth.clamp(min=0)).nonzero().flatten().tolist():
        of = truth == label
        name = classes[label] if label < len(classes) else str(label)
        changes[name] = (int(now[of].sum()) - int(was[of].sum())) / int(of.sum())
    return changes


def _moved(kit: HealKit, device: torch.device) -> HealKit:
    guard = kit.guard
    if guard is not None and guard.data is not None:
        guard = replace(guard, data=guard.data.to(device))
    return replace(kit, suspects=kit.suspects.to(device), reference=kit.reference.to(device), guard=guard)
