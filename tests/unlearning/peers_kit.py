"""What the tests of the peers share: a tiny random problem, and a small net that learns it."""

import hashlib

import torch
from torch import nn

from mithridate.data.examples import Examples
from mithridate.data.stores import ResidentStore
from mithridate.models.spec import ModelSpec
from mithridate.training.draw import Shuffle
from mithridate.training.loop import train
from mithridate.training.plan import Phase, Plan
from mithridate.training.step import Step
from mithridate.training.update import SGD, Triangle
from mithridate.unlearning._base import Guard, Healed, HealKit


def toy(n: int = 96, *, classes: int = 4, seed: int = 0) -> Examples:
    """Noise whose label is its bright stripe."""
    gen = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 100, (n, 1, 8, 8), generator=gen, dtype=torch.uint8)
    labels = torch.randint(0, classes, (n,), generator=gen)
    for row, label in enumerate(labels.tolist()):
        pixels[row, :, 2 * label : 2 * label + 2] += 120
    return Examples("toy", ResidentStore(pixels), labels, tuple("abcd"))


def stamped(data: Examples, rows: list[int], target: int = 0) -> Examples:
    """A white 2 x 2 patch at the bottom right, and the target's label."""
    ids = torch.tensor(rows)
    pixels = data.images.gather(ids)
    pixels[:, :, -2:, -2:] = 255
    return data.overlay(ids, pixels, torch.full_like(ids, target))


def plan_of(data: Examples, *, model: str = "convnet3-w8", epochs: int = 8) -> Plan:
    spec = ModelSpec(name=model, num_classes=4, channels=1, size=8, mean=(0.3,), std=(0.3,))
    update = SGD(lr=0.05, nesterov=False, schedule=Triangle(peak=0.0, end=float(epochs)))
    return Plan(data=data, model=spec, phases=(Phase(step=Step(draw=Shuffle(batch=16), update=update), epochs=epochs),))


POISONS = list(range(12))


def poisoned(*, epochs: int = 8, model: str = "convnet3-w8") -> tuple[nn.Module, Plan]:
    plan = plan_of(stamped(toy(), POISONS), epochs=epochs, model=model)
    return train(plan, 0), plan


def kit_of(net: nn.Module, plan: Plan, **changes: object) -> HealKit:
    found = {
        "model": net,
        "suspects": plan.data.select(POISONS),
        "reference": plan.data.select(range(12, 96)),
        "training": plan,
        "guard": Guard(budget=1.0),
    }
    return HealKit(**{**found, **changes})


def law_of_the_end(found: Healed) -> None:
    """What a result says of itself is so: converged, or a word on what is missing."""
    report, accuracies = found.report, found.report["accuracies"]
    assert found.converged == (report["outcome"] in ("healed", "nothing to heal"))
    assert found.converged or report["outcome"] in ("rolled back", "not forgotten", "not converged", "no trigger found")
    if accuracies["suspects_after"] > 0.2 * accuracies["suspects_before"]:
        assert not found.converged or report["outcome"] == "nothing to heal"
        text = " ".join(found.warnings)
        assert any(word in text for word in ("not forgotten", "left alone")), text
    assert found.converged or found.warnings


def digest(model: nn.Module) -> str:
    total = hashlib.sha256()
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        total.update(name.encode())
        total.update(value.detach().contiguous().numpy().tobytes())
    return total.hexdigest()
