"""Several gRPC transports in one process, for tests."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mithridate.byzantine.identity import Identity
from mithridate.byzantine.messages import Expected, Frame, Schema
from mithridate.byzantine.transport._base import Limits
from mithridate.byzantine.transport.grpc import GrpcTransport

SMALL = Schema(kinds={"vector": Expected(dtype="float32", numel=4)})
QUICK = Limits(message_bytes=4096, stall_seconds=5.0, backoff_seconds=0.2)
PATIENCE = 60.0
"""Seconds that a test machine under load may take; no test waits for them to pass."""


def vector(sender: int, round: int, value: float = 0.0, *, numel: int = 4, phase: int = 0) -> Frame:
    return Frame("vector", round, phase, sender, np.full(numel, value, np.float32))


@contextlib.asynccontextmanager
async def transports(
    folder: Path,
    pins: Mapping[int, str],
    nodes: Iterable[int],
    *,
    schema: Schema = SMALL,
    limits: Limits = QUICK,
    extra: Mapping[int, str] | None = None,
) -> AsyncIterator[dict[int, GrpcTransport]]:
    """Start the nodes and let them know each other, and the `extra` addresses."""
    up: dict[int, GrpcTransport] = {}
    try:
        for node in nodes:
            up[node] = await GrpcTransport.start(Identity.load(folder, node, pins), schema=schema, limits=limits)
        addresses = {node: transport.address for node, transport in up.items()} | dict(extra or {})
        for transport in up.values():
            transport.connect(addresses)
        yield up
    finally:
        await asyncio.gather(*(transport.close() for transport in up.values()))


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's coroutine."""
    asyncio.run(work())
