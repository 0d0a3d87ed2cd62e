"""What `.ci/run` does on machines of several kinds, with every program that it calls replaced by a stub."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REAL = ("bash", "dirname", "env", "id")


@dataclass
class Machine:
    """A checkout with the programs of a machine; `calls` lists what was called, with its input and the data folder."""

    folder: Path

    def has(self, name: str, *lines: str) -> None:
        path = self.folder / "bin" / name
        log = f'echo "{name} $* data=${{MITHRIDATE_DATA:-}} stdin=$(cat)" >> "{self.folder}/calls"'
        path.write_text("\n".join(["#!/bin/bash", f"PATH={os.environ['PATH']}", log, *lines, ""]))
        path.chmod(0o755)

    def run(self, **environment: str) -> "subprocess.CompletedProcess[str]":
        (self.folder / "calls").write_text("")
        return subprocess.run(
            [str(self.folder / "main" / ".ci" / "run")],
            env={"PATH": str(self.folder / "bin"), **environment},
            input="not for anyone",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "bin").mkdir()
    (tmp_path / "main" / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", tmp_path / "main" / ".ci" / "run")
    for name in REAL:
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or f"/usr/bin/{name}")
    machine = Machine(tmp_path)
    machine.has("make")
    return machine


def installs(folder: Path) -> str:
    """A line of a stub that installs both programs."""
    copies = "; ".join(f'cp "{folder}/bin/make" "{folder}/bin/{name}"' for name in ("chromium", "chromedriver"))
    return f'case "$*" in *install*) {copies};; esac'


def test_it_lints_then_tests_and_asks_nobody(machine: Machine) -> None:
    for name in ("chromium", "chromedriver"):
        machine.has(name)
    done = machine.run(CI="true")
    assert (done.returncode, done.stderr) == (0, "")
    assert machine.calls == [f"make --no-print-directory {what} data= stdin=" for what in ("lint", "test")]


def test_a_failing_lint_or_test_fails_it(machine: Machine) -> None:
    for name in ("chromium", "chromedriver"):
        machine.has(name)
    machine.has("make", 'case "$*" in *lint) exit 2;; esac')
    assert machine.run(CI="true").returncode != 0
    assert len(machine.calls) == 1
    machine.has("make", 'case "$*" in *test) exit 2;; esac')
    assert machine.run(CI="true").returncode == 2


@pytest.mark.parametrize("update", ["exit 0", "exit 100"])
def test_chromium_is_installed_where_it_is_missing(machine: Machine, update: str) -> None:
    """Even where the package lists cannot be fetched afresh."""
    machine.has("sudo", '[ "$1" = -n ] && shift; exec "$@"')
    machine.has("apt-get", f'case "$*" in *update*) {update};; esac', installs(machine.folder))
    done = machine.run(CI="true")
    assert done.returncode == 0, done.stderr
    assert any(call.startswith("apt-get") and "chromium chromium-driver" in call for call in machine.calls)
    assert machine.calls[-1].startswith("make --no-print-directory test")


def test_without_chromium_it_fails_under_ci_and_skips_elsewhere(machine: Machine) -> None:
    machine.has("sudo", '[ "$1" = -n ] && shift; exec "$@"')
    machine.has("apt-get", "exit 100")
    under_ci = machine.run(CI="true")
    assert under_ci.returncode == 1
    assert "could not be installed" in under_ci.stderr
    assert not any(call.startswith("make") for call in machine.calls)
    elsewhere = machine.run()
    assert elsewhere.returncode == 0
    assert "browser tests are skipped" in elsewhere.stderr


@pytest.mark.parametrize("place", ["shared", "main/shared"])
def test_real_data_are_found_beside_the_checkout_or_in_it(machine: Machine, place: str) -> None:
    data = machine.folder / place / "data"
    data.mkdir(parents=True)
    machine.run()
    assert all(f"data={data} " in call for call in machine.calls)
    machine.run(MITHRIDATE_DATA="/elsewhere")
    assert all("data=/elsewhere " in call for call in machine.calls)
