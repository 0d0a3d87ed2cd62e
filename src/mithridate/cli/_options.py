"""Groups of options that several verbs share. A flag left out says nothing; the configuration or a default speaks."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, runtime_checkable

import typer

if TYPE_CHECKING:
    from mithridate.audit.config import AuditConfig

Setting = tuple[str, tuple[str, ...], Any]
"""A flag, where it belongs in the configuration, and its value; None when it was not given."""

ConfigArgument = Annotated[
    Path | None,
    typer.Argument(metavar="[CONFIG]", help="Configuration file; `mithridate init` writes one.", show_default=False),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", metavar="DIR", help="Folder for the results.", show_default=False, rich_help_panel="Output"
    ),
]
ReuseOption = Annotated[
    Path | None,
    typer.Option(
        "--reuse",
        metavar="DIR",
        help="Take over what a finished audit has in common with this one: add a defense, an attack or victims to it.",
        show_default=False,
        rich_help_panel="Output",
    ),
]


def _option(flag: str, help_text: str, *, metavar: str, panel: str) -> Any:
    return typer.Option(flag, help=help_text, metavar=metavar, show_default=False, rich_help_panel=panel)


@runtime_checkable
class OptionGroup(Protocol):
    """A dataclass of flags that set configuration values."""

    def settings(self) -> Iterator[Setting]:
        """Yield every flag of the group, given or not."""
        ...


@dataclass(frozen=True, kw_only=True)
class VictimOptions:
    """The data, the network and how it is trained."""

    data: Annotated[
        str | None,
        _option(
            "--data",
            "digits, mnist, fashion-mnist, cifar10, a folder, or hf:owner/name@revision.",
            metavar="NAME|DIR",
            panel="Victim",
        ),
    ] = None
    per_class: Annotated[
        int | None,
        _option("--per-class", "Keep the first N training images of each class.", metavar="N", panel="Victim"),
    ] = None
    store: Annotated[
        str | None,
        _option(
            "--store",
            "Where images are kept: all in memory, or in a file, decoded when needed; changes no number.",
            metavar="resident|mapped",
            panel="Victim",
        ),
    ] = None
    model: Annotated[
        str | None,
        _option(
            "--model",
            "Built-in name, timm:NAME, torchvision:NAME, hf:ID, package.module:factory, FILE.py:factory.",
            metavar="NAME",
            panel="Victim",
        ),
    ] = None
    recipe: Annotated[
        str | None,
        _option("--recipe", "Victim contract, such as paper-wb40 or fast-triangle.", metavar="NAME", panel="Victim"),
    ] = None
    precision: Annotated[
        str | None,
        _option("--precision", "fp32, or bf16 autocast inside the networks.", metavar="fp32|bf16", panel="Victim"),
    ] = None
    device: Annotated[str | None, _option("--device", "cpu, cuda, cuda:N or mps.", metavar="NAME", panel="Victim")] = (
        None
    )
    seed: Annotated[int | None, _option("--seed", "The one seed of the run.", metavar="N", panel="Victim")] = None

    def settings(self) -> Iterator[Setting]:
        """Yield every flag of the group, given or not."""
        yield "--data", ("data", "source"), self.data
        yield "--per-class", ("data", "per_class"), self.per_class
        yield "--store", ("data", "store"), self.store
        yield "--model", ("model",), self.model
        yield "--recipe", ("recipe",), self.recipe
        yield "--precision", ("precision",), self.precision
        yield "--device", ("device",), self.device
        yield "--seed", ("seed",), self.seed


@dataclass(frozen=True, kw_only=True)
class AttackerOptions:
    """What the attacker wants and may do."""

    scenarios: Annotated[
        str | None,
        _option(
            "--scenarios",
            "random, a published list such as witches-brew-10, or LIST:KEY.",
            metavar="NAME",
            panel="Attacker",
        ),
    ] = None
    targets: Annotated[
        int | None,
        _option("--targets", "Number of targets; 1 with LIST:KEY, which is one.", metavar="N", panel="Attacker"),
    ] = None
    budget: Annotated[
        str | None,
        _option(
            "--budget",
            "Share of the training set that may be changed, in (0, 1]: 0.01, or 1%.",
            metavar="SHARE",
            panel="Attacker",
        ),
    ] = None
    epsilon: Annotated[
        str | None,
        _option(
            "--epsilon",
            "Largest change of a pixel, in [0, 1] units, such as 16/255.",
            metavar="K/255",
            panel="Attacker",
        ),
    ] = None

    def settings(self) -> Iterator[Setting]:
        """Yield every flag of the group, given or not."""
        yield "--scenarios", ("scenarios", "source"), self.scenarios
        yield "--targets", ("scenarios", "count"), self.targets
        yield "--budget", ("budget",), self.budget
        yield "--epsilon", ("epsilon",), self.epsilon


@dataclass(frozen=True, kw_only=True)
class GridOptions:
    """What is compared, how often, and what is demanded."""

    attack: Annotated[
        list[str] | None,
        _option(
            "--attack", "Attack, may be repeated; NAME:option=value,... sets options.", metavar="NAME", panel="Grid"
        ),
    ] = None
    defense: Annotated[
        list[str] | None,
        _option(
            "--defense", "Defense, may be repeated; NAME:option=value,... sets options.", metavar="NAME", panel="Grid"
        ),
    ] = None
    victims: Annotated[
        int | None,
        _option("--victims", "Victims per cell, each with a fresh start and order.", metavar="N", panel="Grid"),
    ] = None
    gate: Annotated[
        str | None,
        _option(
            "--gate",
            "Fail unless this holds for the interval's bound, such as 'asr<0.1'.",
            metavar="TEST",
            panel="Grid",
        ),
    ] = None
    no_alignment: Annotated[
        bool, typer.Option("--no-alignment", help="Leave out the alignment trace.", rich_help_panel="Grid")
    ] = False

    def settings(self) -> Iterator[Setting]:
        """Yield every flag of the group, given or not."""
        yield "--attack", ("attacks",), self.attack
        yield "--defense", ("defenses",), self.defense
        yield "--victims", ("victims",), self.victims
        yield "--gate", ("gate",), self.gate
        yield "--no-alignment", ("alignment",), False if self.no_alignment else None


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """How the work is done; never changes a number."""

    jobs: Annotated[
        str | None, _option("--jobs", "Victims trained at once: auto, or a number.", metavar="N|auto", panel="Output")
    ] = None

    def settings(self) -> Iterator[Setting]:
        """Yield every flag of the group, given or not."""
        jobs = self.jobs
        yield "--jobs", ("jobs",), int(jobs) if jobs is not None and jobs.lstrip("-").isdecimal() else jobs


@dataclass(frozen=True, kw_only=True)
class OneMethod:
    """A flag that names the one attack or defense of a verb, in place of the lists of a grid."""

    flag: str
    key: str
    name: str | None

    def settings(self) -> Iterator[Setting]:
        """Yield the flag, given or not."""
        yield self.flag, (self.key,), None if self.name is None else [self.name]


def configured(config: Path | None, *groups: OptionGroup, use_demo: bool = False) -> "AuditConfig":
    """Return the complete configuration: the file (or the demo), then the flags. Nothing heavy is imported.

    Raises:
        Misuse: Every problem of the file and the flags, at once; `--demo` beside a file.
    """
    from mithridate.audit.config import Override, demo, resolve
    from mithridate.core.errors import Misuse

    if use_demo and config is not None:
        raise Misuse(
            "MTH-0125",
            f"--demo has a configuration of its own, and {str(config)!r} was given too",
            hint="leave out one of them",
        )
    overrides = [
        Override(option=flag, path=path, value=value)
        for group in groups
        for flag, path, value in group.settings()
        if value is not None
    ]
    return resolve(config, overrides, base=demo() if use_demo else None)
