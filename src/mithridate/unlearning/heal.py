"""`heal`: a poisoned model, a few discovered samples and some reference data in; a healed model, a report, an undo out.

healed = heal(model, suspects=(images, labels), reference=some_images)
healed.model, healed.report["converged"], healed.undo.save(path)
"""

import torch
from torch import Tensor, nn

from mithridate.core.errors import Misuse
from mithridate.core.methods import instantiate
from mithridate.data.examples import Examples
from mithridate.data.stores import ResidentStore
from mithridate.numerics.shelf import Shelf
from mithridate.training.plan import Plan
from mithridate.unlearning._base import AbstractHealer, Guard, Healed, HealKit
from mithridate.unlearning.names import HEALERS

Samples = Examples | tuple[Tensor, Tensor] | Tensor


def heal(
    model: nn.Module,
    suspects: Examples | tuple[Tensor, Tensor],
    reference: Samples,
    method: str | AbstractHealer = "xlf",
    *,
    guard: Guard | None = Guard(),  # noqa: B008 - a frozen value
    training: Plan | None = None,
    shelf: Shelf | None = None,
    seed: int = 0,
    **options: object,
) -> Healed:
    """Remove a behaviour that poison has planted, as far as a few samples of it tell.

    Args:
        model: Any network that maps images in [0, 1] to logits. It is not changed.
        suspects: The samples that were found, with the labels under which they were found.
        reference: What the network is to keep: the other training data, or a few hundred images of any kind that it
            was made for. Images alone are enough for the default method.
        method: A healer by name (`mithridate list healers`) or as an object.
        guard: How much accuracy may be lost on the reference or on data of its own; None for no limit.
        training: How the network was trained, for methods that train.
        shelf: Where unfinished work is kept, so that what was interrupted goes on.
        seed: For methods that draw.
        options: Fields of the healer, if it is given by name.

    Returns:
        A new network, what happened, and what undoes it. `converged` says whether the method reached its aim; where it
        did not, the network is the given one or the best within the guard's budget.

    Raises:
        Misuse: Unknown names or options; data that do not fit the model or each other.
    """
    healer = named_healer(method, **options)
    found = as_examples(suspects, "suspects")
    kept = as_examples(reference, "reference", like=found)
    kit = HealKit(
        model=model,
        suspects=found,
        reference=kept,
        labelled=not isinstance(reference, Tensor),
        guard=guard,
        training=training,
        shelf=shelf,
    )
    return healer.heal(kit, seed=seed)


def named_healer(method: str | AbstractHealer, **options: object) -> AbstractHealer:
    """Return a healer from its name and options, or as it is.

    Raises:
        Misuse: MTH-0101 for an unknown name, MTH-0123 for an unknown option, MTH-0829 for options beside an object.
    """
    if isinstance(method, AbstractHealer):
        if options:
            given = ", ".join(sorted(options))
            raise Misuse("MTH-0829", f"{given} given beside the object {type(method).__name__}, which has its own")
        return method
    made = instantiate(HEALERS.load(method), method, options)
    assert isinstance(made, AbstractHealer)
    return made


def as_examples(data: Samples, name: str, *, like: Examples | None = None) -> Examples:
    """Return images and labels as examples; images alone get labels that mean nothing.

    Args:
        data: Examples, a pair of images and labels, or images. Images are uint8, or floats in [0, 1], which are rounded
            to 256 levels.
        name: What to call them.
        like: Examples whose classes these share.

    Raises:
        Misuse: MTH-0821 for another form, MTH-0241 or MTH-0242 for labels that do not fit.
    """
    if isinstance(data, Examples):
        return data
    images, labels = (data, torch.zeros(len(data), dtype=torch.int64)) if isinstance(data, Tensor) else data
    if images.dim() != 4:
        raise Misuse("MTH-0821", f"{name}: images have four dimensions (n, c, h, w), got {tuple(images.shape)}")
    if images.is_floating_point():
        low, high = (float(images.min()), float(images.max())) if images.numel() else (0.0, 0.0)
        if not (low >= 0 and high <= 1):
            raise Misuse(
                "MTH-0821",
                f"{name}: float images lie in [0, 1], got [{low:g}, {high:g}]",
                hint="a model here normalises inside; give pixels before normalisation",
            )
        images = (images * 255).round().to(torch.uint8)
    if images.dtype != torch.uint8:
        raise Misuse("MTH-0821", f"{name}: images are uint8 or floats, got {images.dtype}")
    if labels.dim() != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise Misuse("MTH-0821", f"{name}: labels are whole numbers, one an image, got {labels.dtype} {labels.dim()}-d")
    labels = labels.to(torch.int64)
    if like is not None and (not len(labels) or int(labels.max()) < len(like.classes)):
        classes = like.classes
    else:
        classes = tuple(str(label) for label in range(max(2, int(labels.max()) + 1 if len(labels) else 2)))
    return Examples(name=name, images=ResidentStore(images), labels=labels, classes=classes)
