"""Consistent broadcast: two honest nodes never deliver different frames of one origin (specification A.6).

With signatures the origin collects ceil((n + f + 1) / 2) signed echoes of its frame and passes them on as a proof: O(n)
small messages an instance. Without, every node says its echo to all, over connections that name their sender, and
delivers on as many echoes: O(n^2) small messages and no signatures. Any two such quorums share an honest node, which
echoes one frame only. A liar may still keep its frame from some.
"""

import struct

from mithridate.byzantine._layer import DIGEST_BYTES, AbstractLayer, Instance, Signer
from mithridate.byzantine.messages import Frame
from mithridate.byzantine.transport._base import AbstractTransport

_SIGNATURE_BYTES = 64
_ENTRY = struct.Struct(f"<I{_SIGNATURE_BYTES}s")
_PREFIX = b"mithridate echo 1\0"


class Consistent(AbstractLayer):
    """Non-equivocation.

    Args:
        transport: What carries it.
        f: How many nodes may lie; n >= 3 f + 1.
        signer: Signs echoes; None has everybody echo to all instead.
        context: Names the run, so that echoes of another one prove nothing.
    """

    layers = frozenset({"data", "echo", "proof"})

    def __init__(
        self, transport: AbstractTransport, *, f: int, signer: Signer | None = None, context: bytes = b""
    ) -> None:
        self.signer = signer
        self._prepare(transport, f=f, context=context)

    def _control_bytes(self) -> int:
        return DIGEST_BYTES + (self.n * _ENTRY.size if self.signer else 0)

    async def _react(self, frame: Frame, instance: Instance) -> None:
        if frame.layer == "data":
            await self._on_data(frame, instance)
        elif frame.layer == "echo":
            await self._on_echo(frame, instance)
        elif frame.layer == "proof" and frame.sender == instance.origin and self.signer is not None:
            self._on_proof(bytes(frame.body()), instance)
        if instance.decided and instance.frame is not None and instance.digest == instance.decided:
            self._deliver(instance)

    async def _on_data(self, frame: Frame, instance: Instance) -> None:
        if instance.frame is not None or "echo" in instance.said or not self._hold(instance, frame):
            return
        instance.said.add("echo")
        me, origin = self.transport.me, instance.origin
        signature = self.signer.sign(_PREFIX + instance.digest) if self.signer else b""
        echo = Frame(*instance.place, me, instance.digest + signature, "echo", origin)
        if self.signer is None:
            await self.transport.broadcast(echo)
        elif origin != me:
            await self.transport.send(origin, echo)
            return
        await self._count(instance, instance.digest, me, signature)

    async def _on_echo(self, frame: Frame, instance: Instance) -> None:
        body = bytes(frame.body())
        value, signature = body[:DIGEST_BYTES], body[DIGEST_BYTES:]
        if self.signer is not None:
            ours = instance.origin == self.transport.me and value == instance.digest
            if not ours or "proof" in instance.said or not self.signer.verify(frame.sender, _PREFIX + value, signature):
                return
        elif len(body) != DIGEST_BYTES:
            return
        await self._count(instance, value, frame.sender, signature)

    async def _count(self, instance: Instance, value: bytes, node: int, signature: bytes) -> None:
        if instance.vote("echo", value, node, signature) < self.quorum or instance.decided:
            return
        instance.decided = value
        if self.signer is not None:
            instance.said.add("proof")
            entries = sorted(instance.voters("echo", value).items())
            proof = value + b"".join(_ENTRY.pack(*entry) for entry in entries)
            me = self.transport.me
            await self.transport.broadcast(Frame(*instance.place, me, proof, "proof", me))

    def _on_proof(self, body: bytes, instance: Instance) -> None:
        """Hold a proof against the echoes' signatures; the first one of an origin counts."""
        value, entries = body[:DIGEST_BYTES], body[DIGEST_BYTES:]
        if instance.decided or len(entries) % _ENTRY.size or len(entries) > self.n * _ENTRY.size:
            return
        assert self.signer is not None
        signers = {}
        for node, signature in _ENTRY.iter_unpack(entries):
            if node not in signers and self.signer.verify(node, _PREFIX + value, signature):
                signers[node] = signature
        if len(signers) >= self.quorum:
            instance.decided = value
