"""A model behind a command of the user's: it gets the path of an image and writes labels.

No shell sees the command. What it writes is bounded, and so is how long it may take; a command that is late is killed
with everything that it started.
"""

import os
import selectors
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import final

from mithridate.core.boundary import Caps, read_json
from mithridate.core.errors import BadArtefact, Misuse
from mithridate.ownership._answers import AbstractOracle, Answer, LabelSpace, Query, failed, malformed

_PLACE = "{}"
_OUTPUT = 64 << 10
_CAPS = Caps(file_bytes=_OUTPUT, depth=8, entries=20_000)


@final
class CommandOracle(AbstractOracle):
    """A command that is started once for each key.

    Args:
        template: The command as one would type it; `{}` stands for the path of the image, which else comes last.
        space: How labels are read.
        deadline: Seconds that it may take for one key.

    Raises:
        Misuse: MTH-1065, it is no command, or there is no such program.
    """

    def __init__(self, template: str, space: LabelSpace, *, deadline: float = 60.0) -> None:
        try:
            words = shlex.split(template)
        except ValueError as error:
            raise Misuse("MTH-1065", f"{template!r} is no command: {error}", hint="close the quotes") from error
        if not words:
            raise Misuse("MTH-1065", "the command is empty", hint="write for example --command './query.sh {}'")
        if shutil.which(words[0]) is None:
            raise Misuse(
                "MTH-1065",
                f"there is no program {words[0]!r} that can be started",
                hint="check the path, and that the file is executable: chmod +x",
            )
        self._words = words if any(_PLACE in word for word in words[1:]) else [*words, _PLACE]
        self._space = space
        self._deadline = deadline

    @property
    def about(self) -> str:
        """What is asked: the program alone, as arguments may hold secrets."""
        return f"command {Path(self._words[0]).name}"

    def ask(self, query: Query) -> Answer:
        """Start the command for one key and read what it writes on its standard output."""
        with tempfile.TemporaryDirectory(prefix="mithridate-key-") as folder:
            path = Path(folder) / query.name
            path.write_bytes(query.png)
            try:
                output, status = _run([word.replace(_PLACE, str(path)) for word in self._words], self._deadline)
            except (OSError, ValueError) as error:
                return failed(f"the command could not be started: {error}")
        if status is None:
            return failed(f"the command was stopped: {output.decode(errors='replace')}")
        if status != 0:
            how = f"with exit code {status}" if status > 0 else f"by {signal.strsignal(-status) or f'signal {-status}'}"
            return failed(f"the command ended {how}")
        return self._read(output)

    def _read(self, output: bytes) -> Answer:
        """Read JSON, or else words that are separated by commas or line breaks."""
        try:
            text = output.decode("utf-8").strip()
        except UnicodeDecodeError:
            return malformed("the command wrote bytes that are no UTF-8")
        if text[:1] in ("[", "{", '"') or text == "null":
            try:
                return self._space.read(read_json(text.encode(), caps=_CAPS))
            except BadArtefact as error:
                return malformed(error.message[:200])
        parts = text.split("\n") if "\n" in text else text.split(",")
        return self._space.answer([part.strip() for part in parts if part.strip()])


def _run(words: list[str], deadline: float) -> tuple[bytes, int | None]:
    """Return the output of a command and its exit code; without a code, why it was stopped."""
    process = subprocess.Popen(  # noqa: S603 - the user's own command, without a shell
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    end = time.monotonic() + deadline
    assert process.stdout is not None
    try:
        with process.stdout as pipe, selectors.DefaultSelector() as ready:
            ready.register(pipe, selectors.EVENT_READ)
            output = bytearray()
            while True:
                left = end - time.monotonic()
                if left <= 0 or not ready.select(left):
                    return f"no answer within {deadline:g} s".encode(), None
                block = os.read(pipe.fileno(), 4096)
                if not block:
                    break
                output += block
                if len(output) > _OUTPUT:
                    return f"it wrote more than {_OUTPUT:,} bytes".encode(), None
        try:
            return bytes(output), process.wait(timeout=max(end - time.monotonic(), 0.01))
        except subprocess.TimeoutExpired:
            return f"it did not end within {deadline:g} s".encode(), None
    finally:
        # The group is the command's own: start_new_session made it.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
