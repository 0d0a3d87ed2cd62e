"""A saved model comes back as it was, and its description executes nothing."""

import json
from pathlib import Path

import pytest
import torch

from mithridate.core.errors import BadArtefact, Misuse
from mithridate.models.saved import Description, describe, load_model, save_model
from mithridate.models.spec import ModelSpec

SPEC = ModelSpec(name="mlp-w8", num_classes=3, channels=1, size=8, mean=(0.25,), std=(0.5,))
ABOUT = Description(spec=SPEC, classes=("a", "b", "c"), data={"source": "digits"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(SPEC.build(3), ABOUT, tmp_path / "m")
    return tmp_path / "m"


def changed(folder: Path, **entries: object) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


@pytest.mark.parametrize("of", ["", "model.safetensors"])
def test_round_trip(folder: Path, of: str) -> None:
    about = describe(folder / of)
    assert about == ABOUT
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(load_model(folder / of, about)(x), SPEC.build(3).eval()(x))


def test_bare_weights_need_a_name(folder: Path) -> None:
    (folder / "model.json").unlink()
    with pytest.raises(Misuse, match="MTH-0882"):
        describe(folder)
    with pytest.raises(Misuse, match="MTH-0882"):
        describe(folder, name="mlp-w8")
    assert describe(folder, name="mlp-w8", otherwise=ABOUT).spec == SPEC


@pytest.mark.parametrize("name", ["net.py:make", "package.module:make", "hf:owner/name"])
def test_a_description_executes_nothing_that_the_user_did_not_name(folder: Path, name: str) -> None:
    changed(folder, name=name)
    with pytest.raises(Misuse, match="MTH-0884"):
        describe(folder)
    assert describe(folder, name="mlp-w8").spec.name == "mlp-w8"


@pytest.mark.parametrize(
    "entries",
    [{"schema": "other/1"}, {"classes": ["a"]}, {"mean": "text"}, {"mean": 3}, {"data": 7}, {"classes": None}],
)
def test_damage_is_named(folder: Path, entries: dict[str, object]) -> None:
    changed(folder, **entries)
    with pytest.raises(BadArtefact, match="MTH-0883"):
        describe(folder)


def test_another_network_is_refused(folder: Path) -> None:
    with pytest.raises(Misuse, match="MTH-0411"):
        load_model(folder, describe(folder, name="mlp-w9"))
    with pytest.raises(Misuse, match="MTH-0881"):
        describe(folder / "absent")
