"""How an audit uses the machine: one thread a job, as many jobs at once as there are cores."""

import os
import sys

import torch

from mithridate.audit.config import AuditConfig
from mithridate.core.errors import Misuse


def check_device(device: str) -> None:
    """Refuse a device that torch does not find here.

    Raises:
        Misuse: MTH-0562, with what is here.
    """
    here = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    here += ["mps"] if torch.backends.mps.is_available() else []
    if (device if device != "cuda" else "cuda:0") not in here:
        raise Misuse(
            "MTH-0562",
            f"device {device!r} is not on this machine; torch finds {', '.join(here)}",
            hint="`mithridate doctor` says what is installed; a torch built for the CPU alone finds no accelerator",
        )


def num_workers(config: AuditConfig) -> int:
    """Return how many processes run jobs: one per core that may be used, and one alone on an accelerator."""
    return int(config.jobs) if config.jobs != "auto" else processes(config.device)


def processes(device: str) -> int:
    """Return how many processes work at once on a device: one per core that may be used, one on an accelerator."""
    if device != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def one_thread() -> None:
    """Every job runs on one thread, so that its numbers do not depend on how many run beside it."""
    torch.set_num_threads(1)
