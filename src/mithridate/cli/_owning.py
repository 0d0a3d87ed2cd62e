"""Options and views that the verbs of `mithridate own` share."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mithridate.cli._session import table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mithridate.audit.owning import DataChoice, Owned

SECRET = Path("secret.tag")
COMMITMENT = Path("commitment.json")


def option(flags: str, metavar: str, text: str, panel: str | None = None) -> Any:
    """Return a flag whose default is not shown."""
    return typer.Option(*flags.split(), metavar=metavar, help=text, show_default=False, rich_help_panel=panel)


SecretOption = Annotated[
    Path, typer.Option("--secret", metavar="FILE", help="The secret that `mithridate own keygen` wrote.")
]
DatasetArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATASET", help="digits, mnist, fashion-mnist, cifar10, a folder, a file, or hf:owner/name@revision."
    ),
]


@dataclass(frozen=True, kw_only=True)
class OwnerOptions:
    """What an owner holds."""

    secret: SecretOption = SECRET
    commitment: Annotated[
        Path, typer.Option("--commitment", metavar="FILE", help="What `mithridate own commit` wrote.")
    ] = COMMITMENT
    beacon_value: Annotated[
        str | None,
        option("--beacon-value", "HEX", "The published value of the beacon that the commitment names."),
    ] = None

    def opened(self) -> "Owned":
        """Return secret, commitment and beacon.

        Raises:
            Misuse: They do not belong together.
            BadArtefact: A file is missing or damaged.
        """
        from mithridate.audit.owning import open_owned

        return open_owned(self.secret, self.commitment, self.beacon_value)


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How data are read."""

    size: Annotated[
        int | None, typer.Option("--size", metavar="N", help="Side of the images.", show_default=False, min=8, max=224)
    ] = None
    per_class: Annotated[
        int | None,
        typer.Option("--per-class", metavar="N", help="Training images of each class.", show_default=False, min=1),
    ] = None

    def choice(self, source: str) -> "DataChoice":
        """Return the choice of data, before anything heavy is imported.

        Raises:
            Misuse: There are no such data.
        """
        from mithridate.audit.owning import DataChoice
        from mithridate.data.names import check_source

        check_source(source)
        return DataChoice(source=source, size=self.size, per_class=self.per_class)


def figure_rows(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the rows of a verification for people."""
    exact = str(document["p_value_exact"])
    return [
        ("hits", f"{document['hits']} of {document['keys']}"),
        ("p-value", f"{document['p_value']:.3g}, exactly {exact if len(exact) < 60 else 'as in the certificate'}"),
        ("for all verifications", f"{document['adjusted_p_value']:.3g}"),
        ("if secrets were tried", f"{document['resistant_p_value']:.3g}"),
    ]


def figures_view(documents: Mapping[str, Mapping[str, Any]]) -> "RenderableType":
    """Return a table of several verifications, one a column."""
    columns = {name: figure_rows(document) for name, document in documents.items()}
    first = next(iter(columns.values()))
    rows = [[row[0], *(column[k][1] for column in columns.values())] for k, row in enumerate(first)]
    return table(("", *columns), rows)
