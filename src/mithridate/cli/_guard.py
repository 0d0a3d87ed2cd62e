"""The edge of the process: every outcome becomes an exit code and, if it is an error, one message.

A traceback is never shown. For an error that we did not foresee it is written to a file, without the values of local
variables (they may hold data or keys), and the message names that file.
"""

import errno
import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import typer
from typer.exceptions import TyperException

from mithridate import __version__
from mithridate.cli._session import TRACES, Session
from mithridate.cli._text import printable
from mithridate.core.errors import ExitCode, MithridateError

_OUT_OF_MEMORY = ("OutOfMemoryError", "can't allocate memory", "CUDA out of memory")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An error as it is shown."""

    code: str
    message: str
    hint: str
    exit_code: int

    def lines(self) -> Iterator[str]:
        """Yield the lines for people."""
        yield f"error[{self.code}]: {printable(self.message)}"
        if self.hint:
            yield f"hint: {printable(self.hint)}"


class Guard:
    """Runs a block and keeps what came of it in `exit_code`; nothing passes but a SystemExit that was meant.

    This is a context manager and not an `except` clause: it sees every way out of the block, foreseen or not.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.exit_code = int(ExitCode.PASS)

    def __enter__(self) -> "Guard":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None or (isinstance(error, SystemExit) and not _pipe_closed(error)):
            return False
        if isinstance(error, typer.Exit):
            self.exit_code = error.exit_code
            return True
        if _pipe_closed(error):
            self.exit_code = int(ExitCode.INTERNAL)
            _silence_stdout()
            return True
        failures = list(_failures(error, self.session))
        self.exit_code = max(failure.exit_code for failure in failures)
        self._show(failures)
        return True

    def _show(self, failures: list[Failure]) -> None:
        with suppress(OSError):
            sys.stderr.write("".join(f"{line}\n" for failure in failures for line in failure.lines()))
            sys.stderr.flush()
        if self.session.json:
            first = failures[0]
            document = {"error": vars(first)}
            if len(failures) > 1:
                document = {"error": {**vars(first), "others": [vars(failure) for failure in failures[1:]]}}
            try:
                sys.stdout.write(json.dumps(document, indent=2) + "\n")
                sys.stdout.flush()
            except OSError:  # nobody reads, or the disk is full: the code and stderr still say it
                _silence_stdout()


def _failures(error: BaseException, session: Session) -> Iterator[Failure]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _failures(inner, session)
    elif isinstance(error, MithridateError):
        yield Failure(code=error.code, message=error.message, hint=error.hint, exit_code=int(error.exit_code))
    elif isinstance(error, KeyboardInterrupt | typer.Abort):
        yield _interrupted(session)
    elif isinstance(error, TyperException):
        yield Failure(
            code="MTH-0003",
            message=error.format_message(),
            hint="`mithridate --help` and `mithridate VERB --help` list what is understood",
            exit_code=int(ExitCode.MISUSE),
        )
    elif isinstance(error, MemoryError) or any(sign in repr(error) for sign in _OUT_OF_MEMORY):
        yield Failure(
            code="MTH-0008",
            message="out of memory",
            hint=f"use fewer --jobs, a smaller batch or a narrower model; {_kept(session)}",
            exit_code=int(ExitCode.INTERNAL),
        )
    elif isinstance(error, OSError):
        yield _machine(error, session)
    else:
        yield _internal(error, session)


def _interrupted(session: Session) -> Failure:
    return Failure(code="MTH-0002", message="interrupted", hint=_kept(session), exit_code=int(ExitCode.INTERRUPTED))


def _machine(error: OSError, session: Session) -> Failure:
    name = error.filename if isinstance(error.filename, str | bytes | int) else None
    where = f" at {os.fsdecode(name)!r}" if isinstance(name, str | bytes) else ""
    advice = {
        errno.ENOSPC: "free some space or give another folder with --out",
        errno.EDQUOT: "free some space or give another folder with --out",
        errno.EACCES: "give a folder that you may write with --out, or a file that you may read",
        errno.EPERM: "give a folder that you may write with --out, or a file that you may read",
        errno.EROFS: "give a folder on a writable disk with --out",
    }.get(error.errno or 0, "see the message of the operating system")
    reason = error.strerror or str(error) or type(error).__name__
    return Failure(
        code="MTH-0004",
        message=f"the machine refused{where}: {reason}",
        hint=f"{advice}; {_kept(session)}" if session.folder else advice,
        exit_code=int(ExitCode.INTERNAL),
    )


def _internal(error: BaseException, session: Session) -> Failure:
    path = _write_trace(error, session.folder)
    where = f"the traceback is in {str(path)!r}" if path else "the traceback could not be written"
    return Failure(
        code="MTH-0001",
        message=f"internal error ({type(error).__name__}), please report it; {where}",
        hint=_kept(session) if session.folder else "",
        exit_code=int(ExitCode.INTERNAL),
    )


def _kept(session: Session) -> str:
    if session.folder is None:
        return "nothing was left half-written"
    return f"finished work is kept in {str(session.folder)!r}; the same command goes on from there"


def _write_trace(error: BaseException, folder: Path | None) -> Path | None:
    import platform
    import tempfile
    import traceback

    head = f"mithridate {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}\n\n"
    text = head + "".join(traceback.format_exception(error))
    for place in (folder, None):
        with suppress(OSError):
            # Readable by the user alone: messages of errors can quote data.
            handle, name = tempfile.mkstemp(prefix=TRACES, suffix=".txt", dir=place)
            with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
            return Path(name)
    return None


def _pipe_closed(error: BaseException) -> bool:
    """Tell whether the reader of our output went away.

    Rich makes `SystemExit(1)` of it, in our tables as in the pages of `--help`, and 1 would say that a gate failed.
    """
    return isinstance(error.__context__ if isinstance(error, SystemExit) else error, BrokenPipeError)


def _silence_stdout() -> None:
    """The reader went away: point stdout at nothing, so that the interpreter's last flush stays quiet."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
