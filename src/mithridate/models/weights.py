"""Weights on disk: safetensors, every parameter and buffer under its own name, nothing that executes.

The normalisation is part of them: means and deviations come back with the weights.
"""

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from mithridate.core.artefacts import write_atomic
from mithridate.core.boundary import read_safetensors
from mithridate.core.errors import Misuse


def save_weights(model: nn.Module, path: Path) -> None:
    """Write every parameter and buffer of `model`, whole or not at all.

    Raises:
        WorkError: MTH-07xx when the disk is full or the folder cannot be written.
    """
    # clones, because tied tensors share memory and the format refuses that
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    write_atomic(path, safetensors.torch.save(tensors, metadata={"schema": "mithridate.weights/1"}))


def load_weights(model: nn.Module, path: Path) -> None:
    """Overwrite every parameter and buffer of `model` with those of a file, bit for bit.

    Raises:
        BadArtefact: 02xx when the file is missing, damaged or not safetensors.
        Misuse: MTH-0411 naming the first tensor that differs when the file belongs to another architecture;
            the model is untouched.
    """
    expected: dict[str, Tensor] = model.state_dict()
    found = {name: torch.from_numpy(value) for name, value in read_safetensors(path).items()}
    for name, ours in expected.items():
        theirs = found.get(name)
        if theirs is None:
            _differ(path, f"{name} is missing", f"the model has {_shape(ours)} there")
        elif theirs.shape != ours.shape or theirs.dtype != ours.dtype:
            _differ(path, f"{name} is {_shape(theirs)}", f"the model has {_shape(ours)}")
    for name, theirs in found.items():
        if name not in expected:
            _differ(path, f"{name} is {_shape(theirs)}", "the model has no such tensor")
    model.load_state_dict(found)


def _shape(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _differ(path: Path, what: str, against: str) -> None:
    raise Misuse(
        "MTH-0411",
        f"{str(path)!r} holds the weights of another model: {what}, {against}",
        hint="load it into a model with the same name, width, classes, channels and size",
    )
