"""One node as one process: its keys, its socket, its program, its state, and what it leaves behind.

A cluster's folder holds `cluster.yaml`, `keys/` and for each node `nodes/node-ID/`: checkpoints, `events.jsonl`, and at
the end `result.json`. Started again by the same command after a crash, a node takes part again.
"""

import asyncio
import json
import os
import signal
import time
from collections.abc import Mapping
from typing import Any

import torch

from mithridate.byzantine.cluster import ClusterConfig
from mithridate.byzantine.identity import Identity
from mithridate.byzantine.keeper import Keeper
from mithridate.byzantine.messages import Schema
from mithridate.byzantine.meter import Tell
from mithridate.byzantine.pins import Place, identity_of, pins_of
from mithridate.byzantine.programs import layer_of, learner_of, limits_of, post_of, run_program
from mithridate.byzantine.protocols._base import Outcome, schema_of
from mithridate.byzantine.source import Learner
from mithridate.byzantine.transport._base import AbstractTransport
from mithridate.byzantine.transport.grpc import GrpcTransport
from mithridate.core.artefacts import disk_errors, write_atomic
from mithridate.core.events import EventLog, NullProgress, Progress
from mithridate.data.sources import DataSet, load


def run_node(cluster: ClusterConfig, node: int, place: Place, data: DataSet, *, tell: Tell) -> dict[str, Any]:
    """Run a node to its end, and return what it did, which is also in `result.json`.

    Args:
        cluster: The cluster file.
        node: Which node.
        place: Where its files are.
        data: The data set.
        tell: Takes its events, which are also in `events.jsonl`.

    Raises:
        QuorumLost: Too few others answered before the deadline; the state is saved.
        BadArtefact: A certificate does not match the cluster file.
    """
    with disk_errors(place.state):
        place.state.mkdir(parents=True, exist_ok=True)
    log = EventLog(place.state / "events.jsonl")

    def told(event: Mapping[str, Any]) -> None:
        log.write(dict(event))
        tell(event)

    identity = Identity.load(place.keys, node, pins_of(cluster))
    learner = learner_of(cluster, data, node)
    keeper = Keeper(place.state, identity=f"{identity_of(cluster)}/{node}", every=cluster.checkpoint_every)
    before = keeper.begun()
    told({"event": "start", "node": node, "pid": os.getpid(), "starts": before, "checkpoints": keeper.steps()})
    schema = schema_of(cluster, learner.size)
    record = asyncio.run(_live(cluster, identity, schema, learner, keeper, told, before))
    record |= {"node": node, "role": cluster.node(node).role, "starts": before + 1}
    write_atomic(place.state / "result.json", (json.dumps(record, indent=1) + "\n").encode())
    told({"event": "end", "node": node, "step": record["step"]})
    return record


def run_here(cluster: ClusterConfig, node: int, place: Place, *, progress: Progress | None = None) -> dict[str, Any]:
    """Load the data and run a node in this process, with progress for people.

    Raises:
        QuorumLost: Too few others answered before the deadline; the state is saved.
    """
    progress = progress or NullProgress()
    torch.set_num_threads(1)
    data = load(cluster.data.source, per_class=cluster.data.per_class, size=cluster.data.size)
    shown = 0

    def tell(event: Mapping[str, Any]) -> None:
        nonlocal shown
        if event["event"] == "step":
            late = ", ".join(map(str, event["late"])) or "nobody"
            accuracy = f"accuracy {event['correct'] / event['tested']:.3f}; " if "correct" in event else ""
            progress.advance(event["step"] - shown, f"{accuracy}late most often: {late}")
            shown = event["step"]
        elif event["event"] == "rejoined":
            progress.advance(0, f"rejoined at step {event['step']}")

    progress.start(cluster.training.steps, f"{cluster.protocol} node {node}, {cluster.node(node).role}")
    try:
        return run_node(cluster, node, place, data, tell=tell)
    finally:
        progress.close()


async def _live(
    cluster: ClusterConfig,
    identity: Identity,
    schema: Schema,
    learner: Learner,
    keeper: Keeper,
    tell: Tell,
    before: int,
) -> dict[str, Any]:
    section = cluster.node(identity.me)
    transport = await GrpcTransport.start(
        identity,
        section.address,
        schema=schema,
        limits=limits_of(cluster),
        anywhere=cluster.anywhere,
        incarnation=before,
    )
    transport.connect({other.id: other.address for other in cluster.nodes})
    begun = time.monotonic()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, _cancel(asyncio.current_task()))
    try:
        async with layer_of(cluster, transport, identity) as layer:
            post = post_of(cluster, transport, learner, layer=layer, keeper=keeper, tell=tell)
            outcome = await run_program(post)
    finally:
        await transport.close()
    return _record(outcome, transport, time.monotonic() - begun) | {"strangers": transport.strangers}


def _cancel(task: asyncio.Task[Any] | None) -> Any:
    assert task is not None
    return task.cancel


def _record(outcome: Outcome | None, transport: AbstractTransport, seconds: float) -> dict[str, Any]:
    """Return the figures of a node as plain JSON."""
    peers = {
        str(peer): {
            "sent_bytes": stats.sent_bytes,
            "received_bytes": stats.received_bytes,
            "sent_frames": stats.sent_frames,
            "received_frames": stats.received_frames,
            "included": stats.included,
            "late": stats.late,
            "dropped": stats.dropped,
            "reconnects": stats.reconnects,
            "rejected": dict(stats.rejected),
        }
        for peer, stats in transport.stats.items()
    }
    accuracy = None if outcome is None else outcome.accuracy
    return {
        "step": 0 if outcome is None else outcome.step,
        "crashed": outcome is None,
        "correct": None if accuracy is None else accuracy.correct,
        "tested": None if accuracy is None else accuracy.tested,
        "seconds": round(seconds, 3),
        "meter": None if outcome is None else outcome.meter.record(),
        "peers": peers,
        "equivocations": [
            {"peer": found.peer, "kind": found.slot.kind, "round": found.slot.round}
            for found in transport.evidence[:20]
        ],
        "equivocators": sorted({found.peer for found in transport.evidence}),
    }
