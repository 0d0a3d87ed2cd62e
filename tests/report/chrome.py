"""Headless Chromium through chromedriver's W3C protocol: plain HTTP on the loopback, no dependency."""

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)

WAIT = {"script": 180_000, "pageLoad": 180_000, "implicit": 0}  # milliseconds; a busy machine is no failure


def missing() -> list[str]:
    """Programs that the browser tests need and this machine lacks."""
    return [program for program in ("chromium", "chromedriver") if shutil.which(program) is None]


class Browser:
    """One session. Every method is one command of the protocol."""

    def __init__(self, url: str, session: str) -> None:
        self._base = f"{url}/session/{session}"

    def _post(self, path: str, **body: object) -> Any:
        return request("POST", f"{self._base}/{path}", body)

    def cdp(self, command: str, **params: object) -> Any:
        return self._post("goog/cdp/execute", cmd=command, params=params)

    def show(self, page: Path, *, width: int, theme: str = "light") -> None:
        """Open a file at a viewport width, with light or dark as the reader's preference."""
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        self._post("url", url=page.resolve().as_uri())

    def run(self, script: str) -> Any:
        """Evaluate from outside the page; its own content security policy does not apply."""
        return self._post("execute/sync", script=script, args=[])

    def log(self, kind: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self._post("se/log", type=kind)
        return entries

    def requests(self) -> list[str]:
        """Addresses that the page asked for since the last call, data: URIs not counted."""
        messages = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith("data:")]

    def screenshot(self) -> bytes:
        data = self.cdp("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        return base64.b64decode(data)

    def pdf(self) -> bytes:
        return base64.b64decode(
            self.cdp("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, preferCSSPageSize=True)["data"]
        )

    def close(self) -> None:
        request("DELETE", self._base, None)


def request(method: str, url: str, body: object) -> Any:
    """One command; the protocol's errors become readable exceptions."""
    data = None if body is None else json.dumps(body).encode()
    command = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(command, timeout=180) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        with error:
            raise RuntimeError(error.read().decode(errors="replace")[:500]) from None


def _wait_until_ready(url: str, driver: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and driver.poll() is None:
        try:
            if request("GET", f"{url}/status", None)["ready"]:
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise RuntimeError("chromedriver did not become ready in 30 s")


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start chromedriver and one headless session with an empty profile; stop both at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    driver = subprocess.Popen(
        ["chromedriver", f"--port={port}", "--log-level=OFF"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    options = {"binary": shutil.which("chromium"), "args": [*FLAGS, f"--user-data-dir={profile}"]}
    logging = {"browser": "ALL", "performance": "ALL"}
    wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": logging, "timeouts": WAIT}
    try:
        _wait_until_ready(url, driver)
        session = request("POST", f"{url}/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        page = Browser(url, session)
        try:
            request("POST", f"{url}/session/{session}/url", {"url": "about:blank"})
            page.requests(), page.log("browser")  # those of the start page
            yield page
        finally:
            page.close()
    finally:
        driver.terminate()
        driver.wait(timeout=30)
