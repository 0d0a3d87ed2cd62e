"""Broadcast layers: what it takes until a node believes that everybody heard the same.

| layer | promise about the frames of one liar | messages an instance | needs |
|---|---|---|---|
| plain | none: it may say something else to each | n | |
| consistent | no two honest nodes deliver different ones | 3 n, or n + n^2 short | n >= 3 f + 1 |
| reliable | and if one delivers it, all do | n + 2 n^2 short | n >= 3 f + 1 |

All collect alike. Run them as `async with layer:`, and stay in it until the slower nodes are done, which need our
echoes.
"""

from collections.abc import Mapping
from typing import Final

from mithridate.byzantine._consistent import Consistent
from mithridate.byzantine._layer import AbstractBroadcast, Plain, Signer, echo_quorum
from mithridate.byzantine._reliable import Reliable, witness_expected, witness_kind
from mithridate.byzantine.transport._base import AbstractTransport
from mithridate.core.errors import Misuse

__all__ = [
    "LAYERS_OF",
    "AbstractBroadcast",
    "Consistent",
    "Plain",
    "Reliable",
    "Signer",
    "broadcast_layer",
    "echo_quorum",
    "witness_expected",
    "witness_kind",
]

LAYERS_OF: Final[Mapping[str, frozenset[str]]] = {
    "plain": frozenset({"data"}),
    "consistent": Consistent.layers,
    "reliable": Reliable.layers,
}
"""What the schema of a transport must read, by the name of the broadcast layer."""


def broadcast_layer(
    name: str, transport: AbstractTransport, *, f: int, signer: Signer | None = None, context: bytes = b""
) -> AbstractBroadcast:
    """Return the broadcast layer of a name over a transport.

    Args:
        name: plain, consistent or reliable.
        transport: What carries it.
        f: How many nodes may lie.
        signer: Signs the echoes of consistent broadcast; None has everybody echo to all.
        context: Names the run.

    Raises:
        Misuse: MTH-0914 or MTH-0915 if the layer cannot work there.
    """
    if name == "plain":
        return Plain(transport)
    if name == "consistent":
        return Consistent(transport, f=f, signer=signer, context=context)
    if name == "reliable":
        return Reliable(transport, f=f, context=context)
    raise Misuse("MTH-0914", f"there is no broadcast layer {name!r}", hint=f"choose from {', '.join(LAYERS_OF)}")
