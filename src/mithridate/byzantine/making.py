"""Making cluster files: a whole cluster from a few numbers, and fingerprints written into a file that people edit.

No torch here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mithridate.byzantine.cluster import ADVICE, ClusterConfig, build_cluster
from mithridate.byzantine.sections import attack_names
from mithridate.core.boundary import read_yaml
from mithridate.core.errors import Misuse
from mithridate.core.problems import read_source
from mithridate.core.registry import unknown_name


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A cluster in a few numbers.

    Attributes:
        servers: Number of servers; 0 makes the workers peers.
        workers: Number of workers, or of peers.
        byzantine_workers: How many of them misbehave; the last ones.
        byzantine_servers: How many servers misbehave; the last ones.
        attack: What the Byzantine workers or peers do.
        server_attack: What the Byzantine servers do.
        protocol: By default ssmw for one server, msmw for more, p2p for none.
        values: Further values of the cluster file.
        flags: The flag that set each of them.
    """

    servers: int
    workers: int
    byzantine_workers: int = 0
    byzantine_servers: int = 0
    attack: Mapping[str, Any] | None = None
    server_attack: Mapping[str, Any] | None = None
    protocol: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    flags: Mapping[tuple[str, ...], str] = field(default_factory=dict)


def make_cluster(wish: Wish) -> ClusterConfig:
    """Return the cluster of a wish, with addresses to be replaced.

    Raises:
        Misuse: Every problem, with the flag that it came from; more attackers than nodes (MTH-0951).
    """
    protocol = wish.protocol or ("p2p" if not wish.servers else "ssmw" if wish.servers == 1 else "msmw")
    peers = protocol == "p2p"
    servers, workers = 0 if peers else wish.servers, wish.workers
    if servers < 0 or workers < 0 or servers + workers > 500:
        raise Misuse("MTH-0951", f"between 1 and 500 nodes can be started here, got {servers} + {workers}")
    for flag, bad, count in (
        ("--byzantine-workers", wish.byzantine_workers, workers),
        ("--byzantine-servers", wish.byzantine_servers, servers),
    ):
        if not 0 <= bad <= count:
            raise Misuse("MTH-0951", f"{flag} must be in [0, {count}] for {count} nodes, got {bad}")
    _check_attack(wish)
    nodes: list[dict[str, Any]] = []
    for number in range(servers + workers):
        server = number < servers
        role = "server" if server else "peer" if peers else "worker"
        first_bad = servers - wish.byzantine_servers if server else servers + workers - wish.byzantine_workers
        behaviour = (wish.server_attack if server else wish.attack) if number >= first_bad else None
        nodes.append({"id": number, "role": role, "address": f"127.0.0.1:{10000 + number}", "behaviour": behaviour})
    values = {"protocol": protocol, "nodes": nodes, **wish.values}
    return build_cluster(values, wish.flags)


def _check_attack(wish: Wish) -> None:
    for attack, kind in ((wish.attack, "attack"), (wish.server_attack, "server attack")):
        if attack is not None and attack["name"] not in attack_names():
            raise unknown_name(kind, attack["name"], attack_names())
    if wish.byzantine_workers and wish.attack is None:
        raise Misuse(
            "MTH-0962",
            f"{wish.byzantine_workers} workers are Byzantine, and no attack says what they do",
            hint=f"--attack one of {', '.join(attack_names())}",
        )
    if wish.byzantine_servers and wish.server_attack is None:
        raise Misuse(
            "MTH-0962",
            f"{wish.byzantine_servers} servers are Byzantine, and no attack says what they do",
            hint="--server-attack reverse, random-model, equivocate, ...",
        )


def method_of(text: str) -> dict[str, Any]:
    """Return `NAME:option=value,option=value` as a name with options.

    Raises:
        Misuse: MTH-0121 for anything else.
    """
    name, colon, rest = text.partition(":")
    options: dict[str, Any] = {}
    for item in rest.split(",") if colon else ():
        key, equals, value = item.partition("=")
        if not (key.strip() and equals):
            raise Misuse("MTH-0121", f"{text!r} is not NAME or NAME:option=value,option=value")
        options[key.strip()] = read_yaml(value.strip())
    return {"name": name, "options": options}


def pin(text: str, prints: Mapping[int, str]) -> str:
    """Return the text of a cluster file with the fingerprints written into it; comments and layout stay.

    Args:
        text: YAML that has passed `load_cluster`.
        prints: The fingerprint of each node.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    edits: list[tuple[int, int, str]] = []
    for entry in _nodes(root):
        fields = {key.value: (key, value) for key, value in entry.value}
        number = int(fields["id"][1].value)
        if "fingerprint" in fields:
            old = fields["fingerprint"][1]
            edits.append((old.start_mark.index, old.end_mark.index, prints[number]))
            continue
        last = entry.value[-1][1]
        if entry.flow_style:
            edits.append((last.end_mark.index, last.end_mark.index, f", fingerprint: {prints[number]}"))
        else:
            first = entry.value[0][0]
            indent = " " * first.start_mark.column
            at = _line_end(text, fields["address"][1].end_mark.index)
            edits.append((at, at, f"\n{indent}fingerprint: {prints[number]}"))
    for start, stop, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[stop:]
    return text


def _nodes(root: yaml.Node | None) -> Sequence[yaml.MappingNode]:
    assert isinstance(root, yaml.MappingNode)
    for key, value in root.value:
        if key.value == "nodes":
            return [entry for entry in value.value if isinstance(entry, yaml.MappingNode)]
    return []


def _line_end(text: str, place: int) -> int:
    found = text.find("\n", place)
    return len(text) if found < 0 else found


def read_text(path: Path) -> str:
    """Return the text of a cluster file that can be read. Raises what `load_cluster` raises for one that cannot."""
    read_source(path, advice=ADVICE)
    return path.read_text(encoding="utf-8")
