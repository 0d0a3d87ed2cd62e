"""The catalogue behind `mithridate explain`: every error code, its cause and its remedy.

Ranges: 00xx general, 01xx configuration and parameters, 02xx data and decoding, 03xx packs and scenarios,
04xx models, 05xx training, 06xx attacks and defenses, 07xx runs, ledgers and audits, 08xx reports, 09xx environment.
"""

from typing import NamedTuple


class Explanation(NamedTuple):
    """One page of `mithridate explain`."""

    title: str
    cause: str
    remedy: str


CODES: dict[str, Explanation] = {
    # 00xx general
    # 01xx configuration and parameters
    # 02xx data and decoding
    # 03xx packs and scenarios
    # 04xx models
    # 05xx training
    # 06xx attacks and defenses
    # 07xx runs, ledgers and audits
    # 08xx reports
    # 09xx environment
}
