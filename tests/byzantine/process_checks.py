"""Real processes, real sockets: a run as a user starts it, and nodes that are killed with -9 and come back.

Nodes are forked, and gRPC does not survive a fork of a process that has used it, as other tests do: so
`test_byzantine_processes.py` runs each of these in an interpreter of its own.
"""

import fcntl
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cluster_kit import nodes

from mithridate.byzantine.cluster import ClusterConfig, build_cluster, load_cluster
from mithridate.byzantine.local import Child, run_local, settle, spawn_node
from mithridate.byzantine.summary import split_of, write_report
from mithridate.data.sources import DataSet, load
from mithridate.report.schema import validate

pytestmark = pytest.mark.slow
PATIENCE = 240.0


@pytest.fixture(scope="module")
def data() -> DataSet:
    torch.set_num_threads(1)
    return load("digits")


def cluster_of(protocol: str, listed: list[dict[str, Any]], steps: int, **values: Any) -> ClusterConfig:
    training = {"steps": steps, "evaluate_every": 10}
    deadlines = {"start": PATIENCE, "round": PATIENCE}
    return build_cluster(
        {"protocol": protocol, "nodes": listed, "training": training, "deadlines": deadlines, **values}, {}
    )


def events(folder: Path, node: int) -> list[dict[str, Any]]:
    path = folder / "nodes" / f"node-{node}" / "events.jsonl"
    if not path.is_file():
        return []
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def wait_for(what: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.05)


class Cluster:
    """Forked nodes of a settled cluster."""

    def __init__(self, cluster: ClusterConfig, folder: Path, data: DataSet) -> None:
        self.cluster, self.folder, self.data = settle(cluster, folder), folder, data
        self.children: dict[int, Child] = {}

    def start(self, node: int) -> None:
        self.children[node] = spawn_node(self.cluster, node, self.folder, self.data)

    def kill(self, node: int) -> None:
        child = self.children.pop(node)
        os.kill(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)
        os.close(child.pipe)

    def reached(self, node: int, step: int, *, since: int = 0) -> bool:
        starts = 0
        for event in events(self.folder, node):
            starts += event["event"] == "start"
            if starts > since and event["event"] == "step" and event["step"] >= step:
                return True
        return False

    def result(self, node: int) -> Path:
        return self.folder / "nodes" / f"node-{node}" / "result.json"


@pytest.fixture
def started(request: pytest.FixtureRequest, tmp_path: Path, data: DataSet) -> Iterator[Cluster]:
    cluster = Cluster(request.param, tmp_path / "run", data)
    for node in request.param.nodes:
        cluster.start(node.id)
    yield cluster
    for node in list(cluster.children):
        cluster.kill(node)


SSMW = cluster_of("ssmw", nodes(servers=1, workers=4), 60, rule="mda", checkpoint_every=5)
MSMW = cluster_of("msmw", nodes(servers=5, workers=4), 50, rule="mda", checkpoint_every=5)


@pytest.mark.parametrize("started", [SSMW], indirect=True)
def test_a_killed_worker_and_then_the_killed_server_come_back(started: Cluster) -> None:
    wait_for(lambda: started.reached(2, 10))
    started.kill(2)
    started.start(2)
    wait_for(lambda: started.reached(2, 12, since=1))
    wait_for(lambda: started.reached(0, 15))
    started.kill(0)
    started.start(0)
    wait_for(lambda: started.result(0).is_file())
    record = json.loads(started.result(0).read_text(encoding="utf-8"))
    assert record["starts"] == 2
    assert record["step"] == 60
    assert record["correct"] / record["tested"] > 0.85
    assert record["meter"]["steps"] < 55, "it went on from a checkpoint"


@pytest.mark.parametrize("started", [MSMW], indirect=True)
def test_a_killed_replica_and_a_killed_worker_take_part_again(started: Cluster) -> None:
    wait_for(lambda: started.reached(1, 8) and started.reached(6, 8))
    started.kill(1)
    started.kill(6)
    started.start(1)
    started.start(6)
    for server in range(5):
        wait_for(lambda server=server: started.result(server).is_file())
    back = [event for event in events(started.folder, 1) if event["event"] == "rejoined"]
    assert len(back) == 1
    assert back[0]["step"] >= 8
    models = {server: json.loads(started.result(server).read_text(encoding="utf-8")) for server in range(5)}
    assert all(model["correct"] / model["tested"] > 0.85 for model in models.values())
    assert models[1]["starts"] == 2


def test_a_worker_that_is_killed_does_not_end_a_local_run(tmp_path: Path) -> None:
    cluster = cluster_of("ssmw", nodes(servers=1, workers=4), 60, rule="mda")

    def kill() -> None:
        wait_for(lambda: any(event["event"] == "step" and event["step"] >= 5 for event in events(tmp_path, 3)))
        file = os.open(tmp_path / ".lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(file)
        held.append(True)
        first = next(event for event in events(tmp_path, 3) if event["event"] == "start")
        os.kill(first["pid"], signal.SIGKILL)

    held: list[bool] = []
    killer = threading.Thread(target=kill)
    killer.start()
    finished = run_local(cluster, tmp_path)  # it holds its folder while it runs, and not after
    killer.join()
    assert held == [True]
    assert finished.lost == {3: "signal 9"}
    assert finished.records[0]["step"] == 60
    assert 3 not in finished.records
    validate(write_report(finished, command="mithridate byzantine local", gate=None))


def test_a_run_on_this_machine_ends_with_a_report(tmp_path: Path) -> None:
    behaviour = {"name": "alie", "options": {"z": 1.5}}
    listed = nodes(servers=1, workers=5, bad={5: behaviour})
    cluster = cluster_of("ssmw", listed, 30, rule="median", omniscient=True)
    finished = run_local(cluster, tmp_path)
    assert [step for step, _ in finished.curve] == [10, 20, 30]
    assert finished.curve[-1][1] > 0.8
    assert set(finished.records) >= {0}
    split = split_of(finished.cluster, finished.records)
    assert split["step"] == pytest.approx(
        sum(split[part] for part in ("gradient", "communication", "aggregation", "evaluation"))
    )
    document = write_report(finished, command="mithridate byzantine local", gate="clean_accuracy>0.5")
    report = validate(document)
    assert report.verdict.status == "pass"
    assert report.tables[0].title == "Accuracy on the test set"
    assert (tmp_path / "report.html").read_text(encoding="utf-8").count("<table") >= 3
    assert load_cluster(tmp_path / "cluster.yaml").node(5).behaviour is not None
    assert oct((tmp_path / "keys" / "node-0.key").stat().st_mode & 0o777) == "0o600"
