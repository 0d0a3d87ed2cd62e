"""Nodes in processes of their own: one dies by SIGKILL in the middle of a frame, one is stopped, one talks garbage."""

import asyncio
import contextlib
import json
import resource
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from grpc_cluster import PATIENCE, run, transports, until

from mithridate.byzantine.identity import make_keys
from mithridate.byzantine.messages import Expected, Frame, Schema
from mithridate.byzantine.transport._base import Limits

NODE = Path(__file__).with_name("grpc_node.py")
NUMEL, ROUNDS, QUORUM = 50_000, 15, 3
LIMITS = Limits(message_bytes=16_384, stall_seconds=2.0, backoff_seconds=0.2)


@contextlib.asynccontextmanager
async def process(plan: Path, me: int, mode: str):
    """A node's process and the address that it listens on; ended by its id."""
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(NODE), str(plan), str(me), mode, stdin=pipe, stdout=pipe
    )
    assert child.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE):
            word, address = (await child.stdout.readline()).decode().split()
        assert word == "up"
        yield child, address
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


def memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.slow
def test_a_quorum_is_reached_whatever_becomes_of_the_other_processes(tmp_path):
    folder, plan = tmp_path / "keys", tmp_path / "plan.json"
    pins = make_keys(folder, range(6))
    facts = {"folder": str(folder), "pins": pins, "numel": NUMEL, "rounds": ROUNDS, "quorum": QUORUM, "stall": 2.0}
    plan.write_text(json.dumps({**facts, "deadline": PATIENCE, "message_bytes": LIMITS.message_bytes}))
    schema = Schema(kinds={"vector": Expected(dtype="float32", numel=NUMEL)})

    async def work():
        async with contextlib.AsyncExitStack() as stack:
            modes = {2: "honest", 3: "halfway", 4: "honest", 5: "garbage"}
            opened = [stack.enter_async_context(process(plan, node, mode)) for node, mode in modes.items()]
            children = dict(zip(modes, await asyncio.gather(*opened), strict=True))
            extra = {node: address for node, (_, address) in children.items()}
            up = await stack.enter_async_context(
                transports(folder, pins, [0, 1], schema=schema, limits=LIMITS, extra=extra)
            )
            addresses = extra | {node: transport.address for node, transport in up.items()}
            children[4][0].send_signal(signal.SIGSTOP)
            for node in (2, 3, 5):
                children[node][0].stdin.write(json.dumps(addresses).encode() + b"\n")
            # Killed while a frame of it is half here, and the memory for all of it is taken.
            await until(lambda: 3 in up[0]._streams and up[0]._streams[3].reader.reserved == 4 * NUMEL)
            children[3][0].kill()
            await children[3][0].wait()
            before = memory()

            async def node(me: int) -> None:
                for number in range(ROUNDS):
                    own = Frame("vector", number, 0, me, np.full(NUMEL, me, np.float32))
                    await up[me].broadcast(own)
                    found = await up[me].collect(
                        "vector", number, 0, of=range(6), quorum=QUORUM, deadline=PATIENCE, own=own
                    )
                    assert set(found.frames) == {0, 1, 2}
                    assert all((frame.array() == sender).all() for sender, frame in found.frames.items())

            await asyncio.gather(node(0), node(1))
            async with asyncio.timeout(PATIENCE):
                assert (await children[2][0].stdout.readline()).strip() == b"done"
            assert memory() - before < 64 << 20
            await until(lambda: 3 not in up[0]._streams)
            assert up[0].stats[5].rejected.total() > 0
            assert up[0].stats[3].received_frames == up[0].stats[4].received_frames == 0
            children[4][0].send_signal(signal.SIGCONT)

    run(work)
