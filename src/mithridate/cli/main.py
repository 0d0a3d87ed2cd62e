"""The entry point. Importing it, and every `--help`, leaves torch alone."""

import io
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from mithridate.cli import (
    audit,
    byzantine,
    check,
    craft,
    doctor,
    explain,
    export,
    heal,
    init,
    own,
    report,
    reproduce,
    scan,
    status,
    train,
    verify,
    verify_heal,
)
from mithridate.cli import list as list_
from mithridate.cli._guard import Guard
from mithridate.cli._session import Session, version_line

app = typer.Typer(
    name="mithridate",
    help="Poison your own training pipeline in measured doses, see what happens, and what stops it.\n\n"
    "The attacks are for testing pipelines that are your own. No telemetry, and no network unless you name something "
    "to fetch.",
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> bool:
    if wanted:
        sys.stdout.write(version_line() + "\n")
        raise typer.Exit
    return wanted


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None: ...


_PANELS = {
    "Start": {"audit": audit.audit, "init": init.init, "check": check.check},
    "Parts": {
        "craft": craft.craft,
        "verify": verify.verify,
        "export": export.export,
        "import": export.import_,
        "train": train.train,
        "reproduce": reproduce.reproduce,
    },
    "Healing": {"scan": scan.scan, "heal": heal.heal, "verify-heal": verify_heal.verify_heal},
    "Results": {"report": report.report, "status": status.status},
    "Help": {"explain": explain.explain, "list": list_.list_, "doctor": doctor.doctor},
}
for _panel, _verbs in _PANELS.items():
    for _name, _function in _verbs.items():
        app.command(_name, rich_help_panel=_panel)(_function)


app.add_typer(byzantine.app, name="byzantine", rich_help_panel="Parts")
app.add_typer(own.app, name="own", rich_help_panel="Parts")


def _nowhere() -> io.TextIOWrapper:
    return Path(os.devnull).open("w", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; what goes wrong is said, never thrown.

    Args:
        argv: The words after `mithridate`; those of the process when absent.
    """
    # Python has None for a stream that was closed before it began.
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    session = Session(json="--json" in words, out=sys.stdout)
    guard = Guard(session)
    # A user's model may print: beside a JSON document that belongs on stderr.
    aside = redirect_stdout(sys.stderr) if session.json and not {"-h", "--help"} & set(words) else nullcontext()
    with guard, warnings.catch_warnings(), aside:
        warnings.showwarning = session.warn
        command = typer.main.get_command(app)
        with command.make_context("mithridate", words, obj=session) as context:
            command.invoke(context)
        session.out.flush()
    return guard.exit_code
