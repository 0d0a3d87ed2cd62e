"""A model as a folder: `model.safetensors` with the weights, `model.json` with what it takes to build the network.

    schema, name, num_classes, channels, size, mean, std, classes, data {source, per_class, size, store,
    pack, fingerprint}, recipe

What `mithridate train` writes and what `scan`, `heal` and `verify-heal` read. A description that comes with a file may
name networks of this package, of timm and of torchvision; code of somebody's own is executed only if the user names it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from mithridate.core.artefacts import as_json, disk_errors, write_atomic
from mithridate.core.boundary import read_json
from mithridate.core.errors import BadArtefact, Misuse
from mithridate.models.names import Kind, parse_name
from mithridate.models.spec import Classifier, ModelSpec
from mithridate.models.weights import load_weights, save_weights

SCHEMA = "mithridate.model/1"
WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"
_HARMLESS = (Kind.BUILT_IN, Kind.TIMM, Kind.TORCHVISION)


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a saved model is.

    Args:
        spec: How to build the network.
        classes: The name of each class.
        data: What it was trained on: `source`, `per_class`, `size`, `store`, `pack`, and the `fingerprint` of all that;
            may be empty.
        recipe: How it was trained, as `audit.recipe` writes and reads it; may be empty.
    """

    spec: ModelSpec
    classes: tuple[str, ...]
    data: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)


def save_model(model: nn.Module, about: Description, folder: Path) -> None:
    """Write weights and description to a folder, which is made if it is absent.

    Raises:
        WorkError: The disk is full or the folder cannot be written.
    """
    spec = about.spec
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(model, folder / WEIGHTS)
    document = {
        "schema": SCHEMA,
        "name": spec.name,
        "num_classes": spec.num_classes,
        "channels": spec.channels,
        "size": spec.size,
        "mean": list(spec.mean),
        "std": list(spec.std),
        "classes": list(about.classes),
        "data": dict(about.data),
        "recipe": dict(about.recipe),
    }
    write_atomic(folder / DESCRIPTION, as_json(document))


def weights_path(path: Path) -> Path:
    """Return the file with the weights of a folder or a file.

    Raises:
        Misuse: MTH-0881, there is none.
    """
    file = path / WEIGHTS if path.is_dir() else path
    if not file.is_file():
        what = f"has no {WEIGHTS}" if path.is_dir() else "does not exist"
        raise Misuse(
            "MTH-0881",
            f"{str(path)!r} {what}",
            hint="give a folder that `mithridate train` wrote, or a safetensors file with --model NAME",
        )
    return file


def describe(path: Path, *, name: str | None = None, otherwise: Description | None = None) -> Description:
    """Return what a saved model is, without its weights.

    Args:
        path: A folder, or a safetensors file, beside which a description is looked for.
        name: The network, if the user names it; wins over the description.
        otherwise: Classes, channels, size and statistics for weights without a description, whose network is `name`.

    Raises:
        Misuse: MTH-0881 without weights; MTH-0882 without a description and without a name; MTH-0884 for a description
            that names code to be executed.
        BadArtefact: MTH-0883 for a description that is none.
    """
    file = weights_path(path).with_name(DESCRIPTION)
    if not file.is_file():
        if name is None or otherwise is None:
            raise Misuse(
                "MTH-0882",
                f"{str(path)!r} has weights and no {DESCRIPTION} beside them, so it is not known which network they "
                "belong to",
                hint="add --model NAME, the name that the network was trained under; `mithridate list models`",
            )
        spec = otherwise.spec
        named = ModelSpec(
            name=name,
            num_classes=spec.num_classes,
            channels=spec.channels,
            size=spec.size,
            mean=spec.mean,
            std=spec.std,
        )
        return replace(otherwise, spec=named)
    return _read(file, name)


def load_model(path: Path, about: Description) -> Classifier:
    """Return the network of a description with the weights of a folder or a file, in evaluation mode.

    Raises:
        Misuse: MTH-0411, the weights belong to another network; MTH-04xx, it cannot be built.
        BadArtefact: The weights are damaged.
    """
    model = about.spec.build(0)
    load_weights(model, weights_path(path))
    return model.eval()


def _read(file: Path, name: str | None) -> Description:
    plain = read_json(file)
    schema = plain.get("schema") if isinstance(plain, dict) else None
    if schema != SCHEMA:
        raise BadArtefact("MTH-0883", f"{file} has schema {str(schema)[:60]!r}, this version reads {SCHEMA!r}")
    named = str(plain.get("name"))
    if name is None and parse_name(named).kind not in _HARMLESS:
        raise Misuse(
            "MTH-0884",
            f"{file} names the network {named[:200]!r}, which would be fetched or executed",
            hint="if you trust it, say so: --model NAME",
        )
    try:
        spec = ModelSpec(
            name=name or named,
            num_classes=plain["num_classes"],
            channels=plain["channels"],
            size=plain["size"],
            mean=tuple(map(float, plain["mean"])),
            std=tuple(map(float, plain["std"])),
        )
        about = Description(
            spec=spec,
            classes=tuple(map(str, plain["classes"])),
            data=dict(plain["data"]),
            recipe=dict(plain.get("recipe", {})),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadArtefact("MTH-0883", f"{file} is no description of a model: {str(error)[:200]}") from error
    if len(about.classes) != spec.num_classes:
        raise BadArtefact("MTH-0883", f"{file} names {len(about.classes)} classes of {spec.num_classes}")
    return about
