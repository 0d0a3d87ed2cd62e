"""What every verb gets: where results go (stdout), where talk goes (stderr), and the folder that keeps its work."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from mithridate import __version__
from mithridate.cli._text import one_line, printable
from mithridate.core.errors import Misuse

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from mithridate.core.events import Progress

TRACES = "mithridate-error-"
"""How the names of files begin that hold the traceback of an unforeseen error."""

# Where output is no terminal, tables are as wide as their content: a log or a pipe has no edge to wrap at.
_PIPE_WIDTH = 200


@runtime_checkable
class Out(Protocol):
    """What results are written to."""

    def write(self, text: str, /) -> int:
        """Take some text."""

    def flush(self) -> None:
        """Pass it on."""


@dataclass(kw_only=True)
class Session:
    """One run of the command line.

    Args:
        json: Print one JSON document on stdout and nothing else there.
        folder: Where the verb keeps its work, once it has such a place; named when the run is interrupted or fails.
        out: Where results go, whatever `sys.stdout` is while user code runs.
    """

    json: bool = False
    folder: Path | None = None
    out: Out = field(default_factory=lambda: sys.stdout)

    def result(self, document: Mapping[str, Any], *view: "RenderableType") -> None:
        """Print the result: the document with `--json`, else its view for people. Strings in a view are no markup."""
        if self.json:
            self.out.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
            return
        console = self.console()
        for part in view:
            if isinstance(part, str):
                # Commands and paths are copied from here: no line break is put into them.
                console.print(printable(part), soft_wrap=True)
            else:
                console.print(part)

    def work_in(self, folder: Path, mark: str = "ledger.jsonl") -> None:
        """Make the folder that keeps the verb's work, and name it from now on when the run is interrupted or fails.

        Args:
            folder: Absent, empty, or begun by an earlier run.
            mark: The file or folder in it by which an earlier run is known.

        Raises:
            Misuse: MTH-0560, it is another folder with files in it, which the run would mix with its own.
        """
        if folder.exists() and not folder.is_dir():
            raise Misuse("MTH-0560", f"{str(folder)!r} is a file", hint="give a new or empty folder with --out")
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / mark).exists():
            others = sorted(path.name for path in folder.iterdir() if not path.name.startswith((".", TRACES)))
            if others:
                raise Misuse(
                    "MTH-0560",
                    f"{str(folder)!r} is no run of this kind and not empty: it has {others[0]!r}"
                    + (f" and {len(others) - 1} more" if len(others) > 1 else ""),
                    hint="give a new or empty folder with --out",
                )
        self.folder = folder

    def text(self, text: str) -> None:
        """Print a finished document (a page, a schema) on stdout, as it is."""
        self.out.write(text if text.endswith("\n") else text + "\n")

    def say(self, text: str) -> None:
        """Tell people something that is not the result."""
        sys.stderr.write(printable(text) + "\n")

    def warn(self, message: Warning | str, *_: object, **__: object) -> None:
        """Tell people of a warning, as one line; takes the place of `warnings.showwarning`."""
        self.say(f"warning: {one_line(message)}")

    def console(self) -> "Console":
        """Return a console on stdout. Rich obeys NO_COLOR; nothing here is said by colour alone."""
        from rich.console import Console

        width = None if sys.stdout.isatty() else _PIPE_WIDTH
        return Console(markup=False, emoji=False, highlight=False, soft_wrap=False, width=width)

    def progress(self) -> "Progress":
        """Return a bar with an ETA on a terminal, and a line every 30 s elsewhere; both on stderr."""
        from mithridate.cli._progress import make_progress

        return make_progress()


def command(*words: object) -> str:
    """Return a `mithridate` command that can be copied, whatever characters its words have."""
    return shlex.join(["mithridate", *map(str, words)])


def path_word(path: Path) -> str:
    """Return a path as a word of a command: one that begins with a dash would be taken for a flag."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> "RenderableType":
    """Return a plain table; cells are data, never markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    view = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False, highlight=False)
    for row in rows:
        view.add_row(*(Text(one_line(cell), overflow="fold") for cell in row))
    return view


def version_line() -> str:
    """Return what `mithridate --version` prints."""
    return f"mithridate {__version__}"
