"""Commitments, their tree of keys, and their timestamps."""

import hashlib
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ownership_case import AUTHORITY, CLASSES, RESPONSE, SECRET, SPEC, STRANGER, commitment

from mithridate.core.artefacts import as_json
from mithridate.core.errors import BadArtefact, Misuse
from mithridate.ownership import merkle
from mithridate.ownership.canonical import canonical, read_fraction
from mithridate.ownership.commitment import Commitment, class_hash, commit, leaves
from mithridate.ownership.keys import subseed
from mithridate.ownership.secret import Secret
from mithridate.ownership.timestamp import open_stamp, read_stamp, write_request

VALUE = "c76217d66e2ee66873fccd4dc5b683f472f4a971a231000ed954d937758fac22"
ROOT = "964ddabedaa0863d74dd4e186bafd0ac50ed67d670514397cd073a50a49aaded"
CONTENTS = [bytes([number]) * 32 for number in range(20)]


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def test_small_trees_by_hand():
    a, b, c = (sha(b"taggant/v1/leaf", content) for content in CONTENTS[:3])
    assert merkle.root(CONTENTS[:1]) == a
    assert merkle.root(CONTENTS[:2]) == sha(b"taggant/v1/node", a, b)
    assert merkle.root(CONTENTS[:3]) == sha(b"taggant/v1/node", sha(b"taggant/v1/node", a, b), c)
    assert merkle.proof(CONTENTS[:3], 0, 1) == (b, c)
    assert merkle.proof(CONTENTS[:3], 0, 3) == ()


@given(count=st.integers(1, 20), data=st.data())
def test_a_proof_is_of_these_leaves_at_these_places(count, data):
    start = data.draw(st.integers(0, count - 1))
    stop = data.draw(st.integers(start + 1, count))
    contents = CONTENTS[:count]
    root, revealed, proof = merkle.root(contents), contents[start:stop], merkle.proof(contents, start, stop)
    assert merkle.verified(root, count, start, revealed, proof)
    assert not merkle.verified(root, count, start, revealed, (*proof, root))
    assert not merkle.verified(root, count, start + 1, revealed, proof)
    assert not merkle.verified(root, count, start, [*revealed[:-1], b"other"], proof)
    assert not merkle.verified(sha(root), count, start, revealed, proof)
    if proof:
        assert not merkle.verified(root, count, start, revealed, proof[:-1])
        assert not merkle.verified(root, count, start, revealed, (*proof[:-1], sha(proof[-1])))
    if len(revealed) > 1:
        assert not merkle.verified(root, count, start, revealed[::-1], proof)
    hidden = [content for place, content in enumerate(contents) if not start <= place < stop]
    assert not any(content in b"".join(proof) for content in hidden)


def test_a_node_cannot_pass_for_a_leaf():
    a, b = (merkle.leaf(content) for content in CONTENTS[:2])
    assert not merkle.verified(merkle.root(CONTENTS[:2]), 1, 0, [a + b], ())


def test_no_leaves_and_ranges_that_are_not_there():
    for attempt in (
        lambda: merkle.root([]),
        lambda: merkle.proof(CONTENTS, 2, 2),
        lambda: merkle.proof(CONTENTS, 0, 21),
    ):
        with pytest.raises(Misuse):
            attempt()
    assert not merkle.verified(merkle.root(CONTENTS), 20, -1, CONTENTS[:2], ())
    assert not merkle.verified(merkle.root(CONTENTS), 20, 0, [], ())


def test_a_commitment_is_what_it_always_was():
    assert (commitment().root, commitment().value) == (ROOT, VALUE)
    facts = {key: item for key, item in commitment().document().items() if key not in ("schema", "value", "root")}
    assert sha(b"taggant/v1/commit", bytes.fromhex(ROOT), sha(canonical(facts))).hex() == VALUE


def test_every_parameter_changes_the_commitment():
    base = commitment()
    changed = [
        replace(base, spec=replace(base.spec, **{name: value}))
        for name, value in {
            "topk": 1,
            "classes": 6,
            "side": 1,
            "channels": 3,
            "height": 4,
            "width": 5,
            "keys": 12,
        }.items()
    ]
    changed += [replace(base, **{name: "22" * 32}) for name in ("data", "classes", "public_key", "root")]
    changed += [replace(base, alpha=Fraction(1, 100)), replace(base, dispute=2), replace(base, beacon="round 8")]
    values = {base.value, *(other.value for other in changed)}
    assert len(values) == 1 + len(changed) == 15


def test_another_secret_gives_another_commitment():
    other = commit(Secret(bytes(32)), SPEC, data="11" * 32, classes=CLASSES)
    assert other.root != ROOT


def test_a_commitment_survives_its_file_and_tells_nothing_secret(tmp_path):
    path = tmp_path / "commitment.json"
    commitment().write(path)
    assert Commitment.read(path) == commitment()
    assert SECRET.seed.hex() not in path.read_text()


def test_every_altered_entry_of_a_commitment_is_found(tmp_path):
    document = commitment().document()
    changes = {
        "schema": "mithridate.ownership-commitment/2",
        "data": "22" * 32,
        "classes": "2" * 63,
        "alpha": "2/2000",
        "dispute": True,
        "beacon": 3,
        "public_key": "G" * 64,
        "root": None,
        "value": "0" * 64,
        "spec": {**document["spec"], "topk": 3},
    }
    assert set(changes) == set(document)
    others = [{**document, name: value} for name, value in changes.items()]
    others += [
        {**document, "more": 1},
        [],
        {**document, "spec": {**document["spec"], "more": 1}},
        {**document, "spec": []},
    ]
    others += [{**document, "spec": {**document["spec"], "keys": []}}, {**document, "alpha": 0.001}]
    for other in others:
        with pytest.raises(BadArtefact) as error:
            Commitment.of(other)
        assert error.value.code in ("MTH-1007", "MTH-1014")
    path = tmp_path / "commitment.json"
    path.write_bytes(as_json(document).replace(b"round 7", b"round 8"))
    with pytest.raises(BadArtefact, match="was altered"):
        Commitment.read(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": CLASSES[:4]}, "4 were named"),
        ({"classes": ["a", "b", "c", "d", "a"]}, "twice"),
        ({"data": "abc"}, "64 hexadecimal digits"),
        ({"alpha": 0}, "between 0 and 1"),
        ({"alpha": "nan"}, "number between 0 and 1"),
        ({"dispute": 4}, "must divide"),
        ({"dispute": 0}, "must divide"),
        ({"beacon": " "}, "1 to 200"),
    ],
)
def test_what_cannot_be_committed_to(change, words):
    given_ = {"data": "11" * 32, "classes": CLASSES, **change}
    with pytest.raises(Misuse, match=words) as error:
        commit(SECRET, SPEC, **given_)
    assert error.value.code == "MTH-1006"


def test_p_values_stay_printable():
    with pytest.raises(Misuse, match="more than 4000 digits"):
        replace(commitment(), spec=replace(SPEC, keys=6000), dispute=6000)
    assert replace(commitment(), spec=replace(SPEC, keys=6000), dispute=3000).num_disputes == 2


def test_whoever_checks_makes_no_more_pixels_than_fit():
    large = replace(SPEC, keys=128, height=2048, width=2048, channels=4)
    with pytest.raises(Misuse, match="for one dispute"):
        replace(commitment(), spec=large, dispute=128)
    assert replace(commitment(), spec=large, dispute=64).num_disputes == 2
    with pytest.raises(Misuse, match="may have 16,777,216") as error:
        replace(large, height=2049)
    assert error.value.code == "MTH-1005"


def test_the_owner_is_in_every_leaf():
    public = SECRET.public_key
    assert leaves(SECRET, 2) == [bytes.fromhex(public) + subseed(SECRET.seed, index) for index in range(2)]


def test_a_level_is_the_decimal_number_that_is_written():
    assert commit(SECRET, SPEC, data="11" * 32, classes=CLASSES, alpha=0.05).alpha == Fraction(1, 20)


def test_the_order_of_classes_counts():
    assert class_hash(["a", "b"]) != class_hash(["b", "a"])
    assert class_hash(["a", "b"]) != class_hash(["a,b"])


def test_canonical_text():
    assert canonical({"b": [1, None, True], "a": "é\n"}) == b'{"a":"\\u00e9\\n","b":[1,null,true]}'
    for bad in (1.0, {"x": {1: 2}}, [b"x"], {"x": (1, 2.5)}):
        with pytest.raises(Misuse) as error:
            canonical(bad)
        assert error.value.code == "MTH-1014"


@pytest.mark.parametrize("text", ["2/4", "1", "1/0", "-1/2", "01/2", "1/2 ", "x", 3, None, "1" * 5000 + "/3", "1/02"])
def test_only_fractions_in_lowest_terms(text):
    with pytest.raises(BadArtefact):
        read_fraction(text)


def test_a_request_is_for_the_commitment(tmp_path):
    path = tmp_path / "commitment.tsq"
    write_request(VALUE, path)
    request = path.read_bytes()
    assert hashlib.sha256(VALUE.encode()).digest() in request
    again = tmp_path / "again.tsq"
    write_request(VALUE, again)
    assert again.read_bytes() == request


def test_a_timestamp_says_when_and_who_vouches(tmp_path):
    path = tmp_path / "commitment.tsr"
    path.write_bytes(RESPONSE)
    stamp = read_stamp(path, VALUE)
    assert (stamp.time.isoformat(), stamp.verified) == ("2026-11-21T18:50:00+00:00", False)
    assert read_stamp(path, VALUE, authorities=[STRANGER, AUTHORITY]).verified
    assert open_stamp(RESPONSE, VALUE, authorities=[STRANGER + AUTHORITY]).verified


def test_timestamps_that_do_not_hold():
    with pytest.raises(BadArtefact, match="something else") as error:
        open_stamp(RESPONSE, ROOT)
    assert error.value.code == "MTH-1008"
    for authority, words in ((STRANGER, "not signed by these"), (b"nonsense", "is none")):
        with pytest.raises(BadArtefact, match=words) as error:
            open_stamp(RESPONSE, VALUE, authorities=[authority])
        assert error.value.code == "MTH-1009"
    refusal = bytes.fromhex("30053003020102")
    for response in (b"", b"nonsense", RESPONSE[:-1], RESPONSE + b"x", refusal):
        with pytest.raises(BadArtefact) as error:
            open_stamp(response, VALUE)
        assert error.value.code == "MTH-1008"
    with pytest.raises(BadArtefact, match="rejection"):
        open_stamp(refusal, VALUE)


def test_a_damaged_timestamp_is_refused_or_says_the_same():
    refused = 0
    for place in range(len(RESPONSE)):
        damaged = RESPONSE[:place] + bytes([RESPONSE[place] ^ 0x15]) + RESPONSE[place + 1 :]
        try:
            assert open_stamp(damaged, VALUE, authorities=[AUTHORITY]).time.isoformat() == "2026-11-21T18:50:00+00:00"
        except BadArtefact:
            refused += 1
    assert refused > 0.9 * len(RESPONSE)
