"""The training step as a value: seven stages, and the checks that they fit together."""

from dataclasses import dataclass, field

from torch import nn

from mithridate.aggregation._base import AbstractCombiner, Evidence
from mithridate.aggregation.mean import Mean
from mithridate.core.errors import Misuse
from mithridate.models.facts import has_dropout
from mithridate.training._base import AbstractDraw, AbstractLoss, AbstractUpdate, AbstractView, AbstractWeigh
from mithridate.training.draw import PerWorker, Shuffle
from mithridate.training.loss import CrossEntropy
from mithridate.training.rows import Rows
from mithridate.training.update import SGD
from mithridate.training.weigh import Keep


@dataclass(frozen=True, kw_only=True)
class Step:
    """What happens in one update. `dataclasses.replace` makes variants."""

    draw: AbstractDraw = field(default=Shuffle())
    views: tuple[AbstractView, ...] = ()
    loss: AbstractLoss = field(default=CrossEntropy())
    weigh: AbstractWeigh = field(default=Keep())
    rows: Rows = field(default=Rows())
    combine: AbstractCombiner = field(default=Mean())
    update: AbstractUpdate = field(default=SGD())

    @property
    def needs_rows(self) -> bool:
        """Whether a single backward pass does not suffice."""
        return self.combine.evidence > Evidence.MEAN or bool(self.rows.maps) or self.rows.hostile is not None

    def check(self, model: nn.Module, batch: int) -> None:
        """Raise `Misuse` if the stages do not fit together or do not fit the model.

        Args:
            model: The network that will be trained.
            batch: The number of examples of the smallest batch.
        """
        names = [view.name for view in self.views]
        if len(set(names)) < len(names):
            raise Misuse("MTH-0503", f"two views share a name, which is the address of their randomness: {names}")
        self._check_maps()
        if not self.needs_rows:
            return
        if self.rows.of == "worker":
            self._check_workers(batch)
            self.combine.check(self.rows.count)
            return
        self.combine.check(batch)
        rule = type(self.combine).__name__
        if not self.loss.separable:
            raise Misuse(
                "MTH-0502",
                f"{rule} needs one gradient per example, and {type(self.loss).__name__} couples those of a batch",
                hint='use Rows(of="worker", count=n)',
            )
        if coupling := couples(model):
            raise Misuse(
                "MTH-0502",
                f"{rule} needs one gradient per example, and layer {coupling} couples those of a batch",
                hint='use a model without BatchNorm, or Rows(of="worker", count=n)',
            )
        if has_dropout(model):
            raise Misuse(
                "MTH-0502",
                f"{rule} needs one gradient per example, and {type(model).__name__} drops units at random",
                hint='use a model without dropout, or Rows(of="worker", count=n)',
            )

    def _check_maps(self) -> None:
        names = [row_map.name for row_map in self.rows.maps]
        if len(set(names)) < len(names):
            raise Misuse("MTH-0503", f"two maps of rows share a name, which is the address of their state: {names}")
        needy = [row_map.name for row_map in self.rows.maps if row_map.of_workers]
        needy += ["hostile"] if self.rows.hostile else []
        if self.rows.of != "worker" and needy:
            raise Misuse(
                "MTH-0554",
                f"{', '.join(needy)} concern workers, and a row is the gradient of one {self.rows.of}",
                hint='use Rows(of="worker", count=n)',
            )

    def _check_workers(self, batch: int) -> None:
        count, hostile = self.rows.count, self.rows.hostile
        if batch < count:
            raise Misuse(
                "MTH-0504",
                f"{count} workers cannot share a batch of {batch} examples, the smallest of an epoch",
                hint="raise the batch, lower the number of workers, or leave out the last batch with drop_last",
            )
        if isinstance(self.draw, PerWorker) and self.draw.workers != count:
            raise Misuse(
                "MTH-0555",
                f"the draw is for {self.draw.workers} workers and the rows are those of {count}",
                hint="give both the same number",
            )
        if hostile is not None and hostile.f >= count:
            raise Misuse(
                "MTH-0556",
                f"{hostile.f} of {count} workers cannot be hostile: at least one must be honest",
                hint="lower f or add workers",
            )


def couples(model: nn.Module) -> str:
    """Return the name of the first layer that mixes examples in training mode, or an empty string."""
    for name, layer in model.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training:
            return name or type(layer).__name__
    return ""
