"""One victim by itself: trained by a contract, on clean or poisoned data, resumable at every epoch."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mithridate.audit.assembly import defended, defense, diagnosed
from mithridate.audit.config import AuditConfig
from mithridate.audit.machine import check_device
from mithridate.audit.recipe import recorded
from mithridate.core.artefacts import as_json, disk_errors, write_atomic
from mithridate.core.events import NullProgress, Progress, said
from mithridate.core.seeds import address
from mithridate.data.packs import PoisonPack
from mithridate.data.scenarios import Scenario
from mithridate.data.sources import load
from mithridate.evaluation.backdoor import judge_backdoor
from mithridate.evaluation.outcome import judge
from mithridate.models.saved import Description, save_model
from mithridate.training import checkpoint
from mithridate.training.contracts import Options, contract
from mithridate.training.loop import begin, steps
from mithridate.training.run import finite_loss

_SECONDS_BETWEEN_CHECKPOINTS = 30.0


def run_training(
    config: AuditConfig, folder: Path, *, pack: Path | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Train one victim, save its weights to `folder/model.safetensors`, and return what it does.

    A checkpoint is kept at the ends of epochs, every half minute and at the last one, so that the same command goes on
    after an interruption and ends with the same bytes.
    """
    progress = progress or NullProgress()
    check_device(config.device)
    data = load(config.data.source, per_class=config.data.per_class, size=config.data.size, store=config.data.store)
    overrides = config.recipe_options.model_dump()
    options = Options(**overrides, precision=config.precision, device=config.device)
    plan = contract(config.recipe, data, config.model, options)
    scenarios: Sequence[Scenario] = ()
    poisons = None if pack is None else PoisonPack.load(pack)
    if poisons is not None:
        plan, scenarios = plan.poisoned(poisons), (poisons.scenario,)
    trained_on = plan.data.fingerprint
    chosen = next((method for method in config.defenses if method.name != "none"), None)
    seed = address(config.seed, "victim")
    built = None if chosen is None else defense(chosen)
    plan = defended(built, plan, seed=address(seed, "defense"), tell=lambda word: progress.advance(0, said(word)))
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "checkpoint"
    run = checkpoint.load(plan, seed, kept) if kept.exists() else begin(plan, seed)
    begun = time.monotonic()
    progress.start(plan.epochs, "epochs")
    progress.advance(run.epoch, "resumed")
    loss: float | None = None
    saved = time.monotonic()
    for event in steps(plan, seed, run):
        if time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS or event.epoch == plan.epochs:
            checkpoint.save(event.run, plan, seed, kept)
            saved = time.monotonic()
        loss = round(finite_loss(event), 6)
        progress.advance(1, f"loss {loss:.4f}")
    progress.close()
    net = run.net.module.eval()
    read = {
        **config.data.model_dump(mode="json"),
        "pack": None if pack is None else str(pack),
        "fingerprint": trained_on,
    }
    about = Description(spec=plan.model, classes=data.train.classes, data=read, recipe=recorded(config))
    save_model(net, about, folder)
    outcome = judge(net, data.test, scenarios)
    before = None
    if poisons is not None and poisons.trigger is not None:
        before = judge_backdoor(net, data.test, poisons.trigger, poisons.scenario.adversarial_class).attack
    document = {
        "weights": str(folder / "model.safetensors"),
        "clean_accuracy": outcome.correct / outcome.tested,
        "tested": outcome.tested,
        "epochs": plan.epochs,
        "last_epoch_loss": loss,
        "seconds": round(time.monotonic() - begun, 1),
        "targets_hit": sum(target.hit for target in outcome.targets) if before is None else before.successes,
        "targets": len(outcome.targets) if before is None else before.trials,
        **diagnosed(built, run.states),
    }
    write_atomic(folder / "report.json", as_json(document))
    return document
