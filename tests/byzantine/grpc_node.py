"""A node in a process of its own: `grpc_node.py PLAN.json ID MODE`; says `up PORT`, reads addresses, then behaves."""

import asyncio
import json
import random
import sys
from pathlib import Path

import numpy as np

from mithridate.byzantine.identity import Identity
from mithridate.byzantine.messages import Expected, Frame, Schema
from mithridate.byzantine.transport._base import Limits
from mithridate.byzantine.transport._wire import chunks
from mithridate.byzantine.transport.grpc import GrpcTransport


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def honest(transport: GrpcTransport, plan: dict) -> None:
    for number in range(plan["rounds"]):
        own = Frame("vector", number, 0, transport.me, np.full(plan["numel"], transport.me, np.float32))
        await transport.broadcast(own)
        everybody = (transport.me, *transport.peers)
        quorum, deadline = plan["quorum"], plan["deadline"]
        await transport.collect("vector", number, 0, of=everybody, quorum=quorum, deadline=deadline, own=own)
    await transport.drain(5.0)
    say("done")


async def halfway(transport: GrpcTransport, plan: dict) -> None:
    """Send the first half of a long frame to everybody, for ever in the middle of it."""
    frame = Frame("vector", 0, 0, transport.me, np.ones(plan["numel"], np.float32))
    pieces = list(chunks(frame, transport.limits.message_bytes))
    for piece in pieces[: len(pieces) // 2]:
        for peer in transport.peers:
            await transport.send_bytes(peer, piece)


async def garbage(transport: GrpcTransport, plan: dict) -> None:
    rng = random.Random(plan["rounds"])
    while True:
        for peer in transport.peers:
            await transport.send_bytes(peer, rng.choice((b"", b"\x01", b"\x02")) + rng.randbytes(rng.randrange(3000)))
        await asyncio.sleep(0.02)


async def main() -> None:
    plan, me, mode = json.loads(Path(sys.argv[1]).read_text()), int(sys.argv[2]), sys.argv[3]
    pins = {int(node): pin for node, pin in plan["pins"].items()}
    schema = Schema(kinds={"vector": Expected(dtype="float32", numel=plan["numel"])})
    limits = Limits(message_bytes=plan["message_bytes"], stall_seconds=plan["stall"], backoff_seconds=0.2)
    transport = await GrpcTransport.start(Identity.load(Path(plan["folder"]), me, pins), schema=schema, limits=limits)
    say(f"up {transport.address}")
    line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    transport.connect({int(node): address for node, address in json.loads(line).items()})
    await {"honest": honest, "halfway": halfway, "garbage": garbage}[mode](transport, plan)
    await asyncio.sleep(600.0)


asyncio.run(main())
