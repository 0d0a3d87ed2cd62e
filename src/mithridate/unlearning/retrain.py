"""Retraining without the suspects: what exact unlearning is, and what relearns every poison that was not found.

    theta <- train(D minus S_f);  with `layers = k` only the last k layers, anew, the others as given (EU-k)

Paper    Goel et al. (2022), arXiv 2201.06640, EU-k; Goel et al. (TMLR 2024), arXiv 2402.14015, for its failure under
         partial discovery.
Needs    the plan of the training with its data; the reference is only watched by the guard.
Promise  without `layers`, the result is `train(plan without the suspects, seed)`, bit for bit.
Departs  the public code keeps the epoch with the best test accuracy; here it is the last. EU-k takes the whole
         schedule of the plan, not a quarter of its steps, and frozen layers keep the statistics of their norms. A row
         is a suspect if pixels and label are the same.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mithridate.core.errors import Misuse
from mithridate.core.params import In, param
from mithridate.data.examples import Examples
from mithridate.training.loop import begin as begin_run
from mithridate.training.plan import Plan
from mithridate.unlearning._base import AbstractHealer, Healed, HealKit
from mithridate.unlearning._frame import begin
from mithridate.unlearning._layers import last_blocks, overwrite, tensors
from mithridate.unlearning._training import Course, conclude


@dataclass(frozen=True, kw_only=True)
class Retrain(AbstractHealer):
    """Training from scratch without the suspects, of all layers or of the last few."""

    layers: int | None = param(
        None, within=In(1, 10_000), doc="how many layers are trained anew, from the last; none: all"
    )

    def heal(self, kit: HealKit, *, seed: int) -> Healed:
        """Retrain; see `AbstractHealer.heal`.

        Raises:
            Misuse: MTH-0840 without a plan, MTH-0844 if nothing is left, MTH-0846 if the plan is of another network.
        """
        plan = needed(kit, "retrain")
        session = begin(kit, seed=seed)
        rest, found = without(plan.data, kit.suspects)
        if found < len(kit.suspects):
            session.warn(f"{len(kit.suspects) - found} of {len(kit.suspects)} suspects are not in the plan's data")
        plan = replace(plan, data=rest)
        fresh = begin_run(plan, seed)
        check_same(kit.model, fresh.net.module)
        course = Course(session=session, method=self.label(), seed=seed, keep=False)
        if self.layers is None:
            course.follow(plan, seed, fresh, what="training")
            net = fresh.net.module.eval()
        else:
            only = last_blocks(session.model, session.kit.reference, self.layers)
            net = copy.deepcopy(session.model)
            overwrite(net, {**dict(tensors(net)), **_of_layers(fresh.net.module, only)})
            net = course.train(net, rest, plan.phases, only=only)
        return conclude(course, net, details={"layers": self.layers, "removed": found})


def needed(kit: HealKit, method: str) -> Plan:
    """Return the plan of the training.

    Raises:
        Misuse: MTH-0840, there is none.
    """
    if kit.training is None:
        raise Misuse(
            "MTH-0840",
            f"{method} trains as the model was trained, and no plan of that was given",
            hint="name its recipe (--recipe, or training= in Python), or choose fine-tune or xlf, which need none",
        )
    return kit.training


def without(data: Examples, suspects: Examples) -> tuple[Examples, int]:
    """Return the rows that are no suspects, by pixels and label, and how many suspects were found among the rows.

    Raises:
        Misuse: MTH-0844, no row is left.
    """
    bad = set(_keys(suspects))
    rows = list(_keys(data))
    keep = [row for row, key in enumerate(rows) if key not in bad]
    if not keep:
        raise Misuse("MTH-0844", f"all {len(data)} rows of {data.name} are suspects, so nothing is left to train on")
    return data.select(torch.tensor(keep)), matched(data, suspects)


def matched(data: Examples, suspects: Examples) -> int:
    """Return how many suspects are among the rows, by pixels and label."""
    present = set(_keys(data))
    return sum(key in present for key in _keys(suspects))


def check_same(given: nn.Module, planned: nn.Module) -> None:
    """Check that two networks have the same tensors.

    Raises:
        Misuse: MTH-0846, naming the first that differs.
    """
    own, other = ({name: tuple(t.shape) for name, t in tensors(net)} for net in (given, planned))
    for name in (*own, *other):
        if own.get(name) != other.get(name):
            raise Misuse(
                "MTH-0846",
                f"the plan builds another network: {name} is {other.get(name, 'no tensor')} in it and "
                f"{own.get(name, 'no tensor')} in the model",
                hint="give the plan with which this model was trained",
            )


def _keys(data: Examples) -> list[tuple[bytes, int]]:
    hashes = data.images.row_hashes()
    return [(row.tobytes(), label) for row, label in zip(hashes, data.labels.tolist(), strict=True)]


def _of_layers(net: nn.Module, parameters: frozenset[str]) -> Mapping[str, Tensor]:
    """Return the parameters, and the buffers beside them."""
    owners = {name.rpartition(".")[0] for name in parameters}
    return {name: tensor for name, tensor in tensors(net) if name.rpartition(".")[0] in owners}


METHOD = Retrain
