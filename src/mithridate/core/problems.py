"""What is wrong with a configuration, in words, with the line or the flag it came from: all problems at once."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mithridate.core.boundary import read_yaml
from mithridate.core.errors import BadArtefact, Misuse, MithridateError
from mithridate.core.registry import closest

MAX_CONFIG_BYTES = 1 << 20
_TYPES = {
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "dict_type": "must be a mapping",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "finite_number": "must be a finite number",
    "missing": "is missing",
}
_BOUNDS = {
    "greater_than": ("must be greater than", "gt"),
    "greater_than_equal": ("must be at least", "ge"),
    "less_than": ("must be less than", "lt"),
    "less_than_equal": ("must be at most", "le"),
}

Path_ = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A parsed configuration and where each of its keys stands."""

    name: str
    values: Mapping[str, Any]
    lines: Mapping[Path_, int] = field(default_factory=dict)


def read_source(path: Path, *, advice: str = "`mithridate init` writes an example") -> Source:
    """Read a YAML file through the decode boundary.

    Args:
        path: The file.
        advice: What to do when there is no such file, or no mapping in it.

    Raises:
        Misuse: MTH-0120, there is no such file.
        BadArtefact: MTH-0124 for a file that is too long or not text, 02xx for anything that is no plain YAML mapping.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise Misuse(
            "MTH-0120",
            f"configuration {str(path)!r} {what}",
            hint=advice,
        )
    size = path.stat().st_size
    if size > MAX_CONFIG_BYTES:
        raise BadArtefact(
            "MTH-0124", f"configuration {str(path)!r} has {size:,} bytes, at most {MAX_CONFIG_BYTES:,} are read"
        )
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadArtefact(
            "MTH-0124",
            f"configuration {str(path)!r} is not UTF-8 text (byte {error.start})",
            hint="is it the YAML file?",
        ) from None
    values = read_yaml(text, repr(str(path)))
    if values is None:
        values = {}
    if not isinstance(values, Mapping):
        raise Misuse(
            "MTH-0121",
            f"{str(path)!r}: a configuration is a mapping of keys to values, got {type(values).__name__}",
            hint=advice,
        )
    return Source(name=str(path), values=values, lines=dict(_lines(yaml.compose(text, Loader=yaml.SafeLoader), ())))


def _lines(node: yaml.Node | None, path: Path_) -> Iterator[tuple[Path_, int]]:
    """Yield the line of every key; the text has passed the boundary, so depth and size are bounded."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value))
            yield here, key.start_mark.line + 1
            yield from _lines(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*path, index), value.start_mark.line + 1
            yield from _lines(value, (*path, index))


@dataclass(frozen=True, kw_only=True)
class _Problem:
    where: str
    code: str
    message: str
    hint: str


def as_misuse(
    error: ValidationError,
    model: type[BaseModel],
    source: Source,
    flags: Mapping[tuple[str, ...], str],
    *,
    advice: str = "`mithridate init` writes an example with every key explained",
) -> Misuse:
    """Re-word the validator's findings; a single one keeps the code of the check that made it."""
    seen: dict[tuple[str, str], _Problem] = {}
    for detail in error.errors(include_url=False):
        problem = _problem(detail, model, source, flags)
        seen.setdefault((problem.where, problem.message), problem)
    problems = list(seen.values())
    if len(problems) == 1:
        only = problems[0]
        return Misuse(only.code, f"{only.where}: {only.message}", hint=only.hint)
    lines = [f"  {item.where}: {item.message}" + (f" ({item.hint})" if item.hint else "") for item in problems]
    name = repr(source.name) if source.name else "the command line"
    return Misuse(
        "MTH-0121",
        "\n".join([f"{len(problems)} problems in {name}:", *lines]),
        hint=advice,
    )


def _problem(
    detail: ErrorDetails, model: type[BaseModel], source: Source, flags: Mapping[tuple[str, ...], str]
) -> _Problem:
    path = _known_path(detail["loc"], source, flags)
    where = _where(path, source, flags)
    kind, context = detail["type"], detail.get("ctx", {})
    inner = context.get("error")
    if isinstance(inner, MithridateError):
        # "budget must be ..." after "line 3, budget:" would say its name twice.
        message = inner.message.removeprefix(f"{path[-1]} " if path else "")
        return _Problem(where=where, code=inner.code, message=message, hint=inner.hint)
    code, hint = "MTH-0121", ""
    value = _shown(detail.get("input"))
    if kind == "extra_forbidden":
        allowed = _keys(model, path[:-1])
        match = closest(str(path[-1]), allowed)
        message = f"unknown key {str(path[-1])!r}"
        hint = f"did you mean {match!r}?" if match else f"allowed here: {', '.join(allowed)}"
    elif inner is not None:
        message = str(inner)
    elif kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        message = f"{words} {context[name]:,}, got {value}"
    elif kind == "literal_error":
        message = f"must be {context['expected']}, got {value}"
    elif kind == "missing":
        message = _TYPES[kind]
    elif kind in _TYPES:
        message = f"{_TYPES[kind]}, got {value}"
        hint = _number_hint(kind, detail.get("input"))
    else:
        message = f"{detail['msg'][:1].lower()}{detail['msg'][1:]}, got {value}"
    return _Problem(where=where, code=code, message=message, hint=hint)


def _known_path(location: Path_, source: Source, flags: Mapping[tuple[str, ...], str]) -> Path_:
    """Drop the validator's own words (branches of a union) from the end of a location."""
    for end in range(len(location), 0, -1):
        if location[:end] in source.lines or location[:end] in flags:
            return location[:end]
    return location


def _where(path: Path_, source: Source, flags: Mapping[tuple[str, ...], str]) -> str:
    for end in range(len(path), 0, -1):
        names = tuple(str(part) for part in path[:end])
        if names in flags:
            return flags[names]
    dotted = "".join(f"[{part}]" if isinstance(part, int) else f".{_plain(part)}" for part in path).lstrip(".")
    for end in range(len(path), 0, -1):
        if path[:end] in source.lines:
            return f"{source.name!r} line {source.lines[path[:end]]}, {dotted}"
    return dotted or "configuration"


def _plain(text: str) -> str:
    return text if text.isprintable() and len(text) <= 60 else repr(text[:60])


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _number_hint(kind: str, value: object) -> str:
    if kind not in ("float_type", "int_type") or not isinstance(value, str):
        return ""
    try:
        float(value)
    except ValueError:
        return ""
    return "remove the quotes"


def _keys(model: type[BaseModel], path: Path_) -> tuple[str, ...]:
    """The keys that are legal in the section at `path`."""
    here: type[BaseModel] = model
    for part in path:
        if isinstance(part, int):
            continue
        found = here.model_fields.get(part)
        inner = _model_in(found.annotation if found else None)
        if inner is None:
            return ()
        here = inner
    return tuple(here.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        if (found := _model_in(argument)) is not None:
            return found
    return None
