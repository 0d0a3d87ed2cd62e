"""What an audit's jobs do: train a surrogate, craft a pack, train and judge a victim."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from mithridate.attacks._base import AttackKit
from mithridate.audit.assembly import Assembly, defended, diagnosed, job_key, pack_path
from mithridate.audit.names import ATTACK_CONTROLS
from mithridate.audit.tally import packed
from mithridate.core.errors import BadArtefact
from mithridate.core.pool import Tell
from mithridate.core.seeds import address
from mithridate.data.packs import PoisonPack
from mithridate.data.scenarios import Scenario
from mithridate.evaluation.alignment import Probe, alignment, alignment_probe
from mithridate.evaluation.backdoor import triggered_hits
from mithridate.evaluation.outcome import judge
from mithridate.models.weights import load_weights, save_weights
from mithridate.numerics.shelf import FileShelf
from mithridate.training.contracts import augmentation
from mithridate.training.loop import begin, steps
from mithridate.training.plan import Plan
from mithridate.training.run import Run, finite_loss

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Worker:
    """Runs jobs of one audit by name; it keeps nothing between them but the loaded surrogates."""

    assembly: Assembly

    def __call__(self, name: str, tell: Tell) -> Result:
        """Run one job and return its record."""
        begun = time.monotonic()
        match name.split("/"):
            case ["surrogate", number]:
                record = self._surrogate(int(number), tell)
            case ["craft", label, key]:
                record = self._craft(label, self.assembly.scenario(key), tell)
            case ["victim", "none", defense, number]:
                record = self._victim(name, None, defense, self.assembly.scenarios, int(number), tell)
            case ["victim", label, defense, key, number]:
                scenario = self.assembly.scenario(key)
                record = self._victim(name, self._pack(label, scenario), defense, (scenario,), int(number), tell)
            case _:
                raise AssertionError(name)
        return {**record, "seconds": round(time.monotonic() - begun, 3)}

    def _surrogate(self, number: int, tell: Tell) -> Result:
        plan, seed = self.assembly.surrogates[number], address(self.assembly.config.seed, "surrogate", number)
        run, losses, _ = _trained(plan, seed, {}, tell)
        net = run.net.module
        save_weights(net, self.assembly.folder / "cells" / f"surrogate-{number}.safetensors")
        outcome = judge(net, self.assembly.data.test, ())
        return {"correct": outcome.correct, "tested": outcome.tested, "losses": losses}

    def _craft(self, label: str, scenario: Scenario, tell: Tell) -> Result:
        chosen = self.assembly.attacks[label]
        shelf = FileShelf(self.assembly.folder / "cells" / f"unfinished-{label}-{job_key(scenario)}.safetensors")
        kit = AttackKit(
            data=self.assembly.data,
            surrogates=tuple(self._load_surrogate(k) for k in range(chosen.surrogates_needed)),
            augment=augmentation(self.assembly.plan),
            progress=tell,
            shelf=shelf,
        )
        seed = address(self.assembly.config.seed, "craft", label, scenario.name)
        pack = chosen.craft(kit, scenario, seed=seed)
        pack.save(pack_path(self.assembly.folder, label, scenario), overwrite=True)
        shelf.path.unlink(missing_ok=True)
        return {
            "scenario": scenario.name,
            "poisons": pack.manifest["count"],
            "epsilon_measured": pack.manifest["epsilon"]["measured_text"],
            "content": pack.manifest["content"],
            "record": pack.manifest["record"],
        }

    def _victim(
        self,
        name: str,
        pack: PoisonPack | None,
        defense: str,
        scenarios: tuple[Scenario, ...],
        number: int,
        tell: Tell,
    ) -> Result:
        """Train on the poisoned (or clean) data and judge.

        The seed depends on the scenario and not on attack or defense, so that these are compared on equal draws.
        """
        assembly = self.assembly
        who = "clean" if pack is None else scenarios[0].name
        seed = address(assembly.config.seed, "victim", who, number)
        plan = assembly.plan if pack is None else assembly.plan.poisoned(pack)
        probes = {}
        if assembly.config.alignment and number == 0 and not assembly.config.triggered:
            probes = {s.name: alignment_probe(plan.data, assembly.data.test, s) for s in scenarios}
        chosen = assembly.defenses[defense]
        plan = defended(chosen, plan, seed=address(seed, "defense", defense), tell=tell)
        run, losses, traces = _trained(plan, seed, probes, tell)
        outcome = judge(run.net.module, assembly.data.test, scenarios)
        record = {**outcome.to_record(), "losses": losses, "alignment": traces, "seed": seed}
        if assembly.config.triggered:
            label = name.split("/")[1]
            record["triggered"] = [
                self._before_trigger(run.net.module, other, scenario)
                for other in ([label] if label not in ATTACK_CONTROLS else assembly.attacks)
                if other not in ATTACK_CONTROLS
                for scenario in scenarios
            ]
        return {**record, **diagnosed(chosen, run.states)}

    def _before_trigger(self, net: nn.Module, label: str, scenario: Scenario) -> Result:
        """Return what a network makes of the trigger that an attack plants."""
        trigger = self._pack(label, scenario).trigger
        if trigger is None:
            raise BadArtefact(
                "MTH-0332",
                f"the pack of {label} for scenario {scenario.name!r} has no trigger",
                hint="an attack whose module says SCENARIO = 'trigger' returns packs made with `with_trigger`",
            )
        found = triggered_hits(net, self.assembly.data.test, trigger, scenario.adversarial_class)
        return {
            "attack": label,
            "scenario": scenario.name,
            "images": len(found.rows),
            "hits": packed(found.hit.tolist()),
            "healed": int(found.healed.sum()),
        }

    def _pack(self, label: str, scenario: Scenario) -> PoisonPack:
        return PoisonPack.load(pack_path(self.assembly.folder, label, scenario))

    def _load_surrogate(self, number: int) -> nn.Module:
        plan = self.assembly.surrogates[number]
        net = plan.model.build(0)
        load_weights(net, self.assembly.folder / "cells" / f"surrogate-{number}.safetensors")
        return net.to(plan.device)


def _trained(
    plan: Plan, seed: int, probes: Mapping[str, Probe], tell: Tell
) -> tuple[Run, list[float], dict[str, list[float]]]:
    """Train; return the finished run, the loss of every epoch and the alignment traces of the probes."""
    run = begin(plan, seed)
    losses: list[float] = []
    traces: dict[str, list[float]] = {name: [] for name in probes}
    for event in steps(plan, seed, run):
        losses.append(round(finite_loss(event), 6))
        tell({"done": event.epoch / plan.epochs})
        for name, probe in probes.items():
            traces[name].append(round(alignment(run.net.module, probe), 6))
    run.net.module.eval()
    return run, losses, traces
