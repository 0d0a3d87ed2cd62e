"""`mithridate list`: what can be named, with one line and its source each, read without importing any of it."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from mithridate.cli._session import Session, table
from mithridate.cli._verb import verb

if TYPE_CHECKING:
    from mithridate.core.registry import Registry


class Row(NamedTuple):
    """One thing that can be named."""

    name: str
    summary: str
    source: str


@verb
def list_(
    session: Session,
    kind: Annotated[
        str | None,
        typer.Argument(
            help="attacks, defenses, detectors, healers, models, recipes, datasets, scenarios, papers, rules, "
            "pre-aggregators or adversaries; without it, all."
        ),
    ] = None,
) -> None:
    """List attacks, defenses, detectors, healers, models, recipes, data, scenarios, papers, and what combines rows."""
    if kind is not None and kind not in KINDS:
        from mithridate.core.registry import unknown_name

        raise unknown_name("list", kind, KINDS)
    found = {name: list(rows()) for name, rows in KINDS.items() if kind in (None, name)}
    document = {name: [row._asdict() for row in rows] for name, rows in found.items()}
    views = []
    for name, rows in found.items():
        views += [*([name] if kind is None else []), table(("name", "what", "source"), rows)]
    session.result(document, *views)


def _attacks() -> Iterator[Row]:
    from mithridate.audit.names import ATTACKS

    yield Row("none", "Clean training data: the control without an attack", "")
    yield from _methods(ATTACKS)


def _defenses() -> Iterator[Row]:
    from mithridate.audit.names import DEFENSES

    yield Row("none", "The victim's recipe as it is: the control without a defense", "")
    yield from _methods(DEFENSES)


def _methods(registry: "Registry") -> Iterator[Row]:
    yield from (Row(entry.name, entry.summary, entry.source) for entry in registry.entries())


def _models() -> Iterator[Row]:
    from mithridate.core.registry import Registry
    from mithridate.models.names import built_in

    registry = Registry("mithridate.models", "model", None)
    for module, width in built_in().items():
        entry = registry.describe(module.replace("_", "-"))
        widths = "" if width is None else f" Width: {module}-wN, default {width}."
        yield Row(module, f"{entry.summary}{widths}", entry.source)
    yield Row("timm:NAME", "A network of timm (extra `models`)", "timm")
    yield Row("torchvision:NAME", "A network of torchvision", "torchvision")
    yield Row(
        "hf:ID", "An image classifier of the Hugging Face hub, or a local folder (extra `models`)", "transformers"
    )
    yield Row("package.module:factory", "Your own code, which is executed", "")
    yield Row("FILE.py:factory", "Your own code, which is executed", "")


def _recipes() -> Iterator[Row]:
    from mithridate.training.contracts_index import CONTRACTS

    yield from (Row(name, what, source) for name, (what, source) in CONTRACTS.items())


def _datasets() -> Iterator[Row]:
    from mithridate.data.names import PLUGINS, SOURCES

    yield from (Row(name, what, "") for name, what in SOURCES.items())
    yield from _methods(PLUGINS)
    yield Row("DIR", "A folder: {train,test}/CLASS/IMAGE, CLASS/IMAGE, or {train,test}.parquet", "your own")
    yield Row("hf:owner/name@revision", "A Hugging Face data set (extra `hub`); no remote code is run", "hub")


def _scenarios() -> Iterator[Row]:
    from mithridate.audit.names import scenario_count, scenario_list, scenario_lists

    yield Row("random", "Targets and wanted classes drawn from the run's seed", "")
    yield Row("trigger", "No targets: what carries the attack's trigger shall be seen as class 0, 1, ...", "")
    for name in scenario_lists():
        plain = scenario_list(name)
        yield Row(
            name,
            f"{scenario_count(name)} scenarios on {plain['data']}, epsilon {plain['epsilon']}",
            str(plain["source"]),
        )


def _detectors() -> Iterator[Row]:
    from mithridate.detection.names import DETECTORS

    yield from _methods(DETECTORS)


def _healers() -> Iterator[Row]:
    from mithridate.unlearning.names import HEALERS

    yield from _methods(HEALERS)


def _papers() -> Iterator[Row]:

    from mithridate.core.registry import Registry

    papers = Registry("mithridate.papers", "paper", None)
    yield from _methods(papers)


def _rules() -> Iterator[Row]:
    from mithridate.aggregation.names import RULES

    yield from _methods(RULES)


def _pre_aggregators() -> Iterator[Row]:
    from mithridate.aggregation.names import PRE_AGGREGATORS

    yield from _methods(PRE_AGGREGATORS)


def _adversaries() -> Iterator[Row]:
    from mithridate.aggregation.names import ADVERSARIES

    yield from _methods(ADVERSARIES)


KINDS: Mapping[str, Callable[[], Iterator[Row]]] = {
    "attacks": _attacks,
    "defenses": _defenses,
    "detectors": _detectors,
    "healers": _healers,
    "models": _models,
    "recipes": _recipes,
    "datasets": _datasets,
    "scenarios": _scenarios,
    "papers": _papers,
    "rules": _rules,
    "pre-aggregators": _pre_aggregators,
    "adversaries": _adversaries,
}
