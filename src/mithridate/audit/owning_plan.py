"""How many keys and hits a proof needs, as plain JSON; without torch and without data."""

from collections.abc import Sequence
from typing import Any

from mithridate.core.errors import Misuse
from mithridate.ownership import planning

_USUAL = (5, 10, 15, 20, 30, 50, 100)
_NOT_ENOUGH = "MTH-1011"


def prospects(
    keys: Sequence[int] | None,
    *,
    topk: int,
    classes: int,
    hit_rate: str,
    alpha: str,
    wanted: float,
    run: int = 1,
    grindable: bool = False,
) -> dict[str, Any]:
    """Return what numbers of keys promise, and the least one that is enough.

    Raises:
        Misuse: MTH-1010, numbers that cannot be.
    """
    numbers = sorted(set(keys or _USUAL))
    test = planning.HitTest(topk=topk, classes=classes, alpha=alpha, run=run, grindable=grindable)
    rows = [test.prospect(number, hit_rate) for number in numbers]
    least, reason = None, ""
    try:
        least = test.keys_needed(hit_rate, wanted=wanted)
    except Misuse as error:
        if error.code != _NOT_ENOUGH:
            raise
        reason = error.message
    return {
        "classes": classes,
        "topk": topk,
        "hit_rate": hit_rate,
        "alpha": alpha,
        "wanted_power": wanted,
        "run": run,
        "keys_needed": least,
        "reason": reason,
        "table": [{"keys": row.keys, "hits_needed": row.hits_needed, "power": row.power} for row in rows],
    }
