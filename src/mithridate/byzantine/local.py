"""A whole cluster on this machine: one process a node, real sockets on loopback, mutual TLS, real data.

Data and model code are loaded once; then every node is forked from this process, one thread each, and starts its gRPC
only in the child, where it is safe. Children tell of their progress on pipes, as JSON lines.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mithridate.byzantine.cluster import ClusterConfig, dump
from mithridate.byzantine.identity import AUTHORITY, CAPS, fingerprint, make_keys
from mithridate.byzantine.node import run_node
from mithridate.byzantine.pins import Place, identity_of
from mithridate.core.artefacts import disk_errors, write_atomic
from mithridate.core.boundary import read_bytes, read_json
from mithridate.core.errors import Misuse, MithridateError, WorkError
from mithridate.core.events import EventLog, NullProgress, Progress
from mithridate.data.sources import DataSet, load

_GRACE_SECONDS = 5.0


@dataclass
class Child:
    """A node's process, and what is known of it.

    Attributes:
        node: Its number in the cluster.
        pid: Its process; 0 once it has been waited for.
        pipe: Where its events are read.
    """

    node: int
    pid: int
    pipe: int
    unread: bytes = b""
    step: int = 0
    accuracy: float | None = None
    late: list[int] = field(default_factory=list)
    ended: bool = False
    error: dict[str, Any] | None = None
    status: int | None = None


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What came of a local run.

    Attributes:
        cluster: The cluster with its addresses.
        folder: The run folder.
        records: What each node left behind, by its number; a node that was killed or misbehaved may have none.
        curve: Step and mean accuracy of the honest models, as measured on the way.
        seconds: Wall clock.
        lost: Honest workers whose processes ended on the way, and how; the others went on without them.
    """

    cluster: ClusterConfig
    folder: Path
    records: Mapping[int, Mapping[str, Any]]
    curve: tuple[tuple[int, float], ...]
    seconds: float
    lost: Mapping[int, str] = field(default_factory=dict)


def free_addresses(count: int) -> list[str]:
    """Return loopback addresses that were free a moment ago, all different."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(count):
            listener = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            listener.bind(("127.0.0.1", 0))
            found.append(f"127.0.0.1:{listener.getsockname()[1]}")
        return found


def settle(cluster: ClusterConfig, folder: Path) -> ClusterConfig:
    """Give every node a free port and a certificate, and write the cluster file.

    Raises:
        Misuse: MTH-0959, the folder holds another cluster.
    """
    mark, identity = folder / "identity", identity_of(cluster)
    if mark.is_file() and mark.read_text(encoding="utf-8").strip() != identity:
        raise Misuse(
            "MTH-0959", f"{str(folder)!r} holds the run of another cluster", hint="choose another folder with --out"
        )
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomic(mark, identity.encode())
    numbers = [node.id for node in cluster.nodes]
    keys = folder / "keys"
    if (keys / AUTHORITY).exists():
        prints = {number: fingerprint(read_bytes(keys / f"node-{number}.pem", CAPS)) for number in numbers}
    else:
        prints = make_keys(keys, numbers)
    places = dict(zip(numbers, free_addresses(len(numbers)), strict=True))
    nodes = tuple(
        node.model_copy(update={"address": places[node.id], "fingerprint": prints[node.id]}) for node in cluster.nodes
    )
    settled = cluster.model_copy(update={"nodes": nodes})
    write_atomic(folder / "cluster.yaml", dump(settled).encode())
    return settled


def run_local(cluster: ClusterConfig, folder: Path, *, progress: Progress | None = None) -> Finished:
    """Run every node of a cluster here until the honest ones that hold a model are finished.

    Args:
        cluster: The cluster; addresses and fingerprints are replaced.
        folder: The run folder.
        progress: Shown while it runs.

    Raises:
        MithridateError: What the first honest node to fail raised, such as a lost quorum; its state is saved.
        WorkError: MTH-0960, the process of an honest node that holds a model died. Workers may: the quorum decides.
            MTH-0710, another process is running a cluster in the folder.
    """
    with _alone(folder):
        return _run(cluster, folder, progress or NullProgress())


def _run(cluster: ClusterConfig, folder: Path, progress: Progress) -> Finished:
    torch.set_num_threads(1)
    data = load(cluster.data.source, per_class=cluster.data.per_class, size=cluster.data.size)
    settled = settle(cluster, folder)
    events = EventLog(folder / "events.jsonl")
    events.write({"event": "start", "nodes": len(settled.nodes)})
    begun = time.monotonic()
    children = [spawn_node(settled, node.id, folder, data) for node in settled.nodes]
    watch = _Watch(settled, children, progress, events)
    try:
        watch.run()
    finally:
        progress.close()
        _end(children)
    seconds = time.monotonic() - begun
    events.write({"event": "end", "seconds": round(seconds, 3)})
    records = {}
    for child in children:
        path = folder / "nodes" / f"node-{child.node}" / "result.json"
        if path.is_file():
            records[child.node] = read_json(path)
    return Finished(
        cluster=settled,
        folder=folder,
        records=records,
        curve=tuple(watch.curve()),
        seconds=round(seconds, 3),
        lost=watch.lost,
    )


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a folder against other runs; nodes of a run that was just killed may hold it for a moment."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + _GRACE_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                raise WorkError(
                    "MTH-0710",
                    f"another process is running a cluster in {folder}",
                    hint="wait for it, or end it; then run the same command again",
                ) from None
        yield
    finally:
        os.close(lock)


class _Watch:
    """Reads what the children tell, shows it, and knows when it is over."""

    def __init__(self, cluster: ClusterConfig, children: list[Child], progress: Progress, events: EventLog) -> None:
        self.children, self.progress, self.events = children, progress, events
        self.steps = cluster.training.steps
        holding = ("server", "peer")
        self.byzantine = {node.id for node in cluster.nodes if node.id in cluster.byzantine(node.role)}
        self.judged = {node.id for node in cluster.nodes if node.role in holding} - self.byzantine
        self.measured: dict[int, dict[int, float]] = {}
        self.lost: dict[int, str] = {}
        self.shown = 0
        names = f"{cluster.protocol} {cluster.variant}" if cluster.variant != "byzantine" else cluster.protocol
        progress.start(self.steps, f"{names}, {cluster.method_name}, {len(children)} nodes")

    def run(self) -> None:
        """Read until every honest node that holds a model is finished."""
        selector = selectors.DefaultSelector()
        for each in self.children:
            selector.register(each.pipe, selectors.EVENT_READ, each)
        while not all(child.ended for child in self.children if child.node in self.judged):
            for key, _ in selector.select(timeout=60):
                child: Child = key.data
                if not self._read(child):
                    selector.unregister(child.pipe)
                    self._gone(child)
        selector.close()

    def curve(self) -> Iterator[tuple[int, float]]:
        """Yield step and mean accuracy over the honest nodes that measured it."""
        for step in sorted(self.measured):
            rates = list(self.measured[step].values())
            yield step, sum(rates) / len(rates)

    def _read(self, child: Child) -> bool:
        data = os.read(child.pipe, 1 << 16)
        *lines, child.unread = (child.unread + data).split(b"\n")
        for line in lines:
            self._told(child, json.loads(line))
        return bool(data)

    def _told(self, child: Child, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind == "step":
            self._step(child, event)
        elif kind == "end":
            child.ended = True
        elif kind == "error":
            child.error = dict(event["error"])
        elif kind == "rejoined":
            self.events.write({"event": "rejoined", "node": child.node, "step": event["step"]})

    def _step(self, child: Child, event: Mapping[str, Any]) -> None:
        child.step, child.late = event["step"], list(event["late"])
        if child.node not in self.judged:
            return
        if "correct" in event:
            child.accuracy = event["correct"] / event["tested"]
            self.measured.setdefault(child.step, {})[child.node] = child.accuracy
            self.events.write({"event": "accuracy", "node": child.node, "step": child.step, "is": child.accuracy})
        slowest = min(other.step for other in self.children if other.node in self.judged)
        if slowest > self.shown:
            self.progress.advance(slowest - self.shown, self._words(child))
            self.shown = slowest

    def _words(self, child: Child) -> str:
        rates = [other.accuracy for other in self.children if other.accuracy is not None]
        accuracy = f"accuracy {sum(rates) / len(rates):.3f}" if rates else "accuracy not measured yet"
        late = ", ".join(map(str, child.late)) or "nobody"
        return f"{accuracy}; late most often: {late}"

    def _gone(self, child: Child) -> None:
        """Deal with a child whose pipe has closed: attackers and workers may die, an honest model must not."""
        _, status = os.waitpid(child.pid, 0)
        child.status, child.pid = status, 0
        if child.ended or child.node in self.byzantine:
            child.ended = True
            return
        if child.error is not None:
            error = child.error
            kinds = {kind.__name__: kind for kind in (Misuse, WorkError)}
            kind = kinds.get(error["kind"], WorkError)
            raise kind(error["code"], f"node {child.node}: {error['message']}", hint=error["hint"])
        how = (
            f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"status {os.waitstatus_to_exitcode(status)}"
        )
        if child.node not in self.judged:
            self.lost[child.node] = how
            self.events.write({"event": "lost", "node": child.node, "how": how})
            return
        raise WorkError(
            "MTH-0960",
            f"the process of node {child.node} ended by {how}",
            hint="its state is kept; the same command goes on from there",
        )


def spawn_node(cluster: ClusterConfig, node: int, folder: Path, data: DataSet) -> Child:
    """Fork a process that runs a node. Call it before anything in this process has started gRPC.

    Args:
        cluster: The settled cluster.
        node: Which node.
        folder: The run folder.
        data: The data set, which the child inherits.
    """
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        os.close(write)
        return Child(node=node, pid=pid, pipe=read)
    status = 1
    try:
        os.close(read)
        _die_with(parent)
        status = _child(cluster, node, folder, data, write)
    finally:
        os._exit(status)


def _child(cluster: ClusterConfig, node: int, folder: Path, data: DataSet, pipe: int) -> int:
    def tell(event: Mapping[str, Any]) -> None:
        words = (json.dumps(event) + "\n").encode()
        while words:
            words = words[os.write(pipe, words) :]

    place = Place.beside(folder / "cluster.yaml", node)
    place.state.mkdir(parents=True, exist_ok=True)
    # What libraries write about broken connections belongs to the node and not on the terminal of all.
    with (place.state / "stderr.txt").open("ab") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())
    try:
        run_node(cluster, node, place, data, tell=tell)
    except MithridateError as error:
        kind = "Misuse" if isinstance(error, Misuse) else "WorkError"
        tell(
            {
                "event": "error",
                "error": {"kind": kind, "code": error.code, "message": error.message, "hint": error.hint},
            }
        )
        return int(error.exit_code)
    except Exception as error:
        (place.state / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
        words = f"{type(error).__name__}, see {place.state / 'traceback.txt'}"
        tell({"event": "error", "error": {"kind": "WorkError", "code": "MTH-0960", "message": words, "hint": ""}})
        raise
    return 0


def _die_with(parent: int) -> None:
    """Ask the kernel to end this process with its parent, and leave interrupts to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _end(children: list[Child]) -> None:
    """End the children that are left: a word first, then by force."""
    left = [child for child in children if child.pid]
    for child in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_SECONDS
    while left and time.monotonic() < deadline:
        left = [child for child in left if os.waitpid(child.pid, os.WNOHANG)[0] == 0]
        time.sleep(0.02)
    for child in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)
    for child in children:
        os.close(child.pipe)
