"""Small files that claim or unfold to huge values are refused with one error, little memory, and nothing executed."""

import json
import subprocess
import sys
from pathlib import Path

import bombs
import pytest

EXPECTED_NUMBER = 31


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Read all bombs in one child process, so that one which kills it is the last of the list."""
    folder = tmp_path_factory.mktemp("bombs")
    bombs.make_bombs(folder)
    names = sorted(path.name for path in folder.iterdir())
    child = subprocess.run(
        [sys.executable, Path(bombs.__file__), folder], capture_output=True, text=True, timeout=300, check=False
    )
    found = [json.loads(line) for line in child.stdout.splitlines()]
    assert [item["name"] for item in found] == names, child.stderr[-2000:]
    return found


@pytest.mark.slow
def test_bombs_are_refused(outcomes):
    assert len(outcomes) >= EXPECTED_NUMBER
    accepted = {item["name"]: item["outcome"] for item in outcomes if not item["outcome"].startswith("MTH-02")}
    assert accepted == {}


@pytest.mark.slow
def test_bombs_take_little_memory(outcomes):
    assert {item["name"]: item["grew"] >> 20 for item in outcomes if item["grew"] > bombs.HEADROOM} == {}


@pytest.mark.slow
def test_nothing_in_a_file_is_executed_or_imported(outcomes):
    assert {item["name"]: item["events"] for item in outcomes if item["events"]} == {}


@pytest.mark.slow
def test_bombs_are_refused_by_a_cap_and_not_by_exhaustion(outcomes):
    assert [item for item in outcomes if "Memory" in item["outcome"]] == []
    assert sum(item["outcome"].startswith("MTH-0202") for item in outcomes) >= 20
