"""YAML to plain values, straight from the parser's events: no tags, no aliases, no constructors, nothing by reference.

Part of the decode boundary and called by it alone.
"""

import re
from collections.abc import Iterator
from typing import Any, NoReturn

import yaml

from mithridate.core.errors import BadArtefact

# The core schema of YAML 1.2 (section 10.3.2); PyYAML's own rules are those of 1.1.
_INTEGER = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **{sign + word: float(sign + "inf") for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")},
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


def build(text: str, name: str, *, depth: int, entries: int) -> Any:
    """Return the value of a document.

    Raises:
        BadArtefact: MTH-0207, MTH-0206 or MTH-0202, with the line.
    """
    try:
        events = _limited(yaml.parse(text, Loader=yaml.SafeLoader), name, entries)
        while isinstance(event := next(events), yaml.StreamStartEvent | yaml.DocumentStartEvent):
            continue
        value = None if isinstance(event, yaml.StreamEndEvent) else _value(event, events, name, depth)
        for rest in events:
            if isinstance(rest, yaml.DocumentStartEvent):
                _refuse(name, rest, "a second document begins; one is read")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = " ".join(part for part in (error.context, error.problem) if part)
        raise BadArtefact("MTH-0207", f"{name}, line {mark.line + 1 if mark else '?'}: {words}") from error
    return value


def _limited(events: Iterator[yaml.Event], name: str, entries: int) -> Iterator[yaml.Event]:
    for count, event in enumerate(events):
        if count > 2 * entries:
            raise BadArtefact("MTH-0202", f"{name} has more than {entries:,} entries")
        yield event


def _value(event: yaml.Event, events: Iterator[yaml.Event], name: str, depth: int) -> Any:
    if isinstance(event, yaml.AliasEvent):
        _refuse(name, event, f"the alias *{event.anchor} is not accepted", hint="write the value out")
    assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
    if event.tag is not None:
        _refuse(name, event, f"the tag {event.tag[:60]} is not accepted", hint="write a plain value")
    if isinstance(event, yaml.ScalarEvent):
        return event.value if event.style else _plain(event.value)
    if depth == 0:
        raise BadArtefact("MTH-0202", f"{name}, line {_line(event)}: nested too deeply")
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(item := next(events), yaml.SequenceEndEvent):
            items.append(_value(item, events, name, depth - 1))
        return items
    return _mapping(events, name, depth)


def _mapping(events: Iterator[yaml.Event], name: str, depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    lines: dict[str, int] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        key = _value(event, events, name, depth - 1)
        if not isinstance(key, str):
            _refuse(name, event, f"the key {str(key)[:60]!r} is no text", hint="put it in quotes", code="MTH-0206")
        if key in found:
            first = f"the key {key[:60]!r} is given twice, first on line {lines[key]}"
            _refuse(name, event, first, hint="remove one of them", code="MTH-0206")
        lines[key] = _line(event)
        found[key] = _value(next(events), events, name, depth - 1)
    return found


def _plain(text: str) -> str | bool | float | None:
    """Return the value of a scalar without quotes."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _BASED.fullmatch(text):
        return int(text, 0)
    return float(text) if _FLOAT.fullmatch(text) else text


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


def _refuse(name: str, event: yaml.Event, what: str, *, hint: str = "", code: str = "MTH-0207") -> NoReturn:
    raise BadArtefact(code, f"{name}, line {_line(event)}: {what}", hint=hint)
