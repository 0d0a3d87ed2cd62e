"""What a network makes of images, in batches: penultimate features, logits, and maps before the last pooling.

The penultimate features are the input of the linear layer that produces the logits. Any network whose logits come out
of an `nn.Linear` has them: a hook reads them off while the network works as it always does.

Shapes   b images of c channels, h rows, w columns; n of them in all; e features, k classes; s places of a map.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from mithridate.core.errors import Misuse
from mithridate.core.pool import Tell, silent
from mithridate.data.examples import Examples
from mithridate.detection._base import ScanInput
from mithridate.models._base import mode

_HINT = "detectors need a network that ends in an nn.Linear and returns its output"


@contextmanager
def frozen(model: nn.Module) -> Iterator[torch.device]:
    """Put the network in evaluation mode without gradients, and back; yields the device it lives on."""
    place = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    with mode(model, training=False), torch.no_grad():
        yield place


def unit_batches(
    examples: Examples, batch: int, place: torch.device, rows: Int64[Tensor, " m"] | None = None
) -> Iterator[tuple[int, Float[Tensor, "b c h w"]]]:
    """Yield the images of the given rows (all by default) in [0, 1], each batch with the position of its first row."""
    every = torch.arange(len(examples)) if rows is None else rows
    for start in range(0, len(every), batch):
        x = examples.images.gather(every[start : start + batch].to(examples.device))
        yield start, x.to(place).to(torch.float32).div_(255)


def extract(model: nn.Module, examples: Examples, *, batch: int = 512, progress: Tell = silent) -> ScanInput:
    """Send all images through the network once and keep features and logits in float32 on the CPU.

    Args:
        model: Images in [0, 1] in, logits out; it is left as it was.
        examples: The training examples with the labels that they carry.
        batch: Images at once.
        progress: Told `done`, the share of the images.

    Raises:
        Misuse: MTH-0860 for an empty set, MTH-0861 when the logits do not come out of a linear layer, MTH-0862 for
            features or logits that are not finite, MTH-0863 when there are more classes than logits.
    """
    if not len(examples):
        raise Misuse("MTH-0860", f"{examples.name} has 0 rows, so there is nothing to scan")
    features: Float32[Tensor, "n e"] = torch.empty(0)
    logits: Float32[Tensor, "n k"] = torch.empty(0)
    with frozen(model) as place, _linear_calls(model) as calls:
        for start, x in unit_batches(examples, batch, place):
            calls.clear()
            found = _logits(model, model(x), len(x), len(examples.classes))
            name, inputs = _head(model, calls, found)
            part = inputs.float().cpu()
            _check_finite(part, f"the features (the input of layer {name!r})", start, examples)
            _check_finite(found.float().cpu(), f"the logits (the output of layer {name!r})", start, examples)
            if not start:
                features = torch.empty(len(examples), part.shape[1])
                logits = torch.empty(len(examples), found.shape[1])
            features[start : start + len(x)] = part
            logits[start : start + len(x)] = found.float().cpu()
            progress({"done": (start + len(x)) / len(examples)})
    return ScanInput(
        features=features, logits=logits, labels=examples.labels.cpu(), examples=examples, model=model, batch=batch
    )


def reduced_maps(
    given: ScanInput, rows: Int64[Tensor, " m"], reduce: Callable[[Float32[Tensor, "b e s"]], Tensor]
) -> Tensor:
    """Return a function of the last spatial maps of these rows, batch by batch, so that the maps are never all held.

    The last map is the output of the last module of the network that gives more than one place for each channel. A
    network that has none (a perceptron) gives its features, as maps of one place.
    """
    layer = _last_map(given)
    parts = []
    with frozen(given.model) as place, ExitStack() as stack:
        kept: list[Tensor] = []
        if layer is not None:
            hook = given.model.get_submodule(layer).register_forward_hook(lambda _, __, out: kept.append(out))
            stack.callback(hook.remove)
        for start, x in unit_batches(given.examples, given.batch, place, rows):
            if layer is None:
                maps = given.features[rows[start : start + len(x)]][:, :, None]
            else:
                kept.clear()
                given.model(x)
                maps = kept[-1].flatten(2).float()
            parts.append(reduce(maps).cpu())
    return torch.cat(parts)


def _last_map(given: ScanInput) -> str | None:
    """Return the name of the last module whose output has several places, None if there is none."""
    found: list[str] = []

    def note(name: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        def hook(_module: nn.Module, _inputs: tuple[object, ...], output: object) -> None:
            if isinstance(output, Tensor) and output.dim() == 4 and output.shape[2] * output.shape[3] > 1:
                found.append(name)

        return hook

    with frozen(given.model) as place, ExitStack() as stack:
        for name, module in given.model.named_modules():
            if name:
                stack.callback(module.register_forward_hook(note(name)).remove)
        for _, x in unit_batches(given.examples, 1, place, torch.zeros(1, dtype=torch.int64)):
            given.model(x)
    return found[-1] if found else None


Call = tuple[str, Tensor, Tensor]


@contextmanager
def _linear_calls(model: nn.Module) -> Iterator[list[Call]]:
    """Yield a list to which every call of a linear layer adds its name, its input and its output."""
    calls: list[Call] = []

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda _module, inputs, output: calls.append((name, inputs[0], output))

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                stack.callback(module.register_forward_hook(note(name)).remove)
        yield calls


def _logits(model: nn.Module, output: object, count: int, classes: int) -> Tensor:
    if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != count:
        shape = f"a tensor {list(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise Misuse(
            "MTH-0861", f"{type(model).__name__} returned {shape} for {count} images, not a row each", hint=_HINT
        )
    if output.shape[1] < classes:
        raise Misuse(
            "MTH-0863",
            f"{type(model).__name__} returns {output.shape[1]} logits, but the data have {classes} classes",
            hint="scan the data that the model was trained on",
        )
    return output


def _head(model: nn.Module, calls: list[Call], logits: Tensor) -> tuple[str, Tensor]:
    """Return name and input of the linear layer whose output the network returned."""
    for name, inputs, output in reversed(calls):
        if inputs.dim() == 2 and output.shape == logits.shape and torch.equal(output.nan_to_num(), logits.nan_to_num()):
            return name, inputs
    linear = sum(isinstance(module, nn.Linear) for module in model.modules())
    raise Misuse(
        "MTH-0861",
        f"{type(model).__name__} has {linear} linear layers, and its output is that of none of them",
        hint=_HINT,
    )


def _check_finite(part: Float32[Tensor, "b e"], what: str, start: int, examples: Examples) -> None:
    bad = (~part.isfinite()).any(1).nonzero().squeeze(1)
    if len(bad):
        rows = ", ".join(str(start + int(row)) for row in bad[:5])
        raise Misuse(
            "MTH-0862",
            f"{what} of {examples.name} are not finite in {len(bad)} of {len(part)} rows of a batch: rows {rows}"
            f"{', ...' if len(bad) > 5 else ''}",
            hint="the network's weights are broken, or overflow: load another checkpoint",
        )
