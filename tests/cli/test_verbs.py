"""The verbs that need no engine: init, explain, list, doctor, status, report, verify's front."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from cli_documents import a_document, finished

from mithridate.audit.config import AuditConfig, load_config
from mithridate.audit.names import scenario_lists
from mithridate.cli.init import EXAMPLES
from mithridate.core.codes import CODES
from mithridate.core.events import EventLog
from mithridate.core.ledger import Ledger
from mithridate.data.names import SOURCES
from mithridate.training.contracts_index import CONTRACT_NAMES

HOSTILE = "[red]x[/red] \x1b[31m \u202e <script> \n =1+1 \udc80 [/]"


def rows(document: dict[str, Any], kind: str) -> dict[str, dict[str, str]]:
    return {row["name"]: row for row in document[kind]}


# init


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_is_valid_and_explains_every_key(run: Any, tmp_path: Path, example: str) -> None:
    assert run("init", "--example", example).code == 0
    (tmp_path / "images").mkdir()
    config = load_config(tmp_path / "audit.yaml")
    text = (tmp_path / "audit.yaml").read_text(encoding="utf-8")
    for key in AuditConfig.model_fields:
        assert re.search(rf"^{key}:", text, re.MULTILINE), key
    assert {method.name for method in config.attacks} >= {"none", "noise", "witches-brew"}


def test_the_first_example_says_the_defaults(run: Any, tmp_path: Path) -> None:
    """It claims that its values are the defaults; they are, but for what it adds to the grid."""
    run("init")
    shown = load_config(tmp_path / "audit.yaml").model_dump(exclude={"attacks", "defenses"})
    assert shown == AuditConfig.model_validate({}).model_dump(exclude={"attacks", "defenses"})
    text = (tmp_path / "audit.yaml").read_text(encoding="utf-8")
    keys = re.findall(r"^ {0,2}([a-z_]+):.*", text, re.MULTILINE)
    lines = [line for line in text.splitlines() if re.match(r" {0,2}[a-z_]+:", line)]
    explained = [line for line in lines if "#" in line]
    assert len(keys) > 25
    assert len(explained) > 20


def test_the_model_example_builds_a_network(run: Any, tmp_path: Path) -> None:
    import torch

    assert run("init", "--example", "own-model").code == 0
    space: dict[str, Any] = {}
    exec(compile((tmp_path / "my_model.py").read_text(encoding="utf-8"), "my_model.py", "exec"), space)
    net = space["make"](num_classes=7, channels=3, size=32)
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_init_never_overwrites_unless_told(run: Any, tmp_path: Path) -> None:
    (tmp_path / "my_model.py").write_text("mine")
    outcome = run("init", "--example", "own-model")
    assert outcome.code == 2
    assert "'my_model.py' is there already" in outcome.err
    assert not (tmp_path / "audit.yaml").exists()
    assert run("init", "new/folder/a.yaml").code == 0
    assert run("init", "--example", "own-model", "--force", "--json").document == {
        "written": ["audit.yaml", "my_model.py"]
    }
    assert (tmp_path / "my_model.py").read_text(encoding="utf-8") != "mine"


def test_init_where_no_folder_can_be(run: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    outcome = run("init", "file/audit.yaml")
    assert outcome.code == 4
    assert outcome.err.startswith("error[MTH-")
    assert "Traceback" not in outcome.err


def test_the_schema_is_json(run: Any) -> None:
    assert run("init", "--schema").document["title"] == "AuditConfig"


# explain


@pytest.mark.parametrize("code", ["MTH-0120", "mth-0120", "120", "0120"])
def test_a_code_is_explained(run: Any, code: str) -> None:
    page = CODES["MTH-0120"]
    outcome = run("explain", code)
    assert (outcome.code, outcome.err) == (0, "")
    for words in (page.title, page.cause, page.remedy):
        assert words in outcome.out.replace("\n", " ")
    assert run("explain", code, "--json").document == {"code": "MTH-0120", **page._asdict()}


def test_all_codes_are_listed(run: Any) -> None:
    assert set(run("explain", "--json").document["codes"]) == set(CODES)
    listed = run("explain").out
    assert all(code in listed for code in CODES)


def test_an_unknown_code(run: Any) -> None:
    outcome = run("explain", "MTH-9999", "--json")
    assert (outcome.code, outcome.document["error"]["code"]) == (2, "MTH-0009")


# list


def test_list_names_what_can_be_named(run: Any) -> None:
    document = run("list", "--json").document
    kinds = ("attacks", "defenses", "detectors", "models", "recipes", "datasets", "scenarios", "papers")
    assert set(document) == {*kinds, "healers", "rules", "pre-aggregators", "adversaries"}
    assert set(rows(document, "rules")) >= {"mean", "median", "trimmed-mean", "multi-krum", "multi-bulyan"}
    assert set(rows(document, "pre-aggregators")) >= {"nnm", "bucketing", "clipping", "arc"}
    assert set(rows(document, "adversaries")) >= {"alie", "ipm", "mimic"}
    assert set(rows(document, "detectors")) >= {"spectral", "activation-clustering", "spectre", "strip", "beatrix"}
    assert set(rows(document, "attacks")) >= {"none", "noise", "witches-brew"}
    assert set(rows(document, "defenses")) >= {"none", "friendly-noise"}
    assert set(rows(document, "models")) >= {"mlp", "resnet18", "timm:NAME", "FILE.py:factory"}
    assert set(rows(document, "datasets")) >= set(SOURCES)
    assert set(rows(document, "scenarios")) == {"random", "trigger", *scenario_lists()}
    assert tuple(rows(document, "recipes")) == CONTRACT_NAMES
    lines = [row for kind in document.values() for row in kind]
    assert not [row["name"] for row in lines if len(row["summary"]) < 10]
    assert "Geiping" in rows(document, "scenarios")["witches-brew-10"]["source"]


@pytest.mark.parametrize("kind", ["attacks", "models", "papers", "rules", "pre-aggregators"])
def test_list_of_one_kind_shows_the_same(run: Any, kind: str) -> None:
    document = run("list", kind, "--json").document
    assert set(document) == {kind}
    shown = run("list", kind).out
    assert all(row["name"] in shown for row in document[kind])


def test_plugins_are_listed_and_a_broken_one_is_a_line_of_warning(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mithridate.audit import names as methods
    from mithridate.core.registry import Registry
    from mithridate.data import names as data

    (tmp_path / "stranger_of_list.py").write_text('"""A stranger\'s things."""\nraise_if_imported = {}["x"]\n')
    info = tmp_path / "strange-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strange\nVersion: 1.2\n")
    points = ["odd = stranger_of_list:Odd", "lost = gone.module:Lost"]
    groups = [line for name in ("attacks", "datasets") for line in (f"[mithridate.{name}]", *points)]
    (info / "entry_points.txt").write_text("\n".join([*groups, ""]))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(methods, "ATTACKS", Registry("mithridate.attacks", "attack", "mithridate.attacks"))
    monkeypatch.setattr(data, "PLUGINS", Registry(None, "data set", "mithridate.datasets"))
    for kind, what in (("attacks", "attack"), ("datasets", "data set")):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            outcome = run("list", kind, "--json")
        assert outcome.code == 0
        assert rows(outcome.document, kind)["odd"]["source"] == "plugin of strange 1.2"
        assert "lost" not in rows(outcome.document, kind)
        (line,) = outcome.err.splitlines()
        assert line.startswith(f"warning: [MTH-0102] the plugin gone.module:Lost (strange) of {what} 'lost'")


# doctor


def test_doctor_finds_what_is_installed(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sets" / "mnist").mkdir(parents=True)
    for split in ("train", "test"):
        (tmp_path / "sets" / "mnist" / f"{split}.parquet").touch()
    monkeypatch.setenv("MITHRIDATE_DATA", str(tmp_path / "sets"))
    outcome = run("doctor", "--json")
    found = {finding["what"]: finding for finding in outcome.document["findings"]}
    assert outcome.code == 0
    assert outcome.document["healthy"]
    assert found["torch"]["found"].startswith("2.")
    assert found["data set mnist"]["ok"] is True
    assert found["data set cifar10"]["ok"] is None
    assert {"python", "extra hub", "extra models", "cpu", "disk here", "cache of decoded data"} <= set(found)
    assert "extra dev" not in found


def test_doctor_says_what_is_missing_and_fails(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mithridate.cli import doctor

    known = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "safetensors" else known(name))
    monkeypatch.setenv("MITHRIDATE_DATA", "/nowhere")
    outcome = run("doctor")
    assert outcome.code == 4
    missing = [line for line in outcome.out.splitlines() if "MISSING" in line]
    assert any("safetensors" in line for line in missing)
    assert any("/nowhere" in line for line in missing)


# status


def a_run(folder: Path, names: list[str], total: int) -> Path:
    folder.mkdir()
    EventLog(folder / "events.jsonl").write({"event": "start", "jobs": total, "left": total})
    with Ledger(folder / "ledger.jsonl").open() as ledger:
        for name in names:
            ledger.append(name, {"seconds": 1})
    return folder


NAMES = ["surrogate/0", "craft/noise/3", "victim/none/none/0", "victim/noise/none/3/0", "victim/noise/none/3/1"]


def test_status_counts_what_is_finished(run: Any, tmp_path: Path) -> None:
    a_run(tmp_path / "run", NAMES, 9)
    document = run("status", "run", "--json").document
    assert (document["finished"], document["total"], document["complete"]) == (5, 9, False)
    assert document["by_kind"] == {
        "surrogate": 1,
        "craft noise": 1,
        "victim none against none": 1,
        "victim noise against none": 2,
    }
    assert "5 of 9 jobs finished" in run("status", "run").out


def test_status_reads_while_another_process_writes(run: Any, tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run", NAMES[:2], 5)
    with Ledger(folder / "ledger.jsonl").open() as ledger:
        ledger.append(NAMES[2], {})
        with (folder / "ledger.jsonl").open("ab") as file:
            file.write(b'0000dead {"torn')
        with (folder / "events.jsonl").open("ab") as file:
            file.write(b'{"event": "sta')
        document = run("status", "run", "--json").document
    assert (document["finished"], document["total"]) == (3, 5)


def test_status_of_something_else(run: Any) -> None:
    outcome = run("status", ".", "--json")
    assert (outcome.code, outcome.document["error"]["code"]) == (2, "MTH-0780")


# report


def test_a_report_is_rendered_again_in_every_format(run: Any, tmp_path: Path) -> None:
    finished(tmp_path / "run", a_document())
    outcome = run("report", "run", "--format", "html,md,json,junit,csv", "--out", "pages", "--json")
    assert outcome.code == 0
    assert len(outcome.document["written"]) == 5
    for name in outcome.document["written"]:
        assert "witches-brew" in Path(name).read_text(encoding="utf-8")
    assert json.loads((tmp_path / "pages" / "report.json").read_text(encoding="utf-8")) == a_document()


def test_a_report_goes_where_it_is_asked_to(run: Any, tmp_path: Path) -> None:
    finished(tmp_path / "run", a_document())
    assert run("report", "run").code == 0
    assert (tmp_path / "run" / "report.html").is_file()
    assert run("report", "run/report.json", "-f", "md", "-o", "summary.md").code == 0
    shown = run("report", "run", "-f", "md", "-o", "-")
    assert shown.out == (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert run("report", "run", "-f", "md,csv", "-o", "-").code == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report", "none"], "does not exist"),
        (["report", "run", "--format", "pfd"], "there is no report format 'pfd'"),
        (["report", "run", "--format", ","], "names no format"),
        (["report", "bad"], "error[MTH-02"),
        (["report", "other"], "error[MTH-0802]"),
    ],
)
def test_reports_that_cannot_be_rendered(run: Any, tmp_path: Path, words: list[str], said: str) -> None:
    finished(tmp_path / "run", a_document())
    finished(tmp_path / "other", {"schema": "mithridate.report/99"})
    finished(tmp_path / "bad", {})
    (tmp_path / "bad" / "report.json").write_bytes(b'{"a": ')
    outcome = run(*words)
    assert outcome.code == 2
    assert said in outcome.err
    assert "Traceback" not in outcome.err


# hostile text


def test_hostile_names_stay_text_on_the_terminal(run: Any, tmp_path: Path) -> None:
    a_run(tmp_path / "run", ["surrogate/0", f"craft/{HOSTILE[:30]}/1"], 3)
    finished(tmp_path / "page", a_document(word=HOSTILE.replace("\udc80", "")))
    outcomes = [
        run("status", "run"),
        run("explain", HOSTILE),
        run("list", HOSTILE),
        run("audit", HOSTILE),
        run("audit", "--data", HOSTILE, "--model", HOSTILE, "--attack", HOSTILE, "--gate", HOSTILE),
        run("audit", f"--{HOSTILE}"),
        run(HOSTILE),
        run("verify", HOSTILE),
        run("report", "page", "-f", "md", "-o", "-"),
    ]
    for outcome in outcomes:
        shown = outcome.out + outcome.err
        assert "[red]" in shown or "\\[red" in shown, shown
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        assert "Traceback" not in shown
        assert "internal error" not in shown


def test_hostile_names_survive_in_json(run: Any, tmp_path: Path) -> None:
    name = HOSTILE.replace("/", "").replace("\udc80", "")
    a_run(tmp_path / "run", [f"craft/{name}/1"], 3)
    assert run("status", "run", "--json").document["by_kind"] == {f"craft {name}": 1}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["audit", "--data", "digits"], "nowhere is no finished audit"),
        (["reproduce", "witches-brew"], "nowhere is no finished audit"),
        (["reproduce", "guanyu"], "leave --reuse out"),
    ],
)
def test_a_run_that_cannot_be_reused_is_refused_before_any_work(run: Any, words: list[str], said: str) -> None:
    outcome = run(*words, "--reuse", "nowhere", "--json")
    assert (outcome.code, outcome.document["error"]["code"]) == (2, "MTH-0722")
    assert said in outcome.err
    assert not list(Path().rglob("ledger.jsonl"))
