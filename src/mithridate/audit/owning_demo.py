"""What `mithridate own --demo` shows: digits are marked, and two models are asked, one of them trained on the marks.

    10 keys, 14 images of 1,437 each, epsilon 0.3, 150 steps; a perceptron of 64-128-10 trained by `digits-mlp40`

Images of 64 pixels need larger changes and a larger share than photographs do. The secret is derived from the seed of
the demonstration, so that everybody sees the same: it is none, and the certificates prove nothing but how they work.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mithridate.audit.machine import one_thread
from mithridate.audit.owning import Committed, DataChoice, Owned, demo_bytes, diary_path, make_commitment
from mithridate.audit.owning_marking import marking_of, tell_progress
from mithridate.audit.owning_verify import Verified, space_of, verify
from mithridate.core.events import NullProgress, Progress
from mithridate.core.seeds import address
from mithridate.data.sources import DataSet, load
from mithridate.evaluation.outcome import judge
from mithridate.ownership.asking import ModelOracle
from mithridate.ownership.certificate import write
from mithridate.ownership.marking import Marked, mark
from mithridate.ownership.secret import Secret
from mithridate.training.contracts import contract
from mithridate.training.loop import train
from mithridate.training.plan import Plan

KEYS = 10
MODEL, RECIPE = "mlp", "digits-mlp40"
MARKING = marking_of("digits", {})
COMMITMENT = "commitment.json"
_PIECES = 100


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A model, and what came of asking it.

    Args:
        verified: The verification.
        certificate: Where its certificate is.
        accuracy: Share of the test images that the model gets right.
    """

    verified: Verified
    certificate: Path
    accuracy: float

    def document(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {
            **self.verified.summary(),
            "accuracy": round(self.accuracy, 4),
            "certificate": str(self.certificate),
        }


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What was shown.

    Args:
        guilty: The model that was trained on the marked data.
        innocent: The model that was trained on the clean data.
        marked: The marks.
        seconds: How long it took.
    """

    guilty: Suspect
    innocent: Suspect
    marked: Marked
    seconds: float

    @property
    def as_promised(self) -> bool:
        """Whether the guilty model was found out and the innocent one was not accused."""
        return self.guilty.verified.report.shown and not self.innocent.verified.report.shown

    def document(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {
            "guilty": self.guilty.document(),
            "innocent": self.innocent.document(),
            "marked_images": len(self.marked.rows),
            "epsilon": MARKING.epsilon,
            "cosine": round(self.marked.cosine, 4),
            "as_promised": self.as_promised,
            "seconds": round(self.seconds, 1),
        }


def demo_secret(seed: int) -> Secret:
    """Return the secret of the demonstration, which everybody can derive."""
    return Secret(demo_bytes("own --demo", seed))


def run_demo(folder: Path, seed: int, *, progress: Progress | None = None) -> Demo:
    """Commit, mark, train two models, and ask both.

    Args:
        folder: Gets the commitment, the diary and both certificates, which replace those of an earlier demonstration.
        seed: Of everything, the secret among it.
        progress: Shows how far it is.
    """
    progress = progress or NullProgress()
    begun = time.monotonic()
    one_thread()
    secret = demo_secret(seed)
    data = load("digits")
    committed = make_commitment(secret, DataChoice(source="digits"), keys=KEYS, topk=1)
    for name in (COMMITMENT, "commitment.data.json", "commitment.diary.jsonl", "guilty.json", "innocent.json"):
        (folder / name).unlink(missing_ok=True)
    committed.write(folder / COMMITMENT, request=False)
    owned = Owned(secret=secret, committed=committed)
    plan = contract(RECIPE, data, MODEL)
    progress.start(_PIECES, "own --demo")
    marked = _marked(owned, data, plan, seed, progress)
    guilty = _asked(owned, replace(plan, data=marked.apply(data.train)), data, folder / "guilty.json", seed)
    innocent = _asked(owned, plan, data, folder / "innocent.json", seed)
    progress.close()
    return Demo(guilty=guilty, innocent=innocent, marked=marked, seconds=time.monotonic() - begun)


def _marked(owned: Owned, data: DataSet, plan: Plan, seed: int, progress: Progress) -> Marked:
    surrogate, tell = train(plan, address(seed, "surrogate")), tell_progress(progress, _PIECES)
    return mark(data.train, owned.keys, [surrogate], MARKING, seed=address(seed, "marks"), tell=tell)


def _asked(owned: Owned, plan: Plan, data: DataSet, path: Path, seed: int) -> Suspect:
    model = train(plan, address(seed, path.stem))
    committed: Committed = owned.committed
    oracle = ModelOracle(model, space_of(committed), about=f"the {path.stem} model of own --demo, seed {seed}")
    verified = verify(owned, oracle, diary_path(path.with_name(COMMITMENT)))
    write(path, verified.certificate)
    outcome = judge(model.eval(), data.test, ())
    return Suspect(verified=verified, certificate=path, accuracy=outcome.correct / outcome.tested)
