"""The benchmark of the training loop promises images per second, and so it judges by wall time alone."""

import runpy
from pathlib import Path

import pytest

BENCHMARK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "training_loop.py"))
Cost = BENCHMARK["Cost"]


@pytest.mark.parametrize(
    ("wall", "processor", "kept"), [(1.0, 1.0, True), (0.96, 0.5, True), (0.94, 1.1, False), (0.5, 0.96, False)]
)
def test_the_loop_is_judged_by_the_wall_whatever_the_processor_says(wall: float, processor: float, kept: bool) -> None:
    case = next(BENCHMARK["cases"]())
    pairs = [(Cost(wall=wall, processor=processor), Cost(wall=1.0, processor=1.0))] * 5
    line = BENCHMARK["report"](case, pairs)
    assert ("BELOW THE GOAL" not in line) == kept
    assert f"ratio {wall:.3f}" in line and f"(processor {processor:.3f})" in line
    assert f"{case.batch * case.steps} images/s" in line
