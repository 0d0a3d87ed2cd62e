"""An event loop whose clock is virtual: when everybody waits, it jumps to the next moment at which something is due."""

import asyncio
import selectors
from collections.abc import Mapping

from mithridate.core.errors import WorkError


class Jump(selectors.BaseSelector):
    """A selector that watches nothing and lets the time pass at once."""

    def __init__(self, limit: float) -> None:
        self.now = 0.0
        self.limit = limit
        self._keys: dict[int, selectors.SelectorKey] = {}

    def register(self, fileobj: object, events: int, data: object = None) -> selectors.SelectorKey:
        """Note the loop's own pipe, which nobody writes to."""
        number = fileobj if isinstance(fileobj, int) else fileobj.fileno()  # type: ignore[attr-defined]
        key = selectors.SelectorKey(number, number, events, data)
        self._keys[number] = key
        return key

    def unregister(self, fileobj: object) -> selectors.SelectorKey:
        """Forget it."""
        return self._keys.pop(fileobj if isinstance(fileobj, int) else fileobj.fileno())  # type: ignore[attr-defined]

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Advance the clock instead of waiting.

        Raises:
            WorkError: MTH-0912 when nothing is ever due, or beyond the limit.
        """
        if timeout is None:
            message = f"at {self.now:g} virtual seconds every simulated node waits and no message is on its way"
            raise WorkError("MTH-0912", message, hint="give what waits a deadline")
        self.now += max(timeout, 0.0)
        if self.now > self.limit:
            message = f"the simulation was not finished after {self.limit:g} virtual seconds"
            raise WorkError("MTH-0912", message, hint="raise its limit")
        return []

    def close(self) -> None:
        """Forget everything."""
        self._keys.clear()

    def get_map(self) -> Mapping[object, selectors.SelectorKey]:  # type: ignore[override]
        """Return what is registered."""
        return {number: key for number, key in self._keys.items()}


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio with virtual time; equal programs run equally, event by event.

    Args:
        limit: Virtual seconds after which it is an error not to be finished.
    """

    def __init__(self, limit: float) -> None:
        self._jump = Jump(limit)
        super().__init__(self._jump)

    def time(self) -> float:
        """Return the virtual seconds since the start."""
        return self._jump.now

    def unlimited(self) -> None:
        """Lift the limit, so that what is left can be wound up."""
        self._jump.limit = float("inf")
