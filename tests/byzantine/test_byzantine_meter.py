"""The time of evaluations never exceeds the wall time that it is taken from."""

import time

from mithridate.byzantine.meter import Meter


def test_an_evaluation_after_the_last_step_is_within_the_wall_time() -> None:
    meter = Meter()
    meter.step()
    meter.step()
    with meter.timing("evaluation"):
        time.sleep(0.02)
    record = meter.record()
    assert record["wall"] >= record["seconds"]["evaluation"] >= 0.02
