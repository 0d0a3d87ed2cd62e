"""A self-check of marks that are written already: with the real keys, on models that never leave this machine."""

from dataclasses import replace
from typing import Any

import torch

from mithridate.audit.owning import Owned, check_data
from mithridate.audit.owning_marking import Training, tell_progress
from mithridate.core.errors import Misuse
from mithridate.core.events import NullProgress, Progress
from mithridate.core.seeds import address
from mithridate.data.examples import Examples
from mithridate.data.sources import load
from mithridate.numerics.visibility import psnr
from mithridate.ownership.selfcheck import Inquiry, SelfCheck, selfcheck

_PIECES = 100
_ROWS = 1024


def try_written(
    owned: Owned,
    clean: str,
    marked: str,
    how: Training,
    *,
    victims: int = 3,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[SelfCheck, dict[str, Any]]:
    """Train models on the clean and on the written, marked data, and ask them about the keys of the first test.

    What is measured has been through the files: re-encoding, images that were left out, and changes by others.

    Args:
        owned: Secret, commitment and beacon.
        clean: The data that were committed to.
        marked: What `mark_data` wrote.
        how: How models are trained.
        victims: Models of each kind.
        seed: Of the trainings.
        progress: Shows how far it is.

    Raises:
        Misuse: MTH-1071, the clean data are others than were committed; MTH-1078, the marked ones are not made of them.
    """
    progress = progress or NullProgress()
    choice, spec = owned.committed.data, owned.commitment.spec
    data = load(clean, size=choice.size, per_class=choice.per_class)
    check_data(owned.committed, data.train.fingerprint, clean)
    guilty = load(marked, size=choice.size, per_class=choice.per_class).train
    about = _compared(data.train, guilty, clean, marked)
    progress.start(_PIECES, "models with and without marks")
    found = selfcheck(
        replace(how.plan(data), data=data.train),
        guilty,
        owned.block(0),
        Inquiry(victims=victims, topk=spec.topk, alpha=float(owned.commitment.alpha)),
        test=data.test,
        seed=address(seed, "victims"),
        tell=tell_progress(progress, _PIECES),
    )
    progress.close()
    return found, {**about, "topk": spec.topk}


def _compared(clean: Examples, marked: Examples, name: str, marked_name: str) -> dict[str, Any]:
    """Return how two sets of the same images differ."""

    def stop(what: str) -> Misuse:
        return Misuse(
            "MTH-1078",
            f"{marked_name} is not {name} with marks: {what}",
            hint="give the data that were committed to, and the folder that `mithridate own mark` wrote",
        )

    if tuple(clean.classes) != tuple(marked.classes) or clean.images.shape != marked.images.shape:
        raise stop("it has other classes, or images of another size")
    if len(clean) != len(marked) or not torch.equal(clean.labels.cpu(), marked.labels.cpu()):
        raise stop(f"it has {len(marked)} images, the other {len(clean)}, or their labels differ")
    largest, ratios = 0, []
    for rows in [torch.arange(start, min(start + _ROWS, len(clean))) for start in range(0, len(clean), _ROWS)]:
        before, after = (part.images.gather(rows.to(part.device)).cpu().float() for part in (clean, marked))
        changed = (before != after).flatten(1).any(1)
        if changed.any():
            largest = max(largest, int((after - before).abs().max()))
            ratios.append(psnr(after[changed] / 255, before[changed] / 255))
    if not ratios:
        raise stop("no image differs")
    each = torch.cat(ratios)
    return {
        "marked_images": len(each),
        "share": len(each) / len(clean),
        "largest_change": largest / 255,
        "psnr": round(float(each.mean()), 2),
        "notes": [],
    }
