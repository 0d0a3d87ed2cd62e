"""Unfinished work in one file, so that what was killed goes on where it was."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import safetensors.torch
import torch
from torch import Tensor

from mithridate.core.artefacts import write_atomic
from mithridate.core.boundary import read_safetensors
from mithridate.core.errors import BadArtefact

_SEAL = "sha256"


@runtime_checkable
class Shelf(Protocol):
    """Where unfinished work is kept, as one bundle of named tensors; the newest replaces the one before."""

    def load(self) -> Mapping[str, Tensor] | None:
        """The bundle that was kept last, or None."""
        ...

    def keep(self, bundle: Mapping[str, Tensor]) -> None:
        """Keep a bundle."""
        ...


@dataclass(frozen=True)
class FileShelf:
    """A shelf that is a safetensors file, replaced as a whole.

    Args:
        path: The file; it need not exist.
    """

    path: Path

    def load(self) -> Mapping[str, Tensor] | None:
        """The bundle that was kept last; None if there is none, or it is damaged and the work must be done again."""
        if not self.path.exists():
            return None
        try:
            arrays = read_safetensors(self.path)
        except BadArtefact:
            return None
        bundle = {name: torch.from_numpy(array) for name, array in arrays.items()}
        seal = bundle.pop(_SEAL, None)
        return bundle if seal is not None and torch.equal(seal, _seal(bundle)) else None

    def keep(self, bundle: Mapping[str, Tensor]) -> None:
        """Replace the file.

        Raises:
            WorkError: The disk is full or the folder cannot be written.
        """
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in bundle.items()}
        write_atomic(self.path, safetensors.torch.save({**tensors, _SEAL: _seal(tensors)}))


def _seal(bundle: Mapping[str, Tensor]) -> Tensor:
    digest = hashlib.sha256()
    for name in sorted(bundle):
        digest.update(f"{name} {bundle[name].dtype} {list(bundle[name].shape)}".encode())
        digest.update(bundle[name].numpy().tobytes())
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)
