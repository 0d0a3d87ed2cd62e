"""Options that `scan`, `heal` and `verify-heal` share."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mithridate.core.errors import Misuse

if TYPE_CHECKING:
    from mithridate.audit.opening import Opened


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which network the weights belong to, and how its data are read."""

    model_name: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="The network, for a bare safetensors file; `mithridate train` writes it beside the weights.",
            show_default=False,
            rich_help_panel="Model",
        ),
    ] = None
    pack: Annotated[
        Path | None,
        typer.Option(
            "--pack",
            metavar="DIR",
            help="Poison pack that the data are to be read with.",
            show_default=False,
            rich_help_panel="Model",
        ),
    ] = None
    per_class: Annotated[
        int | None,
        typer.Option(
            "--per-class",
            metavar="N",
            help="As when the model was trained.",
            show_default=False,
            min=1,
            rich_help_panel="Model",
        ),
    ] = None
    size: Annotated[
        int | None,
        typer.Option(
            "--size",
            metavar="N",
            help="As when the model was trained.",
            show_default=False,
            min=8,
            max=224,
            rich_help_panel="Model",
        ),
    ] = None
    device: Annotated[
        str,
        typer.Option("--device", metavar="NAME", help="cpu, cuda, cuda:N or mps.", rich_help_panel="Model"),
    ] = "cpu"
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", help="The one seed of the run.", min=0, rich_help_panel="Model")
    ] = 0

    def opened(self, model: Path, data: str | None) -> "Opened":
        """Return the model with its data.

        Raises:
            Misuse: What was named is not there, or does not fit.
        """
        self.check(model, data)
        from mithridate.audit.machine import check_device
        from mithridate.audit.opening import open_model

        check_device(self.device)
        return open_model(
            model,
            data,
            name=self.model_name,
            per_class=self.per_class,
            size=self.size,
            pack=self.pack,
            device=self.device,
        )

    def check(self, model: Path, data: str | None) -> None:
        """Refuse what cannot be, before anything heavy is imported."""
        from mithridate.cli.verify import check_pack_folder
        from mithridate.data.names import check_source
        from mithridate.models.names import check_name

        check_model_path(model)
        if data is not None:
            check_source(data)
        if self.pack is not None:
            check_pack_folder(self.pack)
        if self.model_name is not None:
            check_name(self.model_name)


def check_model_path(model: Path) -> None:
    """Refuse what holds no weights.

    Raises:
        Misuse: MTH-0881.
    """
    if (model / "healing.json").is_file() and not (model / "model.safetensors").is_file():
        raise Misuse(
            "MTH-0881",
            f"{str(model)!r} holds a healing without a model: it left the given one alone, or is unfinished",
            hint="its report.md says so; where there is none, the same heal command goes on",
        )
    if not (model / "model.safetensors" if model.is_dir() else model).is_file():
        raise Misuse(
            "MTH-0881",
            f"{str(model)!r} {'has no model.safetensors' if model.is_dir() else 'does not exist'}",
            hint="give a folder that `mithridate train` wrote, or a safetensors file with --model NAME",
        )


def method_of(text: str) -> tuple[str, dict[str, Any]]:
    """Return name and options of `NAME:option=value,...`.

    Raises:
        Misuse: MTH-0125, it is not of this form; MTH-0101, there is no such healer.
    """
    from mithridate.audit.config import split_method
    from mithridate.core.methods import check_method
    from mithridate.unlearning.names import HEALERS

    try:
        method = split_method(text)
    except ValueError as error:
        raise Misuse("MTH-0125", f"--method: {error}") from error
    check_method(HEALERS, method["name"])
    return method["name"], method["options"]
