"""What a run says: events as JSON lines, progress as lines of text, and an environment without names."""

import getpass
import io
import json
import socket
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

import mithridate.core
from mithridate.core.environment import environment, versions
from mithridate.core.events import EventLog, JobNews, LineProgress, NullProgress, Progress, read_events


def test_events_are_json_lines_with_a_time(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.write({"event": "start", "jobs": 3})
    log.write({"event": "done", "loss": float("nan"), "deep": [{"x": float("-inf")}]})
    first, second = (json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines())
    assert datetime.fromisoformat(first.pop("at")).tzinfo is not None
    assert first == {"event": "start", "jobs": 3}
    assert (second["loss"], second["deep"]) == (None, [{"x": None}])


def test_a_line_that_a_full_disk_has_cut_costs_itself_and_no_other(tmp_path):
    path = tmp_path / "events.jsonl"
    assert list(read_events(path)) == []
    log = EventLog(path)
    log.write({"event": "start"})
    with path.open("ab") as file:
        file.write(b'{"at": "2026-11-21T10:00:00+00:00", "event": "do')
    log.write({"event": "done"})
    with path.open("ab") as file:
        file.write(b'[1]\n{"event": "no time"}\n{"at": "noon"}\n\xff\n{"at": 3}\n')
    log.write({"event": "end"})
    assert [event["event"] for event in read_events(path)] == ["start", "done", "end"]


def test_lines_come_at_the_start_then_by_the_clock_then_at_the_end():
    now = [0.0]
    stream = io.StringIO()
    progress: Progress = LineProgress(stream, every=30, clock=lambda: now[0])
    progress.start(4, "audit")
    for moment in (10, 29, 31, 61):
        now[0] = moment
        progress.advance(1, f"cell {moment}")
    progress.close()
    assert stream.getvalue().splitlines() == [
        "audit: 4 steps",
        "audit: 3 of 4 after 31 s, about 10 s left (cell 31)",
        "audit: 4 of 4 after 61 s, about 0 s left (cell 61)",
        "audit: 4 of 4 in 61 s",
    ]


def test_what_never_began_does_not_end():
    stream = io.StringIO()
    LineProgress(stream).close()
    assert stream.getvalue() == ""


def test_words_of_jobs_are_shown_at_once_and_logged_when_something_begins_and_now_and_then(tmp_path):
    now = [0.0]
    stream = io.StringIO()
    lines = LineProgress(stream, every=0, clock=lambda: now[0])
    lines.start(2, "audit")
    news = JobNews(EventLog(tmp_path / "events.jsonl"), lines, every=30, clock=lambda: now[0])
    begun = {"what": "friendly noise", "done": 0.25, "at": "a job cannot set the time of an event"}
    words = [(0, {"done": 0.1}), (1, begun), (2, {**begun, "done": 0.5}), (32, {**begun, "done": 1}), (33, {})]
    for now[0], word in words:
        news("victim/0", word)
    assert stream.getvalue().splitlines()[1:3] == [
        "audit: 0 of 2 after 0 s (victim/0, 10%)",
        "audit: 0 of 2 after 1 s (victim/0, friendly noise 25%)",
    ]
    assert len(stream.getvalue().splitlines()) == 1 + len(words)
    logged = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["word"].get("done") for event in logged] == [0.25, 1, None]
    assert {(event["event"], event["job"]) for event in logged} == {("progress", "victim/0")}
    assert all(datetime.fromisoformat(event["at"]) for event in logged)


def test_hostile_text_stays_on_its_line():
    stream = io.StringIO()
    progress = LineProgress(stream, every=0)
    progress.start(1, "a\nb\x1b[31m")
    progress.advance(1, "c\r\nd")
    assert len(stream.getvalue().splitlines()) == 2
    assert "\x1b" not in stream.getvalue()


def test_null_progress_says_nothing(capsys):
    progress: Progress = NullProgress()
    progress.start(3, "x")
    progress.advance(1, "y")
    progress.close()
    assert capsys.readouterr() == ("", "")


def test_the_environment_is_plain_and_names_nobody():
    found = environment()
    text = json.dumps(found)
    for secret in (socket.gethostname(), str(Path.home()), getpass.getuser()):
        assert len(secret) < 3 or f'"{secret}"' not in text
    assert "/" not in text
    assert found["cores"] >= 1
    assert versions().items() <= found.items()


CORE = sorted(path.stem for path in Path(mithridate.core.__file__).parent.glob("[!_]*.py"))


@pytest.mark.parametrize("module", ["mithridate.core", *(f"mithridate.core.{name}" for name in CORE)])
def test_core_imports_no_heavy_library(module):
    heavy = ("torch", "scipy", "pandas", "matplotlib", "sklearn", "pyarrow", "PIL")
    program = f"import sys, {module}\nprint([name for name in {heavy!r} if name in sys.modules])"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert child.stdout == "[]\n"


def test_the_list_of_modules_is_whole():
    assert {"artefacts", "boundary", "intervals", "ledger", "params", "registry", "units", "verdicts"} <= set(CORE)
