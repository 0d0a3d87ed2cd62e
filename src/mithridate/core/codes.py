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
    "MTH-0240": Explanation(
        "row does not exist",
        "A row id is negative or not below the number of examples.",
        "Rows are numbered from 0; check which split, and which subset of it, the ids belong to.",
    ),
    "MTH-0241": Explanation(
        "columns differ in length",
        "Images, labels and the other columns of a data set must have one entry per example.",
        "Build every column from the same rows.",
    ),
    "MTH-0242": Explanation(
        "label out of range",
        "A label is negative, or names a class that the list of classes does not have.",
        "Number labels from 0 and give one class name for each.",
    ),
    "MTH-0243": Explanation(
        "overlay does not fit",
        "Replacement images have another shape or another count than the rows they replace, or a row is named twice.",
        "Give one uint8 image of the data set's shape for each row, and each row once.",
    ),
    # 03xx packs and scenarios
    # 04xx models
    # 05xx training
    # 06xx attacks and defenses
    # 07xx runs, ledgers and audits
    # 08xx reports
    # 09xx environment
}
