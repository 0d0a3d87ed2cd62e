"""Broadcast layers: what a liar can and cannot do, in any order of delivery."""

import asyncio
import hashlib
import hmac
import math
import random

import numpy as np
import pytest

from mithridate.byzantine._layer import digest, echo_quorum
from mithridate.byzantine.broadcast import (
    LAYERS_OF,
    Consistent,
    Plain,
    Reliable,
    broadcast_layer,
    witness_expected,
    witness_kind,
)
from mithridate.byzantine.messages import BYTES, Expected, Frame, Schema
from mithridate.byzantine.transport._base import AbstractTransport, Limits, QuorumLost
from mithridate.byzantine.transport._mailbox import Mailbox
from mithridate.byzantine.transport._virtual import VirtualLoop
from mithridate.byzantine.transport.schedules import AbstractSchedule, Favour, RandomDelays, Slow
from mithridate.byzantine.transport.simulator import run_simulation
from mithridate.core.errors import Misuse

VECTOR = Expected(dtype="float64", numel=1)


def schema(name: str, n: int) -> Schema:
    return Schema(kinds={"vector": VECTOR, witness_kind("vector"): witness_expected(n)}, layers=LAYERS_OF[name])


def vector(sender: int, value: float, *, round: int = 0, phase: int = 0) -> Frame:
    return Frame("vector", round, phase, sender, np.array([value]))


def only(frame: Frame) -> float:
    return float(frame.array()[0])


class Seals:
    """Signatures for tests without a key pair: a code under a key of the node, padded to 64 bytes."""

    def __init__(self, me: int) -> None:
        self.me = me

    def sign(self, message: bytes) -> bytes:
        return hmac.digest(b"key %d" % self.me, message, hashlib.sha512)

    def verify(self, node: int, message: bytes, signature: bytes) -> bool:
        return hmac.compare_digest(Seals(node).sign(message), signature)


def make(name: str, transport: AbstractTransport, f: int):
    if name == "signed":
        return broadcast_layer("consistent", transport, f=f, signer=Seals(transport.me))
    return broadcast_layer(name, transport, f=f)


def trimmed(found: dict[int, Frame], f: int) -> float:
    values = np.sort([only(frame) for frame in found.values()])
    return float(values[f : len(values) - f].mean())


def agreement(name: str, start: float, *, f: int, rounds: int, witnessed: bool = False):
    """Iterated trimmed mean over a broadcast layer (specification 6.4 and 6.5)."""

    async def program(transport: AbstractTransport) -> list[float]:
        path, n = [start], len(transport.peers) + 1
        everybody = range(n)
        async with make(name, transport, f) as layer:
            for number in range(rounds):
                own = vector(transport.me, path[-1], round=number)
                await layer.broadcast(own)
                if witnessed:
                    assert isinstance(layer, Reliable)
                    found = await layer.collect_witnessed("vector", number, 0, deadline=1000.0, own=own)
                else:
                    found = await layer.collect(
                        "vector", number, 0, of=everybody, quorum=n - f, deadline=1000.0, own=own
                    )
                assert list(found.frames) == sorted(found.frames)
                assert all(frame.sender == sender for sender, frame in found.frames.items())
                path.append(trimmed(found.frames, f))
            await asyncio.sleep(100.0)
        return path

    return program


def equivocator(rounds: int, low: tuple[int, ...], size: float):
    """Says minus `size` to some and plus `size` to the others, then echoes and readies what each of them wants."""

    async def program(transport: AbstractTransport) -> list[float]:
        said = {peer: -size if peer in low else size for peer in transport.peers}
        layers = transport.schema.layers
        for number in range(rounds):
            for peer, value in said.items():
                frame = vector(transport.me, value, round=number)
                await transport.send(peer, frame)
                for layer in ("echo", "ready"):
                    if layer in layers:
                        body = digest(frame, b"")
                        await transport.send(peer, Frame("vector", number, 0, transport.me, body, layer, transport.me))
        while True:
            await transport.receive()

    return program


def spread(results: dict[int, list[float]], honest: int) -> list[float]:
    return list(np.ptp([results[node] for node in range(honest)], axis=0))


STALL = Favour(first={0: (1, 2, 4), 1: (0, 2, 4), 2: (3, 0, 4), 3: (2, 0, 4)}, later=3.0)


def run_five(name: str, rounds: int, schedule: AbstractSchedule, seed: int = 0):
    programs = {node: agreement(name, float(node >= 2), f=1, rounds=rounds) for node in range(4)}
    programs[4] = equivocator(rounds, (0, 1), 1e6)
    return run_simulation(
        programs,
        schema=schema("consistent" if name == "signed" else name, 5),
        schedule=schedule,
        seed=seed,
        until=range(4),
    )


def test_trimmed_means_stall_under_plain_broadcast_and_equivocation():
    """Specification 6.4, n = 5, f = 1: {0, 0, 1, low} -> 0 and {1, 1, 0, high} -> 1, for ever."""
    done = run_five("plain", 10, STALL)
    assert spread(done.results, 4) == [1.0] * 11


@pytest.mark.parametrize("name", ["consistent", "signed", "reliable"])
def test_the_same_liar_and_the_same_schedule_cannot_stall_what_does_not_equivocate(name):
    done = run_five(name, 10, STALL)
    assert not done.failures
    path = spread(done.results, 4)
    assert path[0] == 1.0
    assert path[-1] < 0.01
    assert all(0.0 <= value <= 1.0 for node in range(4) for value in done.results[node])
    if name != "signed":
        assert done.evidence == {node: [] for node in range(5)}


@pytest.mark.parametrize("name", ["plain", "consistent", "signed", "reliable"])
def test_without_liars_every_layer_delivers_what_was_said(name):
    done = run_simulation(
        {node: agreement(name, float(node), f=1, rounds=3) for node in range(5)},
        schema=schema("consistent" if name == "signed" else name, 5),
        schedule=RandomDelays(),
        seed=1,
    )
    assert not done.failures
    path = spread(done.results, 5)
    assert path[-1] < path[0]
    again = run_simulation(
        {node: agreement(name, float(node), f=1, rounds=3) for node in range(5)},
        schema=schema("consistent" if name == "signed" else name, 5),
        schedule=RandomDelays(),
        seed=1,
    )
    assert again.trace == done.trace


def test_witnesses_give_a_common_core():
    """Any two honest nodes share n - f vectors, whatever the adversary delivers first."""
    n, f = 7, 2
    cores: dict[int, set[int]] = {}

    def program(start: float):
        async def run(transport: AbstractTransport) -> set[int]:
            async with make("reliable", transport, f) as layer:
                assert isinstance(layer, Reliable)
                own = vector(transport.me, start)
                await layer.broadcast(own)
                found = await layer.collect_witnessed("vector", 0, 0, deadline=500.0, own=own)
                cores[transport.me] = set(found.frames)
                await asyncio.sleep(100.0)
            return set(found.frames)

        return run

    async def silent(transport: AbstractTransport) -> set[int]:
        await asyncio.sleep(1e5)
        return set()

    for seed in range(4):
        unfair = Favour(first={node: [(node + k) % 5 for k in range(3)] for node in range(5)}, later=2.0)
        schedule = unfair if seed == 0 else RandomDelays(mean=0.5)
        programs = {node: program(float(node)) for node in range(5)} | {5: silent, 6: silent}
        done = run_simulation(programs, schema=schema("reliable", n), schedule=schedule, seed=seed, until=range(5))
        sets = [done.results[node] for node in range(5)]
        assert all(len(a & b) >= n - f for a in sets for b in sets)


def test_a_quorum_of_liars_too_many_is_lost_and_named():
    async def silent(transport: AbstractTransport) -> list[float]:
        await asyncio.sleep(1e5)
        return []

    async def short(transport: AbstractTransport) -> list[float]:
        async with make("reliable", transport, 1) as layer:
            own = vector(transport.me, 0.0)
            await layer.broadcast(own)
            await layer.collect("vector", 0, 0, of=range(4), quorum=3, deadline=5.0, own=own)
        return []

    done = run_simulation({0: short, 1: short, 2: silent, 3: silent}, schema=schema("reliable", 4), until=[0, 1])
    assert isinstance(done.failures[0], QuorumLost)
    assert done.failures[0].missing == (1, 2, 3)


def test_a_withheld_vector_is_fetched_from_those_who_echoed_it():
    """The liar says its vector to two of three only; its readies let all deliver, so the third must fetch."""

    async def liar(transport: AbstractTransport) -> float:
        frame = vector(3, 5.0)
        for peer in (0, 1):
            await transport.send(peer, frame)
        for layer in ("echo", "ready"):
            for peer in transport.peers:
                await transport.send(peer, Frame("vector", 0, 0, 3, digest(frame, b""), layer, 3))
        await asyncio.sleep(1e5)
        return 0.0

    async def honest(transport: AbstractTransport) -> float:
        async with make("reliable", transport, 1) as layer:
            found = await layer.collect("vector", 0, 0, of=[3], quorum=1, deadline=50.0)
            await asyncio.sleep(10.0)
        return only(found.frames[3])

    done = run_simulation(
        {0: honest, 1: honest, 2: honest, 3: liar},
        schema=schema("reliable", 4),
        schedule=Slow(nodes=frozenset({0}), seconds=1.0),
        until=range(3),
    )
    assert done.results == {0: 5.0, 1: 5.0, 2: 5.0}


@pytest.mark.parametrize("signer", [True, False])
def test_a_forged_proof_or_echo_convinces_nobody(signer):
    """The liar makes up echoes of all others for a vector that it shows to one node only."""

    async def liar(transport: AbstractTransport) -> bool:
        frame = vector(3, 5.0)
        value = digest(frame, b"")
        await transport.send(0, frame)
        own = Seals(3).sign(b"mithridate echo 1\0" + value)
        entries = b"".join(node.to_bytes(4, "little") + own for node in (0, 1, 2, 3))
        repeated = (3).to_bytes(4, "little") + own
        for peer, proof in ((0, entries), (1, repeated * 4), (2, b"")):
            await transport.send(peer, Frame("vector", 0, 0, 3, value + proof, "proof", 3))
            await transport.send(peer, Frame("vector", 0, 0, 3, value, "echo", 3))
            await transport.send(peer, Frame("vector", 0, 0, 3, b"short", "echo", peer))
        await asyncio.sleep(1e5)
        return False

    async def honest(transport: AbstractTransport) -> bool:
        async with make("signed" if signer else "consistent", transport, 1) as layer:
            await layer.collect("vector", 0, 0, of=[3], quorum=1, deadline=50.0)
        return True

    programs = {0: honest, 1: honest, 2: honest, 3: liar}
    done = run_simulation(programs, schema=schema("consistent", 4), until=range(3))
    assert not done.results
    assert set(done.failures) == {0, 1, 2}


def test_memory_of_a_layer_goes_with_the_rounds_and_each_origin_has_a_budget():
    big = Schema(kinds={"vector": Expected(dtype=BYTES, numel=1000)}, layers=LAYERS_OF["reliable"], control_bytes=64)
    held: list[int] = []

    async def flood(transport: AbstractTransport) -> int:
        for number in range(3):
            for phase in range(100):
                await transport.broadcast(Frame("vector", number, phase, 3, bytes(1000)))
        await asyncio.sleep(1e5)
        return 0

    async def honest(transport: AbstractTransport) -> int:
        async with make("reliable", transport, 1) as layer:
            for number in range(8):
                own = Frame("vector", number, 0, transport.me, bytes(1000))
                await layer.broadcast(own)
                await layer.collect("vector", number, 0, of=range(3), quorum=3, deadline=50.0, own=own)
                held.append(max(layer._held.values()))
            await asyncio.sleep(10.0)
            return len(layer._instances)

    limits = Limits(buffer_bytes=20_000)
    done = run_simulation({0: honest, 1: honest, 2: honest, 3: flood}, schema=big, limits=limits, until=range(3))
    assert not done.failures
    assert 0 < max(held) <= 20_000
    assert all(count <= 3 * 3 for count in done.results.values())


@pytest.mark.parametrize(
    ("make_layer", "code"),
    [
        (lambda transport: Reliable(transport, f=2), "MTH-0915"),
        (lambda transport: Consistent(transport, f=-1), "MTH-0915"),
        (lambda transport: broadcast_layer("gossip", transport, f=1), "MTH-0914"),
    ],
)
def test_what_cannot_work_is_refused(make_layer, code):
    transport = Recorder(0, 4)
    with pytest.raises(Misuse) as caught:
        make_layer(transport)
    assert caught.value.code == code


def test_a_schema_without_the_layers_frames_is_refused():
    transport = Recorder(0, 4)
    transport.mailbox = Mailbox(0, [1, 2, 3], Schema(kinds={"vector": VECTOR}), Limits())
    with pytest.raises(Misuse, match="echo"):
        Reliable(transport, f=1)
    Plain(transport)


def test_two_quorums_share_an_honest_node():
    for n in range(1, 60):
        for f in range((n - 1) // 3 + 1):
            quorum = echo_quorum(n, f)
            assert 2 * quorum - n >= f + 1
            assert quorum <= n - f
            assert 2 * (quorum - 1) - n < f + 1


class Recorder(AbstractTransport):
    """A transport that puts what is sent into a pool, from which the test delivers in any order."""

    def __init__(self, me: int, n: int, pool: list[tuple[int, Frame]] | None = None) -> None:
        self.me, self.peers, self.incarnation = me, tuple(k for k in range(n) if k != me), 0
        self.mailbox = Mailbox(me, self.peers, schema("reliable", n), Limits())
        self.pool = [] if pool is None else pool

    async def send(self, to: int, frame: Frame) -> None:
        self.pool.append((to, frame))

    async def send_bytes(self, to: int, data: bytes) -> None:
        raise NotImplementedError

    async def drain(self, seconds: float) -> tuple[int, ...]:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


FRAMES = [vector(3, value) for value in (1.0, 2.0)]
DIGESTS = [digest(frame, b"") for frame in FRAMES]


def lies(rng: random.Random) -> list[tuple[int, Frame]]:
    """What an equivocating origin of n = 4 sends: any vector, echo and ready to each, or none."""
    sent = []
    for to in range(3):
        options = [Frame("vector", 0, 0, 3, value, layer, 3) for layer in ("echo", "ready") for value in DIGESTS]
        chosen = [*rng.sample(FRAMES, rng.randint(0, 2)), *rng.sample(options, rng.randint(0, 4))]
        sent += [(to, frame) for frame in chosen]
    return sent


async def one_schedule(rng: random.Random) -> tuple[dict[int, float], bool]:
    """Deliver the messages of one instance in random order; return what each honest node delivered."""
    pool: list[tuple[int, Frame]] = []
    layers = [Reliable(Recorder(me, 4, pool), f=1) for me in range(3)]
    pool += lies(rng)
    fetched, patience = False, 5
    while pool or (patience and any(layer._helpers for layer in layers)):
        if not pool:
            # Nothing is on its way, but somebody still lacks a vector and will ask the next one for it.
            patience -= 1
            await asyncio.sleep(0.3)
            continue
        place = rng.randrange(len(pool))
        pool[place], pool[-1] = pool[-1], pool[place]
        to, frame = pool.pop()
        if to == 3:
            if frame.layer == "fetch" and rng.random() < 0.5:
                pool.append((frame.sender, Frame("vector", 0, 0, 3, rng.choice(FRAMES).payload, "have", 3)))
            continue
        layer = layers[to]
        layer.transport.mailbox.tap()
        layer.transport.mailbox.admit(frame)
        while (known := layer.transport.mailbox.pop()) is not None:
            await layer._take(known)
        if layer._helpers:
            fetched = True
            await asyncio.sleep(0)
    for layer in layers:
        for task in layer._helpers:
            task.cancel()
    await asyncio.sleep(0)
    place_ = ("vector", 0, 0)
    return {k: only(layer._of(place_, {3})[3]) for k, layer in enumerate(layers) if layer._of(place_, {3})}, fetched


def check_schedules(count: int, seed: int) -> tuple[int, int, int]:
    rng = random.Random(seed)
    none = some = fetches = 0

    async def work() -> None:
        nonlocal none, some, fetches
        for _ in range(count):
            delivered, fetched = await one_schedule(rng)
            assert len(set(delivered.values())) <= 1, "two honest nodes delivered different vectors"
            assert len(delivered) in (0, 3), "one honest node delivered and another never will"
            none, some, fetches = none + (not delivered), some + bool(delivered), fetches + fetched

    with asyncio.Runner(loop_factory=lambda: VirtualLoop(math.inf)) as runner:
        runner.run(work())
    return none, some, fetches


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_no_schedule_makes_two_honest_nodes_deliver_different_vectors(seed):
    """Specification 14: n = 4, f = 1, an equivocating origin, ten thousand random schedules in all."""
    none, some, fetches = check_schedules(2500, seed)
    assert min(none, some, fetches) > 100
