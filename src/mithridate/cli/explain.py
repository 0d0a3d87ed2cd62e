"""`mithridate explain`: what an error code means and what to do about it."""

from typing import Annotated

import typer

from mithridate.cli._session import Session, table
from mithridate.cli._verb import verb
from mithridate.core.codes import CODES
from mithridate.core.errors import Misuse


@verb
def explain(
    session: Session,
    code: Annotated[str | None, typer.Argument(help="Such as MTH-0103; without it, all are listed.")] = None,
) -> None:
    """Explain an error code: cause and remedy. Works offline."""
    if code is None:
        document = {"codes": {key: page._asdict() for key, page in sorted(CODES.items())}}
        session.result(document, table(("code", "title"), [(key, page.title) for key, page in sorted(CODES.items())]))
        return
    key = _normalised(code)
    page = CODES.get(key)
    if page is None:
        raise Misuse("MTH-0009", f"there is no error code {code!r}", hint="`mithridate explain` lists all codes")
    session.result(
        {"code": key, **page._asdict()},
        f"{key}: {page.title}",
        f"\ncause   {page.cause}",
        f"remedy  {page.remedy}",
    )


def _normalised(code: str) -> str:
    """`103`, `0103` and `mth-0103` all mean MTH-0103."""
    digits = code.upper().removeprefix("MTH-")
    return f"MTH-{digits:0>4}" if digits.isdecimal() else code.upper()
