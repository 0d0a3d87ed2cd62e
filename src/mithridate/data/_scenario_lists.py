"""The shipped scenario lists: reading them, and checking that a data set is the one they were published for.

A list names test rows and, for the poisoning benchmark, training rows of one data set in its original order. Whether a
data set is that one is decided by content: its sizes, the labels of the rows that the list names, and where the list
carries them, the hashes of all labels. A smaller training split whose `row` column says that it is a part of a larger
one keeps the targets; the published poison rows are then not to be had.

The poison rows of `witches-brew-10` are not in the file: they follow from the key. The published runs seed NumPy's
legacy generator with key + 4 and draw, in this order: the target class; the adversarial class among the other nine; a
permutation of the adversarial class's training rows, of which the first ones are the poisons; the target's ordinal.
`witches-brew-100` goes on from the ten published keys with what the same draws make of the keys 0, 1, 2, ...: a test
over targets wants more than ten.

Paper    Geiping et al., Witches' Brew (ICLR 2021), arXiv 2009.02276, section 4 and appendix; Schwarzschild et al., Just
         How Toxic is Data Poisoning? (ICML 2021), arXiv 2006.12557, the published setups.
Departs  two published transfer setups (78, 84) name one row twice; a poison can be placed only once, so they have 24.
"""

import hashlib
import json
from dataclasses import dataclass
from importlib import resources

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from mithridate.core.errors import Misuse
from mithridate.data.examples import ROW, Examples
from mithridate.data.sources import DataSet

LIST_NAMES = (
    "witches-brew-10",
    "witches-brew-100",
    "toxic-c10-scratch",
    "toxic-c10-transfer",
    "toxic-tiny-scratch",
    "toxic-tiny-transfer",
)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One row of a list: who is the target, and as what it shall be seen."""

    key: str
    target_class: int
    target: int
    adversarial_class: int
    base_ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ScenarioList:
    """A published list of scenarios.

    Args:
        name: Its name here.
        source: Where it was published.
        data: The data set it belongs to, in words.
        num_classes: Number of classes of that data set.
        train_rows: Rows of its training split.
        test_rows: Rows of its test split.
        poisons: Poisons of each published scenario, before repeated rows are dropped.
        setups: The scenarios.
        train_labels_sha256: Hash of the training labels as bytes, or empty.
        test_labels_sha256: Hash of the test labels as bytes, or empty.
    """

    name: str
    source: str
    data: str
    num_classes: int
    train_rows: int
    test_rows: int
    poisons: int
    setups: tuple[Setup, ...]
    train_labels_sha256: str = ""
    test_labels_sha256: str = ""

    @property
    def by_key(self) -> bool:
        """Whether targets are ordinals within their class and poison rows follow from the key."""
        return not self.setups[0].base_ids

    def target_row(self, setup: Setup, test: Examples) -> int:
        """Return the test row of a setup's target."""
        return int(test.rows_of_class(setup.target_class)[setup.target]) if self.by_key else setup.target

    def published_ids(self, setup: Setup, train: Examples) -> tuple[int, ...]:
        """Return the published poison rows of a setup in the complete training split, each once, in their order."""
        if not self.by_key:
            return tuple(dict.fromkeys(setup.base_ids))
        rows = train.rows_of_class(setup.adversarial_class).cpu().numpy()
        return tuple(int(row) for row in rows[published_draws(int(setup.key), self.poisons).poison_ordinals])

    def check(self, data: DataSet) -> bool:
        """Check that `data` is the data set of this list, whole or in part.

        Returns:
            Whether its training split is complete, so that the published poison rows can be used.

        Raises:
            Misuse: It is another data set, or in another order.
        """
        train, test = data.train, data.test
        part = ROW in train.columns and len(train) < self.train_rows
        sizes = [("classes", len(train.classes), self.num_classes), ("test rows", len(test), self.test_rows)]
        if not part:
            sizes.append(("training rows", len(train), self.train_rows))
        for what, found, wanted in sizes:
            if found != wanted:
                raise self._misfit(data, f"it has {found:,} {what} instead of {wanted:,}")
        for what, examples, digest in (
            ("test", test, self.test_labels_sha256),
            ("training", train, "" if part else self.train_labels_sha256),
        ):
            if digest and _labels_sha256(examples) != digest:
                raise self._misfit(data, f"its {what} labels are not in the published order")
        if not self.by_key:
            self._check_named_rows(data, part)
        return not part

    def _check_named_rows(self, data: DataSet, part: bool) -> None:
        for setup in self.setups:
            if int(data.test.labels[setup.target]) != setup.target_class:
                found = int(data.test.labels[setup.target])
                raise self._misfit(data, f"test row {setup.target} has label {found} instead of {setup.target_class}")
            if part:
                continue
            bases = torch.tensor(setup.base_ids)
            if not bool((data.train.labels.cpu()[bases] == setup.adversarial_class).all()):
                raise self._misfit(
                    data, f"the poison rows of setup {setup.key} are not all of class {setup.adversarial_class}"
                )

    def _misfit(self, data: DataSet, why: str) -> Misuse:
        return Misuse(
            "MTH-0307",
            f"scenario list {self.name!r} belongs to {self.data} ({self.num_classes} classes, {self.train_rows:,} "
            f"training and {self.test_rows:,} test rows); {data.name!r} is something else: {why}",
            hint="use that data set in its original order, or the scenario source 'random'",
        )


def read_list(name: str) -> ScenarioList:
    """Read one of the shipped lists (`LIST_NAMES`)."""
    text = resources.files("mithridate.data").joinpath("scenario_lists", f"{name}.json").read_text(encoding="utf-8")
    plain = json.loads(text)
    setups = tuple(
        Setup(key=key, target_class=label, target=target, adversarial_class=wanted, base_ids=tuple(*ids))
        for key, label, target, wanted, *ids in plain["setups"]
    )
    return ScenarioList(
        name=plain["name"],
        source=plain["source"],
        data=plain["data"],
        num_classes=plain["num_classes"],
        train_rows=plain["train_rows"],
        test_rows=plain["test_rows"],
        poisons=plain["poisons"],
        setups=setups,
        train_labels_sha256=plain.get("train_labels_sha256", ""),
        test_labels_sha256=plain.get("test_labels_sha256", ""),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class PublishedDraws:
    """What the published Witches' Brew runs draw from one key; ordinals count within a class, in index order."""

    target_class: int
    adversarial_class: int
    poison_ordinals: NDArray[np.int64]
    target_ordinal: int


def published_draws(key: int, num_poisons: int) -> PublishedDraws:
    """Repeat the draws of the published runs for CIFAR-10: 10 classes of 5,000 training and 1,000 test rows.

    Args:
        key: The poison key.
        num_poisons: Number of poisons; the published 1 % are 500.
    """
    random = np.random.RandomState(key + 4)
    target_class = int(random.randint(10))
    others = [label for label in range(10) if label != target_class]
    adversarial_class = int(random.choice(others))
    poisons = random.choice(5000, size=num_poisons, replace=False)
    target = random.choice(1000, size=1, replace=False)
    return PublishedDraws(
        target_class=target_class,
        adversarial_class=adversarial_class,
        poison_ordinals=poisons.astype(np.int64),
        target_ordinal=int(target[0]),
    )


def _labels_sha256(examples: Examples) -> str:
    labels: Int64[Tensor, " n"] = examples.labels.cpu()
    return hashlib.sha256(labels.numpy().astype(np.uint8).tobytes()).hexdigest()
