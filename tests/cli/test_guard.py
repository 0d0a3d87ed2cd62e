"""Every way out of a verb: one message, the right exit code, never a traceback."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from mithridate.cli._guard import Guard
from mithridate.cli._session import Session
from mithridate.cli._text import one_line, printable
from mithridate.core.errors import BadArtefact, Misuse, WorkError

Raised = Callable[[], BaseException]


def end(error: BaseException, *, as_json: bool = False, folder: Path | None = None) -> int:
    guard = Guard(Session(json=as_json, folder=folder))
    with guard:
        raise error
    return guard.exit_code


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (
            Misuse("MTH-0103", "epsilon is 8", hint="write 8/255"),
            2,
            ["error[MTH-0103]: epsilon is 8", "hint: write 8/255"],
        ),
        (BadArtefact("MTH-0201", "no image"), 2, ["error[MTH-0201]: no image"]),
        (WorkError("MTH-0710", "process 7 is at work"), 4, ["error[MTH-0710]: process 7 is at work"]),
        (KeyboardInterrupt(), 130, ["error[MTH-0002]: interrupted"]),
        (typer.Abort(), 130, ["interrupted"]),
        (MemoryError(), 4, ["error[MTH-0008]: out of memory", "--jobs"]),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 4, ["error[MTH-0008]"]),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 4, ["error[MTH-0008]"]),
        (
            OSError(errno.ENOSPC, "No space left on device", "/runs/x"),
            4,
            ["MTH-0004", "'/runs/x'", "No space", "free some"],
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/runs/x"), 4, ["'/runs/x'", "Permission denied", "--out"]),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", b"/a/b"), 4, ["'/a/b'", "Not a directory"]),
        (OSError("strange"), 4, ["MTH-0004", "strange"]),
    ],
)
def test_foreseen_errors(error: BaseException, code: int, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert end(error) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert len(captured.err.splitlines()) <= 2
    for word in words:
        assert word in captured.err


def test_an_interrupted_run_says_where_its_work_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert end(KeyboardInterrupt(), folder=tmp_path) == 130
    assert f"finished work is kept in {str(tmp_path)!r}; the same command goes on" in capsys.readouterr().err


def fault() -> None:
    password = "".join(["hunter", "2"])  # only ever a value of a local variable
    raise ZeroDivisionError(len(password))


def test_an_unforeseen_error_is_written_down_without_values(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    guard = Guard(Session(folder=tmp_path))
    with guard:
        fault()
    said = capsys.readouterr().err
    assert guard.exit_code == 4
    assert said.startswith("error[MTH-0001]: internal error (ZeroDivisionError), please report it")
    assert "in fault" not in said
    (path,) = tmp_path.iterdir()
    assert repr(str(path)) in said
    text = path.read_text(encoding="utf-8")
    assert "in fault" in text
    assert "ZeroDivisionError" in text
    assert "hunter2" not in text + said
    assert path.stat().st_mode & 0o077 == 0


def test_an_unforeseen_error_finds_a_place_when_the_run_folder_has_none(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert end(AssertionError("x"), folder=tmp_path / "gone") == 4
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone too"))
    assert end(AssertionError("x"), folder=tmp_path / "gone") == 4
    assert "the traceback could not be written" in capsys.readouterr().err


def test_several_errors_at_once_give_the_highest_code(capsys: pytest.CaptureFixture[str]) -> None:
    group = ExceptionGroup("two", [Misuse("MTH-0101", "one"), WorkError("MTH-0710", "two")])
    assert end(group, as_json=True) == 4
    captured = capsys.readouterr()
    assert "one" in captured.err
    assert "two" in captured.err
    error = json.loads(captured.out)["error"]
    assert (error["code"], [other["code"] for other in error["others"]]) == ("MTH-0101", ["MTH-0710"])


def test_errors_are_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert end(Misuse("MTH-0103", "epsilon is \x1b[31m8", hint="write 8/255"), as_json=True) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {
        "error": {"code": "MTH-0103", "message": "epsilon is \x1b[31m8", "hint": "write 8/255", "exit_code": 2}
    }
    assert "\x1b" not in captured.out + captured.err


def test_exit_codes_of_verbs_pass_through() -> None:
    assert [end(typer.Exit(code)) for code in (0, 1, 3)] == [0, 1, 3]
    with pytest.raises(SystemExit):
        end(SystemExit(5))


@given(st.text())
def test_printable_text_holds_no_control_and_loses_nothing_else(text: str) -> None:
    shown = printable(text)
    assert all(character.isprintable() or character == "\n" for character in shown)
    assert one_line(text).isprintable()
    if text.isprintable():
        assert shown == one_line(text) == text


SCRIPT = """
import sys, time
from mithridate.cli.main import app, main
from mithridate.cli._session import Session
from mithridate.cli._verb import verb

@verb
def wait(session: Session) -> None:
    '''Wait.'''
    sys.stderr.write("waiting\\n"); sys.stderr.flush()
    time.sleep(60)

@verb
def flood(session: Session) -> None:
    '''Write a lot.'''
    for _ in range(100_000):
        session.text("x" * 100)

app.command("wait")(wait)
app.command("flood")(flood)
sys.exit(main())
"""


def script(verb: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, verb], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_ctrl_c_in_a_real_process() -> None:
    with script("wait") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "waiting\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(30) == 130
    assert said.startswith("error[MTH-0002]: interrupted\n")
    assert "Traceback" not in said


def test_a_closed_pipe_in_a_real_process() -> None:
    with script("flood") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 4
        assert process.stderr.read() == ""


@pytest.mark.parametrize("words", ["list", "list recipes", "--help", "audit --help", "audit --no-such-flag --json"])
def test_a_pipe_that_nobody_reads_is_no_failed_gate(words: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # before anything is written: the pipe's buffer would take a short table
    with os.fdopen(writer, "wb") as stdout:
        done = subprocess.run(
            [sys.executable, "-m", "mithridate", *words.split()],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    refused = "no-such-flag" in words
    assert done.returncode == (2 if refused else 4), done.stderr
    assert bool(done.stderr) == refused  # what is said on stderr is said all the same
    assert "Traceback" not in done.stderr


def test_a_terminal_that_knows_only_ascii(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "mithridate", "explain", "\u00fc"], capture_output=True, env=environment, check=False
    )
    assert done.returncode == 2
    assert re.match(rb"error\[MTH-0009\]: there is no error code '\\xfc'", done.stderr), done.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [("list recipes", 0), ("audit --epsilon 8", 2), ("audit --epsilon 8 --json", 2), ("init file/audit.yaml", 4)],
)
def test_exit_codes_of_real_processes(tmp_path: Path, words: str, code: int) -> None:
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-m", "mithridate", *words.split()], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("error[MTH-") == (code != 0)
    assert bool(done.stdout) == (code == 0 or "--json" in words)


@pytest.mark.parametrize("words", ["adit", "audit --bugdet 2", "audit --victims x", "verify", "audit a b"])
def test_a_command_line_that_is_not_understood(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    from mithridate.cli.main import main

    assert main([*words.split(), "--json"]) == 2
    captured = capsys.readouterr()
    error = json.loads(captured.out)["error"]
    assert (error["code"], error["exit_code"]) == ("MTH-0003", 2)
    assert captured.err.startswith("error[MTH-0003]: ")
    assert "--help" in error["hint"]
