"""Marking and asking as jobs: surrogates, marks, models with and without them, and filters that look for the marks.

surrogate/K -> mark/NAME -> guilty/NAME/VARIANT -> filter/NAME
innocent/VARIANT
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import safetensors.torch
import torch

from mithridate.audit.owning import demo_bytes
from mithridate.core.artefacts import disk_errors, write_atomic
from mithridate.core.boundary import read_safetensors
from mithridate.core.pool import Tell
from mithridate.core.seeds import address
from mithridate.data.examples import Examples
from mithridate.data.sources import DataSet
from mithridate.detection.scan import scan
from mithridate.evaluation.outcome import judge
from mithridate.models.weights import load_weights, save_weights
from mithridate.ownership.keys import Key, KeySpec, derive
from mithridate.ownership.marking import Marking, mark
from mithridate.ownership.selfcheck import count_hits
from mithridate.training.contracts import Options, augmentation, contract
from mithridate.training.loop import train
from mithridate.training.plan import Plan

Record = dict[str, Any]
FILTERS = ("spectral", "activation-clustering", "deep-knn")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """How one user of the data trains.

    Args:
        name: What differs from the surrogates, in words.
        model: The network.
        recipe: The contract.
        options: Its scalars.
    """

    name: str
    model: str
    recipe: str
    options: Options


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is marked, how strongly, and who trains on it.

    Args:
        source: The data set.
        per_class: Its training images of each class, None for all.
        own: How the owner trains surrogates.
        surrogates: How many.
        keys: How many keys.
        side: Rows and columns of their noise.
        topk: Answers that count.
        marks: Strengths by name, the first one being that of the claim.
        variants: The users; each trains once on every marked set, and once on the clean one.
    """

    source: str
    per_class: int | None = None
    own: Variant
    surrogates: int
    keys: int
    side: int
    topk: int
    marks: Mapping[str, Marking]
    variants: tuple[Variant, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """Runs the jobs of a setting; networks and marks wait in a folder.

    Args:
        setting: What is run.
        marks: Its strengths, by the names that jobs have.
        data: The data set.
        folder: Where files wait.
        seed: The one seed of the run.
        device: Where networks run.
    """

    setting: Setting
    marks: Mapping[str, Marking]
    data: DataSet
    folder: Path
    seed: int
    device: str

    def __call__(self, name: str, tell: Tell) -> Record:
        """Run a job and return its record."""
        begun = time.monotonic()
        match name.split("/"):
            case ["surrogate", number]:
                record = self._surrogate(int(number))
            case ["mark", strength]:
                record = self._mark(strength, tell)
            case ["guilty", strength, number]:
                record = self._user(int(number), strength)
            case ["innocent", number]:
                record = self._user(int(number), None)
            case ["filter", strength]:
                record = self._filter(strength, tell)
            case _:
                raise AssertionError(name)
        return {**record, "seconds": round(time.monotonic() - begun, 3)}

    @cached_property
    def keys(self) -> tuple[Key, ...]:
        """The keys, of a secret that everybody can derive from the seed of the run."""
        own = self.setting
        channels, height, width = self.data.train.images.shape
        spec = KeySpec(
            keys=own.keys,
            topk=own.topk,
            classes=len(self.data.train.classes),
            side=own.side,
            channels=channels,
            height=height,
            width=width,
        )
        return derive(demo_bytes("reproduce data-taggants", self.seed), b"", spec)

    def _plan(self, variant: Variant) -> Plan:
        return contract(variant.recipe, self.data, variant.model, replace(variant.options, device=self.device))

    def _trained(self, variant: Variant, seed: int, train_on: Examples | None, path: Path) -> torch.nn.Module:
        plan = self._plan(variant)
        if train_on is not None:
            plan = replace(plan, data=train_on.to(self.device))
        net = train(plan, seed).eval()
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        save_weights(net, path)
        return net

    def _surrogate(self, number: int) -> Record:
        path = self.folder / f"surrogate-{number}.safetensors"
        net = self._trained(self.setting.own, address(self.seed, "surrogate", number), None, path)
        return self._accuracy(net)

    def _loaded(self, variant: Variant, path: Path) -> torch.nn.Module:
        net = self._plan(variant).model.build(0)
        load_weights(net, path)
        return net.to(self.device).eval()

    def _mark(self, strength: str, tell: Tell) -> Record:
        own = self.setting
        names = [self.folder / f"surrogate-{number}.safetensors" for number in range(own.surrogates)]
        marked = mark(
            self.data.train,
            self.keys,
            [self._loaded(own.own, name) for name in names],
            self.marks[strength],
            augment=augmentation(self._plan(own.own)),
            mean=self.data.mean,
            seed=address(self.seed, "marks", strength),
            tell=tell,
        )
        content = safetensors.torch.save({"rows": marked.rows, "images": marked.images.contiguous()})
        write_atomic(self._marks(strength), content)
        return {
            "images": len(marked.rows),
            "share": len(marked.rows) / len(self.data.train),
            "cosine": marked.cosine,
            "clean_cosine": fmean(one.clean_cosine for one in marked.marks),
            "psnr": fmean(one.psnr for one in marked.marks),
            "largest": max(one.largest for one in marked.marks),
            "notes": list(marked.notes),
        }

    def _marks(self, strength: str) -> Path:
        return self.folder / f"marks-{strength}.safetensors"

    def _marked(self, strength: str) -> tuple[Examples, torch.Tensor]:
        found = read_safetensors(self._marks(strength))
        rows = torch.from_numpy(found["rows"])
        return self.data.train.overlay(rows, torch.from_numpy(found["images"])), rows

    def _user(self, number: int, strength: str | None) -> Record:
        variant = self.setting.variants[number]
        train_on = None if strength is None else self._marked(strength)[0]
        path = self._model(strength, number)
        # One seed for a user's every model: they differ in the marks alone.
        net = self._trained(variant, address(self.seed, "user", number), train_on, path)
        return {"hits": count_hits(net, self.keys, topk=self.setting.topk), **self._accuracy(net)}

    def _model(self, strength: str | None, number: int) -> Path:
        return self.folder / f"user-{strength or 'clean'}-{number}.safetensors"

    def _accuracy(self, net: torch.nn.Module) -> Record:
        outcome = judge(net, self.data.test.to(self.device), ())
        return {"correct": outcome.correct, "tested": outcome.tested}

    def _filter(self, strength: str, tell: Tell) -> Record:
        """How many marked images are among those that a filter ranks first, as many as there are marked ones."""
        data, rows = self._marked(strength)
        net = self._loaded(self.setting.variants[0], self._model(strength, 0))
        suspects = scan(net, data.to(self.device), FILTERS, seed=address(self.seed, "filter"), progress=tell)
        marked = torch.zeros(len(data), dtype=torch.bool)
        marked[rows] = True
        first = {name: int(marked[ranks <= len(rows)].sum()) for name, ranks in suspects.ranks.items()}
        flagged = suspects.suspect
        return {
            "marked": len(rows),
            "images": len(data),
            "found": first,
            "suspected": int(flagged.sum()),
            "suspected_marked": int((flagged & marked).sum()),
        }
