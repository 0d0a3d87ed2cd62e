"""Small files that claim or unfold to huge values are refused with one error, little memory, and nothing executed."""

import json
import subprocess
import sys
from pathlib import Path

import bombs
import pytest

EXPECTED_NUMBER = 33


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


# Refused by a rule of their format, before a size matters; all others by one of our caps.
OTHERWISE = {
    "aliases.yaml": "MTH-0207",
    "claims.safetensors": "MTH-0200",
    "deep-header.npz": "MTH-0200",
    "long-header.npz": "MTH-0200",
    "number.json": "MTH-0200",
    "number.yaml": "MTH-0200",
    "pickle.npz": "MTH-0204",
    "profile.png": "MTH-0200",
    "text.png": "MTH-0200",
}


@pytest.mark.slow
def test_bombs_are_refused_by_a_cap_and_not_by_exhaustion(outcomes):
    assert [item for item in outcomes if "Memory" in item["outcome"]] == []
    assert {item["name"]: item["outcome"][:8] for item in outcomes} == {
        item["name"]: OTHERWISE.get(item["name"], "MTH-0202") for item in outcomes
    }
