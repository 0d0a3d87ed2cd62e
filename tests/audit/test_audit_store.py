"""Images kept in memory and images decoded from a file: the same numbers, and the same run."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mithridate.audit.config import AuditConfig
from mithridate.audit.opening import open_model
from mithridate.audit.run import run_audit
from mithridate.audit.single import run_training
from mithridate.core.boundary import read_json
from mithridate.core.ledger import Ledger
from mithridate.data.stores import MappedStore

STORES = ("resident", "mapped")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three classes of JPEG files that are larger than the audit's images."""
    rng, root = np.random.default_rng(0), tmp_path / "images"
    for name in "abc":
        (root / name).mkdir(parents=True)
        for k in range(20):
            pixels = rng.integers(0, 256, (12, 11, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{k:02}.jpeg")
    return root


def config(images: Path, store: str, **changes: object) -> AuditConfig:
    brew = {"name": "witches-brew", "options": {"restarts": 1, "steps": 3}}
    values = {
        "data": {"source": str(images), "size": 8, "per_class": 12, "store": store},
        "model": "convnet3",
        "recipe": "digits-cnn30",
        "recipe_options": {"epochs": 2},
        "budget": 0.1,
        "epsilon": "64/255",
        "scenarios": {"count": 1},
        "attacks": [brew],
        "jobs": 1,
    }
    return AuditConfig.model_validate({**values, **changes})


def numbers(folder: Path) -> dict:
    def plain(record: dict) -> dict:
        return {
            key: plain(value) if isinstance(value, dict) else value
            for key, value in record.items()
            if "seconds" not in key
        }

    return {name: plain(record) for name, record in Ledger(folder / "ledger.jsonl").records().items()}


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_an_audit_of_mapped_images_has_the_numbers_and_packs_of_one_in_memory(images: Path, tmp_path: Path) -> None:
    for store in STORES:
        run_audit(config(images, store), tmp_path / store)
    assert numbers(tmp_path / "resident") == numbers(tmp_path / "mapped")
    packs, others = tree(tmp_path / "resident" / "packs"), tree(tmp_path / "mapped" / "packs")
    assert packs.keys() == others.keys() != set()
    assert all(packs[name] == others[name] for name in packs if not name.endswith("manifest.json"))


def test_a_run_in_memory_goes_on_mapped_and_shares_its_results(images: Path, tmp_path: Path) -> None:
    """The folder is bound to what determines numbers, and `--reuse` asks for nothing more."""
    run_audit(config(images, "resident"), tmp_path / "first")
    before = numbers(tmp_path / "first")
    run_audit(config(images, "mapped"), tmp_path / "first")
    assert numbers(tmp_path / "first") == before
    assert "store" not in (tmp_path / "first" / "config.yaml").read_text(encoding="utf-8")
    noise = {"name": "friendly-noise", "options": {"components": "random"}}
    run_audit(config(images, "mapped", defenses=[noise]), tmp_path / "more", reused=tmp_path / "first")
    assert before.items() <= numbers(tmp_path / "more").items()
    assert read_json(tmp_path / "more" / "reused.json")["results"] == len(before)


def test_a_model_trained_on_mapped_images_is_the_same_and_opens_with_them(images: Path, tmp_path: Path) -> None:
    for store in STORES:
        run_training(config(images, store), tmp_path / store)
    first, second = (open_model(tmp_path / store, None) for store in STORES)
    for ours, theirs in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert first.train.fingerprint == second.train.fingerprint
    assert (first.otherwise, second.otherwise) == ("", "")
    stores = [opened.data.test.images for opened in (first, second)]
    assert [isinstance(store, MappedStore) for store in stores] == [False, True]
