"""What a newcomer runs into: odd names, folders in use, streams that are closed, hints that are copied and pasted."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_documents import a_document, finished

from mithridate.core.events import EventLog
from mithridate.core.ledger import Ledger

ODD = ["my file.yaml", "-x.yaml", "$(id).yaml", "sub/it's.yaml", "\u00fc.yaml"]


def commands(text: str) -> list[list[str]]:
    """Return the commands that the output says to type next."""
    found = [
        line.partition(": ")[2] for line in text.splitlines() if line.startswith(("next: ", "then: ", "to go on: "))
    ]
    return [shlex.split(line) for line in found]


# what is copied and pasted


@pytest.mark.parametrize("name", ODD)
def test_what_init_says_to_type_can_be_typed(run: Any, tmp_path: Path, name: str) -> None:
    said = run("init", "--", name)
    assert said.code == 0
    assert (tmp_path / name).is_file()
    assert [words[:2] for words in commands(said.out)] == [["mithridate", "check"], ["mithridate", "audit"]]
    for words in commands(said.out):
        outcome = run(*words[1:], "--epsilon", "7")
        assert "error[MTH-0103]" in outcome.err, "the file was not read"


def test_an_example_of_several_files_is_run_from_its_folder(run: Any, tmp_path: Path, monkeypatch: Any) -> None:
    first, *rest = commands(run("init", "--example", "own-model", "a b/audit.yaml").out)
    assert first == ["cd", "a b"]
    monkeypatch.chdir(tmp_path / first[1])
    (tmp_path / "a b" / "images").mkdir()
    for words in rest:
        assert "error[MTH-0103]" in run(*words[1:], "--epsilon", "7").err


def test_init_does_not_take_a_folder_for_a_file(run: Any, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    for flags in ([], ["--force"]):
        outcome = run("init", "here", *flags)
        assert (outcome.code, "'here' is a folder" in outcome.err) == (2, True)


def test_long_paths_are_not_broken_where_output_is_no_terminal(run: Any) -> None:
    path = "/".join(["a folder with a long name"] * 12) + "/audit.yaml"
    assert [words[2] for words in commands(run("init", path).out)] == [path, path]


def test_status_says_the_command_that_began_the_run(run: Any, tmp_path: Path) -> None:
    typed = shlex.join(["mithridate", "craft", "--out", "my run", "--attack", "noise"])
    (tmp_path / "my run" / "packs").mkdir(parents=True)
    EventLog(tmp_path / "my run" / "events.jsonl").write({"event": "start", "jobs": 2, "left": 2, "command": typed})
    with Ledger(tmp_path / "my run" / "ledger.jsonl").open() as ledger:
        ledger.append("surrogate/0", {})
        assert commands(run("status", "my run").out) == [shlex.split(typed)]
        ledger.append("craft/noise/0", {})
    finished = run("status", "my run").out
    assert commands(finished) == []
    assert "packs: my run/packs" in finished


# folders


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Engines that note their folder, and do nothing."""
    import mithridate.audit.run
    import mithridate.audit.single
    import mithridate.papers._run

    seen: list[Path] = []

    def note(*_: Any, folder: Path | None = None, **__: Any) -> Any:
        seen.append(folder or _[1])
        raise KeyboardInterrupt

    for module, name in (("audit.run", "run_audit"), ("audit.run", "run_crafting"), ("audit.single", "run_training")):
        monkeypatch.setattr(sys.modules[f"mithridate.{module}"], name, note)
    monkeypatch.setattr(mithridate.papers._run, "reproduce", note)
    return seen


VERBS = [(["audit"], "ledger.jsonl"), (["craft"], "ledger.jsonl"), (["train"], "checkpoint")]
VERBS += [(["reproduce", "witches-brew"], "ledger.jsonl")]


@pytest.mark.parametrize(("verb", "mark"), VERBS)
def test_results_are_not_mixed_into_a_folder_of_something_else(
    run: Any, engine: list[Path], tmp_path: Path, verb: list[str], mark: str
) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    for name in (".hidden", "mithridate-error-x.txt"):
        (folder / name).touch()
    assert run(*verb, "--out", "thesis").code == 130
    (folder / "report.html").touch()
    refused = run(*verb, "--out", "thesis", "--json")
    assert (refused.code, refused.document["error"]["code"]) == (2, "MTH-0560")
    assert "'report.html'" in refused.err
    (folder / mark).touch()
    assert run(*verb, "--out", "thesis").code == 130
    assert len(engine) == 2


def test_an_interrupted_verb_says_where_its_work_is(run: Any, engine: list[Path]) -> None:
    outcome = run("audit", "--out", "my run", "--json")
    assert (outcome.code, outcome.document["error"]["code"]) == (130, "MTH-0002")
    assert "finished work is kept in 'my run'" in outcome.err


# wrong inputs


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["craft", "--attack", "none"], "MTH-0561", "'none' makes no poisons"),
        (["audit", "--data", ""], "MTH-0101", "unknown data set ''"),
        (["audit", "--data", "~nobody-of-this-name/x"], "MTH-0122", "no such folder"),
        (["audit", "--data", "x" * 5000], "MTH-0101", "unknown data set"),
        (["audit", "--budget", "200%"], "MTH-0105", "got 200%"),
        (["audit", "--budget", "much"], "MTH-0105", "got much"),
        (["reproduce", "witches-brew", "--device", "gpu"], "MTH-0121", "--device"),
        (["reproduce", "witches-brew", "--seed", str(1 << 63)], "MTH-0121", "--seed"),
    ],
)
def test_wrong_inputs_are_refused_before_anything_is_made(
    run: Any, engine: list[Path], tmp_path: Path, words: list[str], code: str, said: str
) -> None:
    outcome = run(*words, "--json")
    assert (outcome.code, outcome.document["error"]["code"]) == (2, code)
    assert said in outcome.err
    assert engine == []
    assert not list(tmp_path.iterdir())


def test_a_budget_may_be_in_percent(run: Any, engine: list[Path]) -> None:
    assert run("audit", "--budget", "1%").code == 130
    assert run("audit", "--budget", "0.01").code == 130
    assert engine[0] == engine[1]


def test_json_and_a_page_do_not_share_stdout(run: Any, tmp_path: Path) -> None:
    finished(tmp_path / "run", a_document())
    refused = run("report", "run", "--format", "md", "--out", "-", "--json")
    assert (refused.code, refused.document["error"]["code"]) == (2, "MTH-0125")
    assert run("report", "run", "--format", "json", "--out", "-", "--json").document == a_document()


def test_what_a_users_model_prints_is_no_part_of_the_json(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import mithridate.audit.single

    def chatty(*_: Any, **__: Any) -> dict[str, Any]:
        sys.stdout.write("building my model\n")
        return {"clean_accuracy": 0.5}

    monkeypatch.setattr(mithridate.audit.single, "run_training", chatty)
    outcome = run("train", "--json")
    assert outcome.document == {"clean_accuracy": 0.5}
    assert "building my model" in outcome.err
    assert "building my model" in run("train", "--out", "another").out
    assert "Usage" in run("train", "--json", "--help").out


def test_doctor_outlives_a_broken_torch(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    outcome = run("doctor", "--json")
    assert outcome.code == 4
    broken = [finding["what"] for finding in outcome.document["findings"] if finding["ok"] is False]
    assert "torch works" in broken
    assert any(finding["what"] == "disk here" for finding in outcome.document["findings"])


# streams


@pytest.mark.parametrize(
    ("line", "code", "out", "err"),
    [
        ("list recipes >&-", 0, "", ""),
        ("explain MTH-9999 2>&-", 2, "", ""),
        ("explain MTH-9999 >&- 2>&-", 2, "", ""),
        ("list recipes <&-", 0, "paper-wb40", ""),
        ("list recipes >/dev/full", 4, "", "error[MTH-0004]: the machine refused: No space left on device"),
        ("explain MTH-9999 --json >/dev/full", 2, "", "error[MTH-0009]"),
        ("explain MTH-9999 2>/dev/full", 2, "", ""),
    ],
)
def test_closed_and_full_streams_are_no_traceback(tmp_path: Path, line: str, code: int, out: str, err: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -m mithridate {line}'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert out in done.stdout
    assert err in done.stderr
    for word in ("Traceback", "Exception ignored", "internal error"):
        assert word not in done.stderr
