"""The flow that joins detection and unlearning: scan, clean the suspects, heal, verify.

    clean     suspects that are forgotten late along the search are taken for clean and dropped; the rest heals
    heal      the healer, under its guard, from the given model
    verify    the trigger on held-out images, before and after; clean accuracy; accuracy of each class

Each is a job of a ledger and leaves its result in the run folder, so that an interrupted run goes on where it was. The
demo puts two jobs in front: training a poisoned network, and scanning it.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mithridate.audit.verifying import Probe, measured, reconstructed
from mithridate.core.artefacts import disk_errors
from mithridate.core.errors import Misuse
from mithridate.core.ledger import Ledger
from mithridate.core.pool import Tell
from mithridate.core.seeds import address
from mithridate.data.examples import Examples
from mithridate.detection.scan import weights_hash
from mithridate.detection.suspects import Suspects
from mithridate.models.saved import Description, load_model, save_model
from mithridate.models.spec import Classifier
from mithridate.numerics.shelf import FileShelf
from mithridate.training.plan import Plan
from mithridate.unlearning._base import AbstractHealer, Guard, HealKit
from mithridate.unlearning._frame import check_finite
from mithridate.unlearning._ptn import AbstractTriggerNeutraliser
from mithridate.unlearning.cleaning import clean
from mithridate.unlearning.heal import named_healer

DEFAULT_GATE = "asr<0.2"
"""What a healed model meets, as a bound of its interval: the share that the search aims at on the suspects."""
UNFINISHED = "cells/unfinished-heal.safetensors"
"""Where a search under way is kept in the run folder."""
Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Request:
    """How to heal.

    Args:
        method: A healer by name.
        options: Its options.
        guard: Largest loss of accuracy on the guard's data; None leaves it to the poison rate.
        guarded: Whether there is a guard at all.
        trusted: Whether the reference holds no poison.
        poison_rate: The share of poison in the training data, if it is known.
        clean: Whether suspects are cleaned first.
        gate: What the attack success rate must meet afterwards.
        seed: The one seed of the run.
        recipe: How the model was trained, if the user says so; else its description does.
    """

    method: str = "xlf"
    options: Mapping[str, Any] = field(default_factory=dict)
    guard: float | None = None
    guarded: bool = True
    trusted: bool = False
    poison_rate: float | None = None
    clean: bool = True
    gate: str = DEFAULT_GATE
    seed: int = 0
    recipe: str | None = None

    def healer(self) -> AbstractHealer:
        """Return the healer. Raises `Misuse` for an unknown name or option."""
        return named_healer(self.method, **self.options)

    def guard_for(self) -> Guard | None:
        """Return the guard."""
        return Guard(trusted=self.trusted, budget=self.guard) if self.guarded else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """What there is to heal, in memory.

    Args:
        about: What network it is.
        model: The network.
        data: The training data that were scanned, as the network was trained on them.
        suspects: What a scan says of them.
        reference: Data to keep; None stands for the scanned data without the suspects.
        test: Held-out clean images.
        probe: The trigger, if it is known.
        poisons: The published poisons with the classes of their clean images, if they are known.
        training: How the model was trained, for methods that train.
        device: Where networks run.
    """

    about: Description
    model: Classifier
    data: Examples
    suspects: Suspects
    test: Examples
    reference: Examples | None = None
    probe: Probe | None = None
    poisons: Examples | None = None
    training: Plan | None = None
    device: str = "cpu"

    def found(self) -> Examples:
        """Return the suspects with the labels under which they were found, the surest first."""
        return self.suspects.select(self.data).to(self.device)

    def kept(self) -> Examples:
        """Return what the network is to keep."""
        if self.reference is not None:
            return self.reference.to(self.device)
        keep = torch.ones(len(self.data), dtype=torch.bool)
        keep[self.suspects.suspect.nonzero().squeeze(1)] = False
        return self.data.select(keep.nonzero().squeeze(1)).to(self.device)


def check_case(case: Case) -> None:
    """Check that model, data and suspects belong together, before anything is computed.

    Raises:
        Misuse: MTH-0826 for weights that are not finite, MTH-0885 for data that do not fit, MTH-0869 for suspects of
            other data, or for none that were found in other data or with another model.
    """
    check_finite(case.model)
    for data in (case.data, case.test, *([] if case.reference is None else [case.reference])):
        check_data(case.about, data)
    scanned = case.suspects
    if len(scanned.found):
        scanned.select(case.data)
    elif (scanned.model, scanned.data) != (weights_hash(case.model), case.data.fingerprint):
        what = "data" if scanned.data != case.data.fingerprint else "model"
        raise Misuse(
            "MTH-0869",
            f"the scan that found no suspects looked at another {what}: it says nothing about this one",
            hint="scan this model and these data, read as when it was trained (--pack, --per-class, --size)",
        )


def check_data(about: Description, data: Examples) -> None:
    """Check that data fit a model.

    Raises:
        Misuse: MTH-0885, they do not.
    """
    spec = about.spec
    wanted, found = (spec.channels, spec.size, spec.size), tuple(data.images.shape)
    if wanted != found:
        raise Misuse(
            "MTH-0885",
            f"the model takes images of shape {wanted}, those of {data.name} have {found}",
            hint="give the data that the model was trained on, with the same --size",
        )
    if len(data.classes) != spec.num_classes:
        raise Misuse(
            "MTH-0885",
            f"the model knows {spec.num_classes} classes, {data.name} has labels of {len(data.classes)}",
            hint="labels must be numbered as when the model was trained",
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Worker:
    """Runs the jobs of one healing.

    Args:
        case: What there is to heal.
        request: How.
        folder: The run folder.
    """

    case: Case
    request: Request
    folder: Path

    def __call__(self, name: str, tell: Tell) -> Record:
        """Run one job and return its record."""
        begun = time.monotonic()
        match name:
            case "clean":
                record = self._clean(tell)
            case "heal":
                record = self._heal(tell)
            case "verify":
                record = self._verify(tell)
            case _:
                raise AssertionError(name)
        return {**record, "seconds": round(time.monotonic() - begun, 3)}

    def _kit(self, tell: Tell) -> HealKit:
        case, request = self.case, self.request
        return HealKit(
            model=case.model.to(case.device),
            suspects=case.found(),
            reference=case.kept(),
            poison_rate=request.poison_rate,
            guard=request.guard_for(),
            num_training=len(case.data),
            training=case.training,
            progress=tell,
        )

    def _clean(self, tell: Tell) -> Record:
        healer, kit = self.request.healer(), self._kit(tell)
        count = len(kit.suspects)
        if not (self.request.clean and self.request.guarded) or count < 2:
            return {"keep": list(range(count)), "dropped": 0, "warnings": []}
        path = healer if isinstance(healer, AbstractTriggerNeutraliser) else None
        cleaned = clean(kit, healer=path, seed=address(self.request.seed, "clean"))
        return {
            "keep": list(cleaned.keep),
            "dropped": count - len(cleaned.keep),
            "flips": list(cleaned.flips),
            "warnings": list(cleaned.warnings),
        }

    def _heal(self, tell: Tell) -> Record:
        kept = Ledger(self.folder / "ledger.jsonl").records()["clean"]
        shelf = FileShelf(self.folder / UNFINISHED)
        with disk_errors(self.folder):
            shelf.path.parent.mkdir(exist_ok=True)
        kit = self._kit(tell)
        kit = replace(kit, suspects=kit.suspects.select(sorted(kept["keep"])), shelf=shelf)
        healed = self.request.healer().heal(kit, seed=address(self.request.seed, "heal"))
        save_model(healed.model, self.case.about, self.folder)
        healed.undo.save(self.folder / "undo.safetensors")
        shelf.path.unlink(missing_ok=True)
        return {"report": dict(healed.report)}

    def _verify(self, tell: Tell) -> Record:
        case = self.case
        after = load_model(self.folder, case.about).to(case.device)
        probe, origin = case.probe, "given"
        label = int(case.found().labels.mode().values)
        if probe is None:
            probe = reconstructed(case.model, case.kept(), seed=self.request.seed, label=label, tell=tell)
            origin = "reconstructed" if probe is not None else "unknown"
        record = both(case.model, after, case.test, probe, poisons=case.poisons, suspects=case.found())
        return {**record, "trigger": origin}


def both(
    before: nn.Module,
    after: nn.Module,
    test: Examples,
    probe: Probe | None,
    *,
    poisons: Examples | None = None,
    suspects: Examples | None = None,
) -> Record:
    """Return what was measured of both networks as plain JSON."""
    return {
        "before": measured(before, test, probe, poisons=poisons, suspects=suspects),
        "after": measured(after, test, probe, poisons=poisons, suspects=suspects),
        "target_class": None if probe is None else probe.target,
        "trigger_name": None if probe is None else probe.trigger.name,
        "certain": probe is None or probe.certain,
        "classes": list(test.classes),
        "tested": len(test),
    }
