"""`mithridate report`: render a finished run again, in any format; nothing is computed anew."""

import json
from pathlib import Path
from typing import Annotated

import typer

from mithridate.cli._session import Session
from mithridate.cli._verb import verb
from mithridate.core.errors import Misuse


@verb
def report(
    session: Session,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run, or its report.json.")],
    formats: Annotated[
        str, typer.Option("--format", "-f", metavar="LIST", help="Comma-separated: html, md, json, junit, csv.")
    ] = "html",
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR|FILE|-",
            help="Where to write; - is stdout. Default: the run folder.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Render report.json again as HTML, Markdown, JSON, JUnit or CSV."""
    from mithridate.core.boundary import read_json

    source = run / "report.json" if run.is_dir() else run
    if not source.is_file():
        raise Misuse(
            "MTH-0880",
            f"{str(source)!r} does not exist: the run is not finished, or is none",
            hint="`mithridate status RUN` says how far it is",
        )
    wanted = _wanted(formats)
    if out == "-" and session.json and wanted != ["json"]:
        raise Misuse("MTH-0125", "--json and --out - both fill stdout", hint="leave out one of them, or --format json")
    document = read_json(source)
    pages = {kind: _render(document, kind) for kind in wanted}
    if out == "-":
        if len(pages) > 1:
            raise Misuse("MTH-0125", f"one format fits on stdout, got {len(pages)}", hint="give --out DIR")
        session.text(next(iter(pages.values())))
        return
    written = _write(pages, source.parent if out is None else Path(out))
    session.result({"written": written}, "\n".join(f"wrote {name}" for name in written))


def _formats() -> dict[str, str]:
    """Return the file name of every format."""
    from mithridate.report.formats import FORMATS

    return {"json": "report.json", **{name: kind.file_name for name, kind in FORMATS.items()}}


def _render(document: object, kind: str) -> str:
    from mithridate.report.formats import FORMATS
    from mithridate.report.schema import validate

    if kind != "json":
        return FORMATS[kind].render(document)
    validate(document)
    return json.dumps(document, indent=1) + "\n"


def _wanted(formats: str) -> list[str]:
    from mithridate.core.registry import unknown_name

    allowed = _formats()
    wanted = list(dict.fromkeys(item.strip().lower() for item in formats.split(",") if item.strip()))
    if not wanted:
        raise Misuse("MTH-0125", "--format names no format", hint=f"allowed: {', '.join(allowed)}")
    for item in wanted:
        if item not in allowed:
            raise unknown_name("report format", item, allowed)
    return wanted


def _write(pages: dict[str, str], out: Path) -> list[str]:
    """Write one page to a file, or several into a folder; a name with a suffix is a file."""
    from mithridate.core.artefacts import write_atomic

    names = _formats()
    one_file = len(pages) == 1 and out.suffix and not out.is_dir()
    paths = {kind: out if one_file else out / names[kind] for kind in pages}
    for kind, page in pages.items():
        paths[kind].parent.mkdir(parents=True, exist_ok=True)
        write_atomic(paths[kind], page.encode())
    return [str(path) for path in paths.values()]
