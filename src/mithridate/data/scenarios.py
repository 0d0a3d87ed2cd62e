"""Scenarios: which test image shall be seen as what, and which training images the attacker may change.

    poisons = ceil(budget * training rows), drawn without replacement from the class that the threat model names

    threat model     class of the poisons
    single-class     the adversarial class (the standard of targeted clean-label poisoning)
    third-party      a class that is neither the target's nor the adversarial one
    self-betrayal    the target's own class
    other-classes    all but the adversarial one
    random-subset    all classes; from targets of the source `random` this is also what the code of Witches' Brew calls
                     random-subset-random-targets, where there is one target

A scenario of the source `trigger` has no targets: every image that carries the attacker's trigger shall be seen as the
adversarial class. Its poisons come from all classes but that one (`other-classes`), from all of them
(`random-subset`, as in the code of Potion), or from that class alone (`single-class`).

Scenarios come from `random`, from `trigger`, or from a shipped list of published ones. The draws of scenario i depend
on the seed and on i only: eight scenarios are the first eight of twenty, and the poisons of a smaller budget are among
those of a larger.

Paper    Geiping et al., Witches' Brew (ICLR 2021), arXiv 2009.02276, section 4 and its threat-model variants.
Departs  the budget is rounded up in decimal arithmetic; in binary floats 7 % of 100 rows would be 8 poisons.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from typing import Any, Literal

import torch
from jaxtyping import Int64
from torch import Tensor

from mithridate.core.errors import Misuse
from mithridate.core.registry import closest
from mithridate.core.units import Pixels, parse_rate
from mithridate.data._scenario_lists import LIST_NAMES, ScenarioList, Setup, read_list
from mithridate.data.sources import DataSet
from mithridate.numerics.rng import generator

THREATS = ("single-class", "third-party", "self-betrayal", "other-classes", "random-subset")
"""The threat models by name."""
TRIGGER_THREATS = ("single-class", "other-classes", "random-subset")
"""Those that need no target."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What the attacker wants, and with what.

    Args:
        name: Its name, such as `witches-brew-10/2000000000`.
        targets: Rows of the test split whose class shall be mistaken; none where a trigger does it.
        target_class: The true class of the targets, None where there are none.
        adversarial_class: The class that the attacker wants to see instead.
        poison_ids: Rows of the training split that the attacker may change, each once.
        epsilon: Largest change of a pixel, with pixels in [0, 1].
        threat: The threat model: one of `THREATS`.
        poison_ids_from: `published` with the list or drawn from its key as published runs do, or `drawn` by this
            library's seed.

    Raises:
        Misuse: The fields contradict each other.
    """

    name: str
    targets: tuple[int, ...]
    target_class: int | None
    adversarial_class: int
    poison_ids: tuple[int, ...]
    epsilon: Pixels
    threat: str = "single-class"
    poison_ids_from: Literal["published", "drawn"] = "drawn"

    def __post_init__(self) -> None:
        check_threat(self.threat, triggered=self.triggered)
        if self.target_class == self.adversarial_class:
            raise _already(self.name, self.targets, self.adversarial_class)
        if bool(self.targets) == self.triggered:
            raise Misuse(
                "MTH-0309",
                f"scenario {self.name!r} names {len(self.targets)} targets of class {self.target_class}",
                hint="name at least one test row and its class, or neither for a scenario with a trigger",
            )
        if not 0.0 <= self.epsilon <= 1.0:
            raise Misuse("MTH-0309", f"scenario {self.name!r}: epsilon must lie in [0, 1], got {self.epsilon}")
        for what, ids in (("target", self.targets), ("poison", self.poison_ids)):
            if len(set(ids)) != len(ids):
                twice = next(i for k, i in enumerate(ids) if i in ids[:k])
                raise Misuse(
                    "MTH-0304",
                    f"scenario {self.name!r} names {what} row {twice} more than once: {len(ids)} rows, "
                    f"{len(set(ids))} of them distinct",
                    hint="name each row once",
                )
            if ids and min(ids) < 0:
                raise Misuse("MTH-0305", f"scenario {self.name!r}: {what} row {min(ids)} is negative")

    @property
    def triggered(self) -> bool:
        """Whether a trigger, instead of a choice of test images, decides what shall be mistaken."""
        return self.target_class is None

    def targeted_class(self) -> int:
        """Return the true class of the targets.

        Raises:
            Misuse: MTH-0335, the scenario is one with a trigger.
        """
        if self.target_class is None:
            raise Misuse(
                "MTH-0335",
                f"scenario {self.name!r} has a trigger and no targets",
                hint="take a scenario of the source 'random' or of a published list, or an attack with a trigger",
            )
        return self.target_class

    def to_json(self) -> dict[str, Any]:
        """Return all fields as plain JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, plain: object) -> "Scenario":
        """Rebuild a scenario from what `to_json` returned.

        Raises:
            Misuse: A field is absent, unknown, of another type or contradicts the others.
        """
        names = {item.name for item in fields(cls)}
        if not isinstance(plain, Mapping) or set(plain) != names:
            raise Misuse("MTH-0309", f"a scenario has the fields {sorted(names)}, got {_short(plain)}")
        for key in ("name", "threat"):
            if not isinstance(plain[key], str):
                raise Misuse("MTH-0309", f"scenario: {key} must be a text, got {_short(plain[key])}")
        origin, epsilon = plain["poison_ids_from"], plain["epsilon"]
        if origin not in ("published", "drawn"):
            raise Misuse("MTH-0309", f"scenario: poison_ids_from is published or drawn, got {_short(origin)}")
        if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 <= epsilon <= 1:
            raise Misuse("MTH-0309", f"scenario: epsilon must be a number in [0, 1], got {_short(epsilon)}")
        return cls(
            name=plain["name"],
            targets=_rows("targets", plain["targets"]),
            target_class=None if plain["target_class"] is None else _rows("target_class", [plain["target_class"]])[0],
            adversarial_class=_rows("adversarial_class", [plain["adversarial_class"]])[0],
            poison_ids=_rows("poison_ids", plain["poison_ids"]),
            epsilon=Pixels(float(epsilon)),
            threat=plain["threat"],
            poison_ids_from=origin,
        )


def scenario_sources() -> tuple[str, ...]:
    """Return the names that `scenarios` takes."""
    return ("random", "trigger", *LIST_NAMES)


def poison_count(budget: float, num_rows: int) -> int:
    """Return the number of poisons that a budget, as a fraction of `num_rows` training rows, buys: rounded up."""
    return math.ceil(Fraction(repr(float(budget))) * num_rows)


def scenarios(
    source: str,
    data: DataSet,
    *,
    budget: float,
    epsilon: Pixels,
    count: int | None,
    seed: int,
    threat: str = "single-class",
) -> list[Scenario]:
    """Return scenarios by name.

    Args:
        source: `random`, `trigger`, the name of a shipped list, or `NAME:KEY` for one scenario of it. The keys of
            `trigger` are classes: `trigger:0` wants whatever has the trigger to be seen as class 0.
        data: The data set that they are about.
        budget: Poisons as a fraction of the training split, in (0, 1].
        epsilon: Largest change of a pixel, with pixels in [0, 1].
        count: How many; None for all of a list. A `KEY` names exactly one, whatever `count` says.
        seed: The run's seed, from which everything that was not published is drawn.
        threat: One of `THREATS`.

    Raises:
        Misuse: Something is unknown, out of range, or does not fit the data set.
    """
    budget = parse_rate(budget, "budget")
    name, colon, key = source.partition(":")
    check_threat(threat, triggered=name == "trigger")
    if name not in scenario_sources():
        near = closest(name, scenario_sources())
        raise Misuse(
            "MTH-0306",
            f"there is no scenario source {name!r}; there are {', '.join(scenario_sources())}",
            hint=f"did you mean {near!r}?" if near else "see `mithridate list`",
        )
    if count is not None and count < 1:
        raise Misuse("MTH-0308", f"the number of scenarios must be at least 1, got {count}")
    draw = _Draw(data=data, poisons=poison_count(budget, len(data.train)), epsilon=epsilon, seed=seed, threat=threat)
    if name == "random":
        return _random(draw, count, key if colon else None)
    if name == "trigger":
        return _triggered(draw, count, key if colon else None)
    return _published(read_list(name), draw, count, key if colon else None)


def check_scenario(scenario: Scenario, data: DataSet) -> None:
    """Check a scenario of any origin against a data set.

    Raises:
        Misuse: Rows are out of range, a target has the adversarial label already or another one than the scenario says,
            or poisons are of classes that the threat model excludes.
    """
    for what, ids, examples in (("target", scenario.targets, data.test), ("poison", scenario.poison_ids, data.train)):
        if ids and max(ids) >= len(examples):
            raise Misuse(
                "MTH-0305",
                f"scenario {scenario.name!r}: {what} row {max(ids)} does not exist; {data.name!r} has "
                f"{len(examples):,} such rows, numbered from 0",
                hint="use the data set that the scenario was made for",
            )
    for label in (scenario.target_class, scenario.adversarial_class):
        if label is not None and not 0 <= label < len(data.train.classes):
            raise Misuse("MTH-0305", f"scenario {scenario.name!r}: {data.name!r} has no class {label}")
    found = data.test.labels[torch.tensor(scenario.targets, dtype=torch.int64)].tolist()
    for row, label in zip(scenario.targets, found, strict=True):
        if label == scenario.adversarial_class:
            raise _already(scenario.name, (row,), label)
        if label != scenario.target_class:
            raise Misuse(
                "MTH-0309",
                f"scenario {scenario.name!r}: test row {row} is of class {label}, not of {scenario.target_class}",
            )
    labels = data.train.labels[torch.tensor(scenario.poison_ids, dtype=torch.int64)].tolist()
    allowed = _allowed(scenario.threat, scenario.target_class, scenario.adversarial_class, len(data.train.classes))
    for row, label in zip(scenario.poison_ids, labels, strict=True):
        if label not in allowed:
            raise Misuse(
                "MTH-0309",
                f"scenario {scenario.name!r}: poison row {row} is of class {label}, but {scenario.threat!r} allows the "
                f"classes {sorted(allowed)} only",
            )


def check_threat(threat: str, *, triggered: bool = False) -> None:
    """Check the name of a threat model, for scenarios with targets or with a trigger.

    Raises:
        Misuse: There is no such threat model, or it needs a target and there is none.
    """
    if threat not in THREATS:
        near = closest(threat, THREATS)
        raise Misuse(
            "MTH-0310",
            f"there is no threat model {threat!r}; there are {', '.join(THREATS)}",
            hint=f"did you mean {near!r}?" if near else "",
        )
    if triggered and threat not in TRIGGER_THREATS:
        raise Misuse(
            "MTH-0310",
            f"the threat model {threat!r} is about the class of a target, and a scenario with a trigger has none",
            hint=f"use one of {', '.join(TRIGGER_THREATS)}",
        )


@dataclass(frozen=True, kw_only=True)
class _Draw:
    """What all scenarios of one call have in common, and how their poisons are drawn."""

    data: DataSet
    poisons: int
    epsilon: Pixels
    seed: int
    threat: str

    def poison_ids(
        self, target_class: int | None, adversarial_class: int, path: tuple[str | int, ...]
    ) -> tuple[int, ...]:
        """Draw the poisons of one scenario, whose draws live at `path`."""
        train = self.data.train
        if self.threat == "random-subset":
            rows = torch.arange(len(train))
        elif self.threat == "other-classes":
            rows = (train.labels != adversarial_class).nonzero().squeeze(1).cpu()
            self._check_size("all other classes together have", rows)
        else:
            allowed = sorted(_allowed(self.threat, target_class, adversarial_class, len(train.classes)))
            if not allowed:
                raise Misuse(
                    "MTH-0310",
                    f"the threat model 'third-party' needs a third class; {self.data.name!r} has {len(train.classes)}",
                )
            label = allowed[_below(len(allowed), self.seed, *path, "poison class")]
            rows = train.rows_of_class(label).cpu()
            self._check_size(f"class {label} ({train.classes[label]!r}) has", rows)
        order = torch.randperm(len(rows), generator=generator(self.seed, *path, "poisons"))
        return tuple(rows[order[: self.poisons]].tolist())

    def _check_size(self, what: str, rows: Int64[Tensor, " k"]) -> None:
        train = self.data.train
        if len(rows) < self.poisons:
            largest = len(rows) / len(train)
            raise Misuse(
                "MTH-0302",
                f"the budget is {self.poisons} of {len(train)} training rows, but {what} only {len(rows)}",
                hint=f"a budget of at most {math.floor(largest * 1e6) / 1e6:g} fits it; or take threat 'random-subset'"
                if len(rows)
                else "leave the empty class out of the data set, or name the targets by a list",
            )


def _random(draw: _Draw, count: int | None, key: str | None) -> list[Scenario]:
    test = draw.data.test
    if key is not None and not (key.isdecimal() and int(key) < len(test)):
        raise Misuse("MTH-0306", f"a key of 'random' is a number in [0, {len(test) - 1}], got {key!r}")
    wanted = int(key) + 1 if key is not None else count
    if wanted is None:
        raise Misuse("MTH-0308", "the scenario source 'random' has no end; say how many scenarios", hint="count=8")
    if wanted > len(test):
        raise Misuse("MTH-0308", f"{wanted} distinct targets were asked for; the test split has {len(test)} rows")
    if len(test.classes) < 2:
        raise Misuse("MTH-0310", f"{draw.data.name!r} has {len(test.classes)} class; an attack needs two")
    taken: dict[int, None] = {}
    for index in range(wanted):
        random = generator(draw.seed, "scenario", index, "target")
        row = int(torch.randint(len(test), (1,), generator=random))
        while row in taken:
            row = int(torch.randint(len(test), (1,), generator=random))
        taken[row] = None
    return [_random_one(draw, index, row) for index, row in enumerate(taken) if key is None or index == int(key)]


def _random_one(draw: _Draw, index: int, row: int) -> Scenario:
    target_class = int(draw.data.test.labels[row])
    others = [label for label in range(len(draw.data.train.classes)) if label != target_class]
    adversarial_class = others[_below(len(others), draw.seed, "scenario", index, "adversarial class")]
    return Scenario(
        name=f"random/{index}",
        targets=(row,),
        target_class=target_class,
        adversarial_class=adversarial_class,
        poison_ids=draw.poison_ids(target_class, adversarial_class, ("scenario", index)),
        epsilon=draw.epsilon,
        threat=draw.threat,
    )


def _triggered(draw: _Draw, count: int | None, key: str | None) -> list[Scenario]:
    """Return scenarios with a trigger: number k wants class k."""
    classes = draw.data.train.classes
    if key is not None and not (key.isdecimal() and int(key) < len(classes)):
        raise Misuse("MTH-0306", f"a key of 'trigger' is a class in [0, {len(classes) - 1}], got {key!r}")
    if key is None and count is not None and count > len(classes):
        raise Misuse("MTH-0308", f"{count} classes were asked for; {draw.data.name!r} has {len(classes)}")
    chosen = range(len(classes))[:count] if key is None else [int(key)]
    return [
        Scenario(
            name=f"trigger/{label}",
            targets=(),
            target_class=None,
            adversarial_class=label,
            poison_ids=draw.poison_ids(None, label, ("scenario", "trigger", label)),
            epsilon=draw.epsilon,
            threat=draw.threat,
        )
        for label in chosen
    ]


def _published(published: ScenarioList, draw: _Draw, count: int | None, key: str | None) -> list[Scenario]:
    whole = published.check(draw.data)
    chosen = published.setups
    if key is not None:
        chosen = tuple(setup for setup in chosen if setup.key == key)
        if not chosen:
            keys = [setup.key for setup in published.setups]
            shown = ", ".join(keys) if len(keys) <= 10 else f"{keys[0]} ... {keys[-1]}"
            raise Misuse("MTH-0306", f"scenario list {published.name!r} has no key {key!r}; its keys are {shown}")
    if key is None and count is not None and count > len(chosen):
        raise Misuse(
            "MTH-0308",
            f"scenario list {published.name!r} has {len(chosen)} scenarios, {count} were asked for",
            hint="more targets come from the scenario source 'random'",
        )
    exact = whole and draw.threat == "single-class" and draw.poisons == published.poisons
    return [_published_one(published, draw, setup, exact) for setup in chosen[:count]]


def _published_one(published: ScenarioList, draw: _Draw, setup: Setup, exact: bool) -> Scenario:
    if exact:
        ids = published.published_ids(setup, draw.data.train)
    else:
        path = ("scenario", published.name, setup.key)
        ids = draw.poison_ids(setup.target_class, setup.adversarial_class, path)
    return Scenario(
        name=f"{published.name}/{setup.key}",
        targets=(published.target_row(setup, draw.data.test),),
        target_class=setup.target_class,
        adversarial_class=setup.adversarial_class,
        poison_ids=ids,
        epsilon=draw.epsilon,
        threat=draw.threat,
        poison_ids_from="published" if exact else "drawn",
    )


def _allowed(threat: str, target_class: int | None, adversarial_class: int, num_classes: int) -> set[int]:
    every = set(range(num_classes))
    targeted = set() if target_class is None else {target_class}
    return {
        "single-class": {adversarial_class},
        "third-party": every - targeted - {adversarial_class},
        "self-betrayal": targeted,
        "other-classes": every - {adversarial_class},
        "random-subset": every,
    }[threat]


def _below(bound: int, seed: int, *path: str | int) -> int:
    return int(torch.randint(bound, (1,), generator=generator(seed, *path)))


def _already(name: str, targets: tuple[int, ...], label: int) -> Misuse:
    return Misuse(
        "MTH-0303",
        f"scenario {name!r}: target {', '.join(map(str, targets))} has the adversarial class {label} already",
        hint="choose another target or another adversarial class",
    )


def _rows(key: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or not all(type(row) is int for row in value):
        raise Misuse("MTH-0309", f"scenario: {key} must be whole numbers, got {_short(value)}")
    return tuple(value)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
