"""Suspects that somebody names by hand: a text or CSV file with the id of a row on each line.

    row
    17
    240, the picture from the incident report

What follows a comma or a `#` is not read; a first line without a number is a heading. The ids are those of `scan`:
places in the training data, from 0, or in the complete ones where only a part was taken. The first is the surest.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from mithridate.core.boundary import TEXT_CAPS, read_bytes, sniff
from mithridate.core.errors import Misuse
from mithridate.data.examples import Examples
from mithridate.detection.scan import weights_hash
from mithridate.detection.suspects import LISTED, Suspects, ids_of

_CODE = "MTH-0870"
_HINT = "write one row id a line, counted from 0; `mithridate scan` shows ids"


def read_suspects(path: Path, data: Examples, model: nn.Module) -> Suspects:
    """Read the table of a scan, or a list of rows; which of them it is, its first bytes say.

    Args:
        path: The file.
        data: The training data with the labels under which they were trained on.
        model: The network that is to be healed.

    Raises:
        BadArtefact: 02xx for a file that cannot be read, MTH-0867 for a table that is none.
        Misuse: MTH-0870, the list has a line without an id, an id that the data do not have, or none at all.
    """
    content = read_bytes(path, TEXT_CAPS) if path.suffix != ".parquet" else b"PAR1"
    if sniff(content) == "parquet":
        return Suspects.read(path)
    return suspects_of(_ids(content, path.name), data, model, name=path.name)


def suspects_of(ids: Sequence[int], data: Examples, model: nn.Module, *, name: str = "a list") -> Suspects:
    """Return a table in which the given rows are suspected, in their order, and no detector has spoken.

    Args:
        ids: Ids of rows; one that is named again counts once.
        data: The training data with the labels under which they were trained on.
        model: The network that is to be healed.
        name: What messages call the list.

    Raises:
        Misuse: MTH-0870, there is no id, or one that the data do not have.
    """
    rows = ids_of(data)
    places = {int(row): place for place, row in enumerate(rows.tolist())}
    if not ids:
        raise Misuse(_CODE, f"{name} names no row", hint=_HINT)
    unknown = [row for row in dict.fromkeys(ids) if row not in places]
    if unknown:
        known = f"{int(rows.min())} to {int(rows.max())}" + ("" if len(rows) > int(rows.max()) else ", some left out")
        shown = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        raise Misuse(
            _CODE,
            f"{name} names {len(unknown)} of {len(set(ids))} rows that {data.name} does not have: {shown}; its "
            f"{len(rows)} rows are {known}",
            hint="ids belong to the training data as they are given here, with the same --per-class",
        )
    chosen = [places[row] for row in dict.fromkeys(ids)]
    suspect = torch.zeros(len(rows), dtype=torch.bool)
    suspect[chosen] = True
    order = torch.tensor([*chosen, *(~suspect).nonzero().squeeze(1).tolist()])
    rank = torch.empty_like(order)
    rank[order] = torch.arange(1, len(order) + 1)
    return Suspects(
        rows=rows,
        labels=data.labels.cpu(),
        classes=data.classes,
        scores={},
        ranks={},
        votes=torch.zeros(len(rows), dtype=torch.int64),
        rank=rank,
        suspect=suspect,
        anomalies={},
        gate=0.0,
        decided=True,
        data=data.fingerprint,
        model=weights_hash(model),
        settings={LISTED: name},
    )


def _ids(content: bytes, name: str) -> list[int]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Misuse(_CODE, f"{name} is neither a table of `mithridate scan` nor text", hint=_HINT) from error
    found: list[int] = []
    first = True
    for number, line in enumerate(text.splitlines(), start=1):
        word = line.partition("#")[0].replace(";", ",").partition(",")[0].strip().strip('"')
        if not word:
            continue
        if word.isascii() and word.isdecimal() and len(word) < 16:
            found.append(int(word))
        elif not (first and word.replace("_", "").isalpha()):
            raise Misuse(_CODE, f"line {number} of {name} has no row id: {line[:60]!r}", hint=_HINT)
        first = False
    return found
