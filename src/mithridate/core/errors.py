"""Errors that reach a user: a stable code, what is wrong with which value, and the way out.

The kind of an error is the exit code of the process. Explanations of the codes live in `core/codes.py`
and are printed by `mithridate explain CODE`.
"""

import enum


class ExitCode(enum.IntEnum):
    """Exit codes of every verb."""

    PASS = 0
    GATE_FAILED = 1
    MISUSE = 2
    INCONCLUSIVE = 3
    INTERNAL = 4
    INTERRUPTED = 130


class MithridateError(Exception):
    """Base of all errors that are shown as one message without a traceback.

    Args:
        code: Stable identifier, `MTH-` and four digits, listed in `core/codes.py`.
        message: What is wrong; names the value and what is allowed.
        hint: The next thing to do, without a trailing period; may be empty.
    """

    exit_code: ExitCode = ExitCode.INTERNAL

    def __init__(self, code: str, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"[{self.code}] {self.message}" + (f" ({self.hint})" if self.hint else "")


class Misuse(MithridateError, ValueError):  # noqa: N818 - the word that users see
    """Wrong use or bad input: a value outside its range, an unknown name, an impossible combination."""

    exit_code = ExitCode.MISUSE


class BadArtefact(MithridateError, ValueError):  # noqa: N818 - the word that users see
    """Bytes from outside are damaged, altered, too large, or not what they claim to be."""

    exit_code = ExitCode.MISUSE


class WorkError(MithridateError, RuntimeError):
    """The machine failed us (disk, memory, a worker died); finished work is kept."""

    exit_code = ExitCode.INTERNAL
