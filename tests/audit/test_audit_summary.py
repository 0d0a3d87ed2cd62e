"""What the setting of a report says of targets, beyond what whole audits show."""

import pytest

from mithridate.audit.summary import rows_from
from mithridate.core.units import Pixels
from mithridate.data.scenarios import Scenario


@pytest.mark.parametrize(
    ("source", "rows", "said"),
    [
        ("random", "drawn", ""),
        ("witches-brew-10", "published", "names or draws"),
        ("witches-brew-10:2000000000", "published", "names or draws"),
        ("toxic-c10-scratch", "drawn", "drawn by this run's seed"),
    ],
)
def test_a_report_says_whose_rows_the_poisons_of_a_list_are(source: str, rows: str, said: str) -> None:
    scenario = Scenario.from_json(
        {
            "name": "x/0",
            "targets": [0],
            "target_class": 0,
            "adversarial_class": 1,
            "poison_ids": [1, 2],
            "epsilon": Pixels(0.1),
            "threat": "single-class",
            "poison_ids_from": rows,
        }
    )
    found = rows_from(source, scenario)
    assert said in found
    assert bool(found) == bool(said)
