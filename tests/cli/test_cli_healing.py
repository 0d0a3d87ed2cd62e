"""`scan`, `heal` and `verify-heal` as typed: wrong inputs by their codes, a clean model, and the whole way once."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mithridate.data.sources import load
from mithridate.detection.scan import scan
from mithridate.detection.suspects import Suspects
from mithridate.models.saved import Description, load_model, save_model
from mithridate.numerics.triggers import patch
from mithridate.training.contracts import model_spec

Run = Callable[..., Any]
HEAL = ("heal", "m", "--suspects", "s.parquet", "--reference", "digits", "-o", "healed", "--json")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Description, Suspects]:
    os.environ.setdefault("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    data = load("digits")
    about = Description(spec=model_spec(data, "mlp-w8"), classes=data.train.classes, data={"source": "digits"})
    table = scan(about.spec.build(0).eval(), data.train, ("loss",))
    return about, replace(table, suspect=torch.zeros(len(table), dtype=torch.bool))


@pytest.fixture
def here(run: Run, found: tuple[Description, Suspects]) -> Path:
    """An untrained model `m`, its scan without suspects `s.parquet`, and one with eight of class 0, `some.parquet`."""
    about, table = found
    save_model(about.spec.build(0), about, Path("m"))
    table.write(Path("s.parquet"))
    some = torch.zeros(len(table), dtype=torch.bool)
    some[(table.labels == 0).nonzero().flatten()[:8]] = True
    replace(table, suspect=some).write(Path("some.parquet"))
    patch((1, 8, 8), size=2).save("patch.png")
    return Path.cwd()


def code(run: Run, *words: str) -> str:
    outcome = run(*words)
    assert outcome.code == 2, outcome
    return str(outcome.document["error"]["code"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("heal", "--json"), "MTH-0125"),
        (("heal", "m", "--demo", "--json"), "MTH-0125"),
        ((*HEAL, "--method", "xlv"), "MTH-0101"),
        ((*HEAL, "--method", "xlf:rho"), "MTH-0125"),
        ((*HEAL, "--method", "xlf:roh=0.1"), "MTH-0123"),
        ((*HEAL, "--guard", "2"), "MTH-0105"),
        ((*HEAL, "--poison-rate", "many"), "MTH-0105"),
        ((*HEAL, "--gate", "accuracy_drop<0.1"), "MTH-0733"),
        (("heal", "m", "--suspects", "absent", "--reference", "digits", "--json"), "MTH-0867"),
        (("heal", "absent", "--suspects", "s.parquet", "--reference", "digits", "--json"), "MTH-0881"),
        (("scan", "m", "digits", "--detector", "spectrol", "--json"), "MTH-0101"),
        (("scan", "m", "digitz", "--json"), "MTH-0101"),
        (("scan", "absent", "digits", "--json"), "MTH-0881"),
        (("scan", "m", "digits", "-o", ".", "--json"), "MTH-0125"),
        ((*HEAL[:-3], "-o", "patch.png", "--json"), "MTH-0560"),
        (("verify-heal", "m", "absent", "--json"), "MTH-0881"),
        (("verify-heal", "m", "m", "--trigger", "patch.png", "--target", "ten", "--json"), "MTH-0887"),
    ],
)
def test_wrong_use_by_its_code(run: Run, here: Path, words: tuple[str, ...], expected: str) -> None:
    assert code(run, *words) == expected


def test_a_model_without_suspects_is_left_alone(run: Run, here: Path) -> None:
    outcome = run(*HEAL)
    plain = outcome.document
    assert outcome.code == 0
    assert (plain["suspects"], plain["healed"], plain["left_alone"]) == (0, False, True)
    assert plain["verdict"]["sentence"].startswith("Left alone")
    assert plain["verdict"]["gate"] is None
    page = Path("healed/report.html").read_text()
    assert "What the scan saw" in page and "Undefended" not in page and "trained from scratch" not in page
    assert not Path("healed/model.safetensors").exists()
    assert "left" in run("verify-heal", "m", "healed", "--json").document["error"]["message"]


def test_a_scan_of_another_model_or_of_other_data_clears_nobody(
    run: Run, here: Path, found: tuple[Description, Suspects]
) -> None:
    save_model(found[0].spec.build(1), found[0], Path("n"))
    assert code(run, "heal", "n", *HEAL[2:]) == "MTH-0869"
    assert code(run, *HEAL, "--per-class", "9") == "MTH-0869"
    assert not Path("healed/report.html").exists()


def test_data_that_are_not_those_of_the_training(run: Run, here: Path) -> None:
    packs = ("craft", "--attack", "badnets", "--data", "digits", "--model", "mlp-w8", "--recipe", "digits-mlp40")
    assert run(*packs, "--budget", "2%", "-o", "packs", "--json").code == 0
    pack = next(Path("packs").rglob("trigger.npz")).parent
    Path("c.yaml").write_text("model: mlp-w8\nrecipe_options: {epochs: 1}\n")
    assert run("train", "c.yaml", "--pack", str(pack), "-o", "t", "--json").code == 0
    without = run("scan", "t", "digits", "--detector", "loss", "-o", "a.parquet", "--json")
    assert without.document["other_data"] and not without.document["suspects"]
    assert not without.document["decided"] and without.code == 3
    assert f"--pack {pack}" in without.err
    with_it = run("scan", "t", "digits", "--pack", str(pack), "--detector", "loss", "-o", "b.parquet", "--json")
    assert not with_it.document["other_data"] and "--pack" not in with_it.err


def test_the_word_none_stands_for_nothing(run: Run, here: Path) -> None:
    words = ("--trigger", "patch.png", "--method", "xlf:importance_batch=none,reference_samples=none")
    outcome = run(*HEAL[:3], "some.parquet", *HEAL[4:], *words)
    assert outcome.code in (0, 1, 3), outcome


def test_a_known_trigger_needs_no_progress(run: Run, here: Path) -> None:
    assert run("verify-heal", "m", "m", "--trigger", "patch.png", "--json").err == ""


def test_weights_that_are_not_finite(run: Run, here: Path, found: tuple[Description, Suspects]) -> None:
    model = found[0].spec.build(0)
    with torch.no_grad():
        next(iter(model.parameters())).view(-1)[0] = float("nan")
    save_model(model, found[0], Path("m"))
    assert code(run, *HEAL) == "MTH-0826"
    assert code(run, "scan", "m", "digits", "--json") == "MTH-0826"


def test_another_architecture(run: Run, here: Path, found: tuple[Description, Suspects]) -> None:
    path = Path("m/model.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "name": "mlp-w9"}))
    assert code(run, *HEAL) == "MTH-0411"


def test_fewer_classes_than_labels(run: Run, here: Path, found: tuple[Description, Suspects]) -> None:
    spec = replace(found[0].spec, num_classes=9)
    save_model(spec.build(0), Description(spec=spec, classes=tuple("012345678")), Path("m"))
    assert code(run, *HEAL) == "MTH-0885"
    save_model(spec.build(0), Description(spec=spec, classes=tuple("012345678")), Path("n"))
    save_model(found[0].spec.build(0), found[0], Path("m"))
    assert code(run, "verify-heal", "m", "n", "--trigger", "patch.png", "--json") == "MTH-0888"


def test_suspects_of_other_data(run: Run, here: Path) -> None:
    assert code(run, *HEAL[:3], "some.parquet", *HEAL[4:], "--per-class", "9") == "MTH-0869"


def test_suspects_that_are_clean_do_no_harm(run: Run, here: Path) -> None:
    outcome = run(*HEAL[:3], "some.parquet", *HEAL[4:], "--trigger", "patch.png")
    assert outcome.code in (1, 3), outcome
    plain = outcome.document
    assert plain["suspects"] == 8 and not plain["healed"]
    assert plain["clean_accuracy_after"] >= plain["clean_accuracy_before"] - 0.05
    assert plain["verdict"]["reasons"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no row"),
        ("row\n", "names no row"),
        ("row\n3\nfour\n", "line 3"),
        ("3\n-4\n", "line 2"),
        ("3\n1437\n", "1437"),
        ("3.5\n", "line 1"),
        (b"\xff\xfe\x00", "nor text"),
    ],
)
def test_a_list_with_wrong_ids_is_one_clear_error(run: Run, here: Path, text: str | bytes, said: str) -> None:
    Path("rows.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    outcome = run(*HEAL[:3], "rows.csv", *HEAL[4:])
    error = outcome.document["error"]
    assert (outcome.code, error["code"]) == (2, "MTH-0870")
    assert said in error["message"]


def test_a_list_by_hand_is_as_good_as_a_table(run: Run, here: Path, found: tuple[Description, Suspects]) -> None:
    rows = (found[1].labels == 0).nonzero().flatten()[:8].tolist()
    Path("rows.csv").write_text("row,why\n" + "".join(f"{row},seen\n" for row in [*rows, rows[0]]))
    words = ("--method", "fine-tune:epochs=1", "--trigger", "patch.png")
    listed = run(*HEAL[:3], "rows.csv", "--reference", "digits", "-o", "a", "--json", *words)
    table = run(*HEAL[:3], "some.parquet", "--reference", "digits", "-o", "b", "--json", *words)
    assert listed.code == table.code
    plain, other = listed.document, table.document
    for key in ("suspects", "suspects_used", "clean_accuracy_after", "attack_success_rate_after"):
        assert plain[key] == other[key], key


def test_retraining_follows_the_recipe_that_is_named(run: Run, here: Path) -> None:
    words = (*HEAL[:3], "some.parquet", *HEAL[4:], "--no-clean", "--trigger", "patch.png", "--method", "retrain")
    assert code(run, *words) == "MTH-0840"
    assert code(run, *words, "--recipe", "digits-mlp41") == "MTH-0101"
    assert code(run, *words, "--recipe", "digits-mlp40:epoch=1") == "MTH-0125"
    outcome = run(*words, "--recipe", "digits-mlp40:epochs=2")
    assert outcome.code in (0, 1, 3), outcome
    assert outcome.document["details"]["removed"] == 8
    assert outcome.document["clean_accuracy_after"] != outcome.document["clean_accuracy_before"]


def test_train_records_how(run: Run, here: Path) -> None:
    Path("c.yaml").write_text("model: mlp-w8\nrecipe_options: {epochs: 2, augment: true}\nseed: 3\n")
    assert run("train", "c.yaml", "-o", "t", "--json").code == 0
    record = json.loads(Path("t/model.json").read_text())["recipe"]
    assert (record["name"], record["seed"], record["defense"]) == ("digits-mlp40", 3, None)
    assert (record["options"]["epochs"], record["options"]["augment"]) == (2, True)
    Path("rows.txt").write_text("5\n")
    words = ("heal", "t", "--suspects", "rows.txt", "--trigger", "patch.png", "--method", "retrain", "--guard", "none")
    outcome = run(*words, "-o", "healed", "--json")
    assert outcome.document["details"]["removed"] == 1, outcome
    assert json.loads(Path("healed/model.json").read_text())["recipe"] == record
    record["options"] = 7
    path = Path("t/model.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "recipe": record}))
    assert code(run, *words, "-o", "again", "--json") == "MTH-0883"


def test_the_same_model_was_not_healed(run: Run, here: Path) -> None:
    outcome = run("verify-heal", "m", "m", "--trigger", "patch.png", "--json")
    assert outcome.code in (1, 3)
    assert outcome.document["attack_success_rate_before"] == outcome.document["attack_success_rate_after"]


def test_healers_and_detectors_are_listed(run: Run) -> None:
    assert "xlf" in [row["name"] for row in run("list", "healers", "--json").document["healers"]]
    assert "spectral" in [row["name"] for row in run("list", "detectors", "--json").document["detectors"]]


@pytest.mark.slow
def test_from_a_poisoned_model_to_a_verified_one(run: Run, here: Path) -> None:
    demo = run("heal", "--demo", "-o", "demo", "--json")
    assert demo.code == 0, demo
    plain = demo.document
    assert plain["healed"] and plain["attack_success_rate_before"] > 0.7
    assert plain["attack_success_rate_after"] < 0.2
    again = run("heal", "--demo", "-o", "demo", "--json").document
    assert {**again, "folder": 0} == {**plain, "folder": 0}

    model, pack = "demo/poisoned", ("--pack", "demo/pack")
    scanned = run("scan", model, "digits", *pack, "-o", "t.parquet", "--json")
    assert scanned.code == 0 and 0 < scanned.document["suspects"] <= 20
    words = ("heal", model, "--suspects", "t.parquet", "--reference", "digits", *pack, "-o", "healed", "--json")
    assert run(*words).code == 0
    for after, expected in (("healed", 0), (model, 1)):
        assert run("verify-heal", model, after, "--trigger", "patch.png", "--json").code == expected
    undone = load_undone(Path(model), Path("healed"))
    assert undone


def load_undone(before: Path, after: Path) -> bool:
    """Tell whether the undo file turns the healed model back into the given one, bit for bit."""
    from mithridate.models.saved import describe
    from mithridate.unlearning.undo import Undo

    old, new = load_model(before, describe(before)), load_model(after, describe(after))
    Undo.load(after / "undo.safetensors").apply(new)
    return all(torch.equal(value, new.state_dict()[name]) for name, value in old.state_dict().items())


def test_help_leaves_torch_alone() -> None:
    script = (
        "import sys; from mithridate.cli.main import main; main(['heal', '--help']); assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0
