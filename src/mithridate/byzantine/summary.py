"""From a finished run of a cluster to the report document.

A step's time is split at the nodes that hold the model: aggregation is measured there; the gradient is the median
worker's own time; communication is what remains of the step, measuring accuracy apart: coding, sockets, waiting for
the slowest of the quorum. (Garfield splits its throughput in the same three parts.)
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, median
from typing import Any

from mithridate.byzantine.cluster import ClusterConfig
from mithridate.byzantine.local import Finished
from mithridate.core.artefacts import sha256_of, write_atomic
from mithridate.core.environment import environment
from mithridate.core.intervals import wilson
from mithridate.core.verdicts import Gate
from mithridate.report.html import render_html
from mithridate.report.schema import SCHEMA

Document = dict[str, Any]
Records = Mapping[int, Mapping[str, Any]]
_EXIT = {"pass": 0, "fail": 1, "inconclusive": 3}
_MEGA = 1e6


def write_report(finished: Finished, *, command: str, gate: str | None, notes: Sequence[str] = ()) -> Document:
    """Return the report document of a run, and write `report.json`, `report.html` and the manifest to its folder."""
    document = summarise(finished, command=command, gate=gate, notes=notes)
    folder = finished.folder
    write_atomic(folder / "report.json", _json(document))
    write_atomic(folder / "report.html", render_html(document).encode())
    names = ("cluster.yaml", "report.json", "report.html")
    manifest = {
        "schema": "mithridate.run/1",
        "versions": environment(),
        "seed": finished.cluster.seed,
        "files": {name: {"sha256": sha256_of(folder / name)} for name in names},
    }
    write_atomic(folder / "manifest.json", _json(manifest))
    return document


def summarise(finished: Finished, *, command: str, gate: str | None, notes: Sequence[str] = ()) -> Document:
    """Return the report document of a run."""
    cluster, records = finished.cluster, finished.records
    split = split_of(cluster, records)
    return {
        "schema": SCHEMA,
        "kind": "cluster",
        "title": f"{_named(cluster)} training of {cluster.model} on {Path(cluster.data.source).name}",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "verdict": _verdict(cluster, records, gate, [*cluster.warnings(), *notes], split),
        "setting": _setting(cluster),
        "cells": [],
        "tables": [
            _accuracy_table(finished),
            _split_table(split),
            _node_table(cluster, records),
            _rejected_table(cluster, records),
        ],
        "config": cluster.model_dump(mode="json"),
        "environment": environment(),
        "reproduce": command or "mithridate byzantine local",
        "timing": {"seconds": finished.seconds, "estimate_seconds": None},
    }


def holders(cluster: ClusterConfig) -> tuple[int, ...]:
    """Return the honest nodes that hold a model."""
    role = "peer" if cluster.protocol == "p2p" else "server"
    return tuple(node for node in cluster.ids(role) if node not in cluster.byzantine(role))


def split_of(cluster: ClusterConfig, records: Records) -> dict[str, float]:
    """Return steps per second and the seconds of a step: gradient, communication, aggregation, evaluation.

    Means over the honest nodes that hold a model. Nothing is there if no step was timed.
    """
    timed = [records[node]["meter"] for node in holders(cluster) if node in records and records[node]["meter"]]
    timed = [meter for meter in timed if meter["steps"] > 0]
    if not timed:
        return {}
    wall = mean(meter["wall"] / meter["steps"] for meter in timed)
    parts = {part: mean(m["seconds"][part] / m["steps"] for m in timed) for part in ("aggregation", "evaluation")}
    workers = [records[node]["meter"] for node in _computing(cluster) if node in records and records[node]["meter"]]
    gradients = [meter["seconds"]["gradient"] / meter["steps"] for meter in workers if meter["steps"] > 0]
    gradient = median(gradients) if gradients else 0.0
    parts["gradient"] = min(gradient, wall)
    parts["communication"] = max(0.0, wall - sum(parts.values()))
    return {"step": wall, "steps_per_second": 1 / (wall - parts["evaluation"]) if wall > 0 else 0.0, **parts}


def _computing(cluster: ClusterConfig) -> tuple[int, ...]:
    role = "peer" if cluster.protocol == "p2p" else "worker"
    return tuple(node for node in cluster.ids(role) if node not in cluster.byzantine(role))


def _named(cluster: ClusterConfig) -> str:
    name = {"ssmw": "One server", "msmw": "Replicated servers", "p2p": "Peer-to-peer"}[cluster.protocol]
    return name if cluster.variant == "byzantine" else f"{name} ({cluster.variant})"


def _verdict(
    cluster: ClusterConfig, records: Records, gate: str | None, reasons: Sequence[str], split: Mapping[str, float]
) -> Document:
    judged = [records[node] for node in holders(cluster) if node in records and records[node]["tested"]]
    worst = min(judged, key=lambda record: record["correct"], default=None)
    found = list(reasons)
    if worst is None:
        return {
            "status": "inconclusive",
            "exit_code": 3,
            "sentence": "No honest node finished with a model.",
            "reasons": found,
            "gate": gate,
        }
    rate = wilson(worst["correct"], worst["tested"])
    status = "pass"
    if gate is not None:
        status = str(Gate.parse(gate).judge(rate))
    sentence = (
        f"Clean accuracy {100 * rate.point:.1f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}] after "
        f"{cluster.training.steps} steps{_against(cluster)}"
    )
    if len(judged) > 1:
        best = max(record["correct"] for record in judged)
        found.append(
            f"the model of the worst of {len(judged)} honest {'peers' if cluster.protocol == 'p2p' else 'servers'}; "
            f"the best has {100 * best / worst['tested']:.1f} %"
        )
    if split:
        found.append(f"{split['steps_per_second']:.2f} steps per second on this machine")
    return {"status": status, "exit_code": _EXIT[status], "sentence": sentence, "reasons": found, "gate": gate}


def _against(cluster: ClusterConfig) -> str:
    """Say who misbehaved."""
    parts = []
    for role in ("worker", "server", "peer"):
        names = [cluster.node(node).behaviour for node in cluster.byzantine(role)]
        for name in dict.fromkeys(method.name for method in names if method is not None):
            count = sum(method is not None and method.name == name for method in names)
            parts.append(f"{count} of {len(cluster.ids(role))} {role}s doing {name}")
    return f", {' and '.join(parts)}" if parts else ", nobody misbehaving"


def _setting(cluster: ClusterConfig) -> list[list[Any]]:
    rows: list[list[Any]] = [["protocol", f"{cluster.protocol}, variant {cluster.variant}"]]
    for role in dict.fromkeys(node.role for node in cluster.nodes):
        count = len(cluster.ids(role))
        rows.append(
            [f"{role}s", f"{count}, f = {cluster.f(role)} declared, the first {cluster.quorum(role)} replies are used"]
        )
        bad = cluster.byzantine(role)
        if bad:
            rows.append([f"Byzantine {role}s", ", ".join(map(str, bad))])
    if cluster.protocol == "p2p":
        rows.append(["agreement", f"{cluster.agreement.kind} over {cluster.agreement.broadcast} broadcast"])
    else:
        rows.append(["rule", " then ".join([*(stage.name for stage in cluster.pre), cluster.rule_method.name])])
    if cluster.protocol == "msmw":
        often = "every step" if cluster.gather_every == 1 else f"every {cluster.gather_every} steps"
        rows.append(["models gathered", often])
    training = cluster.training
    rows += [
        ["data", f"{cluster.data.source}, dealt {cluster.data.split}"],
        ["training", f"{training.steps} steps, batch {training.batch} a worker, lr {training.lr:g}"],
        ["momentum at the workers", training.momentum],
        ["seed", cluster.seed],
    ]
    if cluster.omniscient:
        rows.append(["attackers", "omniscient and rushing: they see what honest nodes send, and speak first"])
    return rows


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str = "") -> Document:
    return {"title": title, "columns": list(columns), "rows": [list(row) for row in rows], "note": note}


def _accuracy_table(finished: Finished) -> Document:
    rows = [[step, f"{100 * rate:.1f} %"] for step, rate in finished.curve]
    return _table("Accuracy on the test set", ("step", "accuracy"), rows, "The mean over the honest models.")


def _split_table(split: Mapping[str, float]) -> Document:
    parts = ("gradient", "communication", "aggregation")
    whole = sum(split[part] for part in parts) if split else 0.0
    rows = [[part, f"{1000 * split[part]:.2f}", f"{100 * split[part] / whole:.0f} %"] for part in parts if whole]
    if split:
        rows.append(["step", f"{1000 * whole:.2f}", f"{split['steps_per_second']:.2f} steps per second"])
    note = (
        "Aggregation is measured where the model is; the gradient is the median honest worker's; communication is the "
        "rest of the step: coding, sockets, waiting for the quorum and for a core. Measuring accuracy is left out."
    )
    return _table("Where a step's time goes", ("part", "ms per step", "share"), rows, note)


def _node_table(cluster: ClusterConfig, records: Records) -> Document:
    late = _left_out(cluster, records)
    rows = []
    for node in cluster.nodes:
        record = records.get(node.id)
        behaviour = node.behaviour.name if node.behaviour is not None else "honest"
        if record is None:
            rows.append([node.id, node.role, behaviour, *["-"] * 5, late.get(node.id, "-")])
            continue
        sent = sum(peer["sent_bytes"] for peer in record["peers"].values()) / _MEGA
        received = sum(peer["received_bytes"] for peer in record["peers"].values()) / _MEGA
        parts = record["meter"]["seconds"] if record["meter"] else {}
        busy = [f"{parts[part]:.2f}" if part in parts else "-" for part in ("gradient", "aggregation")]
        step = "stopped" if record["crashed"] else record["step"]
        traffic = [f"{sent:.1f}", f"{received:.1f}"]
        rows.append([node.id, node.role, behaviour, step, *busy, *traffic, late.get(node.id, "-")])
    columns = ("node", "role", "behaviour", "step", "gradient s", "aggregation s", "sent MB", "received MB", "left out")
    note = "Left out: the share of quorums of honest nodes that did without this node's frame."
    return _table("Nodes", columns, rows, note)


def _left_out(cluster: ClusterConfig, records: Records) -> dict[int, str]:
    """Return for each node the share of honest quorums, among those that ever asked for it, that it was not in."""
    missed: dict[int, int] = {}
    asked: dict[int, int] = {}
    for number in (*holders(cluster), *_computing(cluster)):
        for peer, stats in records.get(number, {"peers": {}})["peers"].items():
            count = stats["included"]
            meter = records[number]["meter"]
            without = 0 if meter is None else meter["late"].get(peer, 0)
            missed[int(peer)] = missed.get(int(peer), 0) + without
            asked[int(peer)] = asked.get(int(peer), 0) + without + count
    return {node: f"{100 * missed[node] / asked[node]:.0f} %" for node in asked if asked[node]}


def _rejected_table(cluster: ClusterConfig, records: Records) -> Document:
    totals: dict[tuple[int, str], int] = {}
    for number in (*holders(cluster), *_computing(cluster)):
        for peer, stats in records.get(number, {"peers": {}})["peers"].items():
            for reason, count in stats["rejected"].items():
                totals[int(peer), reason] = totals.get((int(peer), reason), 0) + count
    rows: list[list[Any]] = [[peer, reason, count] for (peer, reason), count in sorted(totals.items())]
    doubters = {
        peer: sum(peer in records[number]["equivocators"] for number in records)
        for number in records
        for peer in records[number]["equivocators"]
    }
    note = "Frames that honest nodes did not let in, by sender. Stale and future ones are normal for slow nodes."
    if doubters:
        seen = ", ".join(f"{peer} (seen by {count})" for peer, count in sorted(doubters.items()))
        note += f" Nodes that said two different things in one slot: {seen}."
    return _table("Rejected frames", ("sender", "reason", "frames"), rows, note)


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
