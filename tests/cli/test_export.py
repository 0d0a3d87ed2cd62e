"""Packs out to other formats and back, as a user types it."""

from pathlib import Path
from typing import Any

import pytest

from mithridate.attacks._base import AttackKit
from mithridate.attacks.noise import Noise
from mithridate.core.units import Pixels
from mithridate.data.packs import PoisonPack
from mithridate.data.scenarios import scenarios
from mithridate.data.sources import load


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    data = load("digits")
    (scenario,) = scenarios("random", data, budget=0.01, epsilon=Pixels(0.1), count=1, seed=0)
    Noise().craft(AttackKit(data=data), scenario, seed=0).save(tmp_path / "pack")
    return tmp_path / "pack"


@pytest.mark.parametrize("name", ["png", "parquet", "npz"])
def test_a_pack_comes_back_byte_for_byte(run: Any, pack: Path, tmp_path: Path, name: str) -> None:
    assert run("export", str(pack), str(tmp_path / "out"), "--format", name, "--json").document["poisons"] == 15
    back = run("import", str(tmp_path / "out"), str(tmp_path / "back"), "--format", name, "--data", "digits")
    assert back.code == 0
    mine, theirs = PoisonPack.load(pack), PoisonPack.load(tmp_path / "back")
    assert mine.images.equal(theirs.images)
    assert mine.ids.equal(theirs.ids)


def test_the_benchmark_layout_needs_the_data_and_holds_no_pickle(run: Any, pack: Path, tmp_path: Path) -> None:
    refused = run("export", str(pack), str(tmp_path / "out"), "--format", "benchmark")
    assert (refused.code, "MTH-0128" in refused.err) == (2, True)
    run("export", str(pack), str(tmp_path / "out"), "--format", "benchmark", "--data", "digits")
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if path.suffix == ".pickle"]


def test_an_unknown_format_is_answered_with_the_closest(run: Any, pack: Path, tmp_path: Path) -> None:
    outcome = run("export", str(pack), str(tmp_path / "out"), "--format", "parquett")
    assert outcome.code == 2
    assert "did you mean 'parquet'?" in outcome.err
