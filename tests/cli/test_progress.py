"""The bar on a terminal: how far, how long, and that names in it are text."""

import io

import pytest
from rich.console import Console

from mithridate.cli._progress import BarProgress, make_progress, time_left
from mithridate.core.events import LineProgress, Progress


@pytest.mark.parametrize(
    ("seconds", "done", "left", "words"),
    [
        (10.0, 0, 5, ""),
        (10.0, 5, 0, ""),
        (10.0, 5, 5, "10 s left"),
        (60.0, 1, 3, "3 min left"),
        (3600.0, 1, 3, "3.0 h left"),
        (99.4, 1, 1, "99 s left"),
        (100.0, 1, 1, "2 min left"),
    ],
)
def test_time_left(seconds: float, done: int, left: int, words: str) -> None:
    assert time_left(seconds, done=done, left=left) == words


def test_what_was_done_before_does_not_speed_up_the_estimate() -> None:
    clock = iter([0.0, 0.1, 10.0]).__next__
    page = io.StringIO()
    bar = BarProgress(Console(file=page, force_terminal=True, width=120), clock)
    bar.start(100, "audit")
    bar.advance(90, "resumed")
    bar.advance(5, "victim/[red]x[/red]/\x1b[31m")
    bar.close()
    shown = page.getvalue()
    assert "95/100" in shown
    assert "10 s left" in shown
    assert "[red]x[/red]" in shown
    assert "\\x1b[31m" in shown


def test_without_a_terminal_there_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    progress = make_progress()
    assert isinstance(progress, LineProgress)
    assert isinstance(BarProgress(), Progress)
