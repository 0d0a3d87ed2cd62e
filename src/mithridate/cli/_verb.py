"""Verbs take groups of options as dataclasses; typer sees one flag for each field.

    @verb
    def audit(session: Session, victim: VictimOptions, run: RunOptions) -> None: ...

Groups are shared between verbs, so that `--model` means and says the same everywhere. `--json` is added to every verb.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, get_type_hints

import typer

from mithridate.cli._session import Session

_JSON_HELP = "Print one JSON document on stdout and nothing else there; errors too."
JsonFlag = Annotated[bool, typer.Option("--json", help=_JSON_HELP, rich_help_panel="Output")]


def verb(function: Callable[..., None]) -> Callable[..., None]:
    """Return what typer registers: `function` with its option groups unfolded into flags and arguments."""
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, type[Any]] = {}
    flat: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        kind = hints[parameter.name]
        if kind is Session:
            continue
        if isinstance(kind, type) and is_dataclass(kind):
            groups[parameter.name] = kind
            flat.extend(_unfolded(kind))
        else:
            flat.append(parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(function)
    def call(ctx: Any, as_json: bool, **given: Any) -> None:
        session = ctx.find_object(Session) or Session()
        session.json = session.json or as_json
        unfolded = {name: kind(**{f.name: given.pop(f.name) for f in fields(kind)}) for name, kind in groups.items()}
        function(session, **unfolded, **given)

    flat = [
        inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
        *flat,
        inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, annotation=JsonFlag, default=False),
    ]
    shown = inspect.Signature(flat)
    call.__signature__ = shown  # type: ignore[attr-defined]
    # Typer keeps the line breaks of a docstring; a paragraph of help is one line.
    call.__doc__ = "\n\n".join(" ".join(part.split()) for part in (function.__doc__ or "").split("\n\n"))
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    return call


def _unfolded(group: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, annotation=hints[f.name], default=f.default)
        for f in fields(group)
    ]
