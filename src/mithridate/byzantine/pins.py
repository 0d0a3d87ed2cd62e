"""What a node needs of the cluster file before it starts: fingerprints, places, and what a run is. No torch here."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import final

from mithridate.byzantine.cluster import ClusterConfig
from mithridate.core.errors import Misuse

_MOVABLE = ("address", "fingerprint")


def identity_of(cluster: ClusterConfig) -> str:
    """Return a digest of all that determines a run; addresses and certificates may change between two starts."""
    document = cluster.model_dump(mode="json")
    for node in document["nodes"]:
        for key in _MOVABLE:
            node.pop(key)
    for key in ("deadlines", "checkpoint_every"):
        document.pop(key)
    document["rule"] = cluster.rule_method.model_dump(mode="json")
    for role in dict.fromkeys(node.role for node in cluster.nodes):
        document[f"{role}s"] = [cluster.f(role), cluster.quorum(role)]
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def pins_of(cluster: ClusterConfig) -> dict[int, str]:
    """Return the fingerprints that the cluster file pins.

    Raises:
        Misuse: MTH-0958 for nodes without one.
    """
    missing = [str(node.id) for node in cluster.nodes if node.fingerprint is None]
    if missing:
        raise Misuse(
            "MTH-0958",
            f"the cluster file has no certificate fingerprint for node {', '.join(missing)}",
            hint="`mithridate byzantine keys cluster.yaml` makes the certificates and fills the fingerprints in",
        )
    return {node.id: node.fingerprint for node in cluster.nodes if node.fingerprint is not None}


@final
@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a node's files are.

    Attributes:
        keys: The folder of certificates and of this node's private keys.
        state: The node's own folder.
    """

    keys: Path
    state: Path

    @classmethod
    def beside(cls, cluster_file: Path, node: int) -> "Place":
        """Return the places that belong to a cluster file."""
        root = cluster_file.parent
        return cls(keys=root / "keys", state=root / "nodes" / f"node-{node}")
