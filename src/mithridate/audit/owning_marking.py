"""Marking a committed data set, and checking beforehand whether marks would be found.

    data -> surrogates, trained as users of the data are expected to train -> marks -> files, and a private manifest

Image folders and parquet files are written again file by file; what has no files (`digits`) becomes one npz file.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mithridate.audit.defaults import DEFAULTS
from mithridate.audit.machine import check_device
from mithridate.audit.owning import Committed, DataChoice, Owned, check_data, check_new, demo_bytes, make_commitment
from mithridate.core.artefacts import as_json, disk_errors, write_atomic
from mithridate.core.errors import Misuse
from mithridate.core.events import NullProgress, Progress
from mithridate.core.pool import Tell
from mithridate.core.seeds import address
from mithridate.data.examples import Examples
from mithridate.data.rewriting import locate
from mithridate.data.sources import DataSet, load, read_raw
from mithridate.models.saved import describe, load_model
from mithridate.ownership.choosing import check_counts
from mithridate.ownership.marking import Marked, Marking, Signal, mark
from mithridate.ownership.secret import Secret
from mithridate.ownership.selfcheck import Inquiry, SelfCheck, selfcheck
from mithridate.ownership.writing import Writing, write
from mithridate.training.contracts import Options, augmentation, contract
from mithridate.training.loop import train
from mithridate.training.plan import Plan

DIGITS: Mapping[str, Any] = {"budget": 14, "epsilon": 0.3, "steps": 150, "views": 1}
"""Marks for images of 64 pixels, which need larger changes and a larger share than photographs do."""
NPZ = "data.npz"
_NO_FILES = "MTH-1040"
_PIECES = 100


@dataclass(frozen=True, kw_only=True)
class Training:
    """How users of the data are expected to train, and the networks that the marks are made at.

    Args:
        model: The network; None takes the data's default.
        recipe: The victim contract; None takes the data's default.
        surrogates: How many are trained on the clean data.
        paths: Saved networks to use instead.
        epochs: Passes over the data; None takes the contract's.
        device: Where.
    """

    model: str | None = None
    recipe: str | None = None
    surrogates: int = 1
    paths: tuple[Path, ...] = ()
    epochs: int | None = None
    device: str = "cpu"

    def plan(self, data: DataSet) -> Plan:
        """Return the plan on clean data."""
        check_device(self.device)
        usual = DEFAULTS.get(data.name, DEFAULTS[""])
        recipe, model = self.recipe or str(usual["recipe"]), self.model or str(usual["model"])
        return contract(recipe, data, model, Options(epochs=self.epochs, device=self.device))


def marking_of(source: str, given: Mapping[str, Any]) -> Marking:
    """Return how to mark: what was given, completed by what the data need.

    Raises:
        Misuse: A value is outside its range.
    """
    usual = DIGITS if source == "digits" else {}
    return Marking(**{**usual, **{name: value for name, value in given.items() if value is not None}})


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where marked data go.

    Args:
        out: A new folder.
        manifest: A new file that says which images are marked, for the owner alone.
    """

    out: Path
    manifest: Path


def mark_data(
    owned: Owned,
    source: str,
    config: Marking,
    how: Training,
    to: Target,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Mark a committed data set with all keys, write it, and return what became of it.

    Args:
        owned: Secret, commitment and beacon.
        source: The data set, read as it was when it was committed.
        config: How it is marked.
        how: The surrogates.
        to: Where the marked data go.
        seed: Of the surrogates and the marks.
        progress: Shows how far it is.

    Raises:
        Misuse: The data are others than were committed, a class has too few images, or a path is taken.
    """
    progress = progress or NullProgress()
    check_new(to.out, to.manifest)
    files = has_files(source)
    choice = owned.committed.data
    data = load(source, size=choice.size, per_class=choice.per_class)
    check_data(owned.committed, data.train.fingerprint, source)
    if config.mode != "betrayal":
        check_counts(data.train, Counter(key.label for key in owned.keys))
    plan = how.plan(data)
    progress.start(_PIECES, "marking")
    nets = surrogates_of(data, plan, how, seed, progress)
    marked = _marked(data, owned, nets, plan, config, owned.marks_seed(seed), progress)
    summary = summary_of(marked, data.train)
    if files:
        signal = Signal.of(nets, data.train.images.shape, precision=config.precision, chunk=config.chunk)
        found = write(
            source, data.train, marked, owned.keys, signal=signal, to=Writing(out=to.out, manifest=to.manifest)
        )
        summary["left_out"] = len(found.left_out)
        # Not which: the manifest says it, to the owner alone.
        reasons = Counter(image.note for image in found.left_out)
        summary["notes"] += [f"images that were left as they are: {count}, as {why}" for why, count in reasons.items()]
        summary["cosine_after_encoding"] = round(sum(key.written for key in found.keys) / len(found.keys), 4)
        place = str(to.out)
    else:
        place = str(_write_npz(data, marked, to, source))
    return {**summary, "data": place, "manifest": str(to.manifest)}


def _marked(
    data: DataSet,
    owned: Owned,
    nets: list[nn.Module],
    plan: Plan,
    config: Marking,
    seed: int,
    progress: Progress,
) -> Marked:
    """Mark with the surrogates, and end the bar that their training began."""
    marked = mark(
        data.train,
        owned.keys,
        nets,
        config,
        augment=augmentation(plan),
        mean=data.mean,
        seed=seed,
        tell=tell_progress(progress),
    )
    progress.close()
    return marked


def has_files(source: str) -> bool:
    """Tell whether a data set lies in files of its own, which are then changed one by one.

    Raises:
        Misuse: MTH-1040, it has encoded images somewhere else, as data sets of the hub do; and as `load` does.
    """
    try:
        locate(source)
    except Misuse as error:
        if error.code != _NO_FILES or read_raw(source).encoded:
            raise
        return False
    return True


def surrogates_of(data: DataSet, plan: Plan, how: Training, seed: int, progress: Progress) -> list[nn.Module]:
    """Return the networks that marks are made at: saved ones, or ones that are trained now."""
    if how.paths:
        return [_saved(path, data.train).to(how.device) for path in how.paths]
    nets = []
    for number in range(how.surrogates):
        progress.advance(0, f"training surrogate {number + 1} of {how.surrogates}")
        nets.append(train(plan, address(seed, "surrogate", number)))
    return nets


def _saved(path: Path, examples: Examples) -> nn.Module:
    about = describe(path)
    channels, height, _ = examples.images.shape
    spec = about.spec
    if (spec.channels, spec.size, about.classes) != (channels, height, tuple(examples.classes)):
        raise Misuse(
            "MTH-1068",
            f"the surrogate {str(path)!r} is for {spec.channels} channels of size {spec.size} and "
            f"{spec.num_classes} classes; {examples.name} has {channels}, {height} and {len(examples.classes)}",
            hint="train one on these data with `mithridate train --data`",
        )
    return load_model(path, about)


def summary_of(marked: Marked, examples: Examples) -> dict[str, Any]:
    """Return what became of the marks, without a word of what is secret."""
    marks = marked.marks
    return {
        "keys": len(marks),
        "marked_images": len(marked.rows),
        "share": len(marked.rows) / len(examples),
        "cosine": round(marked.cosine, 4),
        "clean_cosine": round(sum(each.clean_cosine for each in marks) / len(marks), 4),
        "largest_change": max(each.largest for each in marks),
        "psnr": round(sum(each.psnr for each in marks) / len(marks), 2),
        "notes": _notes(marked),
    }


def _notes(marked: Marked) -> list[str]:
    """Return what the owner should know; not which key it is, as that tells its label, but the manifest has it."""
    few = sum(1 for mark in marked.marks if mark.note)
    return [f"{few} of {len(marked.marks)} keys have fewer images than the budget: their classes have no more"] * (
        few > 0
    )


def tell_progress(progress: Progress, pieces: int = _PIECES) -> Tell:
    """Return what shows a progress that is told in shares."""
    shown = 0

    def tell(word: Mapping[str, Any]) -> None:
        nonlocal shown
        now = int(pieces * float(word.get("done", 0.0)))
        progress.advance(max(0, now - shown), f"key {word['key']}" if "key" in word else "")
        shown = max(now, shown)

    return tell


def _write_npz(data: DataSet, marked: Marked, to: Target, source: str) -> Path:
    """Write data that have no files as one npz file, and the manifest."""
    arrays: dict[str, Any] = {"classes": np.array(data.train.classes)}
    for name, part in (("train", marked.apply(data.train)), ("test", data.test)):
        arrays[f"{name}_images"] = part.images.gather(torch.arange(len(part))).cpu().permute(0, 2, 3, 1).numpy()
        arrays[f"{name}_labels"] = part.labels.cpu().numpy()
    path = to.out / NPZ
    with disk_errors(path):
        to.out.mkdir(parents=True)
        np.savez(path, **arrays)
        document = {"schema": "mithridate.marks/1", "source": source, **marked.to_json()}
        to.manifest.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(to.manifest, as_json(document))
        to.manifest.chmod(0o600)
    return path


@dataclass(frozen=True, kw_only=True)
class Trying:
    """A self-check.

    Args:
        keys: How many keys.
        topk: Answers that count; None takes one in a hundred classes.
        side: Of the noise.
        alpha: The level.
        victims: Models of each kind.
    """

    keys: int = 20
    topk: int | None = None
    side: int | None = None
    alpha: str = "0.001"
    victims: int = 3


def try_marks(
    choice: DataChoice,
    config: Marking,
    how: Training,
    trying: Trying,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[SelfCheck, dict[str, Any]]:
    """Mark in memory with keys that are thrown away, train models with and without the marks, and ask them.

    The keys are not those of any commitment: real ones are shown to no model before a verification.

    Args:
        choice: The data.
        config: How they are marked.
        how: The surrogates, and how models are trained.
        trying: The test.
        seed: Of everything, the keys among it.
        progress: Shows how far it is.

    Raises:
        Misuse: A class has too few images, or the numbers do not fit.
    """
    progress = progress or NullProgress()
    data = load(choice.source, size=choice.size, per_class=choice.per_class)
    secret = Secret(demo_bytes("own selfcheck", seed))
    committed: Committed = make_commitment(
        secret, choice, keys=trying.keys, topk=trying.topk, side=trying.side, alpha=trying.alpha
    )
    owned = Owned(secret=secret, committed=committed)
    plan = how.plan(data)
    progress.start(_PIECES, "marking")
    nets = surrogates_of(data, plan, how, seed, progress)
    marked = _marked(data, owned, nets, plan, config, address(seed, "marks"), progress)
    progress.start(_PIECES, "models with and without marks")
    spec = committed.commitment.spec
    found = selfcheck(
        replace(plan, data=data.train),
        marked.apply(data.train),
        owned.keys,
        Inquiry(victims=trying.victims, topk=spec.topk, alpha=float(committed.commitment.alpha)),
        test=data.test,
        seed=address(seed, "victims"),
        tell=tell_progress(progress),
    )
    progress.close()
    return found, {**summary_of(marked, data.train), "config": asdict(config), "topk": spec.topk}
