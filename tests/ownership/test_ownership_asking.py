"""Asking models: whatever an answer looks like, and however it fails, it becomes labels or a counted miss."""

import ipaddress
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mithridate.core.boundary import decode_image
from mithridate.core.errors import BadArtefact, Misuse
from mithridate.ownership.asking import (
    CommandOracle,
    HttpOracle,
    LabelSpace,
    ModelOracle,
    PredictionsOracle,
    Query,
    ask_all,
    write_queries,
)

CLASSES = ("cat", "dog", "emu", "fox")
TWO = LabelSpace(classes=CLASSES, topk=2)
ONE = LabelSpace(classes=CLASSES, topk=1)


def query(index: int = 0, shape: tuple[int, int, int] = (3, 6, 5)) -> Query:
    pixels = np.random.default_rng(index).integers(0, 256, size=shape, dtype=np.uint8)
    return Query(index=index, image=pixels)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_file_of_a_key_keeps_every_pixel(channels: int) -> None:
    key = query(3, (channels, 6, 5))
    assert key.name == "key-0003.png"
    assert np.array_equal(decode_image(key.png), key.image.transpose(1, 2, 0))


# Replies


@pytest.mark.parametrize(
    ("reply", "labels"),
    [
        ("dog", (1,)),
        (3, (3,)),
        (["emu", "cat", "dog"], (2, 0)),
        ([1, 0], (1, 0)),
        ([[1, 0]], (1, 0)),
        (["dog", "dog"], (1,)),
        ({"labels": ["fox", 0]}, (3, 0)),
        ({"predictions": [{"label": "cat"}, {"label": "dog"}]}, (0, 1)),
        ([{"label": "cat", "score": 0.1}, {"label": "emu", "score": 0.7}, {"label": "dog", "score": 0.2}], (2, 1)),
        ([[{"label": "cat", "score": 0.1}, {"label": "emu", "score": 0.7}]], (2, 0)),
        ({"class": "1"}, (1,)),
        ([{"label": "cat", "score": 1}, {"label": "emu", "score": 10**400}, {"label": "dog", "score": 1.5}], (2, 1)),
    ],
)
def test_the_forms_of_an_answer(reply: object, labels: tuple[int, ...]) -> None:
    answer = TWO.read(reply)
    assert (answer.kind, answer.labels, answer.outside) == ("answered", labels, 0)


@pytest.mark.parametrize("reply", [None, [], "", "  ", {"labels": []}, {"label": None}])
def test_abstentions(reply: object) -> None:
    answer = TWO.read(reply)
    assert (answer.kind, answer.labels) == ("abstained", None)


@pytest.mark.parametrize("reply", [True, 1.0, {"error": "busy"}, [1, None], [True], [{"score": 1}], [[1], [2]], {}])
def test_malformed_replies(reply: object) -> None:
    answer = TWO.read(reply)
    assert (answer.kind, answer.labels) == ("malformed", None)
    assert answer.note


def test_labels_outside_take_their_place_and_are_no_hit() -> None:
    answer = TWO.read(["unicorn", "cat", "dog"])
    assert (answer.labels, answer.outside) == ((-1, 0), 1)
    assert "unicorn" in answer.note
    assert ONE.read(4).labels == (-1,)
    assert ONE.read(-1).labels == (-1,)
    assert ONE.read(-1).outside == 1


def test_names_win_over_numbers_in_text() -> None:
    shifted = LabelSpace(classes=("1", "2", "3"), topk=1)
    assert shifted.read("1").labels == (0,)
    assert shifted.read(1).labels == (1,)
    assert shifted.read("0").labels == (0,)


def test_a_class_map() -> None:
    mapped = LabelSpace(classes=CLASSES, topk=1, names={"n02123045": "cat", "7": "dog"})
    assert mapped.read("n02123045").labels == (0,)
    assert mapped.read(7).labels == (1,)
    assert mapped.read("cat").labels == (-1,)
    with pytest.raises(Misuse, match=r"MTH-1060.*'cow'"):
        LabelSpace(classes=CLASSES, topk=1, names={"x": "cow"})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["labels", "label", "x"]), inner),
    max_leaves=8,
)


@given(JSON)
def test_any_reply_is_at_most_k_different_committed_classes(reply: Any) -> None:
    """Else the null rate would be above k/C: no reply whatever may name more."""
    answer = TWO.read(reply)
    labels = answer.labels or ()
    classes = [label for label in labels if label != -1]
    assert len(labels) <= 2
    assert len(classes) == len(set(classes))
    assert all(0 <= label < 4 for label in classes)
    assert answer.outside == list(labels).count(-1)


# A model


class Fixed(nn.Module):
    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not self.training
        self.seen.append(x)
        return self.logits.expand(len(x), -1)


def test_a_model_answers_its_largest_logits() -> None:
    model = Fixed([0.0, 2.0, 1.0, 2.0]).train()
    answer = ModelOracle(model, TWO).ask(query())
    assert answer.labels == (1, 3)
    assert torch.equal(model.seen[0], torch.from_numpy(query().image)[None] / 255)


def test_the_outputs_of_a_model_are_read_by_name() -> None:
    model = Fixed([0.0, 2.0, 1.0])
    oracle = ModelOracle(model, TWO, classes=("yak", "fox", "cat"))
    assert oracle.ask(query()).labels == (3, 0)
    assert oracle.shared == (0, 3)
    with pytest.raises(Misuse, match="MTH-1061"):
        ModelOracle(model, TWO, classes=("yak", "cow", "pig"))


@pytest.mark.parametrize(("logits", "kind"), [([float("nan")] * 4, "failed"), ([0.0] * 5, "malformed")])
def test_a_broken_model_misses(logits: list[float], kind: str) -> None:
    assert ModelOracle(Fixed(logits), ONE).ask(query()).kind == kind


def test_keys_of_another_size_are_refused() -> None:
    with pytest.raises(Misuse, match=r"MTH-1062.*\(1, 8, 8\).*\(3, 6, 5\)"):
        ModelOracle(Fixed([0.0] * 4), ONE, shape=(1, 8, 8)).ask(query())


# A table


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "predictions.csv"
    path.write_bytes(text.encode())
    return path


def test_a_table_of_predictions(tmp_path: Path) -> None:
    text = '\ufeffkey,label1,label2\r\nkey-0002.png,dog,cat\r\n0,"fox",\r\ndir/key-0001.png,,\n3,0,unicorn\n'
    oracle = PredictionsOracle.read(table(tmp_path, text), TWO)
    asked = ask_all(oracle, [query(k) for k in range(5)])
    assert [answer.labels for answer in asked.answers] == [(3,), None, (1, 0), (0, -1), None]
    assert [answer.kind for answer in asked.answers] == ["answered", "abstained", "answered", "answered", "failed"]
    assert asked.tally.counts == {"answered": 3, "abstained": 1, "failed": 1}
    assert asked.tally.outside == 1
    assert len(asked.tally.notes) == 3
    assert any("key 4" in note for note in asked.tally.notes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "nothing"),
        ("cat\ndog\n", "'cat'"),
        ("key,label\nx,cat\n", "line 2 begins with 'x'"),
        ("key,label\n1,cat\n1,dog\n", "line 3 answers key 1 a second time"),
        ('key,label\n1,"cat\n', "unexpected end"),
    ],
)
def test_what_is_no_table(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadArtefact, match="MTH-1063") as caught:
        PredictionsOracle.read(table(tmp_path, text), TWO)
    assert said in str(caught.value)


def test_queries_that_are_written_can_be_filled_in(tmp_path: Path) -> None:
    queries = [query(k) for k in range(3)]
    written = write_queries(queries, TWO, tmp_path / "queries")
    assert [path.name for path in written] == ["key-0000.png", "key-0001.png", "key-0002.png", "predictions.csv"]
    empty = ask_all(PredictionsOracle.read(written[-1], TWO), queries)
    assert {answer.kind for answer in empty.answers} == {"abstained"}
    with pytest.raises(Misuse, match="MTH-1064"):
        write_queries(queries, TWO, tmp_path / "queries")


# A command


def script(tmp_path: Path, body: str) -> str:
    path = tmp_path / "query.py"
    path.write_text(f"import os, sys, time\n{body}\n")
    return f"{sys.executable} -S {path} {{}}"


@pytest.mark.parametrize(
    ("body", "kind", "labels"),
    [
        ("print('dog')", "answered", (1,)),
        ("print('dog, fox')", "answered", (1, 3)),
        ("print('dog'); print('fox')", "answered", (1, 3)),
        ("print('[2, 0]')", "answered", (2, 0)),
        ("print('[2, 0')", "malformed", None),
        ("sys.stdout.buffer.write(bytes([255]))", "malformed", None),
        ("pass", "abstained", None),
        ("print('dog'); sys.exit(3)", "failed", None),
        ("print('dog', flush=True); os.kill(os.getpid(), 9)", "failed", None),
        ("print('x' * 100_000)", "failed", None),
    ],
)
def test_what_a_command_answers(tmp_path: Path, body: str, kind: str, labels: tuple[int, ...] | None) -> None:
    answer = CommandOracle(script(tmp_path, body), TWO).ask(query())
    assert (answer.kind, answer.labels) == (kind, labels)


def test_a_command_sees_the_key(tmp_path: Path) -> None:
    body = (
        "d = open(sys.argv[1], 'rb').read(); print(sys.argv[1].endswith('key-0007.png') and d[1:4] == b'PNG' and 'cat')"
    )
    key = query(7)
    assert CommandOracle(script(tmp_path, body).removesuffix(" {}"), ONE).ask(key).labels == (0,)


def test_a_late_command_is_killed_with_its_children(tmp_path: Path) -> None:
    body = f"""
import subprocess
subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(2); open({str(tmp_path / "late")!r}, 'w')"])
time.sleep(60)
"""
    answer = CommandOracle(script(tmp_path, body), ONE, deadline=0.7).ask(query())
    assert answer.kind == "failed"
    assert "0.7 s" in answer.note
    time.sleep(2)
    assert not (tmp_path / "late").exists()


def test_no_shell_reads_the_command(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    command = f"{script(tmp_path, 'print(*sys.argv[2:])')} ; touch {victim}"
    assert CommandOracle(command, ONE).ask(query()).labels == (-1,)
    assert not victim.exists()


@pytest.mark.parametrize("template", ["", "'", "/no/such/program {}"])
def test_what_is_no_command(template: str) -> None:
    with pytest.raises(Misuse, match="MTH-1065"):
        CommandOracle(template, ONE)


# A service

Reply = tuple[int, bytes]


def tls_files(folder: Path) -> tuple[Path, Path]:
    """Return the certificate of 127.0.0.1, which it signed itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    host = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(host, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, private = folder / "host.pem", folder / "host.key"
    pem.write_bytes(certificate.public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return pem, private


@contextmanager
def service(reply: Callable[[int, bytes], Reply], headers: list[dict[str, str]] | None = None) -> Iterator[str]:
    """A server on the loopback address; `reply` gets how often it was asked, and the body."""
    asked = [0]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if headers is not None:
                headers.append(dict(self.headers.items()))
            asked[0] += 1
            status, text = reply(asked[0], body)
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *words: object) -> None:
            del words

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *words: object) -> None:
            del words  # a client that hangs up, which is tested

    server = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/classify?key=secret"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_service_gets_the_key_and_answers() -> None:
    def reply(count: int, body: bytes) -> Reply:
        return 200, b'{"labels": ["emu", "cat"]}' if body == query(5).png else b"null"

    headers: list[dict[str, str]] = []
    with service(reply, headers) as url:
        oracle = HttpOracle(url, TWO)
        assert oracle.ask(query(5)).labels == (2, 0)
        assert oracle.ask(query(6)).kind == "abstained"
        assert "secret" not in oracle.about
    assert headers[0]["Content-Type"] == "image/png"
    assert "Authorization" not in headers[0]


def test_a_token_is_sent_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "Bearer abc")
    headers: list[dict[str, str]] = []
    with service(lambda count, body: (200, b"1"), headers) as url:
        oracle = HttpOracle(url, ONE, token="MY_TOKEN")
        assert oracle.ask(query()).labels == (1,)
    assert headers[0]["Authorization"] == "Bearer abc"
    assert "abc" not in oracle.about + repr(oracle)
    monkeypatch.delenv("MY_TOKEN")
    with pytest.raises(Misuse, match=r"MTH-1066.*MY_TOKEN"):
        HttpOracle("http://127.0.0.1/", ONE, token="MY_TOKEN")


@pytest.mark.parametrize(
    ("first", "kind", "times"),
    [
        ((503, b"busy"), "answered", 2),
        ((500, b""), "answered", 2),
        ((404, b""), "failed", 1),
        ((302, b""), "failed", 1),
        ((200, b"<html>"), "malformed", 1),
        ((200, b""), "abstained", 1),
        ((200, b'{"error": "no"}'), "malformed", 1),
        ((200, b"[" * 50), "malformed", 1),
        ((200, b'"' + b"x" * (2 << 20) + b'"'), "answered", 2),
    ],
)
def test_how_services_fail(first: Reply, kind: str, times: int) -> None:
    """What passes is asked once more; what does not is a miss."""
    asked = []

    def reply(count: int, body: bytes) -> Reply:
        asked.append(count)
        return first if count == 1 else (200, b"1")

    with service(reply) as url:
        assert HttpOracle(url, ONE, pause=0.0).ask(query()).kind == kind
    assert len(asked) == times


def test_a_service_that_is_always_busy_is_asked_twice() -> None:
    asked = []

    def reply(count: int, body: bytes) -> Reply:
        asked.append(count)
        return 503, b""

    with service(reply) as url:
        answer = HttpOracle(url, ONE, pause=0.0).ask(query())
    assert (answer.kind, len(asked)) == ("failed", 2)
    assert "503" in answer.note


def test_a_service_that_is_late() -> None:
    going = threading.Event()

    def reply(count: int, body: bytes) -> Reply:
        going.wait(5)
        return 200, b"1"

    with service(reply) as url:
        answer = HttpOracle(url, ONE, deadline=0.2, pause=0.0).ask(query())
        going.set()
    assert answer.kind == "failed"
    assert "0.2 s" in answer.note


@contextmanager
def raw_service(speak: Callable[[socket.socket], None], context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server that takes one connection after another and does what it likes with it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                with suppress(OSError):
                    plain, _ = listener.accept()
                    plain.settimeout(5)
                    with context.wrap_socket(plain, server_side=True) if context else plain as connection:
                        speak(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            thread.join()


def whole_request(connection: socket.socket) -> None:
    """Read a request to its end: a socket that is closed with bytes unread resets, and the reply may be lost."""
    found = b""
    while b"\r\n\r\n" not in found:
        found += received(connection)
    head, _, body = found.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
    missing = int(lengths[0].split(b":")[1]) - len(body)
    while missing > 0:
        missing -= len(received(connection))


def received(connection: socket.socket) -> bytes:
    found = connection.recv(1 << 16)
    if not found:
        raise ConnectionError("the client is gone")
    return found


@pytest.mark.parametrize("begin", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b""])
def test_a_service_that_sends_a_byte_now_and_then_is_cut_off(begin: bytes) -> None:
    """Each byte is in time; a limit on each wait alone would let it go on for years."""

    def drip(connection: socket.socket) -> None:
        connection.sendall(begin)
        for _ in range(400):
            connection.sendall(b"a")
            time.sleep(0.02)

    with raw_service(drip) as port:
        answer = HttpOracle(f"http://127.0.0.1:{port}/", ONE, deadline=0.3, pause=0.0).ask(query())
    assert answer.kind == "failed"
    assert "no whole reply within 0.3 s" in answer.note


def test_a_service_is_who_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem, key = tls_files(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)

    def speak(connection: socket.socket) -> None:
        whole_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1")

    with raw_service(speak, context) as port:
        url = f"https://127.0.0.1:{port}/"
        refused = HttpOracle(url, ONE, pause=0.0).ask(query())
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        trusted = HttpOracle(url, ONE, pause=0.0).ask(query())
    assert refused.kind == "failed"
    assert "CERTIFICATE_VERIFY_FAILED" in refused.note
    assert trusted.labels == (1,)


def test_a_service_that_is_not_there() -> None:
    with service(lambda count, body: (200, b"1")) as url:
        pass
    answer = HttpOracle(url, ONE, pause=0.0).ask(query())
    assert answer.kind == "failed"
    assert "ConnectionRefusedError" in answer.note


@pytest.mark.parametrize("url", ["example.org", "ftp://x/", "http://", "http://x:99999/", "http://a b/", "file:///etc"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(Misuse, match="MTH-1066"):
        HttpOracle(url, ONE)


def test_a_password_in_an_address_is_refused_and_not_shown() -> None:
    with pytest.raises(Misuse, match="MTH-1066") as caught:
        HttpOracle("https://me:hunter2@example.org/", ONE)
    assert "hunter2" not in str(caught.value)
