"""A model behind HTTP: the image is posted as PNG, and JSON with labels comes back.

Only the address that the user names is spoken to: redirections are not followed, and no proxy is asked. Every wait has
a deadline and every reply a cap; what fails for a passing reason is asked once more.
"""

import http.client
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import final
from urllib.parse import SplitResult, urlsplit

from mithridate.core.boundary import Caps, read_json
from mithridate.core.errors import BadArtefact, Misuse
from mithridate.ownership._answers import AbstractOracle, Answer, LabelSpace, Query, failed, malformed

_REPLY = 1 << 20
_CAPS = Caps(file_bytes=_REPLY, depth=8, entries=200_000)
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_SUCCESS = 200
_PORTS = {"http": 80, "https": 443}


@final
class HttpOracle(AbstractOracle):
    """A service that answers `POST URL` with labels.

    Args:
        url: Where to post, http or https.
        space: How labels are read.
        token: Name of the environment variable whose value is sent as `Authorization`; it is recorded nowhere.
        deadline: Seconds that one attempt may take.
        pause: Seconds before the second attempt.

    Raises:
        Misuse: MTH-1066, it is no such address, or the variable is not set.
    """

    def __init__(
        self, url: str, space: LabelSpace, *, token: str | None = None, deadline: float = 30.0, pause: float = 1.0
    ) -> None:
        self._url = _checked(url)
        self._space = space
        self._deadline = deadline
        self._pause = pause
        self._headers = {"Content-Type": "image/png", "Accept": "application/json", "User-Agent": "mithridate"}
        if token is not None:
            value = os.environ.get(token, "")
            if not value or not value.isascii() or not value.isprintable():
                raise Misuse(
                    "MTH-1066",
                    f"the environment variable {token!r} is not set to one line of plain text",
                    hint=f"export {token}='Bearer ...'",
                )
            self._headers["Authorization"] = value

    @property
    def about(self) -> str:
        """What is asked: scheme, host and path, as a query may hold secrets."""
        port = "" if self._url.port is None else f":{self._url.port}"
        return f"{self._url.scheme}://{self._url.hostname}{port}{self._url.path}"

    def ask(self, query: Query) -> Answer:
        """Post one key, twice at most."""
        for attempt in range(2):
            status, body = self._post(query.png)
            if status == _SUCCESS:
                return self._read(body)
            if attempt == 0 and (status == 0 or status in _PASSING):
                time.sleep(self._pause)
                continue
            break
        return failed(body.decode(errors="replace") if status == 0 else f"the service answered with status {status}")

    def _post(self, body: bytes) -> tuple[int, bytes]:
        """Return status and body of a reply; without a status, why there is none."""
        end = time.monotonic() + self._deadline
        late = 0, f"no whole reply within {self._deadline:g} s".encode()
        target = (self._url.path or "/") + (f"?{self._url.query}" if self._url.query else "")
        host, port = self._url.hostname or "", self._url.port or _PORTS[self._url.scheme]
        try:
            with socket.create_connection((host, port), timeout=self._deadline) as plain, _cut(plain, end):
                connection = http.client.HTTPConnection(host, port)
                connection.default_port = _PORTS[self._url.scheme]
                connection.sock = self._secured(plain, host)
                with connection.sock:
                    connection.request("POST", target, body=body, headers=self._headers)
                    reply = connection.getresponse()
                    data = bytearray()
                    while block := reply.read1(64 << 10):
                        data += block
                        if len(data) > _REPLY:
                            return 0, f"the reply has more than {_REPLY:,} bytes".encode()
                # A reply without a length ends where the connection does, which we may have cut ourselves.
                return late if time.monotonic() >= end else (reply.status, bytes(data))
        except (OSError, http.client.HTTPException, ValueError) as error:
            if time.monotonic() >= end or isinstance(error, TimeoutError):
                return late
            return 0, f"the service cannot be reached: {type(error).__name__} {error}"[:200].encode()

    def _secured(self, plain: socket.socket, host: str) -> socket.socket:
        if self._url.scheme == "http":
            return plain
        return ssl.create_default_context().wrap_socket(plain, server_hostname=host)

    def _read(self, body: bytes) -> Answer:
        if not body.strip():
            return self._space.read(None)
        try:
            return self._space.read(read_json(body, caps=_CAPS))
        except BadArtefact as error:
            return malformed(error.message[:200])


@contextmanager
def _cut(connection: socket.socket, end: float) -> Iterator[None]:
    """Cut a connection at a moment: whoever sends a byte now and then would outlast a limit on each wait."""
    # A duplicate, as TLS takes the descriptor of the socket that it is given.
    twin = connection.dup()

    def cut() -> None:
        with suppress(OSError):
            twin.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, end - time.monotonic()), cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        twin.close()


def _checked(url: str) -> SplitResult:
    try:
        found = urlsplit(url)
        port = found.port
    except ValueError as error:
        raise Misuse("MTH-1066", f"{url!r} is no address: {error}") from error
    if found.scheme not in ("http", "https") or not found.hostname or port == 0 or not url.isascii() or " " in url:
        raise Misuse("MTH-1066", f"{url!r} is no address", hint="write for example --http https://example.org/classify")
    if found.username is not None or found.password is not None:
        raise Misuse(
            "MTH-1066",
            f"the address of {found.hostname} has a name or password in it, which would be shown",
            hint="put 'Basic ...' or 'Bearer ...' into an environment variable and name it with --http-token",
        )
    return found
