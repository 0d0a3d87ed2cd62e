"""What a detector is: scores of training examples, taken from what a trained network makes of them.

A score is a number for each example; a higher one is more suspicious. Scores decide nothing: what is suspected is a
matter of `votes`. Where a method looks at one class at a time, scores are comparable inside a class only.

Shapes   n examples of k classes, e features, m rows of one class.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor, nn
from torch.nn import functional

from mithridate.core.errors import Misuse
from mithridate.core.params import Checked
from mithridate.core.pool import Tell, silent
from mithridate.data.examples import Examples

LEAST = 8
"""The fewest rows of a class of which a second population can be told; smaller classes score zero."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ScanInput:
    """What detectors look at: computed once, in batches, and shared by all of them.

    Args:
        features: The penultimate features: the input of the network's last linear layer.
        logits: The network's output.
        labels: The labels as they are found, in which poisons carry those of the attacker.
        examples: The images, for detectors that send them through the network again.
        model: The network; detectors do not change it.
        batch: How many images go through the network at once.
        progress: Told `done`, the share of the detector's work.
    """

    features: Float32[Tensor, "n e"]
    logits: Float32[Tensor, "n k"]
    labels: Int64[Tensor, " n"]
    examples: Examples
    model: nn.Module
    batch: int = 512
    progress: Tell = silent

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def losses(self) -> Float32[Tensor, " n"]:
        """The cross-entropy of each example at the label that it carries."""
        return functional.cross_entropy(self.logits, self.labels, reduction="none")

    @cached_property
    def present(self) -> tuple[int, ...]:
        """The classes that occur, in order."""
        return tuple(sorted(set(self.labels.tolist())))

    def rows_of(self, label: int) -> Int64[Tensor, " m"]:
        """Return the rows that carry this label, in order."""
        return (self.labels == label).nonzero().squeeze(1)


@dataclass(frozen=True, kw_only=True)
class AbstractDetector(Checked, ABC):
    """A way to score training examples. The fields of a subclass are its whole configuration."""

    per_class: ClassVar[bool]
    """Whether scores of different classes are not comparable."""

    @abstractmethod
    def scores(self, given: ScanInput, *, seed: int = 0) -> Float64[Tensor, " n"]:
        """Return a finite number for each example, higher for the more suspicious.

        Args:
            given: What the network makes of the examples.
            seed: All randomness of the detector derives from it.

        Raises:
            Misuse: The detector cannot work on this network or these examples.
        """


def class_by_class(
    given: ScanInput, score: Callable[[Float64[Tensor, "m e"], int], Float64[Tensor, " m"]]
) -> Float64[Tensor, " n"]:
    """Return the scores that a function gives to the features of each class; classes below `LEAST` rows score zero.

    The function gets the features of one class in float64, and the class. Only one class is held at a time.
    """
    found = torch.zeros(len(given), dtype=torch.float64)
    for done, label in enumerate(given.present, start=1):
        rows = given.rows_of(label)
        if len(rows) >= LEAST:
            found[rows] = score(given.features[rows].double(), label)
        given.progress({"done": done / len(given.present)})
    return found


def principal(centred: Float64[Tensor, "m e"], dims: int) -> tuple[Float64[Tensor, "m r"], Float64[Tensor, " r"]]:
    """Return the coordinates of centred rows along their leading directions, and the singular values, largest first.

    At most `dims` directions are kept, and none whose singular value is rounding error. The smaller Gram matrix is
    decomposed, so that the cost is min(m, e)^2 max(m, e); signs are those that make the largest coordinate positive.
    """
    wide = centred.shape[0] < centred.shape[1]
    gram = centred @ centred.T if wide else centred.T @ centred
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0)[:dims], vectors.flip(1)[:, :dims]
    kept = values > 1e-10 * values[:1].clamp(min=1e-300)
    spread = values[kept].clamp(min=0).sqrt()
    coordinates = vectors[:, kept] * spread if wide else centred @ vectors[:, kept]
    if coordinates.shape[1]:
        signs = coordinates.gather(0, coordinates.abs().argmax(0, keepdim=True)).sign()
        coordinates = coordinates * torch.where(signs == 0, 1.0, signs)
    return coordinates, spread


def finite_or_refuse(name: str, scores: Float[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """Return the scores when all of them are numbers.

    Raises:
        Misuse: MTH-0866 naming the detector and the first row.
    """
    bad = (~scores.isfinite()).nonzero()
    if len(bad):
        raise Misuse(
            "MTH-0866",
            f"detector {name!r} gave {len(bad)} of {len(scores)} rows no finite score, first row {int(bad[0])}: "
            f"{float(scores[bad[0]])}",
            hint="leave the detector out, and report this",
        )
    return scores.double()
