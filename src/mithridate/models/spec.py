"""What is built: a specification that names everything, and the classifier it yields.

Pixels go in as floats in [0, 1]; the normalisation is the first layer of the classifier, so that attacks, defenses and
exported files never deal in normalised units.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mithridate.core.errors import Misuse
from mithridate.core.seeds import address
from mithridate.models import loading
from mithridate.models._base import AbstractNet
from mithridate.models.names import check_name


class Normalise(nn.Module):
    """Subtract the channel means and divide by the channel standard deviations, both in [0, 1] units."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return normalised images."""
        return (x - self.mean) / self.std


class Classifier(nn.Module):
    """A network behind its normalisation: float images in [0, 1] in, logits out."""

    def __init__(self, normalise: Normalise, net: nn.Module) -> None:
        super().__init__()
        self.normalise = normalise
        self.net = net

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return logits."""
        logits: Tensor = self.net(self.normalise(x))
        return logits

    def features(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b e"]:
        """Return the penultimate features, the input of the linear head; only built-in networks declare theirs.

        Raises:
            Misuse: MTH-0410 for a network that is not built in.
        """
        if not isinstance(self.net, AbstractNet):
            raise Misuse(
                "MTH-0410",
                f"{type(self.net).__name__} does not say which of its activations are its features",
                hint="penultimate features are known for built-in models only; choose one of `mithridate list models`",
            )
        return self.net.features(self.normalise(x))


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Everything that determines a fresh model except its seed.

    Args:
        name: A model name, see `mithridate.models.names`.
        num_classes: Number of logits.
        channels: Image channels, 1 or 3 for the built-in networks.
        size: Image side in pixels, 8 to 224 for the built-in networks.
        mean: Channel means in [0, 1] units.
        std: Channel standard deviations in [0, 1] units.
    """

    name: str
    num_classes: int
    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        check_name(self.name)
        for field, value, low, high in (
            ("num_classes", self.num_classes, 2, 100_000),
            ("channels", self.channels, 1, 16),
            ("size", self.size, 8, 1024),
        ):
            if not low <= value <= high:
                raise Misuse("MTH-0405", f"model {self.name!r}: {field} must be in [{low}, {high}], got {value}")
        if not len(self.mean) == len(self.std) == self.channels:
            raise Misuse(
                "MTH-0405",
                f"model {self.name!r}: {self.channels} channels need as many means and deviations, "
                f"got {len(self.mean)} and {len(self.std)}",
            )
        if not all(map(math.isfinite, self.mean)) or not all(0 < value < math.inf for value in self.std):
            raise Misuse(
                "MTH-0405",
                f"model {self.name!r}: means must be finite and deviations positive, got {self.mean} and {self.std}",
                hint="a channel that never varies has no deviation; give 1.0",
            )

    def build(self, seed: int) -> Classifier:
        """Build a freshly initialised classifier in training mode on the CPU.

        The weights depend on this specification and `seed` only; the global generator is left as it was found.

        Args:
            seed: The run's integer seed; the stream of the initialisation is derived from it by name.
        """
        # Initialisers of torch draw from the default generator and take no other, so it is lent to them.
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(address(seed, "model"))
            net = loading.build_net(self.name, num_classes=self.num_classes, channels=self.channels, size=self.size)
            return Classifier(Normalise(self.mean, self.std), net)
