"""gRPC on loopback: whoever hangs, lies, floods or dies, the others reach their quorum and nothing grows."""

import asyncio
import contextlib
import os
import random
import resource
import socket
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc import aio
from grpc_cluster import PATIENCE, QUICK, SMALL, run, transports, until, vector

from mithridate.byzantine.broadcast import LAYERS_OF, broadcast_layer, witness_expected, witness_kind
from mithridate.byzantine.identity import Identity, make_keys, tls_name
from mithridate.byzantine.messages import Expected, Frame, Schema, encode
from mithridate.byzantine.transport._base import Limits, QuorumLost
from mithridate.byzantine.transport._wire import batch, chunks
from mithridate.byzantine.transport.grpc import GrpcTransport
from mithridate.core.errors import Misuse

Keys = tuple[Path, dict[int, str]]


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> Keys:
    folder = tmp_path_factory.mktemp("grpc") / "keys"
    return folder, make_keys(folder, range(6))


async def gather_rounds(transport: GrpcTransport, rounds: int, quorum: int, of=range(6)) -> None:
    for number in range(rounds):
        own = vector(transport.me, number, transport.me + 0.5)
        await transport.broadcast(own)
        found = await transport.collect("vector", number, 0, of=of, quorum=quorum, deadline=PATIENCE, own=own)
        assert all(frame.array()[0] == sender + 0.5 for sender, frame in found.frames.items())


def test_frames_arrive_whole_whether_they_fit_a_message_or_not(keys):
    sizes = {"short": 3, "even": 1008, "long": 100_000}
    schema = Schema(kinds={kind: Expected(dtype="float32", numel=size) for kind, size in sizes.items()})

    async def work():
        async with transports(*keys, range(3), schema=schema) as up:
            sent = {}
            for kind, size in sizes.items():
                values = np.random.default_rng(size).standard_normal(size).astype(np.float32)
                sent[kind] = Frame(kind, 0, 0, 0, values)
                await up[0].broadcast(sent[kind], to=[1, 2])
            for node in (1, 2):
                for kind, frame in sent.items():
                    found = await up[node].collect(kind, 0, 0, of=[0], quorum=1, deadline=PATIENCE)
                    assert bytes(found.frames[0].body()) == bytes(frame.body())
            assert await up[0].drain(PATIENCE) == ()

    run(work)


@pytest.mark.slow
def test_hung_garbage_and_dead_peers_stop_nobody(keys):
    """Three honest nodes of six; one accepts connections and says nothing, one talks garbage, one is not there."""
    rng = random.Random(0)

    async def garbage(transport: GrpcTransport) -> None:
        for number in range(150):
            good = vector(4, number % 25)
            wrong = [
                rng.randbytes(rng.randrange(200)),
                b"\x01" + rng.randbytes(100),
                b"\x01" + encode(good)[:-3],
                b"\x02" + encode(good),
                batch([vector(0, number)]),
                batch([vector(4, 10**9 + number)]),
                batch([Frame("vector", 0, 0, 4, np.zeros(5, np.float32))]),
                batch([good] * 300),
            ]
            for peer in range(3):
                await transport.send_bytes(peer, rng.choice(wrong))

    async def work():
        hung = socket.create_server(("127.0.0.1", 0))
        with socket.create_server(("127.0.0.1", 0)) as closed:
            nobody = f"127.0.0.1:{closed.getsockname()[1]}"
        extra = {3: f"127.0.0.1:{hung.getsockname()[1]}", 5: nobody}
        with hung:
            async with transports(*keys, [0, 1, 2, 4], extra=extra) as up:
                lies = asyncio.create_task(garbage(up[4]))
                await asyncio.gather(*(gather_rounds(up[node], 25, 3) for node in range(3)))
                await lies
                refused = sum(up[0].stats[4].rejected.values())
                await until(lambda: sum(up[0].stats[4].rejected.values()) > min(refused, 5))
                assert up[0].stats[3].included == up[0].stats[5].included == 0
                assert {3, 5} <= set(await up[0].drain(0.0))
                with pytest.raises(QuorumLost) as lost:
                    await up[0].collect("vector", 99, 0, of=[3, 5], quorum=1, deadline=0.2)
                assert lost.value.missing == (3, 5)

    run(work)


def test_a_certificate_that_is_not_in_the_cluster_file_is_refused(keys, tmp_path):
    """One of another authority, and one of ours that the cluster file does not have."""
    folder, pins = keys
    other = make_keys(tmp_path / "other", range(6))

    async def work():
        few = {node: pins[node] for node in (0, 1)}
        async with transports(folder, few, [0, 1]) as up:
            addresses = {node: transport.address for node, transport in up.items()}
            stranger = await GrpcTransport.start(Identity.load(folder, 5, pins), schema=SMALL, limits=QUICK)
            forger = await GrpcTransport.start(Identity.load(tmp_path / "other", 1, other), schema=SMALL, limits=QUICK)
            try:
                for intruder in (stranger, forger):
                    intruder.connect(addresses)
                    await intruder.send(0, vector(1, 0, 9.0))
                await until(lambda: up[0].strangers > 0 and forger.stats[0].reconnects > 0)
                await gather_rounds(up[1], 0, 1)
                await up[1].send(0, vector(1, 0, 1.0))
                found = await up[0].collect("vector", 0, 0, of=[1], quorum=1, deadline=PATIENCE)
                assert found.frames[1].array()[0] == 1.0
                assert 0 in await stranger.drain(0.0)
                assert 0 in await forger.drain(0.0)
                assert up[0].stats[1].received_frames == 1
            finally:
                await stranger.close()
                await forger.close()

    run(work)


def test_an_impostor_at_the_address_of_a_peer_gets_nothing(keys, tmp_path):
    """Node 2 listens where node 1 should: the client trusts node 1's certificate alone."""
    folder, pins = keys

    async def work():
        async with transports(folder, pins, [0, 2]) as up:
            sender = await GrpcTransport.start(Identity.load(folder, 3, pins), schema=SMALL, limits=QUICK)
            try:
                sender.connect({1: up[2].address})
                await sender.send(1, vector(3, 0))
                await until(lambda: sender.stats[1].reconnects > 1)
                assert 1 in await sender.drain(0.0)
                assert up[2].stats[3].received_frames == 0
            finally:
                await sender.close()

    run(work)


def test_the_name_in_a_frame_is_not_believed(keys):
    async def work():
        async with transports(*keys, [0, 1, 2]) as up:
            await up[2].send(0, vector(1, 0, 9.0))
            await up[2].send(0, Frame("vector", 0, 0, 2, np.zeros(4, np.float32), "data", 1))
            await until(lambda: up[0].stats[2].rejected["MTH-0903"] == 2)
            await up[1].send(0, vector(1, 0, 1.0))
            found = await up[0].collect("vector", 0, 0, of=[1, 2], quorum=1, deadline=PATIENCE)
            assert {sender: frame.array()[0] for sender, frame in found.frames.items()} == {1: 1.0}

    run(work)


def test_replays_future_rounds_and_second_thoughts(keys):
    async def work():
        async with transports(*keys, [0, 1]) as up:
            await up[1].send_bytes(0, batch([vector(1, 0, 1.0)]))
            await up[1].send_bytes(0, batch([vector(1, 0, 1.0), vector(1, 0, 2.0), vector(1, 3, 3.0)]))
            await until(lambda: up[0].stats[1].received_frames == 4)
            assert up[0].stats[1].rejected == {"again": 1, "equivocation": 1, "future": 1}
            assert [found.peer for found in up[0].evidence] == [1]
            first = await up[0].collect("vector", 0, 0, of=[1], quorum=1, deadline=PATIENCE)
            assert first.frames[1].array()[0] == 1.0
            up[0].enter(2)
            await up[1].send_bytes(0, batch([vector(1, 0, 1.0)]))
            await until(lambda: up[0].stats[1].rejected["stale"] == 1)
            # What is too early is kept by its sender, who tries again.
            await up[1].send(0, vector(1, 6, 6.0))
            await until(lambda: up[0].stats[1].rejected["future"] >= 2)
            late = await up[0].collect("vector", 6, 0, of=[1], quorum=1, deadline=PATIENCE)
            assert late.frames[1].array()[0] == 6.0

    run(work)


def test_a_node_that_was_started_anew_gets_the_last_rounds_again(keys):
    folder, pins = keys

    async def work():
        async with transports(folder, pins, [0]) as up:
            first = await GrpcTransport.start(Identity.load(folder, 1, pins), schema=SMALL, limits=QUICK)
            address = first.address
            up[0].connect({1: address})
            for number in range(6):
                await up[0].send(1, vector(0, number, float(number)))
                first.enter(number)
            await until(lambda: first.stats[0].claimed == 5 and not up[0]._outboxes[1].pending)
            await first.close()
            identity = Identity.load(folder, 1, pins)
            again = await GrpcTransport.start(identity, address, schema=SMALL, limits=QUICK, incarnation=1)
            try:
                # The sender notices at its next frame, and sends what the window still covers once more.
                await up[0].send(1, vector(0, 6, 6.0))
                again.enter(4)
                for number in (4, 5, 6):
                    found = await again.collect("vector", number, 0, of=[0], quorum=1, deadline=PATIENCE)
                    assert found.frames[0].array()[0] == number
            finally:
                await again.close()

    run(work)


def test_what_was_sent_while_a_peer_was_away_arrives_when_it_is_back(keys):
    folder, pins = keys

    async def work():
        with socket.create_server(("127.0.0.1", 0)) as place:
            address = f"127.0.0.1:{place.getsockname()[1]}"
        async with transports(folder, pins, [0], extra={1: address}) as up:
            for number in range(20):
                await up[0].send(1, vector(0, number, float(number)))
            await until(lambda: up[0].stats[1].reconnects > 0)
            late = await GrpcTransport.start(Identity.load(folder, 1, pins), address, schema=SMALL, limits=QUICK)
            try:
                for number in range(20):
                    found = await late.collect("vector", number, 0, of=[0], quorum=1, deadline=PATIENCE)
                    assert found.frames[0].array()[0] == number
                assert up[0].stats[1].dropped == 0
            finally:
                await late.close()

    run(work)


@pytest.mark.parametrize("name", ["consistent", "reliable"])
def test_broadcast_layers_run_over_real_sockets_and_signatures(keys, name):
    """Four nodes, one of which says something else to each of the others."""
    folder, pins = keys
    kinds = {"vector": SMALL.kinds["vector"], witness_kind("vector"): witness_expected(4)}
    schema = Schema(kinds=kinds, layers=LAYERS_OF[name])
    few = {node: pins[node] for node in range(4)}

    async def node(transport: GrpcTransport) -> list[dict[int, float]]:
        signer = Identity.load(folder, transport.me, few)
        seen = []
        async with broadcast_layer(name, transport, f=1, signer=signer, context=b"run 1") as layer:
            for number in range(3):
                own = vector(transport.me, number, float(transport.me))
                await layer.broadcast(own)
                found = await layer.collect("vector", number, 0, of=range(4), quorum=3, deadline=PATIENCE, own=own)
                seen.append({sender: float(frame.array()[0]) for sender, frame in found.frames.items()})
            await transport.drain(PATIENCE)
            await asyncio.sleep(0.5)
        return seen

    async def work():
        async with transports(folder, few, range(4), schema=schema) as up:
            for number in range(3):
                for peer in range(3):
                    await up[3].send(peer, vector(3, number, 100.0 + peer))
            seen = await asyncio.gather(*(node(up[me]) for me in range(3)))
        assert seen == [[{0: 0.0, 1: 1.0, 2: 2.0}] * 3] * 3

    run(work)


@contextlib.asynccontextmanager
async def raw_stream(keys: Keys, me: int, peer: int, address: str):
    """A stream to a peer with a good certificate, and no manners."""
    identity = Identity.load(keys[0], me, keys[1])
    credentials = grpc.ssl_channel_credentials(identity.certificates[peer], identity.key, identity.certificates[me])
    options = [("grpc.ssl_target_name_override", tls_name(peer)), ("grpc.use_local_subchannel_pool", 1)]
    async with aio.secure_channel(address, credentials, options=options) as channel:
        call = channel.stream_stream("/mithridate.Node/Talk")()
        try:
            yield call
        finally:
            call.cancel()


def test_a_message_above_the_cap_ends_its_stream_and_nothing_else(keys):
    async def work():
        async with transports(*keys, [0, 1]) as up:
            async with raw_stream(keys, 2, 0, up[0].address) as call:
                await call.write(bytes(QUICK.message_bytes * 4))
                with pytest.raises(aio.AioRpcError) as refused:
                    await call.read()
                assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            await asyncio.gather(*(gather_rounds(up[node], 3, 2, of=[0, 1]) for node in (0, 1)))

    run(work)


def test_half_a_frame_is_given_up_and_its_memory_freed(keys):
    long = Schema(kinds={"vector": Expected(dtype="float32", numel=1 << 20)})
    limits = Limits(message_bytes=65_536, stall_seconds=0.05)
    frame = Frame("vector", 0, 0, 2, np.ones(1 << 20, np.float32))

    async def work():
        async with transports(*keys, [0, 1], schema=long, limits=limits) as up:
            async with raw_stream(keys, 2, 0, up[0].address) as call:
                pieces = chunks(frame, 65_536)
                for _ in range(3):
                    await call.write(next(pieces))
                    await call.read()
                # 4 MiB at 100 kB/s and the grace: far too long for a test, so the clock is moved.
                await until(lambda: up[0].stats[2].claimed == 0)
                reader = up[0]._streams[2].reader
                assert reader.reserved == frame.nbytes
                reader._partial.until = 0.0
                await call.write(next(pieces))
                with pytest.raises(aio.AioRpcError) as slow:
                    while await call.read() is not aio.EOF:
                        pass
                assert slow.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
                assert up[0].stats[2].rejected["slow"] == 1
                assert reader.reserved == 0
            async with raw_stream(keys, 2, 0, up[0].address) as call:
                for piece in chunks(frame, 65_536):
                    await call.write(piece)
                    await call.read()
            found = await up[0].collect("vector", 0, 0, of=[2], quorum=1, deadline=PATIENCE)
            assert found.frames[2].array().sum() == 1 << 20

    run(work)


def test_a_second_stream_of_a_peer_replaces_the_first(keys):
    async def work():
        async with (
            transports(*keys, [0]) as up,
            raw_stream(keys, 2, 0, up[0].address) as old,
            contextlib.AsyncExitStack() as later,
        ):
            await old.write(batch([vector(2, 0)]))
            await old.read()
            new = await later.enter_async_context(raw_stream(keys, 2, 0, up[0].address))
            await new.write(batch([vector(2, 1)]))
            await new.read()
            with pytest.raises(aio.AioRpcError) as ended:
                await old.read()
            assert ended.value.code() == grpc.StatusCode.ABORTED
            assert len(up[0]._streams) == 1
            assert up[0].stats[2].received_frames == 2

    run(work)


def memory() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_floods_and_raw_bytes_leave_memory_threads_and_service_as_they_were(keys):
    rng = random.Random(1)

    async def knock(address: str, count: int) -> None:
        host, _, port = address.rpartition(":")
        for _ in range(count):
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(rng.randbytes(rng.randrange(1, 2000)))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
                del reader

    async def flood(call, count: int) -> None:
        for number in range(count):
            bad = rng.choice([rng.randbytes(4000), batch([vector(2, 10**6 + number)] * 20), b"\x02" * 100])
            with contextlib.suppress(aio.AioRpcError):
                await call.write(bad)
                await call.read()

    async def work():
        async with transports(*keys, [0, 1]) as up:
            await asyncio.gather(*(gather_rounds(up[node], 2, 2, of=[0, 1]) for node in (0, 1)))
            before, threads = memory(), threading.active_count()
            async with raw_stream(keys, 2, 0, up[0].address) as call:
                jobs = [asyncio.create_task(flood(call, 60)), asyncio.create_task(knock(up[0].address, 100))]
                for number in range(2, 12):
                    for node in (0, 1):
                        await up[node].broadcast(vector(node, number))
                    await up[0].collect("vector", number, 0, of=[1], quorum=1, deadline=PATIENCE)
                    await up[1].collect("vector", number, 0, of=[0], quorum=1, deadline=PATIENCE)
                await asyncio.gather(*jobs)
            assert up[0].stats[2].rejected.total() >= 60
            assert memory() - before < 64 << 20
            assert threading.active_count() <= threads + 1

    run(work)


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "example.org:1"])
def test_other_machines_reach_a_node_only_if_that_is_wished(keys, listen):
    async def work():
        with pytest.raises(Misuse) as caught:
            await GrpcTransport.start(Identity.load(keys[0], 0, keys[1]), listen, schema=SMALL)
        assert caught.value.code == "MTH-0925"

    run(work)


def test_a_port_that_is_taken_is_one_clear_error(keys):
    async def work():
        with socket.create_server(("127.0.0.1", 0)) as taken:
            listen = f"127.0.0.1:{taken.getsockname()[1]}"
            with pytest.raises(Misuse) as caught:
                await GrpcTransport.start(Identity.load(keys[0], 0, keys[1]), listen, schema=SMALL)
        assert caught.value.code == "MTH-0926"
        assert listen in caught.value.message

    run(work)


def test_a_bounded_outbox_gives_up_the_oldest_round(keys):
    async def work():
        limits = Limits(message_bytes=4096, outbox_frames=5)
        async with transports(*keys, [0], limits=limits) as up:
            for number in range(12):
                await up[0].send(1, vector(0, number))
            assert up[0].stats[1].dropped == 7
            kept = [entry.round for entry in up[0]._outboxes[1]._entries]
            assert kept == [7, 8, 9, 10, 11]

    run(work)


def test_the_library_is_told_to_keep_quiet():
    assert os.environ["GRPC_VERBOSITY"] == "NONE"
