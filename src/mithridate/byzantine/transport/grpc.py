"""Frames over gRPC: raw bytes on one stream for each direction of each pair, mutual TLS, a certificate a node.

A peer is who its certificate says, and the certificate must be the one that the cluster file pins: the server compares
fingerprints, the client trusts that one certificate and no authority. A message is at most `message_bytes` long; the
next one is read when the last has been dealt with, so a flooding peer waits for itself. Each message is answered; what
was not answered is sent again on the next stream.
"""

import asyncio
import contextlib
import ipaddress
import os
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Any

from mithridate.byzantine.identity import Identity, fingerprint, tls_name
from mithridate.byzantine.messages import Frame, Schema
from mithridate.byzantine.transport._base import AbstractTransport, Limits
from mithridate.byzantine.transport._mailbox import Mailbox, PeerStats, Verdict
from mithridate.byzantine.transport._outbox import Entry, Outbox
from mithridate.byzantine.transport._wire import MORE, OVERHEAD, Reader, batch, chunks, read_answer
from mithridate.core.errors import BadArtefact, Misuse

# Read once, when the library is loaded: it would write every failed handshake of a stranger to our stderr.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
import grpc
from grpc import aio

_SERVICE, _METHOD = "mithridate.Node", "Talk"
_ANSWER_BYTES = 4096
_FIRST_BACKOFF = 0.05
_USELESS_PAUSE, _REFUSED_PAUSE = 0.001, 0.05
_USEFUL = (Verdict.KEPT, MORE)
_BROKEN = (aio.AioRpcError, aio.BaseError, asyncio.InvalidStateError, TimeoutError, ConnectionError)
"""What a stream that ended raises, by when it is noticed."""


class GrpcTransport(AbstractTransport):
    """A node's end of the real network; made by `start`.

    Attributes:
        address: Where it listens, with the port that was chosen.
        strangers: Connections with a certificate that is not in the cluster file.
    """

    def __init__(self, identity: Identity, schema: Schema, limits: Limits, *, incarnation: int) -> None:
        self.me = identity.me
        self.peers = tuple(sorted(set(identity.fingerprints) - {identity.me}))
        self.incarnation = incarnation
        self.mailbox = Mailbox(self.me, self.peers, schema, limits)
        self.address = ""
        self.strangers = 0
        self._identity = identity
        self._ids = {print_: node for node, print_ in identity.fingerprints.items()}
        self._session = secrets.randbits(63) + 1
        self._streams: dict[int, _Stream] = {}
        self._outboxes = {peer: Outbox(limits, self.stats[peer]) for peer in self.peers}
        self._links: dict[int, asyncio.Task[None]] = {}
        self._server: Any = None

    @classmethod
    async def start(
        cls,
        identity: Identity,
        listen: str = "127.0.0.1:0",
        *,
        schema: Schema,
        limits: Limits | None = None,
        anywhere: bool = False,
        incarnation: int = 0,
    ) -> "GrpcTransport":
        """Listen for peers; `connect` then reaches out to them.

        Args:
            identity: Our keys and the peers' certificates.
            listen: HOST:PORT; port 0 takes a free one.
            schema: What is read.
            limits: Bounds.
            anywhere: Listen on an address that is not loopback.
            incarnation: How often this node has been started before.

        Raises:
            Misuse: MTH-0925 for an address that is not loopback, MTH-0926 when it cannot be listened on.
        """
        _check_listen(listen, anywhere=anywhere)
        transport = cls(identity, schema, limits or Limits(), incarnation=incarnation)
        server = aio.server(
            options=_options(transport.limits.message_bytes + OVERHEAD), handlers=[transport._handler()]
        )
        own = [(identity.key, identity.certificates[identity.me])]
        credentials = grpc.ssl_server_credentials(own, root_certificates=identity.authority, require_client_auth=True)
        try:
            port = server.add_secure_port(listen, credentials)
        except RuntimeError:
            port = 0
        if port == 0:
            await server.stop(None)
            raise Misuse("MTH-0926", f"cannot listen on {listen}", hint="choose a free port of this machine")
        await server.start()
        transport._server, transport.address = server, f"{listen.rpartition(':')[0]}:{port}"
        return transport

    def connect(self, addresses: Mapping[int, str]) -> None:
        """Begin to send to peers, now and whenever they are up again.

        Args:
            addresses: HOST:PORT of each.
        """
        for peer in self.peers:
            if peer in addresses and peer not in self._links:
                self._links[peer] = asyncio.create_task(self._link(peer, addresses[peer]))

    async def send(self, to: int, frame: Frame) -> None:
        """Queue a frame for a peer."""
        self._put(to, frame, frame.nbytes)

    async def send_bytes(self, to: int, data: bytes) -> None:
        """Queue a message of any bytes."""
        self._put(to, data, len(data))

    async def drain(self, seconds: float) -> tuple[int, ...]:
        """Wait until the peers have taken all that is queued; return those that have not in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while any(outbox.pending for outbox in self._outboxes.values()):
                    await asyncio.sleep(0.01)
        return tuple(peer for peer, outbox in self._outboxes.items() if outbox.pending)

    async def close(self) -> None:
        """End all connections."""
        for task in self._links.values():
            task.cancel()
        ends = await asyncio.gather(*self._links.values(), return_exceptions=True)
        self._links.clear()
        if self._server is not None:
            await self._server.stop(0)
            self._server = None
        for end in ends:
            if isinstance(end, Exception):
                raise end

    def _put(self, to: int, content: Frame | bytes, nbytes: int) -> None:
        if to in self._outboxes:
            self.stats[to].sent_frames += 1
            self.stats[to].sent_bytes += nbytes
            self._outboxes[to].put(content)

    def _handler(self) -> Any:
        methods = {_METHOD: grpc.stream_stream_rpc_method_handler(self._serve)}
        return grpc.method_handlers_generic_handler(_SERVICE, methods)

    async def _serve(self, requests: AsyncIterator[bytes], context: Any) -> None:
        """Read the messages of a peer, one at a time, for as long as its stream lasts."""
        del requests
        peer = self._authenticate(context.auth_context())
        if peer is None:
            self.strangers += 1
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "this certificate is not in the cluster file")
            return
        stream, older = _Stream(Reader(self.mailbox, peer, self._session)), self._streams.get(peer)
        if older is not None:
            older.replace()
        self._streams[peer] = stream
        try:
            await stream.read(context)
        finally:
            if self._streams.get(peer) is stream:
                del self._streams[peer]

    def _authenticate(self, properties: Mapping[str, Any]) -> int | None:
        """Return the node whose pinned certificate the connection has."""
        for pem in properties.get("x509_pem_cert", ()):
            try:
                node = self._ids.get(fingerprint(pem))
            except BadArtefact:
                return None
            return None if node == self.me else node
        return None

    async def _link(self, peer: int, address: str) -> None:
        """Keep a stream to a peer, however often it breaks."""
        identity, limits, stats = self._identity, self.limits, self.stats[peer]
        credentials = grpc.ssl_channel_credentials(
            identity.certificates[peer], identity.key, identity.certificates[self.me]
        )
        options = [*_options(_ANSWER_BYTES), ("grpc.ssl_target_name_override", tls_name(peer))]
        link = _Link(self._outboxes[peer], stats, limits)
        async with aio.secure_channel(address, credentials, options=options) as channel:
            method = channel.stream_stream(f"/{_SERVICE}/{_METHOD}")
            backoff = _FIRST_BACKOFF
            while True:
                link.answered = False
                # A broken stream: the peer is down, hung, cut off, or refuses us. The next one may do better.
                with contextlib.suppress(*_BROKEN):
                    await link.talk(method)
                stats.reconnects += 1
                backoff = _FIRST_BACKOFF if link.answered else min(2 * backoff, limits.backoff_seconds)
                await asyncio.sleep(backoff)


class _Stream:
    """The stream of a peer to us."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self._replaced = False
        self._patience: asyncio.Timeout | None = None

    def replace(self) -> None:
        """End it, as the peer has opened another one."""
        self._replaced = True
        if self._patience is not None:
            self._patience.reschedule(asyncio.get_running_loop().time())

    async def read(self, context: Any) -> None:
        """Read messages, one at a time, and answer them."""
        while not self._replaced:
            try:
                async with asyncio.timeout(self.reader.waiting) as self._patience:
                    message = await context.read()
            except TimeoutError:
                break
            finally:
                self._patience = None
            if message is aio.EOF:
                return
            answer, verdicts = self.reader.read(message)
            if Verdict.REFUSED in verdicts:
                await asyncio.sleep(_REFUSED_PAUSE)
            elif not any(verdict in _USEFUL for verdict in verdicts):
                await asyncio.sleep(_USELESS_PAUSE)
            try:
                async with asyncio.timeout(self.reader.mailbox.limits.stall_seconds):
                    await context.write(answer)
            except TimeoutError:
                break
        if self._replaced:
            await context.abort(grpc.StatusCode.ABORTED, "another stream took its place")
        self.reader.drop("slow")
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the rest of a frame did not come")


class _Link:
    """Sends what waits for one peer on one stream after another."""

    def __init__(self, outbox: Outbox, stats: PeerStats, limits: Limits) -> None:
        self.outbox, self.stats, self.limits = outbox, stats, limits
        self.answered = False
        self._session = 0

    async def talk(self, method: Any) -> None:
        """Open a stream when there is something to send, and use it until it breaks."""
        loop = asyncio.get_running_loop()
        entries = await self.outbox.ready(loop.time())
        call = method()
        try:
            while True:
                await self._send(call, entries)
                entries = await self.outbox.ready(loop.time())
        finally:
            call.cancel()

    async def _send(self, call: Any, entries: list[Entry]) -> None:
        frames = [entry.content for entry in entries if isinstance(entry.content, Frame)]
        verdicts: list[int] = []
        if not frames:
            content = entries[0].content
            assert isinstance(content, bytes)
            await self._exchange(call, content, 1)
            verdicts = [Verdict.KEPT]
        elif len(frames) == 1 and frames[0].nbytes > self.limits.message_bytes - OVERHEAD:
            for message in chunks(frames[0], self.limits.message_bytes):
                verdicts = await self._exchange(call, message, 1)
                if verdicts != [MORE]:
                    break
            verdicts = [Verdict.REFUSED] if verdicts == [MORE] else verdicts
        else:
            verdicts = await self._exchange(call, batch(frames), len(frames))
        now = asyncio.get_running_loop().time()
        for entry, verdict in zip(entries, verdicts, strict=True):
            self.outbox.settle(entry, verdict, now)

    async def _exchange(self, call: Any, message: bytes, count: int) -> list[int]:
        """Send one message and return the verdicts that answer it.

        Raises:
            ConnectionError: If the stream ended.
            TimeoutError: If the peer is silent for too long.
        """
        async with asyncio.timeout(self.limits.stall_seconds):
            await call.write(message)
            answer = await call.read()
        if answer is aio.EOF:
            raise ConnectionResetError("the stream ended")
        session, _, verdicts = read_answer(answer, count)
        self.answered = True
        if self._session not in (0, session):
            self.outbox.reopen()
        self._session = session
        return verdicts


def _options(receive_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", receive_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", 4),
        ("grpc.so_reuseport", 0),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 5_000),
        ("grpc.max_reconnect_backoff_ms", 1_000),
    ]


def _check_listen(listen: str, *, anywhere: bool) -> None:
    host = listen.rpartition(":")[0].strip("[]")
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback and not anywhere:
        message = f"{listen} can be reached from other machines; nodes listen on loopback unless told otherwise"
        raise Misuse("MTH-0925", message, hint="allow it, and keep the keys of each node on its machine")
