"""The simulator: equal seeds give equal runs, quorums mean what they say, what is no frame changes nothing."""

import asyncio
import gc
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from mithridate.byzantine.messages import Expected, Frame, Schema, encode
from mithridate.byzantine.transport._base import AbstractTransport, Limits, QuorumLost
from mithridate.byzantine.transport.schedules import (
    AbstractSchedule,
    Favour,
    Letter,
    Partition,
    RandomDelays,
    Slow,
)
from mithridate.byzantine.transport.simulator import Crash, Simulation, run_simulation
from mithridate.core.errors import Misuse, WorkError

SCHEMA = Schema(kinds={"vector": Expected(dtype="float64", numel=1), "model": Expected(dtype="float64", numel=1)})


def word(transport: AbstractTransport, round: int, value: float, *, kind: str = "vector", phase: int = 0) -> Frame:
    return Frame(kind, round, phase, transport.me, np.array([value]))


def values(frames) -> dict[int, float]:
    return {sender: float(frame.array()[0]) for sender, frame in frames.items()}


def median_program(start: float, rounds: int, quorum: int, deadline: float = 1000.0):
    """Say a number, hear `quorum` of them, go on with their median: the gathering of specification 5.3."""

    async def program(transport: AbstractTransport) -> list[float]:
        path = [start]
        for number in range(rounds):
            own = word(transport, number, path[-1])
            await transport.broadcast(own)
            everybody = (transport.me, *transport.peers)
            found = await transport.collect(
                "vector", number, 0, of=everybody, quorum=quorum, deadline=deadline, own=own
            )
            assert list(found.frames) == sorted(found.frames)
            assert len(found.frames) == quorum
            path.append(float(np.median(list(values(found.frames).values()))))
        return path

    return program


def medians(seed: int, schedule: AbstractSchedule | None = None, **more) -> Simulation[list[float]]:
    programs = {node: median_program(float(node), 5, 4) for node in range(6)}
    return run_simulation(programs, schema=SCHEMA, schedule=schedule or RandomDelays(), seed=seed, **more)


def test_equal_seeds_give_equal_runs_and_others_do_not():
    first, second = medians(3), medians(3)
    assert (first.trace, first.results, first.seconds) == (second.trace, second.results, second.seconds)
    assert len({medians(seed).trace for seed in range(4)}) == 4
    assert len(first.results) == 6
    assert not first.failures


def test_a_lossy_duplicating_network_is_as_deterministic():
    lossy = RandomDelays(lost=0.1, twice=0.3)
    programs = {node: median_program(float(node), 3, 3, deadline=5.0) for node in range(7)}
    runs = [run_simulation(programs, schema=SCHEMA, schedule=lossy, seed=1) for _ in range(2)]
    assert runs[0].trace == runs[1].trace
    assert runs[0].lost > 0
    assert sum(stats.rejected["again"] for node in runs[0].stats.values() for stats in node.values()) > 0


def test_the_first_of_a_quorum_are_taken_in_order_of_arrival():
    async def listen(transport):
        return await transport.collect("vector", 0, 0, of=range(1, 6), quorum=3, deadline=99.0)

    async def say(transport):
        await transport.send(0, word(transport, 0, float(transport.me)))

    order = Favour(first={0: (5, 2, 4)})
    done = run_simulation({0: listen, **dict.fromkeys(range(1, 6), say)}, schema=SCHEMA, schedule=order, until=[0])
    assert values(done.results[0].frames) == {2: 2.0, 4: 4.0, 5: 5.0}
    assert done.results[0].late == (1, 3)
    assert done.results[0].seconds == pytest.approx(0.003)


def test_a_lost_quorum_names_who_is_missing_after_the_deadline():
    async def listen(transport):
        return await transport.collect("vector", 0, 0, of=range(1, 5), quorum=3, deadline=7.5)

    async def say(transport):
        await transport.send(0, word(transport, 0, 1.0))

    async def silent(transport):
        del transport

    done = run_simulation({0: listen, 1: say, 2: silent, 3: say, 4: silent}, schema=SCHEMA)
    lost = done.failures[0]
    assert isinstance(lost, QuorumLost)
    assert (lost.got, lost.missing, lost.needed) == ((1, 3), (2, 4), 3)
    assert "missing: 2, 4" in lost.message
    assert done.seconds == pytest.approx(7.5)


@pytest.mark.parametrize(
    ("of", "quorum", "own"), [((1, 2), 3, False), ((0, 1), 2, False), ((1,), 0, False), ((1,), 3, True)]
)
def test_a_quorum_that_can_never_be_is_misuse(of, quorum, own):
    async def listen(transport):
        mine = word(transport, 0, 0.0) if own else None
        await transport.collect("vector", 0, 0, of=of, quorum=quorum, deadline=1.0, own=mine)

    async def silent(transport):
        del transport

    done = run_simulation({0: listen, 1: silent, 2: silent}, schema=SCHEMA)
    assert isinstance(done.failures[0], Misuse)
    assert done.failures[0].code == "MTH-0911"


def test_rounds_before_are_dropped_and_rounds_ahead_wait():
    async def say(transport):
        for number in (7, 6, 5, 4, 3):
            await transport.send(0, word(transport, number, float(number)))

    async def listen(transport):
        transport.enter(4)
        await asyncio.sleep(1.0)
        first = await transport.collect("vector", 4, 0, of=[1], quorum=1, deadline=1.0)
        rejected = dict(transport.stats[1].rejected)
        # Round 7 was too far ahead then; the network keeps it until the window has come there.
        last = await transport.collect("vector", 7, 0, of=[1], quorum=1, deadline=1.0)
        return values(first.frames), values(last.frames), rejected

    done = run_simulation({0: listen, 1: say}, schema=SCHEMA)
    assert done.results[0] == ({1: 4.0}, {1: 7.0}, {"future": 1, "stale": 1})


def test_the_first_frame_wins_and_a_different_second_one_is_evidence():
    async def lie(transport):
        for value in (1.0, 2.0, 1.0):
            await transport.send(0, word(transport, 0, value))
            await asyncio.sleep(0.1)

    async def listen(transport):
        await asyncio.sleep(1.0)
        return values((await transport.collect("vector", 0, 0, of=[1], quorum=1, deadline=1.0)).frames)

    done = run_simulation({0: listen, 1: lie}, schema=SCHEMA)
    assert done.results[0] == {1: 1.0}
    (found,) = done.evidence[0]
    assert (found.peer, found.slot.kind, found.slot.round) == (1, "vector", 0)
    assert found.first_crc != found.second_crc
    assert done.stats[0][1].rejected == {"equivocation": 1, "again": 1}


def test_what_is_no_frame_is_counted_and_stops_nobody():
    async def attack(transport):
        bad = [b"", b"garbage", encode(word(transport, 0, 5.0))[:-1], encode(word(transport, 0, 5.0)) + b"x"]
        for data in bad:
            await transport.send_bytes(0, data)
        await transport.send(0, Frame("vector", 0, 0, 2, np.array([9.0])))
        await transport.send(0, Frame("vector", 0, 0, 1, np.zeros(2)))
        await transport.send(0, Frame("vector", 0, 999, 1, np.zeros(1)))
        await transport.send(0, Frame("secret", 0, 0, 1, np.zeros(1)))

    async def say(transport):
        await asyncio.sleep(0.5)
        await transport.send(0, word(transport, 0, 3.0))

    async def listen(transport):
        return values((await transport.collect("vector", 0, 0, of=[1, 2], quorum=1, deadline=1.0)).frames)

    done = run_simulation({0: listen, 1: attack, 2: say}, schema=SCHEMA)
    assert done.results[0] == {2: 3.0}
    assert done.stats[0][1].rejected == {"MTH-0900": 4, "MTH-0903": 1, "MTH-0901": 3}
    assert not done.stats[0][2].rejected


def test_a_flooding_peer_fills_its_own_share_only():
    schema = Schema(kinds={"vector": Expected(dtype="bytes", numel=1000, exact=False)})
    limits = Limits(buffer_bytes=5000, frames=50)

    async def flood(transport):
        for phase in range(200):
            await transport.send(0, Frame("vector", 0, phase, transport.me, bytes(1000)))

    async def say(transport):
        await asyncio.sleep(0.5)
        await transport.send(0, Frame("vector", 0, 0, transport.me, b"here"))

    async def listen(transport):
        await asyncio.sleep(1.0)
        kept = sum(transport.mailbox._bytes.values())
        found = await transport.collect("vector", 0, 0, of=[2], quorum=1, deadline=1.0)
        return kept, bytes(found.frames[2].body())

    done = run_simulation({0: listen, 1: flood, 2: say}, schema=schema, limits=limits)
    assert done.results[0] == (5004, b"here")
    assert done.stats[0][1].rejected["full"] == 195


def test_a_worker_follows_the_newest_model_however_far_ahead():
    limits = Limits(follow=frozenset({"model"}))

    async def serve(transport):
        for number in (0, 1, 50, 51, 900, 7):
            await transport.send(1, word(transport, number, float(number), kind="model"))
            await asyncio.sleep(1.0)

    async def follow(transport):
        seen, last = [], -1
        while last < 900:
            frame = await transport.newest("model", of=[0], after=last, deadline=10.0)
            last = frame.round
            seen.append(last)
            await asyncio.sleep(1.4)
        return seen, transport.round

    done = run_simulation({0: serve, 1: follow}, schema=SCHEMA, limits=limits)
    assert done.results[1] == ([0, 1, 50, 900], 900)


def test_a_restarted_node_gets_the_last_rounds_again():
    async def server(transport):
        for number in range(6):
            await transport.broadcast(word(transport, number, float(number)))
            await asyncio.sleep(1.0)

    async def client(transport):
        if transport.incarnation == 0:
            await asyncio.sleep(99.0)
        transport.enter(4)
        found = await transport.collect("vector", 4, 0, of=[0], quorum=1, deadline=1.0)
        return transport.incarnation, values(found.frames)

    done = run_simulation({0: server, 1: client}, schema=SCHEMA, crashes=[Crash(node=1, at=4.5, restart=5.5)])
    assert done.results[1] == (1, {0: 4.0})


def test_a_crashed_node_says_nothing_more_and_the_others_go_on():
    programs = {node: median_program(float(node), 20, 4) for node in range(6)}
    crashes = [Crash(node=4, at=0.004), Crash(node=5, at=0.006)]
    done = run_simulation(programs, schema=SCHEMA, until=range(4), crashes=crashes)
    assert set(done.results) == {0, 1, 2, 3}
    assert done.stats[0][4].claimed < 10


def test_a_partition_heals():
    """A node that is cut off for twenty rounds of the others goes through all of them afterwards."""
    programs = {node: median_program(float(node), 20, 3) for node in range(4)}
    cut = Partition(group=frozenset({3}), begin=0.0, heal=30.0)
    done = run_simulation(programs, schema=SCHEMA, schedule=cut)
    assert set(done.results) == {0, 1, 2, 3}
    assert done.seconds > 30
    assert len(done.results[3]) == 21


def test_slow_nodes_are_left_behind_by_a_quorum():
    programs = {node: median_program(float(node), 3, 4) for node in range(6)}
    done = run_simulation(
        programs, schema=SCHEMA, schedule=Slow(nodes=frozenset({0, 5}), seconds=5.0), until=range(1, 5)
    )
    assert done.seconds < 1
    assert done.stats[1][0].included == 0


@dataclass(frozen=True, kw_only=True)
class Silence(AbstractSchedule):
    """Omits all messages of the given nodes after some of them."""

    nodes: frozenset[int]
    seen: list[int] = field(default_factory=list)

    def delays(self, letter: Letter, rng: np.random.Generator) -> Sequence[float]:
        del rng
        self.seen.append(letter.number)
        return () if letter.sender in self.nodes and letter.at > 0.0005 else (0.001,)


def test_an_adversary_of_ones_own_decides_on_each_message():
    schedule = Silence(nodes=frozenset({5}))
    done = medians(0, schedule=schedule, until=range(5))
    assert set(done.results) >= set(range(5))
    assert schedule.seen == list(range(done.sent))
    assert done.stats[0][5].received_frames == 1


def test_everybody_waiting_for_ever_is_an_error_and_so_is_the_limit():
    async def wait(transport):
        await transport.receive()

    async def sleep(transport):
        del transport
        await asyncio.sleep(50.0)

    with pytest.raises(WorkError, match="every simulated node waits"):
        run_simulation({0: wait, 1: wait}, schema=SCHEMA)
    with pytest.raises(WorkError, match="after 10 virtual seconds"):
        run_simulation({0: sleep}, schema=SCHEMA, limit=10.0)
    gc.collect()


def test_a_fault_of_a_program_is_raised():
    async def broken(transport):
        raise ZeroDivisionError(str(transport.me))

    async def sleep(transport):
        del transport
        await asyncio.sleep(1.0)

    with pytest.raises(ZeroDivisionError):
        run_simulation({0: broken, 1: sleep}, schema=SCHEMA)
    with pytest.raises(ZeroDivisionError):
        run_simulation({0: sleep, 1: broken}, schema=SCHEMA, until=[0])


def test_nodes_that_are_not_there_are_misuse():
    with pytest.raises(Misuse, match="no node 7"):
        medians(0, crashes=[Crash(node=7, at=0.0)])


def spread(results) -> list[float]:
    return list(np.ptp([results[node] for node in range(4)], axis=0))


def edge(transport: AbstractTransport, rounds: int, low: tuple[int, ...], size: float):
    """A liar: minus `size` to some, plus `size` to the others."""

    async def run():
        for number in range(rounds):
            for peer in transport.peers:
                await transport.send(peer, word(transport, number, -size if peer in low else size))

    return run()


def test_medians_of_models_stall_under_adversarial_delivery_and_contract_under_random_delivery():
    """Specification 5.4: n = 5, f = 1, q = 4; the stall is expected, the guarantee is over random delivery."""
    rounds = 12
    honest = {node: median_program(float(node >= 2), rounds, 4) for node in range(4)}
    programs = {**honest, 4: lambda transport: edge(transport, rounds, (0, 1), 1e6)}
    # Each node hears its own camp, one of the other camp, and the liar: {0, 0, 1, -inf} and {1, 1, 0, inf}.
    unfair = Favour(first={0: (1, 2, 4), 1: (0, 2, 4), 2: (3, 0, 4), 3: (2, 0, 4)}, later=0.5)
    stalled = run_simulation(programs, schema=SCHEMA, schedule=unfair, until=range(4))
    assert spread(stalled.results) == [1.0] * (rounds + 1)
    fair = [
        spread(run_simulation(programs, schema=SCHEMA, schedule=RandomDelays(), seed=seed, until=range(4)).results)
        for seed in range(5)
    ]
    assert np.mean([path[-1] for path in fair]) < 0.05
