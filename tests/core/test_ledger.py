"""The ledger: nothing acknowledged is lost, nothing is there twice, and damage is told from a torn tail."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mithridate.core.errors import BadArtefact, Misuse, WorkError
from mithridate.core.ledger import Ledger

RECORDS = {"victim/none/0": {"hit": False, "loss": [0.5, 1e-9]}, "craft/1": {"text": 'd\u00f6g\n\u2603 "x"'}, "c": {}}


@pytest.fixture
def written(fast_path):
    path = fast_path / "ledger.jsonl"
    with Ledger(path).open() as ledger:
        for name, record in RECORDS.items():
            ledger.append(name, record)
    return path


def test_records_come_back_in_order(written):
    found = Ledger(written).records()
    assert found == RECORDS
    assert list(found) == list(RECORDS)


def test_every_line_is_json_and_the_same_records_are_the_same_bytes(written, fast_path):
    lines = [json.loads(line) for line in written.read_text().splitlines()]
    assert lines[0]["schema"] == "mithridate.ledger/1"
    assert [line["name"] for line in lines[1:]] == list(RECORDS)
    with Ledger(fast_path / "again.jsonl").open() as ledger:
        for name, record in RECORDS.items():
            ledger.append(name, record)
    assert (fast_path / "again.jsonl").read_bytes() == written.read_bytes()


def test_a_ledger_that_is_not_there_is_empty_and_stays_away(fast_path):
    assert Ledger(fast_path / "no" / "ledger.jsonl").records() == {}
    assert list(fast_path.iterdir()) == []


def test_only_the_ledger_is_left(written):
    assert [path.name for path in written.parent.iterdir()] == ["ledger.jsonl"]


def test_reopening_continues(written):
    before = written.read_bytes()
    with Ledger(written).open() as ledger:
        assert ledger.records() == RECORDS
        ledger.append("d", {"n": 1})
    assert Ledger(written).records() == {**RECORDS, "d": {"n": 1}}
    assert written.read_bytes().startswith(before)


@pytest.mark.parametrize("again", [False, True])
def test_a_name_is_recorded_once(again, written):
    with Ledger(written).open() as ledger:
        if again:
            ledger.append("new", {})
        with pytest.raises(Misuse) as caught:
            ledger.append("new" if again else "craft/1", {"other": 1})
    assert caught.value.code == "MTH-0712"
    assert Ledger(written).records()["craft/1"] == RECORDS["craft/1"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}, b"x"])
def test_what_json_has_not_is_refused_and_nothing_is_written(value, written):
    before = written.read_bytes()
    with Ledger(written).open() as ledger:
        with pytest.raises(Misuse) as caught:
            ledger.append("bad", {"value": value})
        assert caught.value.code == "MTH-0715"
        assert written.read_bytes() == before
        ledger.append("bad", {"value": 1})
    assert Ledger(written).records()["bad"] == {"value": 1}


def test_writing_needs_an_open_ledger(written):
    ledger = Ledger(written)
    with pytest.raises(Misuse, match="is not open"):
        ledger.append("x", {})
    with ledger.open(), pytest.raises(Misuse, match="open already"):
        ledger.open()
    with pytest.raises(Misuse, match="is not open"):
        ledger.append("x", {})


def is_prefix(found: dict[str, object], whole: dict[str, object]) -> bool:
    return list(found.items()) == list(whole.items())[: len(found)]


def test_every_truncation_leaves_a_prefix_and_continues(written):
    data = written.read_bytes()
    lengths = set()
    for length in range(len(data) + 1):
        path = written.with_name(f"cut-{length}.jsonl")
        path.write_bytes(data[:length])
        found = Ledger(path).records()
        assert path.read_bytes() == data[:length], "reading repairs nothing"
        assert is_prefix(found, RECORDS)
        with Ledger(path).open() as ledger:
            assert ledger.records() == found
            opened = path.read_bytes()
            assert data.startswith(opened), "the torn tail is cut before anything is written"
            assert opened.endswith(b"\n")
            for name, record in RECORDS.items():
                if name not in found:
                    ledger.append(name, record)
        assert path.read_bytes() == data
        lengths.add(len(found))
    assert lengths == {0, 1, 2, 3}


names = st.text(min_size=1, max_size=10)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


record = st.dictionaries(st.text(max_size=5), values, max_size=3)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    records=st.dictionaries(names, st.dictionaries(st.text(max_size=5), values, max_size=3), max_size=6), data=st.data()
)
def test_any_records_survive_any_truncation(records, data, fast_path):
    path = fast_path / "ledger.jsonl"
    path.unlink(missing_ok=True)
    with Ledger(path).open() as ledger:
        for name, record in records.items():
            ledger.append(name, record)
    whole = path.read_bytes()
    assert Ledger(path).records() == records
    path.unlink()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))] + bytes(data.draw(st.integers(0, 9))))
    with Ledger(path).open() as ledger:
        found = ledger.records()
        assert is_prefix(found, records)
        ledger.append("\0 a name that none has", {})
    assert list(Ledger(path).records()) == [*found, "\0 a name that none has"]


def test_every_flipped_byte_is_an_error_or_a_shorter_prefix(written):
    data = written.read_bytes()
    damaged = 0
    for place in range(len(data)):
        for flip in (1, 0x20, 0x80):
            path = written.with_name(f"{place}-{flip}.jsonl")
            path.write_bytes(data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :])
            try:
                found = Ledger(path).records()
            except BadArtefact as error:
                assert error.code in ("MTH-0713", "MTH-0714")
                assert str(path) in error.message
                damaged += 1
            else:
                assert is_prefix(found, RECORDS)
                assert len(found) == len(RECORDS) - 1, "only the last line may be taken for torn"
            path.unlink()
    assert damaged > 2 * len(data)


def test_a_damaged_middle_is_not_repaired(written):
    lines = written.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"true" if b"true" in lines[2] else b"text", b"tent")
    written.write_bytes(b"".join(lines))
    before = written.read_bytes()
    with pytest.raises(BadArtefact, match="line 3 is damaged"):
        Ledger(written).open()
    assert written.read_bytes() == before
    assert [path.name for path in written.parent.iterdir()] == ["ledger.jsonl"]


@pytest.mark.parametrize("content", [b"my thesis\n", b'{"a": 1}\n{"b": 2}\n', b"\x93NUMPY", b"x"])
def test_a_file_that_is_no_ledger_is_never_cut(content, fast_path):
    path = fast_path / "file"
    path.write_bytes(content)
    with pytest.raises(BadArtefact) as caught:
        Ledger(path).open()
    assert caught.value.code == "MTH-0713"
    assert path.read_bytes() == content


def test_a_newer_ledger_is_refused_by_name(written):
    from mithridate.core import ledger as module

    path = written.with_name("newer.jsonl")
    path.write_bytes(module._encode({"schema": "mithridate.ledger/2"}) + module._encode({"name": "x", "record": {}}))
    with pytest.raises(BadArtefact, match=r"mithridate\.ledger/2") as caught:
        Ledger(path).open()
    assert caught.value.code == "MTH-0714"


def test_a_repeated_name_in_the_file_is_damage(written):
    data = written.read_bytes()
    last = data.splitlines(keepends=True)[-1]
    written.write_bytes(data + last)
    with pytest.raises(BadArtefact, match="line 5 repeats the record 'c'"):
        Ledger(written).records()


def test_threads_may_append_at_once(fast_path):
    path = fast_path / "ledger.jsonl"
    with Ledger(path).open() as ledger:
        threads = [
            threading.Thread(target=lambda k=k: [ledger.append(f"{k}/{n}", {"n": n}) for n in range(10)])
            for k in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(Ledger(path).records()) == sorted(f"{k}/{n}" for k in range(4) for n in range(10))


# One writer, and death


HOLDER = """
    import sys, time
    from pathlib import Path
    from mithridate.core.ledger import Ledger
    with Ledger(Path(sys.argv[1])).open() as ledger:
        ledger.append("held", {})
        print("open", flush=True)
        time.sleep(600)
"""

APPENDER = """
    import sys
    from pathlib import Path
    from mithridate.core.ledger import Ledger
    with Ledger(Path(sys.argv[1])).open() as ledger:
        number = len(ledger.records())
        while True:
            ledger.append(f"cell/{number}", {"square": number * number, "padding": "x" * (number * 37 % 5000)})
            print(number, flush=True)
            number += 1
"""


def start(program: str, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(program), path], stdout=subprocess.PIPE, text=True)


@contextlib.contextmanager
def running(program: str, path: Path):
    child = start(program, path)
    try:
        yield child
    finally:
        child.kill()
        child.wait(30)
        assert child.stdout is not None
        child.stdout.close()


def test_a_second_writer_names_the_first(fast_path):
    path = fast_path / "ledger.jsonl"
    with running(HOLDER, path) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        with pytest.raises(WorkError) as caught:
            Ledger(path).open()
        assert caught.value.code == "MTH-0710"
        assert caught.value.message == f"process {child.pid} is working on {fast_path}"
        assert Ledger(path).records() == {"held": {}}, "reading needs no lock"
    # The kernel has released the lock of the dead: no waiting, no cleaning up by hand.
    with Ledger(path).open() as ledger:
        assert ledger.records() == {"held": {}}
    assert [item.name for item in fast_path.iterdir()] == ["ledger.jsonl"]


def test_a_second_writer_in_the_same_process_is_refused(written):
    with Ledger(written).open(), pytest.raises(WorkError) as caught:
        Ledger(written).open()
    assert f"process {os.getpid()} is working" in caught.value.message


@pytest.mark.slow
def test_a_killed_writer_loses_nothing_that_it_acknowledged(fast_path):
    path = fast_path / "ledger.jsonl"
    acknowledged = -1
    for turn in range(6):
        with running(APPENDER, path) as child:
            assert child.stdout is not None
            lines = [child.stdout.readline() for _ in range(3 + turn)]
            time.sleep(0.003 * turn)
            child.send_signal(signal.SIGKILL)
            lines += child.stdout.readlines()
        acknowledged = max(acknowledged, *(int(line) for line in lines if line.endswith("\n")))
        found = Ledger(path).records()
        # What is written and not yet acknowledged when it dies may be there too, but only that.
        assert len(found) in (acknowledged + 1, acknowledged + 2)
        for number, (name, record) in enumerate(found.items()):
            assert (name, record["square"]) == (f"cell/{number}", number * number)
    assert acknowledged >= 20


def test_death_in_the_middle_of_a_write(fast_path):
    """Kill between two halves of a line, which no timing would hit reliably."""
    program = """
        import os, signal, sys
        from pathlib import Path
        from mithridate.core.ledger import Ledger
        whole = os.pwrite
        def half(file, data, place):
            whole(file, data[: len(data) // 2], place)
            os.kill(os.getpid(), signal.SIGKILL)
        ledger = Ledger(Path(sys.argv[1])).open()
        ledger.append("first", {"n": 1})
        os.pwrite = half
        ledger.append("second", {"n": 2})
    """
    path = fast_path / "ledger.jsonl"
    child = subprocess.run([sys.executable, "-c", textwrap.dedent(program), path], timeout=60, check=False)
    assert child.returncode == -signal.SIGKILL
    assert not path.read_bytes().endswith(b"\n")
    with Ledger(path).open() as ledger:
        assert ledger.records() == {"first": {"n": 1}}
        ledger.append("second", {"n": 2})
    assert Ledger(path).records() == {"first": {"n": 1}, "second": {"n": 2}}


def test_a_disk_that_refuses_leaves_the_ledger_as_it_was(written, monkeypatch):
    before = written.read_bytes()
    whole = os.pwrite

    def short(file: int, data: bytes, place: int) -> int:
        if place > len(before):
            raise OSError(28, "No space left on device")
        return whole(file, data[:5], place)

    with Ledger(written).open() as ledger:
        monkeypatch.setattr(os, "pwrite", short)
        with pytest.raises(WorkError, match="No space left on device") as caught:
            ledger.append("d", {"n": 1})
        monkeypatch.undo()
        assert caught.value.code == "MTH-0706"
        assert written.read_bytes() == before
        ledger.append("d", {"n": 1})
    assert Ledger(written).records() == {**RECORDS, "d": {"n": 1}}
