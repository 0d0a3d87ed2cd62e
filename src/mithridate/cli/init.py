"""`mithridate init`: an annotated configuration to start from."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from mithridate.cli._session import Session, command, path_word
from mithridate.cli._verb import verb
from mithridate.core.errors import Misuse

EXAMPLES = ("digits", "cifar10", "own-model")
_EXTRA_FILES = {"own-model": ("my_model.py",)}


@dataclass(frozen=True, kw_only=True)
class _File:
    path: Path
    text: str


@verb
def init(
    session: Session,
    path: Annotated[Path, typer.Argument(metavar="[PATH]", help="Where to write.")] = Path("audit.yaml"),
    example: Annotated[
        str, typer.Option("--example", metavar="NAME", help="digits, cifar10 or own-model.", show_default=True)
    ] = "digits",
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of the configuration instead.")
    ] = False,
) -> None:
    """Write an annotated audit.yaml; every key is there and explained."""
    if schema:
        from mithridate.audit.config import json_schema

        session.text(json.dumps(json_schema(), indent=2))
        return
    if example not in EXAMPLES:
        from mithridate.core.registry import unknown_name

        raise unknown_name("example", example, EXAMPLES)
    if path.is_dir():
        raise Misuse("MTH-0126", f"{str(path)!r} is a folder", hint="name the file that shall be written in it")
    wanted = [_File(path=path, text=_shipped(f"{example}.yaml"))]
    wanted += [_File(path=path.parent / name, text=_shipped(name)) for name in _EXTRA_FILES.get(example, ())]
    taken = [str(file.path) for file in wanted if file.path.exists()]
    if taken and not force:
        raise Misuse(
            "MTH-0126",
            f"{', '.join(map(repr, taken))} is there already",
            hint="give another path, or --force to overwrite",
        )
    _write(wanted)
    written = [str(file.path) for file in wanted]
    session.result(
        {"written": written},
        "\n".join(f"wrote {name}" for name in written),
        *_next(path, moved=len(wanted) > 1 and path.parent != Path()),
    )


def _next(path: Path, *, moved: bool) -> Iterator[str]:
    """Yield what to type next; an example that names files beside it is run from its folder."""
    if moved:
        yield f"next: {shlex.join(['cd', path_word(path.parent)])}"
    word = path_word(Path(path.name) if moved else path)
    yield f"{'then' if moved else 'next'}: {command('check', word)}"
    yield f"then: {command('audit', word)}"


def _shipped(name: str) -> str:
    from importlib.resources import files

    shipped = f"{name}.txt" if name.endswith(".py") else name
    return files("mithridate.cli").joinpath("examples", shipped).read_text(encoding="utf-8")


def _write(wanted: list[_File]) -> None:
    from mithridate.core.artefacts import write_atomic

    for file in wanted:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file.path, file.text.encode())
