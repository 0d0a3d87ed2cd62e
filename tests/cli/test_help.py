"""What `--help` says, how little it imports, and the flags, which are a snapshot: a new one is a decision."""

import subprocess
import sys

import pytest
import typer

from mithridate.cli.main import app

COMMAND = typer.main.get_command(app)
VERBS = tuple(COMMAND.commands)  # type: ignore[attr-defined]
HEAVY = ("torch", "numpy", "scipy", "sklearn", "pyarrow", "PIL", "yaml", "matplotlib", "jaxtyping")


def flags(verb: str) -> list[str]:
    found = COMMAND.commands[verb].params  # type: ignore[attr-defined]
    return [option for parameter in found if parameter.param_type_name == "option" for option in parameter.opts]


def test_the_verbs() -> None:
    assert (
        *("audit", "init", "check"),
        *("craft", "verify", "export", "import", "train", "reproduce"),
        *("scan", "heal", "verify-heal"),
        *("report", "status"),
        *("explain", "list", "doctor"),
        *("byzantine", "own"),
    ) == VERBS


def test_the_flags_of_audit() -> None:
    assert flags("audit") == [
        *("--data", "--per-class", "--store", "--model", "--recipe", "--precision", "--device", "--seed"),
        *("--scenarios", "--targets", "--budget", "--epsilon"),
        *("--attack", "--defense", "--victims", "--gate", "--no-alignment"),
        *("--jobs", "--out", "-o", "--reuse", "--dry-run", "--demo", "--json"),
    ]


def test_shared_flags_are_the_same_everywhere() -> None:
    for verb in ("check", "craft", "train"):
        assert set(flags(verb)) - set(flags("audit")) <= {"--pack"}
    assert flags("check") == [flag for flag in flags("audit") if flag not in ("--out", "-o", "--reuse", "--dry-run")]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_and_flag_is_explained(verb: str) -> None:
    command = COMMAND.commands[verb]  # type: ignore[attr-defined]
    assert len(command.help or "") > 20
    for each in command.commands.values() if isinstance(command, typer.core.TyperGroup) else [command]:
        assert len(each.help or "") > 20
        assert "--json" in [option for parameter in each.params for option in parameter.opts]
        unexplained = [parameter.name for parameter in each.params if not parameter.help]
        assert not unexplained


def test_help_of_every_verb_imports_nothing_heavy() -> None:
    """One process asks for every help page; what any of them imported shows at the end."""
    code = f"""
import sys
from mithridate.cli.main import main
for words in [[], ["--help"], ["--version"], *[[verb, "--help"] for verb in {VERBS!r}], ["explain"], ["explain", "1"]]:
    assert main(words) == 0, words
print("HEAVY", [name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY []"
    assert done.stdout.count("Usage: mithridate") == len(VERBS) + 2


BAD = (
    "audit --model resnet19 --dry-run",
    "audit nowhere.yaml",
    "check --budget 2",
    "craft --attack x",
    "train --recipe x",
    "train --pack nowhere",
    "verify nowhere",
    "reproduce x",
    "status nowhere",
    "report nowhere",
    "list x",
)


def test_bad_input_is_answered_before_torch_is_imported() -> None:
    """One process is asked everything; each answer is exit code 2, one message, and no torch."""
    code = f"""
import sys
from mithridate.cli.main import main
for words in {BAD!r}:
    assert main(words.split()) == 2, words
    assert "torch" not in sys.modules, words
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("error[MTH-") == len(BAD)
    assert "Traceback" not in done.stderr


def test_nothing_reads_as_markup_in_help(capsys: pytest.CaptureFixture[str]) -> None:
    from mithridate.cli.main import main

    assert main(["audit", "--help"]) == 0
    page = capsys.readouterr().out
    assert "--epsilon" in page
    assert "\x1b" not in page
