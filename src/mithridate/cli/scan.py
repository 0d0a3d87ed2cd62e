"""`mithridate scan`: which training images look like poison, by what the trained network makes of them."""

from pathlib import Path
from typing import Annotated

import typer

from mithridate.cli._healing import ModelOptions
from mithridate.cli._session import Session, command, path_word, table
from mithridate.cli._verb import verb
from mithridate.core.errors import ExitCode, Misuse

_SHOWN = 10
_NAME = "suspects.parquet"


@verb
def scan(
    session: Session,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of `mithridate train`, or safetensors file.")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="The data that the model was trained on.")],
    options: ModelOptions,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Table of all rows, as parquet.")] = Path(
        _NAME
    ),
    detectors: Annotated[
        list[str] | None,
        typer.Option(
            "--detector",
            metavar="NAME",
            help="Detector, may be repeated; `mithridate list detectors`.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Rank the training images by how much they look like poison, and suspect a few that are sure.

    Exit code: 0 the scan has an answer, be it that nothing is suspicious; 3 there are too few classes or rows to tell,
    or nothing is suspicious in data that are not those that the model was trained on.
    """
    if out.is_dir():
        raise Misuse("MTH-0125", f"{str(out)!r} is a folder; the table of suspects is a file", hint=f"-o {out / _NAME}")
    from mithridate.core.methods import check_method
    from mithridate.detection.names import DETECTORS

    for name in detectors or ():
        check_method(DETECTORS, name)
    opened = options.opened(model, data)
    out.parent.mkdir(parents=True, exist_ok=True)
    from mithridate.audit.healing_demo import shown
    from mithridate.detection.scan import scan as run_scan

    progress = session.progress()
    found = run_scan(opened.model, opened.train, detectors, seed=options.seed, progress=shown(progress, "scan"))
    progress.close()
    found.write(out)
    first = found.found.tolist()
    places = {int(row): place for place, row in enumerate(found.rows.tolist())}
    rows = [
        (row, found.classes[int(found.labels[places[row]])], int(found.votes[places[row]])) for row in first[:_SHOWN]
    ]
    if opened.otherwise:
        session.warn(opened.otherwise)
    decided = found.decided and not (opened.otherwise and not first)
    document = {
        "suspects": len(first),
        "rows": first,
        "statement": found.statement,
        "decided": decided,
        "other_data": bool(opened.otherwise),
        "scanned": len(found),
        "detectors": list(found.scores),
        "table": str(out),
    }
    view = [found.statement, *([table(("row", "label", "votes"), rows)] if rows else []), f"wrote {out}"]
    if first:
        words = ("heal", path_word(model), "--suspects", path_word(out), "--reference", data)
        more = () if options.pack is None else ("--pack", path_word(options.pack))
        view.append(f"next: {command(*words, *more, '-o', 'healed')}")
    session.result(document, *view)
    raise typer.Exit(int(ExitCode.PASS if decided else ExitCode.INCONCLUSIVE))
