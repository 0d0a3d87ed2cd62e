"""Diaries and certificates: what is true passes, whatever is altered fails with a reason, and nothing secret leaks."""

import copy
import json
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from ownership_case import (
    AUTHORITY,
    BEACON,
    LATER,
    RESPONSE,
    SECRET,
    SPEC,
    STRANGER,
    answers,
    certificate,
    commitment,
)

from mithridate.core.errors import BadArtefact, Misuse
from mithridate.ownership import certificate as certificates
from mithridate.ownership import checking, merkle
from mithridate.ownership import diary as diaries
from mithridate.ownership.canonical import canonical
from mithridate.ownership.certificate import issue, to_sign, weigh, write
from mithridate.ownership.checking import check, check_bytes, check_file, revealed_keys
from mithridate.ownership.commitment import commit, leaves
from mithridate.ownership.diary import Diary, digest, head
from mithridate.ownership.keys import KeySpec, derive, subseed
from mithridate.ownership.secret import Secret
from mithridate.ownership.timestamp import open_stamp


@pytest.fixture(autouse=True)
def _later(monkeypatch):
    monkeypatch.setattr(diaries, "now", lambda: LATER)
    monkeypatch.setattr(certificates, "now", lambda: LATER)


@pytest.fixture
def stamp():
    return open_stamp(RESPONSE, commitment().value, authorities=[AUTHORITY])


@pytest.fixture
def good(tmp_path, stamp):
    return certificate(tmp_path, commitment(), stamp=stamp)


def signed(document):
    """Return the document with a fresh signature of its owner, who now cheats."""
    return {**document, "signature": SECRET.sign(to_sign(document)).hex()}


def test_a_true_certificate_is_valid(good):
    report = check(good, authorities=[AUTHORITY])
    assert (report.valid, report.reasons) == (True, ())
    assert report.evidence.hits == report.evidence.keys == 3
    assert report.evidence.p_value == Fraction(2, 5) ** 3
    assert report.evidence.adjusted == report.evidence.resistant == 2 * Fraction(2, 5) ** 3
    assert not report.shown  # 3 keys of top 2 of 5 have no power at 1/1000
    assert good["p_value"] == {"exact": "8/125", "log10": "-1.193820"}
    assert good["timestamp"]["time"] == "2026-11-21T18:50:00Z"


def test_a_certificate_survives_its_file(tmp_path, good):
    path = tmp_path / "certificate.json"
    write(path, good)
    assert check_file(path, authorities=[AUTHORITY]).valid
    assert check_bytes(canonical(good)).valid
    assert "no valid JSON" in check_bytes(b"{").reasons[0]
    with pytest.raises(BadArtefact):
        check_file(tmp_path / "nothing.json")


def test_enough_hits_show_ownership_and_sceptics_want_a_beacon(tmp_path):
    spec = KeySpec(keys=20, topk=1, classes=1000, side=1, channels=1, height=1, width=1)
    classes = [str(number) for number in range(1000)]
    for beacon, sceptics in (("none", True), ("round 1", False)):
        committed = commit(SECRET, spec, data="11" * 32, classes=classes, beacon=beacon)
        value = b"" if beacon == "none" else BEACON
        run = Diary(tmp_path / beacon, committed).begin("a model")
        keys = derive(SECRET.seed, value, spec)
        queries = [certificates.Query.of(key, [key.label], time=LATER) for key in keys]
        document = issue(SECRET, committed, run, queries, beacon=value)
        report = check(document)
        assert (report.valid, report.shown, report.shown_to_sceptics) == (True, True, True)
        assert report.evidence.p_value == Fraction(1, 1000**20)
        assert document["adjusted"]["exact"] == f"1/{1000**20 // 2}"
        # 2^64 times more: neither has a beacon after a trusted timestamp.
        assert report.evidence.resistant == Fraction(2 << 64, 1000**20)
        assert any("no beacon" in caveat for caveat in report.caveats) == sceptics
        assert any("no timestamp" in caveat for caveat in report.caveats)
        few = [certificates.Query.of(key, [key.label] if key.index < 5 else [], time=LATER) for key in keys]
        run = Diary(tmp_path / beacon, committed).begin("another model")
        report = check(issue(SECRET, committed, run, few, beacon=value))
        assert (report.valid, report.shown, report.shown_to_sceptics) == (True, True, False)


def test_sceptics_go_by_the_timestamp_only_if_somebody_whom_they_trust_vouches_for_it(tmp_path, monkeypatch):
    committed = replace(commitment(), alpha=Fraction(1, 3))
    response = open_stamp(RESPONSE, commitment().value)
    monkeypatch.setattr(checking, "open_stamp", lambda *args, **named: response)
    document = certificate(tmp_path, committed, stamp=response)
    assert document["resistant"] == document["adjusted"]
    found = [check(document, authorities=trusted) for trusted in ([], [AUTHORITY])]
    assert [(report.shown, report.shown_to_sceptics) for report in found] == [(True, False), (True, True)]


def test_a_miss_is_an_empty_or_foreign_answer(tmp_path):
    committed = commitment("none")
    run = Diary(tmp_path / "diary", committed).begin("a model")
    keys = derive(SECRET.seed, b"", SPEC, which=range(3))
    returned = [[], [-1, -1], [-1, keys[2].label]]
    queries = [certificates.Query.of(key, answer, time=LATER) for key, answer in zip(keys, returned, strict=True)]
    document = issue(SECRET, committed, run, queries)
    assert document["hits"] == 1
    assert check(document).valid


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 17])
def test_every_flipped_byte_fails_with_a_reason(tmp_path, step):
    committed = commitment("none", dispute=1)
    run = Diary(tmp_path / "diary", committed).begin("m")
    data = canonical(issue(SECRET, committed, run, answers(committed, (True,), beacon=b"")))
    assert check_bytes(data).valid
    for place in range(0, len(data), step):
        # The second changes the case of letters, which must not pass for the same hexadecimal digits.
        flipped = data[place] ^ (0x01 if place % 2 else 0x20)
        report = check_bytes(data[:place] + bytes([flipped]) + data[place + 1 :])
        assert not report.valid, (place, data[place - 20 : place + 20])
        assert report.reasons
        assert all(report.reasons)


def altered(document, change):
    other = copy.deepcopy(document)
    change(other)
    return other


def reorder(document):
    document["queries"][0], document["queries"][1] = document["queries"][1], document["queries"][0]


def replace_key(document):
    document["revealed"][1] = "ab" * 32


def swap_keys(document):
    document["revealed"][0], document["revealed"][1] = document["revealed"][1], document["revealed"][0]


def replace_image(document):
    document["queries"][1]["image"] = "ab" * 32


def change_k(document):
    document["test"]["topk"] = 3


def change_k_everywhere(document):
    document["test"]["topk"] = document["runs"]["record"]["topk"] = document["commitment"]["spec"]["topk"] = 3


def change_k_in_test_and_diary(document):
    document["test"]["topk"] = document["runs"]["record"]["topk"] = 3


def fewer_keys(document):
    document["queries"].pop()
    document["revealed"].pop()
    document["test"]["keys"] = document["runs"]["record"]["keys"] = 2


def drop_query(document):
    document["queries"].pop()


def shorten(document):
    document["runs"]["chain"].pop(0)


def shorten_with_head(document):
    document["runs"]["chain"].pop(0)
    document["runs"]["head"] = head(document["commitment"]["value"], document["runs"]["chain"])


def renumber(document):
    shorten_with_head(document)
    document["runs"]["record"]["number"] = 1


def add_hit(document):
    document["hits"] += 1


def better_p(document):
    document["p_value"]["exact"] = "1/1000000"


def better_adjusted(document):
    document["adjusted"] = document["p_value"]


def better_resistant(document):
    document["resistant"] = document["p_value"]


def other_words(document):
    document["statement"] = document["statement"].replace("is not rejected", "is rejected")


def other_beacon(document):
    document["beacon"]["value"] = "08" * 32


def no_beacon(document):
    document["beacon"]["value"] = ""


def other_round(document):
    document["beacon"]["id"] = "test beacon round 8"


def no_timestamp(document):
    document["timestamp"]["kind"] = "none"


def other_timestamp(document):
    document["timestamp"]["time"] = "2020-01-01T00:00:00Z"


def damaged_timestamp(document):
    document["timestamp"]["response"] = document["timestamp"]["response"][4:]


def asked_before(document):
    document["runs"]["record"]["time"] = "2026-11-01T00:00:00Z"


def backwards(document):
    document["queries"][2]["time"] = "2026-11-30T00:00:00Z"


def no_time(document):
    document["queries"][2]["time"] = "yesterday"


def outside(document):
    document["queries"][0]["returned"] = [7, 8]


def many(document):
    document["queries"][0]["returned"] = [0, 1, 2, 3, 4]


def other_owner(document):
    document["public_key"] = Secret(bytes(32)).public_key


def later_block(document):
    document["test"]["first"] = document["runs"]["record"]["first"] = 3


def cut_proof(document):
    document["proof"].pop()


def more(document):
    document["comment"] = "trust me"


def half_number(document):
    document["hits"] = 3.0


CHEATS = {
    reorder: "queries are not of the revealed keys in their order",
    replace_key: "revealed keys are not those of the commitment",
    swap_keys: "revealed keys are not those of the commitment",
    replace_image: "key 1 was asked with another image",
    change_k: "the test has topk 3, and 2 was committed",
    change_k_everywhere: "was altered: its content has the value",
    change_k_in_test_and_diary: "diary has topk 3, and 2 was committed",
    fewer_keys: "none of the blocks of 3",
    drop_query: "queries are not of the revealed keys",
    shorten: "diary was cut",
    shorten_with_head: "diary was cut",
    renumber: "not the last of the chain",
    add_hit: "hits is not what follows",
    better_p: "p_value is not what follows",
    better_adjusted: "adjusted is not what follows",
    better_resistant: "resistant is not what follows",
    other_words: "statement is not what follows",
    other_beacon: "asked with another image",
    no_beacon: "beacon has no value",
    other_round: "the beacon is 'test beacon round 8'",
    no_timestamp: "says that there is none, and holds one",
    other_timestamp: "timestamp is of 2026-11-21T18:50:00Z",
    damaged_timestamp: "timestamp does not hold",
    asked_before: "asked before the commitment's timestamp",
    backwards: "times run backwards",
    no_time: "no time in UTC",
    outside: "not at most 2 of 5 classes",
    many: "not at most 2 of 5 classes",
    other_owner: "another key than the one that was committed",
    later_block: "revealed keys are not those",
    cut_proof: "revealed keys are not those",
    more: "comment",
    half_number: "hits",
}


@pytest.fixture
def second(tmp_path, stamp):
    """The certificate of a second verification."""
    committed = commitment()
    Diary(tmp_path / "diary", committed).begin("an earlier model")
    return certificate(tmp_path, committed, (True, True, False), stamp=stamp)


@pytest.mark.parametrize("cheat", CHEATS, ids=lambda cheat: cheat.__name__)
def test_what_is_altered_fails_with_its_reason_even_if_the_owner_signs_it(second, cheat):
    assert check(second, authorities=[AUTHORITY]).valid
    document = altered(second, cheat)
    report = check(document, authorities=[AUTHORITY])
    assert not report.valid
    if not any("value" in reason or "comment" in reason or "hits:" in reason for reason in report.reasons):
        assert any("signature" in reason for reason in report.reasons)
    if cheat is not half_number:
        document = signed(document)
    report = check(document, authorities=[AUTHORITY])
    assert not report.valid
    assert CHEATS[cheat] in "; ".join(report.reasons)
    assert not report.shown


def test_somebody_else_cannot_take_a_certificate_over(good):
    thief = Secret(bytes(32))
    document = {**good, "public_key": thief.public_key}
    document["commitment"] = {**good["commitment"], "public_key": thief.public_key}
    report = check({**document, "signature": thief.sign(to_sign(document)).hex()})
    assert not report.valid
    assert "was altered" in report.reasons[0]


@pytest.mark.parametrize("garbage", [None, [], {}, "text", 3, {"schema": "x"}, {"runs": {"record": None}}])
def test_what_is_no_certificate_fails_with_reasons(garbage):
    report = check(garbage)
    assert not report.valid
    assert report.reasons
    assert report.evidence is None
    with pytest.raises(BadArtefact):
        revealed_keys(garbage)


def test_another_document_is_one_reason():
    report = check(commitment().document())
    assert report.reasons == (
        "it is no certificate of mithridate.ownership-certificate/1: its schema is 'mithridate.ownership-commitment/1'",
    )


def test_no_entry_of_any_kind_makes_the_check_stumble(good):
    """Each value is replaced by values of other kinds; the answer is a reason, never an exception."""

    def places(value, path=()):
        yield path
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, item in items:
            yield from places(item, (*path, key))

    tried = 0
    for path in list(places(good))[1:]:
        for other in (None, -1, 10**30, "", "0" * 64, [], {}, True, 0.5, "1/1"):
            document = copy.deepcopy(good)
            inner = document
            for key in path[:-1]:
                inner = inner[key]
            if inner[path[-1]] == other and type(inner[path[-1]]) is type(other):
                continue
            inner[path[-1]] = other
            report = check(document)
            assert not report.valid
            assert report.reasons
            tried += 1
    assert tried > 500


def test_timestamps_are_checked_against_those_whom_the_reader_trusts(good):
    unchecked = check(good)
    assert unchecked.valid
    assert any("signature was not checked" in caveat for caveat in unchecked.caveats)
    trusted = check(good, authorities=[AUTHORITY])
    assert trusted.valid
    assert not any("signature was not checked" in caveat for caveat in trusted.caveats)
    stranger = check(good, authorities=[STRANGER])
    assert not stranger.valid
    assert "not signed by these authorities" in stranger.reasons[0]


def test_not_a_byte_of_an_unrevealed_key_is_in_a_certificate(good, tmp_path):
    text = canonical(good).decode()
    hidden = [SECRET.seed, *(subseed(SECRET.seed, index) for index in range(3, 6))]
    for secret in hidden:
        for start in range(0, 32, 4):
            assert secret[start : start + 4].hex() not in text
    assert all(subseed(SECRET.seed, index).hex() in text for index in range(3))
    diary = (tmp_path / "diary").read_text()
    assert not any(subseed(SECRET.seed, index).hex() in diary for index in range(6))
    # Sibling hashes are of whole leaves, which have 256 bits that nobody can guess.
    tree = leaves(SECRET, 6)
    assert good["proof"] == [item.hex() for item in merkle.proof(tree, 0, 3)]


def test_a_third_party_gets_the_keys_to_ask_again(good):
    committed, found = revealed_keys(good)
    assert committed == commitment()
    expected = derive(SECRET.seed, BEACON, SPEC, which=range(3))
    assert [(key.index, key.label, key.digest) for key in found] == [(k.index, k.label, k.digest) for k in expected]
    with pytest.raises(BadArtefact, match="not those of the commitment"):
        revealed_keys(altered(good, replace_key))


def test_the_order_of_keys_leaves_the_p_value_unchanged():
    committed = commitment()
    labels, returned = [0, 1, 2], [[0, 1], [3], []]
    forward = weigh(committed, labels, returned, 1, grindable=True)
    assert forward == weigh(committed, labels[::-1], returned[::-1], 1, grindable=True)
    assert forward.resistant == 1


def test_a_diary_counts_every_verification_and_its_chain_grows(tmp_path):
    diary = Diary(tmp_path / "diary", commitment())
    runs = [diary.begin(f"model {number}") for number in range(3)]
    assert [run.number for run in runs] == [1, 2, 3]
    assert runs[2].chain[:2] == runs[1].chain
    assert diary.runs() == tuple(runs)
    assert runs[0].chain[0] == digest(runs[0].record)
    assert len({run.record["salt"] for run in runs}) == 3
    assert [run.number for run in Diary(tmp_path / "diary", commitment()).runs()] == [1, 2, 3]


def test_blocks_of_keys_are_used_in_their_order(tmp_path):
    diary = Diary(tmp_path / "diary", commitment())
    with pytest.raises(Misuse, match="comes after 1 verifications, and the diary has 0") as error:
        diary.begin("a model", block=1)
    assert error.value.code == "MTH-1012"
    assert list(diary.begin("a model").keys) == [0, 1, 2]
    assert list(diary.begin("a model", block=1).keys) == [3, 4, 5]
    with pytest.raises(Misuse, match="numbered from 0 to 1"):
        diary.begin("a model", block=2)
    with pytest.raises(Misuse, match="who is asked"):
        diary.begin(" ")
    assert len(diary.runs()) == 2


def test_a_later_dispute_reveals_other_keys_only(tmp_path):
    committed = commitment("none")
    diary = Diary(tmp_path / "diary", committed)
    diary.begin("a model")
    run = diary.begin("a model", block=1)
    document = issue(SECRET, committed, run, answers(committed, (True,) * 3, 1, b""))
    assert check(document).valid
    assert not any(subseed(SECRET.seed, index).hex() in canonical(document).decode() for index in range(3))


def test_an_altered_diary_is_found(tmp_path):
    path = tmp_path / "diary"
    diary = Diary(path, commitment())
    for number in range(3):
        diary.begin(f"model {number}")
    with pytest.raises(BadArtefact) as error:
        Diary(path, commitment("none")).begin("a model")
    assert error.value.code == "MTH-1013"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], *lines[2:]]))
    with pytest.raises(BadArtefact) as error:
        diary.begin("a model")
    assert error.value.code == "MTH-1013"
    path.write_bytes(b"".join(lines).replace(b"model 1", b"model 7"))
    with pytest.raises(BadArtefact):
        diary.begin("a model")


def test_a_torn_tail_of_a_diary_is_cut(tmp_path):
    path = tmp_path / "diary"
    diary = Diary(path, commitment())
    diary.begin("a model")
    whole = path.read_bytes()
    diary.begin("another model")
    path.write_bytes(path.read_bytes()[:-5])
    assert diary.begin("a third model").number == 2
    assert path.read_bytes().startswith(whole)


def test_two_diaries_are_found_by_whoever_has_two_certificates(tmp_path):
    first, other = tmp_path / "1", tmp_path / "2"
    first.mkdir()
    other.mkdir()
    committed = commitment("none")
    one = certificate(first, committed, beacon=b"")
    two = certificate(first, committed, beacon=b"", target="a second model")
    secret_diary = certificate(other, committed, beacon=b"")
    assert check(two, earlier=[one]).valid
    assert check(one, earlier=[two]).valid
    report = check(two, earlier=[secret_diary])
    assert report.reasons == ("its chain of verifications and that of certificate 1 part: there are two diaries",)


def test_what_somebody_else_made_says_nothing_about_a_certificate(tmp_path):
    """Else anybody could spoil a certificate by a false one beside it."""
    committed = commitment("none")
    good = certificate(tmp_path, committed, beacon=b"")
    (tmp_path / "other").mkdir()
    second = certificate(tmp_path / "other", committed, beacon=b"")
    rival = Secret(bytes(32))
    unsigned = {**second, "public_key": rival.public_key}
    for other, words in [
        ({**second, "signature": "0" * 128}, "not signed by this owner"),
        ({**unsigned, "signature": rival.sign(to_sign(unsigned)).hex()}, "not signed by this owner"),
        ({}, "is none"),
    ]:
        report = check(good, earlier=[other])
        assert report.valid
        assert words in report.caveats[-1]


def test_one_verification_has_one_certificate(tmp_path):
    good = certificate(tmp_path, commitment("none"), (False, False, False), beacon=b"")
    assert check(good, earlier=[good]).valid
    better = answers(commitment("none"), (True, True, True), beacon=b"")
    run = Diary(tmp_path / "diary", commitment("none")).runs()[0]
    again = issue(SECRET, commitment("none"), run, better)
    assert check(again).valid
    assert "of one verification" in check(again, earlier=[good]).reasons[0]


def test_many_commitments_of_one_owner_are_said(tmp_path):
    """Whoever commits to a test with every k could show the one that came out best."""
    good = certificate(tmp_path, commitment("none"), beacon=b"")
    (tmp_path / "other").mkdir()
    report = check(good, earlier=[certificate(tmp_path / "other", commitment())])
    assert report.valid
    assert "another commitment of this owner" in report.caveats[-1]


def test_nobody_takes_keys_over_by_committing_to_their_root(good):
    """The root is public before the keys are: a thief stamps it under another public key, and waits."""
    thief = Secret(bytes(32))
    stolen = replace(commitment(), public_key=thief.public_key)
    document = {**good, "commitment": stolen.document(), "public_key": thief.public_key, "timestamp": {"kind": "none"}}
    runs = good["runs"]
    document["runs"] = {**runs, "head": head(stolen.value, runs["chain"])}
    report = check({**document, "signature": thief.sign(to_sign(document)).hex()})
    assert not report.valid
    assert "the revealed keys are not those of the commitment, at these places" in report.reasons


def test_a_hostile_certificate_costs_little_to_refuse(good, monkeypatch):
    """More keys than one test has, in images as large as they may be: neither their images nor their tail are made."""
    spec = KeySpec(keys=500, topk=499_999, classes=1_000_000, side=1, channels=1, height=4096, width=4096)
    large = replace(commitment(), spec=spec, dispute=50, root=merkle.root(leaves(SECRET, spec.keys)).hex())
    record = {**good["runs"]["record"], "keys": spec.keys, "topk": spec.topk}
    chain = [digest(record)]
    document = {
        **good,
        "commitment": large.document(),
        "revealed": [subseed(SECRET.seed, index).hex() for index in range(spec.keys)],
        "proof": [],
        "queries": [{"index": k, "image": "0" * 64, "returned": [], "time": LATER} for k in range(spec.keys)],
        "runs": {"record": record, "chain": chain, "head": head(large.value, chain)},
    }
    made = []
    monkeypatch.setattr(checking, "key_of", lambda *words: made.append(words))
    monkeypatch.setattr(checking, "weigh", lambda *words: made.append(words))
    report = check(signed(document))
    assert not report.valid
    assert report.evidence is None
    assert "the revealed keys are not those of the commitment, at these places" in report.reasons
    assert not made


def test_images_are_made_one_at_a_time(tmp_path, monkeypatch):
    spec = replace(SPEC, keys=20, channels=1, height=1024, width=1024)
    large = replace(commitment("none"), spec=spec, dispute=20, root=merkle.root(leaves(SECRET, 20)).hex())
    run = Diary(tmp_path / "diary", large).begin("a model")
    queries = [certificates.Query.of(key, [], time=LATER) for key in derive(SECRET.seed, b"", spec)]
    document = issue(SECRET, large, run, queries)
    tracemalloc.start()
    assert check(document).valid
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def issued(folder, stamp, **change):
    committed = commitment()
    parts = {"secret": SECRET, "run": Diary(folder / "diary", committed).begin("a model"), "beacon": BEACON}
    parts |= {"queries": answers(committed, (True,) * 3), "stamp": stamp, **change}
    return issue(
        parts["secret"], committed, parts["run"], parts["queries"], beacon=parts["beacon"], stamp=parts["stamp"]
    )


def test_what_does_not_fit_together_is_not_issued(tmp_path, stamp, monkeypatch):
    good = answers(commitment(), (True,) * 3)
    label = good[0].returned[0]
    long = certificates.Query(index=0, image=good[0].image, returned=(label,) * 3, time=LATER)
    odd = certificates.Query(index=0, image=good[0].image, returned=(5,), time=LATER)
    early = certificates.Query(index=2, image=good[2].image, returned=(1,), time="2026-11-30T00:00:00Z")
    other_run = Diary(tmp_path / "other", commitment(dispute=2)).begin("a model")
    for change, words in [
        ({"secret": Secret(bytes(32))}, "does not belong"),
        ({"beacon": b""}, "no value was given"),
        ({"run": other_run}, "of another commitment"),
        ({"queries": good[::-1]}, "in this order"),
        ({"queries": good[:2]}, "in this order"),
        ({"queries": [long, *good[1:]]}, "has the answer"),
        ({"queries": [odd, *good[1:]]}, "has the answer"),
        ({"queries": [*good[:2], early]}, "clock went back"),
    ]:
        with pytest.raises(Misuse, match=words) as error:
            issued(tmp_path, stamp, **change)
        assert error.value.code == "MTH-1015"
    monkeypatch.setattr(diaries, "now", lambda: "2026-11-20T00:00:00Z")
    with pytest.raises(Misuse, match="before the timestamp"):
        issued(tmp_path, stamp)


def test_a_verification_that_shows_nothing_gets_its_certificate_too(tmp_path):
    document = certificate(tmp_path, commitment("none"), (False,) * 3, beacon=b"")
    assert document["hits"] == 0
    assert document["p_value"] == {"exact": "1/1", "log10": "0.000000"}
    assert "is not rejected" in document["statement"]
    assert check(document).valid


def test_checking_needs_no_torch(tmp_path, good):
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps(good))
    code = (
        "import sys; from pathlib import Path; from mithridate.ownership.checking import check_file\n"
        f"assert check_file(Path({str(path)!r})).valid\n"
        "assert not {'torch', 'scipy', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_certificate_of_old_is_still_valid():
    """Issued when the protocol was written; whoever changes what is recomputed breaks all certificates."""
    report = check_file(Path(__file__).with_name("golden_certificate.json"), authorities=[AUTHORITY])
    assert report.reasons == ()
    assert (report.evidence.hits, report.evidence.p_value) == (2, Fraction(44, 125))
    assert report.evidence.adjusted == 1
