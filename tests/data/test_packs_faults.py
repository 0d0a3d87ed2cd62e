"""Damaged, altered, forged and foreign packs: one typed error or one failed check, never a traceback."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pack_makers import make, make_data, tree

from mithridate.core.artefacts import new_artefact
from mithridate.core.codes import CODES
from mithridate.core.errors import BadArtefact, Misuse
from mithridate.data._pack_claims import Claims, content_hash
from mithridate.data.packs import PoisonPack, export_pack, import_pack, verify_pack

TYPED = (BadArtefact, Misuse)
random = np.random.default_rng(20)


def failing(path: Path, load: Callable[[], object]) -> None:
    """Check that `load` raises one typed error with a code that can be explained."""
    with pytest.raises(TYPED) as caught:
        load()
    assert caught.value.code.startswith("MTH-"), path
    assert caught.value.message and "Traceback" not in caught.value.message


@pytest.fixture
def saved(tmp_path) -> Path:
    make(make_data(), poisons=2).save(tmp_path / "pack")
    return tmp_path / "pack"


def flips(content: bytes, places: list[int]) -> list[bytes]:
    changed = []
    for place in places:
        other = bytearray(content)
        other[place] ^= 1 << int(random.integers(8))
        changed.append(bytes(other))
    return changed


def refuses_flips_of_the_manifest(saved: Path, places: list[int], content: bytes) -> None:
    for other in flips(content, places):
        (saved / "manifest.json").write_bytes(other)
        failing(saved, lambda: PoisonPack.load(saved))
    (saved / "manifest.json").write_bytes(content)
    assert PoisonPack.load(saved) == make(make_data(), poisons=2)


def test_some_flipped_bytes_of_the_manifest_are_found(saved):
    content = (saved / "manifest.json").read_bytes()
    refuses_flips_of_the_manifest(saved, random.integers(len(content), size=150).tolist(), content)


@pytest.mark.slow
def test_every_flipped_byte_of_the_manifest_is_found(saved):
    content = (saved / "manifest.json").read_bytes()
    assert len(content) > 1000
    refuses_flips_of_the_manifest(saved, list(range(len(content))), content)


def test_flipped_bytes_of_the_payload_are_found(saved):
    data = make_data()
    content = (saved / "poisons.npz").read_bytes()
    for other in flips(content, random.integers(len(content), size=200).tolist()):
        (saved / "poisons.npz").write_bytes(other)
        checks = verify_pack(saved, data)
        assert [(check.name, check.passed) for check in checks] == [("files", False)]
    with pytest.raises(BadArtefact):
        PoisonPack.load(saved)


@pytest.mark.parametrize("name", ["manifest.json", "poisons.npz"])
def test_truncated_files_are_found(saved, name):
    content = (saved / name).read_bytes()
    for length in {0, 1, len(content) // 2, len(content) - 2, *random.integers(len(content) - 1, size=30).tolist()}:
        (saved / name).write_bytes(content[:length])
        failing(saved, lambda: PoisonPack.load(saved))


def test_missing_and_added_files_are_found(saved):
    (saved / "extra.txt").write_text("more")
    failing(saved, lambda: PoisonPack.load(saved))
    (saved / "extra.txt").unlink()
    PoisonPack.load(saved)
    (saved / "poisons.npz").unlink()
    failing(saved, lambda: PoisonPack.load(saved))


def test_what_is_no_pack_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("{}")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "manifest.json").write_text('{"schema": 1, "kind": "poison-pack", "files": {}}')
    with new_artefact(tmp_path / "other", kind="checkpoint") as draft:
        (draft.path / "poisons.npz").write_bytes(b"")
    with new_artefact(tmp_path / "claimless", kind="poison-pack") as draft:
        np.savez(draft.path / "poisons.npz", ids=[1])
    with new_artefact(tmp_path / "hollow", kind="poison-pack"):
        pass
    for name in ("nowhere", "empty", "file", "folder", "other", "claimless", "hollow"):
        failing(tmp_path / name, lambda name=name: PoisonPack.load(tmp_path / name))


_ARRAYS = ("ids", "images", "labels")


def forge(path: Path, arrays: dict[str, Any] | None = None, *, seal: bool = True, **claims: Any) -> None:
    """Write a pack whose hashes are all right, with other arrays or other claims."""
    pack = make(make_data())
    found = {"ids": pack.ids.numpy(), "images": pack.images.numpy(), "labels": pack.labels.numpy()} | (arrays or {})
    plain = json.loads(json.dumps(dict(pack.manifest)))
    for key, value in claims.items():
        *outer, last = key.split("__")
        inner = plain
        for part in outer:
            inner = inner[part]
        inner[last] = value
    if seal:
        tensors = [torch.from_numpy(found[key].astype(found[key].dtype.newbyteorder("="))) for key in _ARRAYS]
        plain["content"] = content_hash(*tensors)
        plain["digest"] = Claims.model_validate(plain).computed_digest()
    shutil.rmtree(path, ignore_errors=True)
    with new_artefact(path, kind="poison-pack") as draft:
        draft.manifest.update(plain)
        np.savez(draft.path / "poisons.npz", **found)


class Trap:
    """Would run code if anybody unpickled it."""

    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def test_payloads_that_are_no_poisons_are_refused(tmp_path):
    path, good = tmp_path / "pack", make(make_data())
    ids, images, labels = good.ids.numpy(), good.images.numpy(), good.labels.numpy()
    bad: list[dict[str, Any]] = [
        {"ids": ids.astype(np.int32)},
        {"ids": ids.astype(np.float64)},
        {"ids": ids[:-1]},
        {"ids": ids[None]},
        {"ids": np.array([Trap()] * 4, dtype=object)},
        {"images": images.astype(np.float32)},
        {"images": images[:, 0]},
        {"labels": labels.astype(bool)},
        {"more": labels},
    ]
    for arrays in bad:
        forge(path, arrays, seal=False)
        failing(path, lambda: PoisonPack.load(path))
    for change in (np.array([ids[0]] * 4), -ids - 1):
        forge(path, {"ids": change})
        with pytest.raises(BadArtefact, match="distinct"):
            PoisonPack.load(path)
    forge(path, {"ids": ids.astype(">i8")})  # the other byte order is the same numbers
    assert PoisonPack.load(path) == good


def test_poisons_that_are_not_those_of_the_claims_are_refused(tmp_path):
    path, images = tmp_path / "pack", make(make_data()).images.numpy().copy()
    images[0, 0, 0, 0] ^= 1
    forge(path, {"images": images}, seal=False)
    with pytest.raises(BadArtefact, match="MTH-0323"):
        PoisonPack.load(path)
    forge(path, seal=False, count=5)
    with pytest.raises(BadArtefact, match="digest"):
        PoisonPack.load(path)
    forge(path, scenario__poison_ids=[2, 6, 10, 14])
    with pytest.raises(BadArtefact, match="scenario"):
        PoisonPack.load(path)


@pytest.mark.parametrize(
    "claims",
    [
        {"count": "4"},
        {"count": None},
        {"count": 4.0},
        {"attack": 3},
        {"config": []},
        {"dataset": {}},
        {"dataset__rows": "40"},
        {"dataset__shape": "wide"},
        {"dataset__more": 1},
        {"budget__of_class": [{"label": 2}]},
        {"epsilon__measured": None},
        {"epsilon__levels": True},
        {"scenario": {}},
        {"scenario__targets": []},
        {"scenario__threat": "clean"},
        {"scenario__epsilon": 10**400},
        {"scenario__poison_ids": [10**30]},
        {"digest": 5},
    ],
)
def test_claims_of_wrong_types_are_refused(tmp_path, claims):
    forge(tmp_path / "pack", seal=False, **claims)
    failing(tmp_path, lambda: PoisonPack.load(tmp_path / "pack"))
    assert verify_pack(tmp_path / "pack", make_data())[0].passed is False


FORGERIES: list[tuple[str, dict[str, Any]]] = [
    ("count", {"count": 3}),
    ("ids", {"dataset__rows": 8}),
    ("shape", {"dataset__shape": [3, 4, 4]}),
    ("budget of the set", {"budget__of_set": 0.01}),
    ("budget of the set", {"dataset__rows": 0}),
    ("budget of the class", {"budget__of_class": []}),
    ("dataset fingerprint", {"dataset__fingerprint": "0" * 64}),
    ("dataset fingerprint", {"dataset__classes": ["a", "b", "c", "d"]}),
    ("base pixels", {"dataset__base_pixels": "0" * 64}),
    ("epsilon", {"epsilon__levels": 8}),
    ("epsilon", {"epsilon__measured": 8 / 255}),
    ("epsilon", {"epsilon__measured_text": "8/255"}),
    ("epsilon", {"epsilon__allowed": 8 / 255}),
    ("epsilon", {"scenario__epsilon": 8 / 255}),
    ("labels", {"labels_changed": 1}),
    ("scenario", {"scenario__targets": [6]}),
    ("scenario", {"scenario__targets": [4]}),
    ("scenario", {"scenario__targets": [500]}),
    ("scenario", {"scenario__adversarial_class": 3}),
    ("scenario", {"scenario__adversarial_class": 10**30}),
    ("scenario", {"scenario__threat": "third-party"}),
]


@pytest.mark.parametrize("name, claims", FORGERIES)
def test_every_false_claim_fails_its_own_check(tmp_path, name, claims):
    forge(tmp_path / "pack", **claims)
    failed = {check.name for check in verify_pack(tmp_path / "pack", make_data()) if check.passed is False}
    assert name in failed
    # A false number of rows or a false shape is a false description of the data set as well.
    rows = {"dataset fingerprint", "budget of the set", "ids"}
    allowed = {"dataset__rows": rows, "dataset__shape": {"dataset fingerprint"}}
    assert failed - {name} <= set().union(*(allowed.get(key, set()) for key in claims))


def test_forged_poisons_fail_the_check_of_what_they_break(tmp_path):
    path, good = tmp_path / "pack", make(make_data())
    images, labels = good.images.numpy().copy(), good.labels.numpy().copy()
    images[1, 2, 3, 4] ^= 0x80
    forge(path, {"images": images})
    failed = [check for check in verify_pack(path, make_data()) if not check.passed]
    assert [check.name for check in failed] == ["epsilon"]
    assert "16/255" in failed[0].detail
    labels[0] = 3
    forge(path, {"labels": labels})
    assert [check.name for check in verify_pack(path, make_data()) if not check.passed] == ["labels"]
    labels[0] = 77
    forge(path, {"labels": labels}, labels_changed=1)
    assert [check.name for check in verify_pack(path, make_data()) if not check.passed] == ["labels"]


@pytest.mark.parametrize(
    "data",
    [make_data(seed=3), make_data((1, 4, 5)), make_data((3, 2, 2)), make_data(train=12, test=3)],
    ids=["pixels", "channels", "size", "rows"],
)
def test_verifying_against_other_data_never_passes(tmp_path, data):
    make(make_data()).save(tmp_path / "pack")
    checks = {check.name: check.passed for check in verify_pack(tmp_path / "pack", data)}
    assert checks["dataset fingerprint"] is False
    assert not checks["base pixels"]
    assert None in checks.values() or False in (checks["base pixels"], checks["epsilon"])


@pytest.mark.parametrize("format", ["png", "parquet", "npz"])
def test_damaged_exports_give_the_same_pack_or_a_typed_error(tmp_path, format):
    data, pack = make_data(), make(make_data())
    export_pack(pack, tmp_path / "out", format=format)
    files = tree(tmp_path / "out")
    survivors = trials = 0
    for name, content in files.items():
        path = tmp_path / "out" / name if format == "png" else tmp_path / "out"
        places = random.integers(len(content), size=120 // len(files)).tolist()
        for other in [*flips(content, places), *(content[:length] for length in places[:20])]:
            path.write_bytes(other)
            trials += 1
            try:
                found = import_pack(tmp_path / "out", format=format, data=data)
            except TYPED as error:
                assert error.message
            else:
                assert found == pack
                survivors += 1
        path.write_bytes(content)
    assert trials >= 120 and survivors < trials / 2
    assert import_pack(tmp_path / "out", format=format, data=data) == pack


def test_every_code_of_this_room_is_explained():
    room = Path(__file__).parents[2] / "src" / "mithridate" / "data"
    files = [*room.glob("_pack*.py"), room / "packs.py", room / "scenarios.py", room / "_scenario_lists.py"]
    files += [room.parent / "numerics" / "triggers.py"]
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    used = {text[i : i + 8] for i in range(len(text)) if text.startswith("MTH-", i)}
    assert used <= set(CODES)
    assert {code for code in CODES if code.startswith("MTH-03")} <= used
