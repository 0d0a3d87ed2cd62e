"""`mithridate verify`: recompute every claim of a poison pack."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from mithridate.cli._session import Session, table
from mithridate.cli._verb import verb
from mithridate.core.errors import ExitCode, Misuse


@verb
def verify(
    session: Session,
    pack: Annotated[Path, typer.Argument(help="Folder of the poison pack.")],
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="NAME|DIR",
            help="The clean data, to compare pixels, labels and budget with.",
            show_default=False,
        ),
    ] = None,
    per_class: Annotated[
        int | None,
        typer.Option("--per-class", metavar="N", help="As when the pack was crafted.", show_default=False, min=1),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option("--size", metavar="N", help="As when the pack was crafted.", show_default=False, min=8, max=224),
    ] = None,
) -> None:
    """Recompute the claims of a poison pack: files, budget, epsilon as exported, labels, fingerprints.

    Without --data, what needs the clean images is not checked and is listed as such. Exit code: 0 no claim is false,
    1 a claim is false or a file was altered, 2 there is no pack.
    """
    from mithridate.data.names import check_source

    check_pack_folder(pack)
    if data is None and (per_class is not None or size is not None):
        raise Misuse("MTH-0125", "--per-class and --size describe --data, which is missing", hint="add --data NAME")
    if data is not None:
        check_source(data)
    from mithridate.data.packs import verify_pack
    from mithridate.data.sources import load

    clean = None if data is None else load(data, per_class=per_class, size=size)
    checks = verify_pack(pack, clean)
    counts = Counter(check.passed for check in checks)
    verified = not counts[False]
    document = {
        "pack": str(pack),
        "verified": verified,
        "against_data": data,
        "checks": [{"name": check.name, "passed": check.passed, "detail": check.detail} for check in checks],
    }
    words = {True: "ok", False: "FALSE", None: "not checked"}
    session.result(
        document,
        table(("claim", "", "detail"), [(check.name, words[check.passed], check.detail) for check in checks]),
        f"{'verified' if verified else 'NOT verified'}: {counts[True]} claims hold, {counts[False]} are false, "
        f"{counts[None]} were not checked"
        + ("; give --data NAME to compare with the clean images" if clean is None else ""),
    )
    raise typer.Exit(int(ExitCode.PASS if verified else ExitCode.GATE_FAILED))


def check_pack_folder(pack: Path) -> None:
    """Refuse what cannot be a poison pack before anything heavy is imported.

    Raises:
        Misuse: MTH-0127, there is nothing, or no folder with a manifest.
    """
    if (pack / "manifest.json").is_file():
        return
    what = "it has no manifest.json" if pack.is_dir() else "it is no folder" if pack.exists() else "there is nothing"
    raise Misuse(
        "MTH-0127",
        f"{str(pack)!r} is no poison pack: {what}",
        hint="give the folder of one pack; `mithridate craft` prints them",
    )
