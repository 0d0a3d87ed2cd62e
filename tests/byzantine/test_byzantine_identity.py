"""Keys and certificates: who may speak as whom."""

import datetime
import shutil
import stat
from pathlib import Path

import pytest

from mithridate.byzantine import identity
from mithridate.byzantine.identity import AUTHORITY, Identity, fingerprint, make_keys
from mithridate.core.errors import BadArtefact, Misuse


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, dict[int, str]]:
    folder = tmp_path_factory.mktemp("cluster") / "keys"
    return folder, make_keys(folder, [0, 1, 2])


@pytest.fixture
def keys(made, tmp_path) -> tuple[Path, dict[int, str]]:
    folder, pins = made
    shutil.copytree(folder, tmp_path / "keys")
    return tmp_path / "keys", dict(pins)


def code_of(folder: Path, me: int, pins: dict[int, str]) -> str:
    with pytest.raises(BadArtefact) as caught:
        Identity.load(folder, me, pins)
    return caught.value.code


def test_keys_are_readable_by_their_owner_alone_and_the_authority_keeps_none(keys):
    folder, pins = keys
    secret = [path for path in folder.iterdir() if path.suffix in (".key", ".sign")]
    assert len(secret) == 6
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in secret)
    assert sorted(path.name for path in folder.iterdir() if path not in secret) == [
        AUTHORITY,
        *(f"node-{node}.pem" for node in pins),
    ]
    assert all(len(pin) == 64 and int(pin, 16) for pin in pins.values())


def test_a_node_needs_nobody_elses_secrets(keys):
    folder, pins = keys
    for node in (1, 2):
        for kind in ("key", "sign"):
            (folder / f"node-{node}.{kind}").unlink()
    mine = Identity.load(folder, 0, pins)
    assert mine.fingerprints == pins
    assert "PRIVATE" not in repr(mine)


def test_signatures_bind_message_and_node(keys):
    folder, pins = keys
    nodes = {node: Identity.load(folder, node, pins) for node in pins}
    signature = nodes[1].sign(b"echo")
    assert nodes[0].verify(1, b"echo", signature)
    assert not nodes[0].verify(2, b"echo", signature)
    assert not nodes[0].verify(1, b"other", signature)
    assert not nodes[0].verify(1, b"echo", signature[:-1])
    assert not nodes[0].verify(1, b"echo", b"")
    assert not nodes[0].verify(9, b"echo", signature)
    assert not nodes[0].verify(1, b"echo", bytes([signature[0] ^ 1]) + signature[1:])


def test_a_certificate_that_is_not_pinned_is_named_with_both_fingerprints(keys):
    folder, pins = keys
    wrong = dict(pins) | {2: pins[1]}
    with pytest.raises(BadArtefact) as caught:
        Identity.load(folder, 0, wrong)
    assert caught.value.code == "MTH-0921"
    assert "node 2" in caught.value.message
    assert pins[1] in caught.value.message
    assert pins[2] in caught.value.message


def test_another_nodes_certificate_is_not_ours_even_if_it_is_pinned(keys):
    folder, pins = keys
    shutil.copy(folder / "node-1.pem", folder / "node-2.pem")
    assert code_of(folder, 0, pins | {2: pins[1]}) == "MTH-0921"


@pytest.mark.parametrize("kind", ["key", "sign"])
def test_the_key_of_another_node_is_refused(keys, kind):
    folder, pins = keys
    shutil.copy(folder / f"node-1.{kind}", folder / f"node-0.{kind}")
    assert code_of(folder, 0, pins) == "MTH-0921"


@pytest.mark.parametrize("kind", ["key", "sign"])
def test_a_key_that_others_may_read_is_refused(keys, kind):
    folder, pins = keys
    (folder / f"node-0.{kind}").chmod(0o640)
    assert code_of(folder, 0, pins) == "MTH-0923"


@pytest.mark.parametrize("name", ["node-0.pem", "node-2.pem", "node-0.key", "node-0.sign"])
@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_damaged_files_are_one_error(keys, name, content):
    folder, pins = keys
    (folder / name).write_bytes(content)
    assert code_of(folder, 0, pins) == "MTH-0920"


def test_missing_files_and_strangers_are_errors(keys):
    folder, pins = keys
    assert code_of(folder, 7, pins) == "MTH-0921"
    (folder / "node-0.key").unlink()
    assert code_of(folder, 0, pins) == "MTH-0208"


def test_keys_are_never_overwritten(keys):
    folder, _ = keys
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(Misuse, match="already"):
        make_keys(folder, [0, 1])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(("nodes", "days"), [([], 1), ([-1], 1), ([0], 0)])
def test_keys_for_nobody_are_misuse(tmp_path, nodes, days):
    with pytest.raises(Misuse):
        make_keys(tmp_path / "keys", nodes, days=days)


def test_a_fingerprint_is_of_a_certificate():
    with pytest.raises(BadArtefact):
        fingerprint(b"nothing")


@pytest.mark.parametrize("shift", [-3, 3])
def test_a_certificate_of_another_time_is_refused(keys, monkeypatch, shift):
    folder, _ = keys
    pins = make_keys(folder.parent / "short", [0], days=1)
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=shift)
    monkeypatch.setattr(identity, "_now", lambda: later)
    assert code_of(folder.parent / "short", 0, pins) == "MTH-0922"


def test_an_authority_that_is_no_certificate_is_named(keys):
    folder, pins = keys
    (folder / AUTHORITY).write_text("no certificate")
    with pytest.raises(BadArtefact, match=AUTHORITY) as caught:
        Identity.load(folder, 1, pins)
    assert caught.value.code == "MTH-0920"
