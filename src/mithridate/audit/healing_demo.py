"""The healing that `mithridate heal --demo` shows: a poisoned network on the embedded digits, scanned and healed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mithridate.attacks._base import AttackKit
from mithridate.attacks.badnets import BadNets
from mithridate.audit.config import AuditConfig
from mithridate.audit.healing import Case, Request
from mithridate.audit.healing_run import Finished, run_healing
from mithridate.audit.opening import Opened, open_model
from mithridate.audit.recipe import training_plan
from mithridate.audit.single import run_training
from mithridate.core.events import NullProgress, Progress
from mithridate.core.pool import Tell
from mithridate.core.seeds import address
from mithridate.core.units import Pixels
from mithridate.data.scenarios import scenarios
from mithridate.data.sources import load
from mithridate.detection.scan import scan
from mithridate.detection.suspects import Suspects

BUDGET = 0.0194
"""28 of the 1,437 training images."""


def demo_config(seed: int) -> AuditConfig:
    """Return how the demo's network is trained."""
    return AuditConfig.model_validate(
        {"data": {"source": "digits"}, "model": "convnet3", "recipe": "digits-cnn30", "seed": seed}
    )


def run_demo(
    folder: Path, request: Request, *, progress: Progress | None = None, command: str = ""
) -> tuple[Case, Finished]:
    """Train, scan, heal and verify; what is finished in the folder is not done again."""
    progress = progress or NullProgress()
    opened = poisoned(folder, request.seed, progress)
    table = folder / "suspects.parquet"
    if not table.exists():
        scan(opened.model, opened.train, seed=address(request.seed, "scan"), progress=shown(progress, "scan")).write(
            table
        )
        progress.close()
    case = Case(
        about=opened.about,
        model=opened.model,
        data=opened.train,
        suspects=Suspects.read(table),
        test=opened.data.test,
        probe=opened.probe,
        poisons=opened.poisons,
        training=training_plan(opened, request.healer(), request.recipe, device="cpu"),
    )
    return case, run_healing(case, request, folder, progress=progress, command=command)


def poisoned(folder: Path, seed: int, progress: Progress) -> Opened:
    """Return a network that was trained on digits with a small white patch under the class 0."""
    pack, trained = folder / "pack", folder / "poisoned"
    if not pack.exists():
        data = load("digits")
        scenario = scenarios(
            "trigger:0", data, budget=BUDGET, epsilon=Pixels(1.0), count=None, seed=seed, threat="other-classes"
        )[0]
        BadNets().craft(AttackKit(data=data, surrogates=()), scenario, seed=seed).save(pack)
    if not (trained / "report.json").exists():
        run_training(demo_config(seed), trained, pack=pack, progress=progress)
    return open_model(trained, "digits", pack=pack)


def shown(progress: Progress, title: str) -> Tell:
    """Return what shows a share of work as a bar of a hundred pieces."""
    progress.start(100, title)
    at = 0

    def tell(word: Mapping[str, Any]) -> None:
        nonlocal at
        now = int(100 * word.get("done", 0.0))
        progress.advance(max(0, now - at), str(word.get("detector", "")))
        at = max(at, now)

    return tell
