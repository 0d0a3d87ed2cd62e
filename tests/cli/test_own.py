"""`mithridate own` as an owner, and whoever checks a certificate, types it."""

import json
import re
import shlex
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from mithridate.audit.owning import Committed, DataChoice, Owned, open_owned
from mithridate.audit.owning_verify import check_clock
from mithridate.core.errors import Misuse
from mithridate.ownership.commitment import commit
from mithridate.ownership.keys import KeySpec
from mithridate.ownership.secret import Secret
from mithridate.ownership.timestamp import Stamp, write_request
from stamping import Authority

CLASSES = ("ant", "bee", "cow", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay")
SPEC = KeySpec(keys=10, topk=1, classes=10, side=4, channels=1, height=8, width=8)
SECRET = Secret(bytes(range(32)))
BEACON = "00112233445566778899aabbccddeeff"


def owner(*, beacon: str = "none", dispute: int | None = None) -> Owned:
    """Write what an owner holds into the present folder, without reading any data."""
    found = commit(SECRET, SPEC, data="ab" * 32, classes=CLASSES, beacon=beacon, dispute=dispute)
    committed = Committed(commitment=found, classes=CLASSES, data=DataChoice(source="digits"))
    SECRET.write(Path("secret.tag"))
    committed.write(Path("commitment.json"), request=False)
    return Owned(secret=SECRET, committed=committed, beacon=b"" if beacon == "none" else bytes.fromhex(BEACON))


def guilty(owned: Owned, hits: int = 10) -> list[str]:
    """Return the answers of a model that hits so many keys and misses the others."""
    return [CLASSES[key.label if key.index < hits else (key.label + 1) % 10] for key in owned.keys]


def predictions(answers: list[str], name: str = "predictions.csv") -> str:
    Path(name).write_text("key,label\n" + "".join(f"{k},{answer}\n" for k, answer in enumerate(answers)))
    return name


# The secret


def test_the_secret_is_for_its_owner_alone_and_never_shown(run: Any, tmp_path: Path) -> None:
    outcome = run("own", "keygen", "--json")
    path = tmp_path / "secret.tag"
    seed = json.loads(path.read_text())["seed"]
    assert outcome.code == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert outcome.document["public_key"] == Secret.read(path).public_key
    assert seed not in outcome.out + outcome.err
    before = path.read_bytes()
    again = run("own", "keygen")
    assert (again.code, path.read_bytes()) == (2, before)
    assert "MTH-1002" in again.err


def test_a_lost_secret_says_what_is_no_longer_possible(run: Any) -> None:
    owner()
    Path("secret.tag").unlink()
    outcome = run("own", "verify", "--predictions", predictions(["ant"] * 10))
    assert outcome.code == 2
    for words in ("MTH-1001", "nothing more can be proven", "Certificates that were issued stay valid"):
        assert words in outcome.err


def test_a_secret_of_another_commitment(run: Any) -> None:
    owner()
    Path("secret.tag").unlink()
    Secret(bytes(32)).write(Path("secret.tag"))
    outcome = run("own", "verify", "--predictions", predictions(["ant"] * 10), "--json")
    assert (outcome.code, outcome.document["error"]["code"]) == (2, "MTH-1077")


# The commitment


def test_a_commitment_is_to_the_data_and_the_test(run: Any) -> None:
    run("own", "keygen")
    outcome = run("own", "commit", "digits", "--keys", "12", "--dispute", "6", "--alpha", "0.01", "--json")
    assert outcome.code == 0
    assert outcome.document["written"] == ["commitment.json", "commitment.data.json", "commitment.tsq"]
    found = outcome.document["commitment"]
    assert (found["spec"]["keys"], found["dispute"], found["alpha"]) == (12, 6, "1/100")
    assert (found["spec"]["height"], found["spec"]["channels"], found["spec"]["classes"]) == (8, 1, 10)
    owned = open_owned(Path("secret.tag"), Path("commitment.json"))
    assert owned.commitment.value == found["value"]
    assert owned.committed.data.source == "digits"
    again = run("own", "commit", "digits", "--keys", "12")
    assert again.code == 2
    assert "MTH-1076" in again.err


def test_a_test_that_can_show_nothing_is_said_to(run: Any) -> None:
    run("own", "keygen")
    outcome = run("own", "commit", "digits", "--keys", "3", "--timestamp", "none")
    assert outcome.code == 0
    assert "can show nothing" in outcome.out
    assert not Path("commitment.tsq").exists()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("own", "commit", "digitz"), "MTH-0101"),
        (("own", "commit", "digits", "--timestamp", "perhaps"), "MTH-1067"),
        (("own", "commit", "digits", "--alpha", "2"), "MTH-1006"),
        (("own", "commit", "digits", "--topk", "10"), "MTH-1005"),
        (("own", "commit", "digits", "--dispute", "7"), "MTH-1006"),
        (("own", "mark", "digits"), "MTH-0208"),
        (("own", "mark", "digits", "--budget", "1.5"), "MTH-1069"),
        (("own", "mark", "digits", "--recipe", "none"), "MTH-0101"),
        (("own", "selfcheck", "digits", "--surrogate", "nowhere"), "MTH-0881"),
        (("own", "verify"), "MTH-1074"),
        (("own", "verify", "--http", "http://x/", "--command", "ls"), "MTH-1074"),
        (("own", "verify", "--model", "nowhere"), "MTH-0881"),
        (("own", "check", "nowhere.json"), "MTH-0208"),
        (("own", "--demo", "check", "x"), "MTH-1079"),
        (("own", "plan", "--classes", "10", "--hit-rate", "2"), "MTH-1010"),
    ],
)
def test_bad_input_is_one_message(run: Any, words: tuple[str, ...], code: str) -> None:
    run("own", "keygen")
    outcome = run(*words, "--json")
    assert (outcome.code, outcome.document["error"]["code"]) == (2, code)
    assert "Traceback" not in outcome.err


# Planning


def test_a_plan_agrees_with_the_exact_tail(run: Any) -> None:
    from scipy.stats import binom

    words = ("own", "plan", "--classes", "10", "--hit-rate", "0.7", "--keys", "10", "--keys", "20", "--json")
    outcome = run(*words)
    document = outcome.document
    assert outcome.code == 0
    for row in document["table"]:
        keys, needed = row["keys"], row["hits_needed"]
        # The first verification's p-value counts twice.
        assert 2 * binom.sf(needed - 1, keys, 0.1) <= 1e-3 < 2 * binom.sf(needed - 2, keys, 0.1)
        assert row["power"] == pytest.approx(binom.sf(needed - 1, keys, 0.7))
    assert binom.sf(5, document["keys_needed"], 0.7) >= 0.9 or document["keys_needed"] > 10


def test_a_plan_without_power_is_inconclusive(run: Any) -> None:
    outcome = run("own", "plan", "--classes", "10", "--hit-rate", "0.1", "--json")
    assert (outcome.code, outcome.document["keys_needed"]) == (3, None)
    assert "no number of keys" in outcome.document["reason"]


# Verifying and checking


def test_a_guilty_model_is_shown_and_anybody_can_check(run: Any) -> None:
    owned = owner()
    outcome = run("own", "verify", "--predictions", predictions(guilty(owned, 7)), "--json")
    document = outcome.document
    assert (outcome.code, document["hits"], document["keys"]) == (0, 7, 10)
    assert document["p_value_exact"] == "5701/625000000"
    assert document["p_value"] == pytest.approx(9.1216e-6)
    assert (document["run"], document["certificate"]) == (1, "certificate-1.json")
    checked = run("own", "check", "certificate-1.json", "--json")
    assert (checked.code, checked.document["valid"], checked.document["shown"]) == (0, True, True)
    assert checked.document["p_value_exact"] == document["p_value_exact"]
    assert "The certificate is valid." in run("own", "check", "certificate-1.json").out


def test_an_innocent_model_is_not_accused(run: Any) -> None:
    owned = owner()
    outcome = run("own", "verify", "--predictions", predictions(guilty(owned, 1)), "-o", "c.json", "--json")
    assert (outcome.code, outcome.document["shown"]) == (1, False)
    checked = run("own", "check", "c.json", "--json")
    assert (checked.code, checked.document["valid"], checked.document["shown"]) == (0, True, False)


def test_every_verification_counts(run: Any) -> None:
    """Whoever asks often enough hits by chance: the adjusted p-value of the same answers rises."""
    owned = owner()
    table = predictions(guilty(owned, 5))
    found = [run("own", "verify", "--predictions", table, "--json").document for _ in range(3)]
    assert [document["run"] for document in found] == [1, 2, 3]
    adjusted = [document["adjusted_p_value"] / document["p_value"] for document in found]
    assert adjusted == pytest.approx([2, 6, 12])
    assert run("own", "check", "certificate-3.json", "--earlier", "certificate-1.json").code == 0
    assert run("own", "verify", "--predictions", table, "-o", "certificate-1.json").code == 2


def flip(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_a_certificate_that_was_changed_fails_with_a_reason(run: Any) -> None:
    owned = owner()
    run("own", "verify", "--predictions", predictions(guilty(owned, 2)), "-o", "c.json")
    original = Path("c.json").read_text()

    def hit_more(document: dict[str, Any]) -> None:
        document["queries"][5]["returned"] = [owned.keys[5].label]

    def reorder(document: dict[str, Any]) -> None:
        document["queries"].reverse()

    def swap_data(document: dict[str, Any]) -> None:
        document["commitment"]["data"] = "cd" * 32

    for change in (hit_more, reorder, swap_data):
        Path("c.json").write_text(original)
        flip(Path("c.json"), change)
        outcome = run("own", "check", "c.json", "--json")
        assert (outcome.code, outcome.document["valid"]) == (1, False), change
        assert outcome.document["reasons"], change
        assert "NOT valid" in run("own", "check", "c.json").out
    Path("c.json").write_text("{")
    assert run("own", "check", "c.json").code == 1


def test_nothing_that_is_not_revealed_is_written_anywhere(run: Any, tmp_path: Path) -> None:
    from mithridate.ownership.keys import subseed

    owned = owner(dispute=5)
    answers = predictions(guilty(owned))
    outcomes = [
        run("own", "verify", "--predictions", answers, "--json"),
        run("own", "verify", "--queries", "q"),
        run("own", "check", "certificate-1.json"),
    ]
    said = "".join(outcome.out + outcome.err for outcome in outcomes).encode()
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "secret.tag"]
    everything = said + b"".join(path.read_bytes() for path in files)
    secrets = [SECRET.seed, *(subseed(SECRET.seed, index) for index in range(5, 10))]
    for each in secrets:
        assert each not in everything
        assert each.hex().encode() not in everything
    assert subseed(SECRET.seed, 4).hex().encode() in everything
    assert len(list((tmp_path / "q").glob("*.png"))) == 5


def test_keys_are_asked_about_by_blocks(run: Any) -> None:
    owned = owner(dispute=5)
    table = predictions(guilty(owned))
    assert run("own", "verify", "--predictions", table, "--block", "1").code == 2
    assert run("own", "verify", "--predictions", table, "--json").code == 0
    second = run("own", "verify", "--predictions", table, "--block", "1", "--json")
    assert (second.code, second.document["hits"], second.document["run"]) == (0, 5, 2)
    assert run("own", "verify", "--predictions", table, "--block", "2").code == 2


def test_misses_of_every_kind_are_counted_and_said(run: Any) -> None:
    owned = owner()
    answers = guilty(owned)
    answers[1], answers[2] = "", "unicorn"
    document = run("own", "verify", "--predictions", predictions(answers[:8]), "--json").document
    assert document["hits"] == 6
    assert document["answers"] == {"answered": 7, "abstained": 1, "failed": 2}
    assert document["labels_outside"] == 1
    assert len(document["notes"]) == 3
    assert any("unicorn" in note for note in document["notes"])


def test_too_few_answers_are_inconclusive(run: Any) -> None:
    owner()
    outcome = run("own", "verify", "--predictions", predictions([""] * 10), "--json")
    assert (outcome.code, outcome.document["verdict"]["status"]) == (3, "inconclusive")


def test_queries_go_to_whoever_asks_by_hand(run: Any) -> None:
    owned = owner()
    assert run("own", "verify", "--queries", "q").code == 0
    lines = Path("q/predictions.csv").read_text().splitlines()
    filled = [lines[0], *(line + answer for line, answer in zip(lines[1:], guilty(owned), strict=True))]
    Path("q/predictions.csv").write_text("\n".join(filled))
    assert run("own", "verify", "--predictions", "q/predictions.csv").code == 0


def test_a_class_map(run: Any) -> None:
    owned = owner()
    Path("map.json").write_text(json.dumps({name.upper(): name for name in CLASSES}))
    table = predictions([answer.upper() for answer in guilty(owned)])
    assert run("own", "verify", "--predictions", table).code == 1
    assert run("own", "verify", "--predictions", table, "--class-map", "map.json").code == 0
    Path("map.json").write_text("[]")
    outcome = run("own", "verify", "--predictions", table, "--class-map", "map.json", "--json")
    assert (outcome.code, outcome.document["error"]["code"]) == (2, "MTH-1075")


def test_a_beacon_is_mixed_in_and_must_be_given(run: Any) -> None:
    owned = owner(beacon="drand quicknet round 1")
    table = predictions(guilty(owned))
    codes = [
        run("own", "verify", "--predictions", table, *value, "--json").document["error"]["code"]
        for value in ((), ("--beacon-value", "xyz"), ("--beacon-value", "00"))
    ]
    assert codes == ["MTH-1073"] * 3
    assert run("own", "verify", "--predictions", table, "--beacon-value", BEACON).code == 0
    assert run("own", "verify", "--predictions", table, "--beacon-value", BEACON[::-1], "--json").document["hits"] < 5


def test_a_timestamp_that_is_none_stops_before_anybody_is_asked(run: Any) -> None:
    owned = owner()
    Path("commitment.tsr").write_bytes(b"no timestamp")
    words = ("own", "verify", "--predictions", predictions(guilty(owned)), "--timestamp", "commitment.tsr", "--json")
    outcome = run(*words)
    assert (outcome.code, outcome.document["error"]["code"]) == (2, "MTH-1008")
    assert not Path("commitment.diary.jsonl").exists()


def test_a_certificate_says_that_it_has_no_timestamp(run: Any) -> None:
    owned = owner()
    document = run("own", "verify", "--predictions", predictions(guilty(owned)), "--json").document
    assert any("no timestamp" in caveat for caveat in document["caveats"])
    # Ten hits of ten are 1e-10; times 2 and 2^64 that is nothing to whoever suspects that secrets were tried.
    assert document["p_value_exact"] == "1/10000000000"
    assert (document["shown"], document["shown_to_sceptics"], document["resistant_p_value"]) == (True, False, 1.0)


def test_a_clock_before_the_timestamp() -> None:
    stamp = Stamp(response=b"", time=datetime.now(UTC) + timedelta(hours=1), verified=True)
    with pytest.raises(Misuse, match="MTH-1072"):
        check_clock(stamp, datetime.now(UTC))
    check_clock(replace(stamp, time=datetime.now(UTC) - timedelta(hours=1)), datetime.now(UTC))


def test_a_timestamp_from_its_request_to_its_certificate(run: Any, tmp_path: Path) -> None:
    """As an owner does it, with an authority of our own: commit, have it stamped, verify, and let others check."""
    authority, stranger = Authority.new(), Authority.new()
    Path("authority.pem").write_bytes(authority.pem)
    Path("stranger.pem").write_bytes(stranger.pem)
    small_set(tmp_path / "set.npz")
    SECRET.write(Path("secret.tag"))
    words = ("--keys", "10", "--alpha", "0.01", "--beacon", "drand quicknet round 1")
    assert run("own", "commit", "set.npz", *words).code == 0
    answer = authority.answer(Path("commitment.tsq").read_bytes(), datetime.now(UTC) - timedelta(minutes=5))
    Path("commitment.tsr").write_bytes(answer)
    owned = open_owned(Path("secret.tag"), Path("commitment.json"), BEACON)
    names = owned.committed.classes
    table = predictions([names[key.label] for key in owned.keys])
    asked = ("own", "verify", "--predictions", table, "--beacon-value", BEACON, "--timestamp", "commitment.tsr")
    refused = run(*asked, "--authority", "stranger.pem", "--json")
    assert (refused.code, refused.document["error"]["code"]) == (2, "MTH-1009")
    outcome = run(*asked, "--authority", "authority.pem", "--json")
    assert outcome.code == 0, outcome.err
    assert (outcome.document["shown"], outcome.document["shown_to_sceptics"]) == (True, True)
    assert outcome.document["resistant_p_value_exact"] == outcome.document["adjusted_p_value_exact"] == "2/59049"
    assert not any("timestamp's signature" in caveat for caveat in outcome.document["caveats"])
    checked = run("own", "check", "certificate-1.json", "--authority", "authority.pem", "--json").document
    assert (checked["valid"], checked["shown_to_sceptics"]) == (True, True)
    unchecked = run("own", "check", "certificate-1.json", "--json").document
    assert (unchecked["valid"], unchecked["shown_to_sceptics"]) == (True, False)
    other = run("own", "check", "certificate-1.json", "--authority", "stranger.pem", "--json")
    assert (other.code, other.document["valid"]) == (1, False)
    assert "not signed by these authorities" in other.document["reasons"][0]


def test_a_stamp_of_tomorrow_stops_before_anybody_is_asked(run: Any) -> None:
    owned, authority = owner(), Authority.new()
    write_request(owned.commitment.value, Path("commitment.tsq"))
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    Path("commitment.tsr").write_bytes(authority.answer(Path("commitment.tsq").read_bytes(), tomorrow))
    words = ("own", "verify", "--predictions", predictions(guilty(owned)), "--timestamp", "commitment.tsr", "--json")
    outcome = run(*words)
    assert (outcome.code, outcome.document["error"]["code"]) == (2, "MTH-1072")
    assert not Path("commitment.diary.jsonl").exists()


# Asking again


def test_whoever_doubts_the_owner_asks_the_model_again(run: Any) -> None:
    owned = owner()
    true, other = predictions(guilty(owned)), predictions(guilty(owned, hits=1), "other.csv")
    assert run("own", "verify", "--predictions", true).code == 0
    Path("secret.tag").unlink()
    words = ("own", "check", "certificate-1.json", "--classes", "commitment.data.json", "--json")
    confirmed = run(*words, "--predictions", true)
    assert (confirmed.code, confirmed.document["again"]["confirmed"]) == (0, True)
    assert (confirmed.document["again"]["hits"], confirmed.document["again"]["same_answers"]) == (10, 10)
    denied = run(*words, "--predictions", other)
    assert (denied.code, denied.document["again"]["confirmed"], denied.document["valid"]) == (1, False, True)
    assert denied.document["again"]["same_answers"] == 1
    Path("none.csv").write_text("key,label\n")
    silent = run(*words, "--predictions", "none.csv")
    assert (silent.code, silent.document["again"]["confirmed"]) == (3, False)
    Path("numbers.csv").write_text("key,label\n" + "".join(f"{key.index},{key.label}\n" for key in owned.keys))
    assert run("own", "check", "certificate-1.json", "--predictions", "numbers.csv").code == 0
    assert Path("commitment.diary.jsonl").read_text().count('"salt"') == 1


def test_a_model_that_shows_nothing_confirms_only_what_it_was_asked(run: Any) -> None:
    owned = owner()
    run("own", "verify", "--predictions", predictions(guilty(owned, hits=1)))
    Path("none.csv").write_text("key,label\n")
    words = ("own", "check", "certificate-1.json", "--classes", "commitment.data.json")
    assert run(*words, "--predictions", "none.csv").code == 3
    assert run(*words, "--predictions", "predictions.csv").code == 0


def test_revealed_keys_are_written_for_whoever_asks_by_hand(run: Any) -> None:
    owned = owner(dispute=5)
    run("own", "verify", "--predictions", predictions(guilty(owned)))
    assert run("own", "check", "certificate-1.json", "--queries", "revealed").code == 0
    assert sorted(path.name for path in Path("revealed").glob("*.png")) == [f"key-{k:04d}.png" for k in range(5)]
    run("own", "verify", "--queries", "asked")
    for path in Path("asked").glob("*.png"):
        assert path.read_bytes() == (Path("revealed") / path.name).read_bytes()


def test_names_of_other_classes_are_refused(run: Any) -> None:
    owned = owner()
    run("own", "verify", "--predictions", predictions(guilty(owned)))
    Path("names.json").write_text(json.dumps(CLASSES[::-1]))
    outcome = run(
        "own", "check", "certificate-1.json", "--classes", "names.json", "--predictions", "predictions.csv", "--json"
    )
    assert (outcome.code, outcome.document["error"]["code"]) == (2, "MTH-1077")


# Ways to ask


def test_a_certificate_goes_where_it_was_told_to(run: Any) -> None:
    owned = owner()
    assert run("own", "verify", "--predictions", predictions(guilty(owned)), "-o", "new/folder/c.json").code == 0
    assert run("own", "check", "new/folder/c.json").code == 0
    Path("file").write_text("")
    assert run("own", "verify", "--predictions", "predictions.csv", "-o", "file/c.json").code == 4
    assert Path("commitment.diary.jsonl").read_text().count('"salt"') == 1


def test_a_command_is_asked(run: Any) -> None:
    owned = owner()
    answers = {f"key-{k:04d}.png": answer for k, answer in enumerate(guilty(owned))}
    Path("ask.py").write_text(f"import sys, os\nprint({answers!r}[os.path.basename(sys.argv[1])])\n")
    outcome = run("own", "verify", "--command", f"{sys.executable} -S ask.py {{}}", "--json")
    assert (outcome.code, outcome.document["hits"]) == (0, 10)
    assert Path(sys.executable).name in outcome.document["asked"]


@contextmanager
def service(answers: list[str]) -> Iterator[str]:
    left = iter(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            text = json.dumps([{"label": next(left), "score": 0.9}, {"label": "ant", "score": 0.1}]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *words: object) -> None:
            del words

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/predict"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_service_is_asked(run: Any) -> None:
    with service(guilty(owner())) as url:
        outcome = run("own", "verify", "--http", url, "--json")
    assert (outcome.code, outcome.document["hits"]) == (0, 10)
    assert outcome.document["asked"] == url


def saved_model(folder: Path, *, classes: tuple[str, ...] = CLASSES, size: int = 8) -> Path:
    from mithridate.models.saved import Description, save_model
    from mithridate.models.spec import ModelSpec

    spec = ModelSpec(name="mlp-w8", num_classes=len(classes), channels=1, size=size, mean=(0.0,), std=(1.0,))
    save_model(spec.build(0), Description(spec=spec, classes=classes), folder)
    return folder


def test_a_saved_model_is_asked(run: Any, tmp_path: Path) -> None:
    owner()
    saved_model(tmp_path / "model")
    outcome = run("own", "verify", "--model", "model", "--json")
    assert outcome.code == 1
    assert "sha256" in outcome.document["asked"]
    assert outcome.document["answers"] == {"answered": 10}
    bare = run("own", "verify", "--model", "model/model.safetensors", "--model-name", "mlp-w8", "--json")
    assert bare.document["hits"] == outcome.document["hits"]


@pytest.mark.parametrize(
    ("options", "code"),
    [({"size": 16}, "MTH-1062"), ({"classes": ("x", "y", "z")}, "MTH-1061")],
)
def test_models_that_cannot_be_asked_do_not_count_as_asked(
    run: Any, tmp_path: Path, options: dict[str, Any], code: str
) -> None:
    owner()
    saved_model(tmp_path / "model", **options)
    outcome = run("own", "verify", "--model", "model", "--json")
    assert (outcome.code, outcome.document["error"]["code"]) == (2, code)
    assert not Path("commitment.diary.jsonl").exists()


def test_classes_that_the_model_lacks_are_misses(run: Any, tmp_path: Path) -> None:
    owner()
    saved_model(tmp_path / "model", classes=("ant", "bee", "unknown"))
    outcome = run("own", "verify", "--model", "model", "--json")
    assert outcome.code in (1, 3)
    assert outcome.document["verdict"]["status"] != "pass"
    assert any("lacks 8 of 10" in note for note in outcome.document["notes"])


# Marking


def small_set(path: Path, counts: tuple[int, ...] = (12, 12, 12)) -> Path:
    gen = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(counts)), counts)
    images = gen.integers(0, 256, size=(len(labels), 8, 8, 1), dtype=np.uint8)
    arrays = {"train_images": images, "train_labels": labels, "test_images": images[::4], "test_labels": labels[::4]}
    np.savez(path, classes=np.array(["a", "b", "c"]), **arrays)
    return path


QUICK = ("--model", "mlp-w8", "--recipe", "digits-mlp40", "--epochs", "1", "--steps", "2", "--views", "1")


def test_marking_changes_listed_images_and_nothing_else(run: Any, tmp_path: Path) -> None:
    small_set(tmp_path / "set.npz")
    run("own", "keygen")
    assert run("own", "commit", "set.npz", "--keys", "4").code == 0
    outcome = run("own", "mark", "set.npz", "--budget", "2", "--epsilon", "16/255", *QUICK, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.document["marked_images"] == 8
    before, after = np.load("set.npz"), np.load(outcome.document["data"])
    manifest = json.loads(Path(outcome.document["manifest"]).read_text())
    assert stat.S_IMODE(Path(outcome.document["manifest"]).stat().st_mode) == 0o600
    rows = sorted(row for key in manifest["keys"] for row in key["rows"])
    changed = np.abs(before["train_images"].astype(int) - after["train_images"]).max(axis=(1, 2, 3))
    assert set(np.flatnonzero(changed)) <= set(rows)
    assert 0 < changed.max() <= 16
    assert np.array_equal(before["train_labels"], after["train_labels"])
    assert np.array_equal(before["test_images"], after["test_images"])
    owned = open_owned(Path("secret.tag"), Path("commitment.json"))
    for key, line in zip(owned.keys, manifest["keys"], strict=True):
        assert {int(before["train_labels"][row]) for row in line["rows"]} == {key.label}
    again = run("own", "mark", "set.npz", "--budget", "2", *QUICK)
    assert again.code == 2
    assert "MTH-1076" in again.err


def test_which_images_are_marked_depends_on_the_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else whoever knows this program would compute which images to drop."""
    monkeypatch.chdir(tmp_path)
    first = owner()
    other = Owned(
        secret=Secret(bytes(32)),
        committed=replace(first.committed, commitment=commit(Secret(bytes(32)), SPEC, data="ab" * 32, classes=CLASSES)),
    )
    assert first.marks_seed(0) != other.marks_seed(0)
    assert first.marks_seed(0) != first.marks_seed(1)


def test_data_that_were_changed_since_the_commitment(run: Any, tmp_path: Path) -> None:
    small_set(tmp_path / "set.npz")
    run("own", "keygen")
    run("own", "commit", "set.npz", "--keys", "4")
    small_set(tmp_path / "set.npz", counts=(12, 12, 13))
    outcome = run("own", "mark", "set.npz", *QUICK, "--json")
    assert (outcome.code, outcome.document["error"]["code"]) == (2, "MTH-1071")


def test_a_class_with_too_few_images_is_never_drawn_anew(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer than the budget: fewer marks, and a note. None for some key: an error, and nothing is written."""
    small_set(tmp_path / "set.npz", counts=(4, 4, 4))
    SECRET.write(Path("secret.tag"))
    run("own", "commit", "set.npz", "--keys", "6", "-o", "six.json", "--timestamp", "none")
    outcome = run("own", "mark", "set.npz", "--commitment", "six.json", "--budget", "4", *QUICK, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.document["marked_images"] < 24
    (note,) = outcome.document["notes"]
    assert "fewer images than the budget" in note
    private = json.loads(Path("marked.marks.json").read_text())
    assert "instead of 4" in "".join(key["note"] for key in private["keys"])
    run("own", "commit", "set.npz", "--keys", "60", "-o", "many.json", "--timestamp", "none")
    monkeypatch.setattr("mithridate.audit.owning_marking.surrogates_of", lambda *words: pytest.fail("trained before"))
    refused = run("own", "mark", "set.npz", "--commitment", "many.json", "-o", "new", *QUICK, "--json")
    assert (refused.code, refused.document["error"]["code"]) == (2, "MTH-1030")
    assert "never drawn anew" in refused.err
    assert not Path("new").exists()


def test_an_image_folder_is_marked_file_by_file(run: Any, tmp_path: Path) -> None:
    from PIL import Image

    gen = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 2)):
        for name in ("a", "b"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for k in range(count):
                Image.fromarray(gen.integers(0, 256, size=(8, 8), dtype=np.uint8)).save(folder / f"{k}.png")
    run("own", "keygen")
    assert run("own", "commit", "images", "--keys", "3").code == 0
    outcome = run("own", "mark", "images", "--budget", "1", "--epsilon", "16/255", *QUICK, "--json")
    assert outcome.code == 0, outcome.err
    changed = [
        path.relative_to("images")
        for path in sorted(Path("images").rglob("*.png"))
        if path.read_bytes() != (Path("marked") / path.relative_to("images")).read_bytes()
    ]
    assert 0 < len(changed) <= 3
    assert all(path.parts[0] == "train" for path in changed)


def test_a_self_check_says_whether_marks_would_be_found(run: Any, tmp_path: Path) -> None:
    small_set(tmp_path / "set.npz")
    outcome = run("own", "selfcheck", "set.npz", "--keys", "4", "--budget", "1", "--victims", "1", *QUICK, "--json")
    document = outcome.document
    assert outcome.code == 3, outcome.err
    assert [trial["guilty"] for trial in document["trials"]].count(True) == 1
    assert 0 <= document["power"] < 0.8
    assert document["keys"] == 4


def test_marks_are_tried_as_they_were_written(run: Any, tmp_path: Path) -> None:
    small_set(tmp_path / "set.npz")
    run("own", "keygen")
    run("own", "commit", "set.npz", "--keys", "4")
    run("own", "mark", "set.npz", "--budget", "2", "--epsilon", "16/255", *QUICK)
    words = ("own", "selfcheck", "set.npz", "--marked", "marked/data.npz", "--victims", "1", *QUICK[:6], "--json")
    outcome = run(*words)
    assert outcome.code == 3, outcome.err
    assert (outcome.document["marked_images"], outcome.document["keys"]) == (8, 4)
    assert outcome.document["largest_change"] <= 16 / 255
    assert not Path("commitment.diary.jsonl").exists()
    for change, code in [(("--marked", "set.npz"), "MTH-1078"), (("--budget", "3"), "MTH-1078")]:
        refused = run(*words, *change)
        assert (refused.code, refused.document["error"]["code"]) == (2, code)


# The whole


TORCH_FREE = """
import sys
from mithridate.cli.main import main

def go(wanted, *words):
    assert main(words) == wanted, words
    assert "torch" not in sys.modules, words

go(0, "own", "--help")
go(0, "own", "keygen", "-o", "new.tag")
go(0, "own", "plan", "--classes", "10", "--hit-rate", "0.7")
go(0, "own", "verify", "--predictions", "predictions.csv", "-o", "c.json")
go(0, "own", "check", "c.json")
go(1, "own", "check", "predictions.csv")
go(2, "own", "verify", "--model", "nowhere")
"""


def test_what_needs_no_torch_does_not_import_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    predictions(guilty(owner()))
    done = subprocess.run([sys.executable, "-c", TORCH_FREE], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_own_alone_shows_its_help(run: Any) -> None:
    outcome = run("own")
    assert outcome.code == 0
    for verb in ("keygen", "commit", "mark", "selfcheck", "plan", "verify", "check"):
        assert verb in outcome.out


def test_commands_in_the_document_are_understood() -> None:
    from mithridate.cli.own import app

    text = (Path(__file__).parents[2] / "docs" / "ownership.md").read_text(encoding="utf-8")
    blocks = "".join(re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    lines = [shlex.split(line, comments=True)[2:] for line in blocks.splitlines()]
    command = typer.main.get_command(app)
    named = set(re.findall(r"`own ([a-z]+)", text))
    assert named == set(command.commands)  # type: ignore[attr-defined]
    assert len(lines) >= 8
    for words in lines:
        verb = command.commands.get(words[0])  # type: ignore[attr-defined]
        with (verb or command).make_context("own", words[1:] if verb else words):
            pass


@pytest.mark.slow
def test_the_demonstration(run: Any) -> None:
    outcome = run("own", "--demo", "--json", "-o", "demo")
    document = outcome.document
    assert outcome.code == 0, outcome.err
    guilty_one, innocent = document["guilty"], document["innocent"]
    for found in (guilty_one, innocent):
        top, bottom = map(int, found["p_value_exact"].split("/"))
        assert found["p_value"] == top / bottom
        assert found["keys"] == 10
    assert guilty_one["hits"] >= 6
    assert innocent["hits"] <= 3
    assert guilty_one["p_value"] < 1e-3 < innocent["p_value"]
    assert abs(guilty_one["accuracy"] - innocent["accuracy"]) <= 0.02
    for name in ("guilty", "innocent"):
        assert run("own", "check", f"demo/{name}.json").code == 0
    again = run("own", "--demo", "--json", "-o", "demo").document
    for name in ("guilty", "innocent"):
        same = ("hits", "p_value_exact", "adjusted_p_value_exact", "run", "accuracy")
        assert [again[name][key] for key in same] == [document[name][key] for key in same]
