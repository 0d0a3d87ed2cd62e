"""Messages of several frames and of chunks: any bytes are answered, none take more memory than one frame."""

import asyncio
import random
import struct
import tracemalloc

import numpy as np
import pytest

from mithridate.byzantine.messages import BYTES, HEADER_BYTES, Expected, Frame, Schema, encode
from mithridate.byzantine.transport._mailbox import Limits, Mailbox, PeerStats, Verdict
from mithridate.byzantine.transport._outbox import Outbox
from mithridate.byzantine.transport._wire import MORE, Reader, batch, chunks, read_answer
from mithridate.core.errors import Misuse

LONG = 100_000
SCHEMA = Schema(
    kinds={"vector": Expected(dtype="float32", numel=LONG), "note": Expected(dtype=BYTES, numel=9, exact=False)}
)


def reader(limits: Limits | None = None) -> Reader:
    return Reader(Mailbox(0, [1, 2], SCHEMA, limits or Limits()), 1, 7)


def note(round: int, text: bytes = b"x", *, sender: int = 1, phase: int = 0) -> Frame:
    return Frame("note", round, phase, sender, text)


def vector(value: float = 1.0, round: int = 0) -> Frame:
    return Frame("vector", round, 0, 1, np.full(LONG, value, np.float32))


def test_every_frame_of_a_batch_is_answered_for_itself():
    one = reader()
    frames = [note(0), note(0), note(0, b"y"), note(9), Frame("other", 0, 0, 1, b""), note(1, sender=2), note(2)]
    answer, verdicts = one.read(batch(frames))
    expected = [Verdict.KEPT, Verdict.AGAIN, Verdict.EQUIVOCATION, Verdict.FUTURE]
    expected += [Verdict.REFUSED, Verdict.REFUSED, Verdict.KEPT]
    assert verdicts == expected
    assert read_answer(answer, len(frames)) == (7, 0, expected)


def test_an_answer_may_be_anything():
    assert read_answer(b"", 2) == (0, 0, [Verdict.REFUSED] * 2)
    assert read_answer(struct.pack("<QQ", 5, 6) + b"\x00", 3) == (5, 6, [Verdict.KEPT, *[Verdict.REFUSED] * 2])
    assert read_answer(struct.pack("<QQ", 5, 6) + b"\xff\x07", 2) == (5, 6, [Verdict.REFUSED, MORE])


def test_a_long_frame_comes_in_chunks_and_is_whole():
    one = reader()
    verdicts = [one.read(message)[1] for message in chunks(vector(2.5), 4096)]
    assert verdicts[:-1] == [[MORE]] * (len(verdicts) - 1)
    assert verdicts[-1] == [Verdict.KEPT]
    assert one.reserved == 0
    found = one.mailbox.take(("vector", 0, 0), of=[1], quorum=1)
    assert found is not None
    assert (found[1].array() == 2.5).all()


@pytest.mark.parametrize("fault", ["skip", "repeat", "other", "damage", "beyond", "late", "cut"])
def test_chunks_out_of_step_are_refused_and_the_frame_can_be_sent_again(fault):
    one, messages = reader(), list(chunks(vector(), 4096))
    wrong = list(messages)
    if fault == "skip":
        del wrong[5]
    elif fault == "repeat":
        wrong.insert(5, wrong[4])
    elif fault == "other":
        wrong[5] = list(chunks(vector(3.0), 4096))[5]
    elif fault == "damage":
        wrong[5] = wrong[5][:-1] + bytes([wrong[5][-1] ^ 1])
    elif fault == "beyond":
        wrong[-1] += b"more"
    elif fault == "late":
        del wrong[0]
    else:
        wrong[5] = wrong[5][:40]
    verdicts = [one.read(message)[1] for message in wrong]
    assert [Verdict.REFUSED] in verdicts
    assert [Verdict.KEPT] not in verdicts
    assert one.reserved == 0
    assert one.mailbox.stats[1].rejected["MTH-0900"] > 0
    assert [one.read(message)[1] for message in messages][-1] == [Verdict.KEPT]


def test_a_long_frame_that_would_not_be_kept_takes_no_memory():
    one = reader()
    for message in chunks(vector(), 4096):
        one.read(message)
    again, second, future = (next(chunks(frame, 4096)) for frame in (vector(), vector(2.0), vector(round=50)))
    assert one.read(again)[1] == [Verdict.AGAIN]
    assert one.read(second)[1] == [Verdict.EQUIVOCATION]
    assert one.read(future)[1] == [Verdict.FUTURE]
    assert one.reserved == 0
    assert len(one.mailbox.evidence) == 1
    full = reader(Limits(buffer_bytes=4 * LONG))
    assert [full.read(message)[1] for message in chunks(vector(), 4096)][-1] == [Verdict.KEPT]
    assert full.read(next(chunks(vector(round=1), 4096)))[1] == [Verdict.FULL]


def test_mutants_are_answered_and_memory_stays_at_one_frame():
    rng = random.Random(0)
    seeds = [batch([note(k % 3, bytes([k])) for k in range(3)]), *list(chunks(vector(), 65_536))[:3], batch([note(1)])]
    one, kept, refused = reader(Limits(frames=100)), 0, 0
    tracemalloc.start()
    try:
        for number in range(1500):
            data = bytearray(rng.choice(seeds))
            for _ in range(rng.randint(0, 3)):
                place = rng.randrange(min(len(data), 3 * HEADER_BYTES))
                action = rng.randrange(3)
                if action == 0:
                    data[place] = rng.randrange(256)
                elif action == 1:
                    del data[place : place + rng.randint(1, 50)]
                else:
                    data[place:place] = rng.randbytes(rng.randint(1, 9))
            answer, verdicts = one.read(bytes(data))
            assert len(answer) == 16 + len(verdicts)
            kept += any(verdict in (Verdict.KEPT, Verdict.AGAIN, MORE) for verdict in verdicts)
            refused += Verdict.REFUSED in verdicts
            if number % 300 == 0:
                one.mailbox.enter(number // 300)
        assert tracemalloc.get_traced_memory()[1] < 3 << 20
    finally:
        tracemalloc.stop()
    assert min(kept, refused) > 50


def outbox(**limits) -> tuple[Outbox, PeerStats]:
    stats = PeerStats()
    return Outbox(Limits(**limits), stats), stats


def ready(box: Outbox, now: float = 0.0):
    async def work():
        async with asyncio.timeout(5.0):
            return await box.ready(now)

    return asyncio.run(work())


def test_short_frames_travel_together_and_long_ones_alone():
    box, _ = outbox(message_bytes=4096)
    for number in range(3):
        box.put(note(number))
    box.put(vector())
    box.put(b"raw")
    taken = ready(box)
    assert [entry.content.round for entry in taken] == [0, 1, 2]
    for entry in taken:
        box.settle(entry, Verdict.KEPT, 0.0)
    (long,) = ready(box)
    assert long.content.kind == "vector"
    box.settle(long, Verdict.REFUSED, 0.0)
    (raw,) = ready(box)
    assert raw.content == b"raw"
    box.settle(raw, Verdict.KEPT, 0.0)
    assert not box.pending


def test_what_comes_too_early_is_tried_again_later():
    box, _ = outbox()
    box.put(note(5))
    (entry,) = ready(box)
    box.settle(entry, Verdict.FUTURE, 100.0)
    box.put(note(0))
    (first,) = ready(box, 100.0)
    assert first.content.round == 0
    box.settle(first, Verdict.KEPT, 100.0)
    assert [entry.content.round for entry in ready(box, 101.0)] == [5]


def test_a_peer_that_lost_its_memory_gets_the_last_rounds_and_no_more():
    box, stats = outbox(window=2)
    for number in range(10):
        box.put(note(number))
        for entry in ready(box):
            box.settle(entry, Verdict.KEPT, 0.0)
    assert not box.pending
    box.reopen()
    assert [entry.content.round for entry in ready(box)] == [7, 8, 9]
    assert stats.dropped == 0


def test_an_outbox_is_bounded_in_bytes_too():
    box, stats = outbox(outbox_bytes=1000)
    for number in range(300):
        box.put(note(number, b"x" * 9))
    assert stats.dropped == 300 - 111
    box.put(vector(round=300))
    assert [entry.round for entry in box._entries] == [300]


def test_a_buffer_that_holds_no_frame_is_misuse():
    with pytest.raises(Misuse, match="buffer"):
        Mailbox(0, [1], SCHEMA, Limits(buffer_bytes=1000))


def test_wire_overhead_is_known():
    assert len(batch([note(0)])) == 1 + len(encode(note(0)))
    assert max(len(message) for message in chunks(vector(), 4096)) == 4096 + HEADER_BYTES + 9
