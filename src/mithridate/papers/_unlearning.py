"""The protocol of corrective unlearning: a poisoned network, a part of its poisons found, a healer, what is left."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mithridate.attacks._base import AttackKit
from mithridate.attacks.badnets import BadNets
from mithridate.core.artefacts import disk_errors
from mithridate.core.pool import Tell
from mithridate.core.seeds import address
from mithridate.core.units import Pixels
from mithridate.data.packs import PoisonPack
from mithridate.data.scenarios import scenarios
from mithridate.data.sources import DataSet
from mithridate.evaluation.backdoor import judge_backdoor, published_poisons
from mithridate.models.weights import load_weights, save_weights
from mithridate.training import checkpoint
from mithridate.training.contracts import Options, contract
from mithridate.training.loop import begin, steps
from mithridate.training.plan import Plan
from mithridate.unlearning._base import HealKit
from mithridate.unlearning.heal import named_healer

Record = dict[str, Any]
_SECONDS_BETWEEN_CHECKPOINTS = 60.0


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is poisoned, how much of it is found, and by what it is healed.

    Args:
        source: The data set.
        per_class: Its training images of each class, None for all.
        model: The network.
        recipe: How it is trained.
        options: Scalars of the recipe.
        poisons: How many training images are poisoned.
        threat: From which classes.
        found: How many of the poisons are discovered.
        methods: Healers by name.
        seeds: How many networks.
    """

    source: str = "digits"
    per_class: int | None = None
    model: str = "convnet3"
    recipe: str = "digits-cnn30"
    options: Options = Options()  # noqa: RUF009 - a frozen value
    poisons: int = 28
    threat: str = "other-classes"
    found: tuple[int, ...] = (1, 3, 14, 28)
    methods: tuple[str, ...] = ("xlf", "ssd", "ssd-fixed", "fine-tune", "retrain")
    seeds: int = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """Runs the jobs `train/K` and `METHOD/FOUND/K` of a setting; networks wait in a folder.

    Args:
        setting: What is run.
        data: The data set.
        folder: Where trained networks are kept.
        seed: The one seed of the run.
        device: Where networks run.
    """

    setting: Setting
    data: DataSet
    folder: Path
    seed: int
    device: str

    def __call__(self, name: str, tell: Tell) -> Record:
        """Run a job and return its record."""
        begun = time.monotonic()
        match name.split("/"):
            case ["train", number]:
                record = self._train(int(number), tell)
            case [method, found, number]:
                record = self._heal(method, int(found), int(number), tell)
            case _:
                raise AssertionError(name)
        return {**record, "seconds": round(time.monotonic() - begun, 3)}

    def _pack(self, number: int) -> PoisonPack:
        own, train = self.setting, self.data.train
        budget = (own.poisons - 0.5) / len(train)
        seed = address(self.seed, "poison", number)
        scenario = scenarios(
            "trigger:0", self.data, budget=budget, epsilon=Pixels(1.0), count=None, seed=seed, threat=own.threat
        )[0]
        return BadNets().craft(AttackKit(data=self.data, surrogates=()), scenario, seed=seed)

    def _plan(self, pack: PoisonPack) -> Plan:
        own = self.setting
        plan = contract(own.recipe, self.data, own.model, own.options)
        plan = plan.poisoned(pack)
        return Plan(
            data=plan.data.to(self.device),
            model=plan.model,
            phases=plan.phases,
            precision=plan.precision,
            device=self.device,
        )

    def _weights(self, number: int) -> Path:
        return self.folder / f"poisoned-{number}.safetensors"

    def _train(self, number: int, tell: Tell) -> Record:
        pack = self._pack(number)
        plan, seed = self._plan(pack), address(self.seed, "victim", number)
        unfinished = self.folder / f"unfinished-{number}"
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        run = checkpoint.load(plan, seed, unfinished) if unfinished.exists() else begin(plan, seed)
        saved = time.monotonic()
        for event in steps(plan, seed, run):
            if time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS:
                checkpoint.save(event.run, plan, seed, unfinished)
                saved = time.monotonic()
            tell({"done": event.epoch / plan.epochs})
        net = run.net.module.eval()
        save_weights(net, self._weights(number))
        return self._judged(net, pack)

    def _judged(self, net: torch.nn.Module, pack: PoisonPack) -> Record:
        assert pack.trigger is not None, "the attack plants one"
        poisons = published_poisons(self.data.train, pack).to(self.device)
        test = self.data.test.to(self.device)
        outcome = judge_backdoor(net, test, pack.trigger, pack.scenario.adversarial_class, poisons=poisons)
        return {"poisons": len(pack), "outcome": outcome.to_record()}

    def _heal(self, method: str, found: int, number: int, tell: Tell) -> Record:
        pack = self._pack(number)
        plan, seed = self._plan(pack), address(self.seed, "victim", number)
        net = plan.model.build(0)
        load_weights(net, self._weights(number))
        rows = pack.ids[:found]  # the pack's order is drawn, so that fewer are among more
        keep = torch.ones(len(plan.data), dtype=torch.bool)
        keep[rows] = False
        kit = HealKit(
            model=net.to(self.device).eval(),
            suspects=plan.data.select(rows),
            reference=plan.data.select(keep.nonzero().squeeze(1)),
            guard=None,
            num_training=len(plan.data),
            training=plan,
            progress=tell,
        )
        healed = named_healer(method).heal(kit, seed=seed)
        report: Mapping[str, Any] = healed.report
        return {
            **self._judged(healed.model, pack),
            "converged": report["converged"],
            "steps": report["steps"],
            "frac_dampened": report["frac_dampened"],
            "heal_seconds": round(float(report["seconds"]), 3),
        }
