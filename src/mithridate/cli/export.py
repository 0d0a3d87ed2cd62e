"""`mithridate export` and `mithridate import`: poison packs for other programs, and back."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mithridate.cli._session import Session, command, path_word
from mithridate.cli._verb import verb
from mithridate.core.errors import Misuse
from mithridate.core.registry import unknown_name

if TYPE_CHECKING:
    from mithridate.data.sources import DataSet

_EXPORTS = ("png", "parquet", "npz", "benchmark")
_IMPORTS = ("png", "parquet", "npz")

DataOption = Annotated[
    str | None,
    typer.Option("--data", metavar="NAME|DIR", help="The clean data that the pack belongs to.", show_default=False),
]
PerClassOption = Annotated[
    int | None,
    typer.Option("--per-class", metavar="N", help="As when the pack was crafted.", show_default=False, min=1),
]


@verb
def export(
    session: Session,
    pack: Annotated[Path, typer.Argument(help="Folder of the poison pack.")],
    out: Annotated[Path, typer.Argument(help="The new folder or file.")],
    format_: Annotated[
        str, typer.Option("--format", metavar="NAME", help="png, parquet, npz or benchmark (needs --data).")
    ] = "png",
    data: DataOption = None,
    per_class: PerClassOption = None,
) -> None:
    """Write a poison pack as a PNG folder, a Hugging Face parquet file, npz, or in the poisoning benchmark's layout."""
    _known(format_, _EXPORTS)
    if format_ == "benchmark" and data is None:
        raise Misuse(
            "MTH-0128", "format benchmark holds the target's image, which is in the data", hint="add --data NAME"
        )
    clean = None if data is None else _load(data, per_class)
    from mithridate.data.packs import PoisonPack, export_pack

    poisons = PoisonPack.load(pack)
    export_pack(poisons, out, format=format_, data=clean)
    document = {"pack": str(pack), "format": format_, "out": str(out), "poisons": len(poisons)}
    session.result(document, f"{len(poisons)} poisons written to {out} as {format_}")


@verb
def import_(
    session: Session,
    source: Annotated[Path, typer.Argument(help="What `mithridate export` wrote.")],
    out: Annotated[Path, typer.Argument(help="Folder of the new pack.")],
    data: Annotated[str, typer.Option("--data", metavar="NAME|DIR", help="The clean data that it belongs to.")],
    format_: Annotated[str, typer.Option("--format", metavar="NAME", help="png, parquet or npz.")] = "png",
    per_class: PerClassOption = None,
) -> None:
    """Read exported poisons back into a pack, after checking them against the clean data."""
    _known(format_, _IMPORTS)
    clean = _load(data, per_class)
    from mithridate.data.packs import import_pack

    poisons = import_pack(source, format=format_, data=clean)
    poisons.save(out)
    document = {"source": str(source), "format": format_, "pack": str(out), "poisons": len(poisons)}
    again = command(
        "verify", path_word(out), "--data", data, *(() if per_class is None else ("--per-class", per_class))
    )
    session.result(document, f"{len(poisons)} poisons read into {out}", f"next: {again}")


def _known(name: str, allowed: tuple[str, ...]) -> None:
    if name not in allowed:
        raise unknown_name("format", name, allowed)


def _load(data: str, per_class: int | None) -> "DataSet":
    from mithridate.data.names import check_source

    check_source(data)
    from mithridate.data.sources import load

    return load(data, per_class=per_class)
