"""Training-time security and robustness of machine learning on PyTorch.

The names below are imported when they are first used, so that `import mithridate` costs nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "AttackKit": "mithridate.attacks._base",
    "AuditConfig": "mithridate.audit.config",
    "Examples": "mithridate.data.examples",
    "FriendlyNoise": "mithridate.defenses.friendly_noise",
    "Guard": "mithridate.unlearning._base",
    "Healed": "mithridate.unlearning._base",
    "HealKit": "mithridate.unlearning._base",
    "Noise": "mithridate.attacks.noise",
    "Options": "mithridate.training.contracts",
    "Phase": "mithridate.training.plan",
    "Plan": "mithridate.training.plan",
    "PoisonPack": "mithridate.data.packs",
    "Scenario": "mithridate.data.scenarios",
    "Step": "mithridate.training.step",
    "Undo": "mithridate.unlearning.undo",
    "WitchesBrew": "mithridate.attacks.witches_brew",
    "aggregate": "mithridate.aggregation.aggregate",
    "augmentation": "mithridate.training.contracts",
    "contract": "mithridate.training.contracts",
    "heal": "mithridate.unlearning.heal",
    "judge": "mithridate.evaluation.outcome",
    "load": "mithridate.data.sources",
    "run_audit": "mithridate.audit.run",
    "scan": "mithridate.detection.scan",
    "scenarios": "mithridate.data.scenarios",
    "train": "mithridate.training.loop",
    "verify_pack": "mithridate.data.packs",
}

__all__ = ["__version__", *_HOMES]  # noqa: PLE0604 - names of a dictionary are strings


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mithridate' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
