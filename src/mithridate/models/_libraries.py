"""Networks of timm, torchvision and transformers, imported only when one is named."""

import importlib
from collections.abc import Sequence
from types import ModuleType

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mithridate.core.errors import Misuse
from mithridate.models._foreign import ForeignCode, Shape
from mithridate.models.names import ModelName, missing_package, suggest


class Adapted(nn.Module):
    """A network that wants other images than ours: grey ones are repeated, others resized bilinearly, on the way in.

    Args:
        net: The network; when it answers with an object, its `logits` are taken.
        repeat: How often the channels are repeated; 1 leaves them alone.
        size: The side that the network expects in pixels; None leaves images alone.
    """

    def __init__(self, net: nn.Module, *, repeat: int = 1, size: int | None = None) -> None:
        super().__init__()
        self.net = net
        self.repeat = repeat
        self.size = size

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return logits."""
        if self.repeat > 1:
            x = x.repeat(1, self.repeat, 1, 1)
        if self.size is not None:
            x = functional.interpolate(x, (self.size, self.size), mode="bilinear", align_corners=False)
        answer = self.net(x)
        logits: Tensor = answer if isinstance(answer, Tensor) else answer.logits
        return logits


def from_timm(name: str, parsed: ModelName, shape: Shape) -> nn.Module:
    """Build a network of timm with fresh weights.

    Raises:
        Misuse: MTH-0403 when timm is missing or broken, MTH-0404 for an unknown network, MTH-0407 when timm refuses.
    """
    timm = _library(name, "timm")
    with ForeignCode(name, "timm"):
        if not timm.is_model(parsed.source):
            raise _unknown(name, parsed.source, "timm", timm.list_models())
        config = timm.get_pretrained_cfg(parsed.source, allow_unregistered=True)
        fixed = config is not None and config.fixed_input_size
        size = {"img_size": shape.size} if fixed else {}
        net: nn.Module = timm.create_model(
            parsed.source, pretrained=False, num_classes=shape.num_classes, in_chans=shape.channels, **size
        )
    return net


def from_torchvision(name: str, parsed: ModelName, shape: Shape) -> nn.Module:
    """Build a classifier of torchvision with fresh weights; grey images are repeated to its three channels.

    Raises:
        Misuse: MTH-0403 when torchvision is missing or broken, MTH-0404 for an unknown network,
            MTH-0407 when it refuses.
    """
    torchvision = _library(name, "torchvision")
    with ForeignCode(name, "torchvision"):
        known = torchvision.models.list_models(module=torchvision.models)
        if parsed.source not in known:
            raise _unknown(name, parsed.source, "torchvision", known)
        options: dict[str, object] = {}
        if parsed.source in ("googlenet", "inception_v3"):  # answer with several tensors in training mode otherwise
            options |= {"aux_logits": False, "init_weights": True}
        if parsed.source.startswith("vit_"):
            options["image_size"] = shape.size
        net: nn.Module = torchvision.models.get_model(
            parsed.source, weights=None, num_classes=shape.num_classes, **options
        )
    return Adapted(net, repeat=3) if shape.channels == 1 else net


def from_hub(name: str, parsed: ModelName, shape: Shape) -> nn.Module:
    """Load an image classifier of the Hugging Face hub, or of a local folder: published weights under a fresh head.

    Grey images are repeated and others resized to what the network was made for. The normalisation stays that of our
    data set, not that of the published preprocessing.

    Raises:
        Misuse: MTH-0403 when transformers is missing or broken, MTH-0407 when the id cannot be loaded.
    """
    transformers = _library(name, "transformers")
    where = {"revision": parsed.revision} if parsed.revision is not None else {}
    with ForeignCode(name, "loading it from the hub"):
        config = transformers.AutoConfig.from_pretrained(
            parsed.source, num_labels=shape.num_classes, trust_remote_code=False, **where
        )
        net: nn.Module = transformers.AutoModelForImageClassification.from_pretrained(
            parsed.source,
            config=config,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype="float32",
            **where,
        )
        facts = config.to_dict()
    size = facts.get("image_size")
    repeat = 3 if shape.channels == 1 and facts.get("num_channels", 3) == 3 else 1
    return Adapted(net, repeat=repeat, size=size if isinstance(size, int) and size != shape.size else None)


def _library(name: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name == package:
            raise missing_package(name, package) from error
        raise _broken(name, package, error) from error
    except (ImportError, RuntimeError, OSError) as error:
        raise _broken(name, package, error) from error


def _broken(name: str, package: str, error: Exception) -> Misuse:
    said = " ".join(str(error).split())[:200]
    return Misuse(
        "MTH-0403",
        f"model {name!r} needs {package}, which is installed but does not import: {said}",
        hint="timm needs torchvision, and torchvision must be the build for the installed torch",
    )


def _unknown(name: str, source: str, library: str, known: Sequence[str]) -> Misuse:
    return Misuse("MTH-0404", f"model {name!r}: {library} has no classifier {source!r}", hint=suggest(source, known))
