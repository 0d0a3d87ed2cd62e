"""The documents say what is so: verbs, exit codes, files and commands that they name exist."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from mithridate.cli.main import app
from mithridate.core.errors import ExitCode

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
COMMAND = typer.main.get_command(app)
VERBS = set(COMMAND.commands)  # type: ignore[attr-defined]


def test_the_first_thirty_lines_say_what_for_whom_and_how() -> None:
    head = "\n".join(README.splitlines()[:30])
    for words in ("make audit", "make test", "for people who", "docs/images/report.png", "your own"):
        assert words in head, words


def test_the_table_of_verbs_is_complete() -> None:
    table = README.split("## Verbs")[1].split("Every verb")[0]
    assert set(re.findall(r"`([a-z][a-z-]*)`", table)) == VERBS


def test_the_table_of_exit_codes_is_complete() -> None:
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    assert codes == {int(code) for code in ExitCode}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    missing = [link for link in links if not (ROOT / link.partition("#")[0]).exists()]
    # The picture of the report is made by an audit and added with its results.
    assert set(missing) <= {"docs/images/report.png"}


def shell_lines() -> list[str]:
    found = []
    for name in DOCUMENTS:
        for block in re.findall(
            r"^```sh\n(.*?)^```", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        ):
            found += [line for line in block.splitlines() if line.startswith("mithridate ")]
    for template in sorted((ROOT / "src/mithridate/cli/examples").glob("*.yaml")):
        found += re.findall(r"mithridate (?:audit|check) audit\.yaml", template.read_text(encoding="utf-8"))
    return found


def test_commands_in_the_documents_are_understood() -> None:
    lines = shell_lines()
    assert len(lines) >= 9
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        assert words[0] in VERBS, line
        with COMMAND.commands[words[0]].make_context(words[0], words[1:]):  # type: ignore[attr-defined]
            pass


def test_targets_of_make_in_the_documents_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert {"setup", "audit", "test", "lint", "bench"} <= targets
    for name in DOCUMENTS:
        named = set(re.findall(r"`make ([a-z]+)", (ROOT / name).read_text(encoding="utf-8")))
        assert named <= targets, (name, named - targets)


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
