"""Keys and secrets: what is derived stays the same for ever, labels are uniform, and the file keeps the secret."""

import collections
import hashlib
import os
import stat

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ownership_case import BEACON, SECRET, SPEC
from scipy import stats

from mithridate.core.errors import BadArtefact, Misuse
from mithridate.ownership.keys import KeySpec, derive, key_image, key_label, key_of, subseed
from mithridate.ownership.secret import Secret, signed_by

SEED = bytes(range(32))
GOLDEN_SUBSEEDS = {
    0: "7bf6d18bcf8266a675abfbaa21f35d79a63ebb99f904d87d059f9f8dc676a0b2",
    5: "0eb26efe6b1ef4ebc9eb658662f6c14b18dc6e8205d15f18aef76c1c9144a3d6",
}
GOLDEN_WITHOUT_BEACON = [
    (1, "0404dada0404dadaa0a06060"),
    (2, "0c0cdada0c0cdadad7d7bfbf"),
    (4, "24240f0f24240f0f52524747"),
    (0, "58585858585858589d9d5d5d"),
    (1, "303034343030343484846969"),
    (2, "020276760202767600001313"),
]
GOLDEN_WITH_BEACON = [
    (4, "92925d5d92925d5d03035555"),
    (3, "32322f2f32322f2f6b6b6767"),
    (0, "a1a1d3d3a1a1d3d3f2f26868"),
    (1, "a0a0d9d9a0a0d9d96060e4e4"),
    (2, "eaea9393eaea9393ebeb7777"),
    (3, "2626f0f02626f0f01e1ea6a6"),
]


def test_subseeds_are_what_they_always_were():
    assert {index: subseed(SEED, index).hex() for index in GOLDEN_SUBSEEDS} == GOLDEN_SUBSEEDS


@pytest.mark.parametrize(("beacon", "golden"), [(b"", GOLDEN_WITHOUT_BEACON), (BEACON, GOLDEN_WITH_BEACON)])
def test_keys_are_what_they_always_were(beacon, golden):
    assert [(key.label, key.image.tobytes().hex()) for key in derive(SEED, beacon, SPEC)] == golden


def test_labels_of_a_thousand_classes_are_what_they_always_were():
    labels = [key_label(subseed(SEED, index), b"", 1000) for index in range(10)]
    assert labels == [871, 752, 504, 210, 406, 512, 578, 694, 936, 969]


def test_the_signing_key_is_what_it_always_was():
    assert SECRET.public_key == "dbf4d01f2fb7318a1e351ea0ed9e7a9c7f9822ddca61b7ab0d433e8a71fccfd3"


def obvious_label(sub: bytes, beacon: bytes, classes: int) -> int:
    """The first of the stream's words that is below the largest multiple of the classes."""
    stream = hashlib.shake_256(sub + beacon + b"lab").digest(4000)
    words = [int.from_bytes(stream[at : at + 4], "big") for at in range(0, 4000, 4)]
    return next(word for word in words if word < 2**32 // classes * classes) % classes


@given(seed=st.binary(min_size=32, max_size=32), beacon=st.binary(max_size=64), classes=st.integers(2, 2**32 - 1))
def test_a_label_is_the_first_word_that_is_not_rejected(seed, beacon, classes):
    label = key_label(seed, beacon, classes)
    assert label == obvious_label(seed, beacon, classes)
    assert 0 <= label < classes


def test_rejection_happens():
    classes = 2**31 + 1
    first = [int.from_bytes(hashlib.shake_256(subseed(SEED, i) + b"lab").digest(4), "big") for i in range(20)]
    assert sum(word >= classes for word in first) > 3
    assert all(
        key_label(subseed(SEED, i), b"", classes) == obvious_label(subseed(SEED, i), b"", classes) for i in range(20)
    )


@given(
    side=st.integers(1, 6),
    height=st.integers(6, 20),
    width=st.integers(6, 20),
    channels=st.integers(1, 3),
    index=st.integers(0, 3),
)
def test_an_image_is_the_noise_in_whole_blocks(side, height, width, channels, index):
    spec = KeySpec(keys=4, topk=1, classes=2, side=side, channels=channels, height=height, width=width)
    sub = subseed(SEED, index)
    image = key_image(sub, BEACON, spec)
    noise = hashlib.shake_256(sub + BEACON + b"img").digest(channels * side * side)
    assert image.shape == (channels, height, width)
    assert image.dtype == np.uint8
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                assert image[c, i, j] == noise[(c * side + i * side // height) * side + j * side // width]


def test_labels_are_uniform_and_drawn_with_replacement():
    labels = [key_label(subseed(SEED, index), b"", 10) for index in range(5000)]
    counts = collections.Counter(labels)
    assert stats.chisquare([counts[label] for label in range(10)]).pvalue > 1e-3
    tens = [set(labels[at : at + 10]) for at in range(0, 5000, 10)]
    assert sum(len(found) == 10 for found in tens) <= 3  # without replacement all 500 would be; expected 0.18
    pairs = np.zeros((10, 10))
    np.add.at(pairs, (labels[:-1], labels[1:]), 1)
    assert stats.chi2_contingency(pairs).pvalue > 1e-3


def test_labels_are_independent_of_images():
    spec = KeySpec(keys=2000, topk=1, classes=4, side=1, channels=1, height=1, width=1)
    table = np.zeros((4, 4))
    for key in derive(SEED, BEACON, spec):
        table[key.label, key.image[0, 0, 0] // 64] += 1
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_a_revealed_subseed_gives_the_key_again_and_a_part_is_the_same_as_in_the_whole():
    whole = derive(SEED, BEACON, SPEC)
    for key in derive(SEED, BEACON, SPEC, which=[4, 1]):
        again = key_of(key.index, subseed(SEED, key.index), BEACON, SPEC)
        assert (
            (again.label, again.digest) == (key.label, key.digest) == (whole[key.index].label, whole[key.index].digest)
        )
    assert whole[2].digest == hashlib.sha256(whole[2].image.tobytes()).hexdigest()


def test_what_a_key_shows_holds_no_label():
    key = derive(SEED, BEACON, SPEC)[0]
    assert repr(key) == "Key(index=0)"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"topk": 5}, "MTH-1005"),
        ({"side": 4}, "MTH-1005"),
        ({"keys": 0}, "MTH-0110"),
        ({"classes": 1}, "MTH-0110"),
        ({"family": "real"}, "MTH-0110"),
        ({"keys": True}, "MTH-0110"),
    ],
)
def test_keys_that_cannot_be(change, code):
    good = {"keys": 6, "topk": 2, "classes": 5, "side": 2, "channels": 1, "height": 3, "width": 4}
    with pytest.raises(Misuse) as error:
        KeySpec(**{**good, **change})
    assert error.value.code == code


def test_seeds_of_another_length_and_keys_that_are_not_there():
    for attempt in (lambda: subseed(b"short", 0), lambda: key_label(b"x", b"", 3), lambda: Secret(b"x" * 31)):
        with pytest.raises(Misuse, match="32 bytes"):
            attempt()
    with pytest.raises(Misuse, match="from 0 to 5"):
        derive(SEED, b"", SPEC, which=[6])


def test_a_secret_survives_its_file_which_only_its_owner_reads(tmp_path):
    path = tmp_path / "deep" / "secret.json"
    before = os.umask(0)
    try:
        SECRET.write(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Secret.read(path) == SECRET
    assert [found.name for found in path.parent.iterdir()] == ["secret.json"]


def test_a_secret_is_never_overwritten(tmp_path):
    path = tmp_path / "secret.json"
    SECRET.write(path)
    before = path.read_bytes()
    with pytest.raises(Misuse) as error:
        Secret.new().write(path)
    assert error.value.code == "MTH-1002"
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
    dangling = tmp_path / "link"
    dangling.symlink_to(tmp_path / "nowhere")
    with pytest.raises(Misuse):
        SECRET.write(dangling)


def test_a_secret_that_others_may_read_is_refused(tmp_path):
    path = tmp_path / "secret.json"
    SECRET.write(path)
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        with pytest.raises(BadArtefact) as error:
            Secret.read(path)
        assert error.value.code == "MTH-1003"
        assert "chmod 600" in error.value.hint


def test_a_lost_secret_says_what_is_no_longer_possible(tmp_path):
    with pytest.raises(BadArtefact) as error:
        Secret.read(tmp_path / "secret.json")
    assert error.value.code == "MTH-1001"
    assert "no certificate signed" in error.value.message
    assert "Certificates that were issued stay valid" in error.value.message


def test_every_damaged_byte_of_a_secret_is_found_or_changes_nothing(tmp_path):
    path = tmp_path / "secret.json"
    SECRET.write(path)
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            assert Secret.read(path) == SECRET
        except BadArtefact as error:
            assert SECRET.seed.hex()[:16] not in str(error)


def test_nothing_shows_the_seed():
    assert repr(SECRET) == str(SECRET) == "Secret()"
    assert SECRET.seed.hex() not in f"{SECRET!r} {vars(SECRET.__class__)!r}"


def test_secrets_are_new():
    assert len({Secret.new().seed for _ in range(20)}) == 20


def test_signatures_are_of_one_key_and_one_message():
    signature = SECRET.sign(b"message")
    assert signed_by(SECRET.public_key, b"message", signature)
    assert not signed_by(SECRET.public_key, b"massage", signature)
    assert not signed_by(Secret(bytes(32)).public_key, b"message", signature)
    assert not signed_by(SECRET.public_key, b"message", signature[:-1])


def test_a_missing_extra_is_named(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Misuse, match="cryptography, rfc3161-client missing") as error:
        SECRET.sign(b"message")
    assert error.value.code == "MTH-1000"
    assert "mithridate[ownership]" in error.value.hint
