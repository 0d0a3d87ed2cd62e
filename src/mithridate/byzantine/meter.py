"""Where a node's time goes, and what it has to tell."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Tell = Callable[[Mapping[str, Any]], None]
"""Takes one event, a JSON object."""

PARTS = ("gradient", "waiting", "aggregation", "evaluation")


def quiet(event: Mapping[str, Any]) -> None:
    """Tell nobody."""
    del event


@dataclass
class Meter:
    """Wall-clock seconds of a node by what it was doing, and how often its quorums left out each node.

    Attributes:
        seconds: By part: computing a gradient, waiting for frames, aggregating, measuring accuracy.
        late: By node, the quorums that it was not in.
        quorums: Quorums in all.
        begun: When the first step began.
        ended: When the last step ended.
        steps: Steps done in this process.
    """

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    late: dict[int, int] = field(default_factory=dict)
    quorums: int = 0
    begun: float = 0.0
    ended: float = 0.0
    steps: int = 0

    @contextlib.contextmanager
    def timing(self, part: str) -> Iterator[None]:
        """Add the time of a block to a part."""
        start = time.perf_counter()
        try:
            yield
        finally:
            now = time.perf_counter()
            self.seconds[part] += now - start
            if part == "evaluation" and self.begun:
                self.ended = now  # one after the last step is in the wall time that it will be taken from

    def step(self) -> None:
        """Count a step; the clock begins when the first one ends, so that starting up is not counted."""
        now = time.perf_counter()
        if not self.begun:
            self.begun = now
            self.seconds = dict.fromkeys(PARTS, 0.0)
        else:
            self.steps += 1
        self.ended = now

    def latest(self) -> list[int]:
        """Return the nodes that most quorums did without, at most three."""
        return sorted(self.late, key=lambda node: (-self.late[node], node))[:3]

    def record(self) -> dict[str, Any]:
        """Return the figures as plain JSON."""
        return {
            "steps": self.steps,
            "wall": self.ended - self.begun,
            "seconds": dict(self.seconds),
            "quorums": self.quorums,
            "late": {str(node): count for node, count in sorted(self.late.items())},
        }
