"""Undo: the old values of what a healer changed, a few per cent of a model, in one safetensors file.

A seal over the healed values says which model the file belongs to; another one is refused before anything is written.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor, nn

from mithridate.core.artefacts import write_atomic
from mithridate.core.boundary import read_safetensors
from mithridate.core.errors import BadArtefact, Misuse
from mithridate.unlearning._layers import tensors

_SEAL = "seal"
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, kw_only=True, eq=False)
class Change:
    """The entries of one tensor that changed: where, in logical order, and what they were before."""

    index: Int64[Tensor, " k"]
    old: Shaped[Tensor, " k"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Undo:
    """What to write back.

    Args:
        changes: By the name of the parameter or buffer, those that changed only.
        seal: Digest of the values that the healer wrote, hex.
    """

    changes: Mapping[str, Change]
    seal: str

    @classmethod
    def between(cls, before: nn.Module, after: nn.Module) -> "Undo":
        """Return what turns `after` into `before`, bit for bit; both have the same tensors."""
        new = dict(tensors(after))
        changes = {}
        for name, old in tensors(before):
            was, now = old.detach().reshape(-1), new[name].detach().reshape(-1)
            index = (_bits(was) != _bits(now.to(was.device))).nonzero().flatten()
            if len(index):
                changes[name] = Change(index=index.cpu(), old=was[index].cpu())
        return cls(changes=changes, seal=_seal(after, changes))

    @property
    def count(self) -> int:
        """How many numbers changed."""
        return sum(len(change.index) for change in self.changes.values())

    def apply(self, model: nn.Module) -> None:
        """Write the old values into the healed model, in place.

        Raises:
            Misuse: MTH-0824 if this is not the model that was healed; nothing is written then.
        """
        own = dict(tensors(model))
        for name, change in self.changes.items():
            if name not in own or (len(change.index) and int(change.index.max()) >= own[name].numel()):
                found = f"{own[name].numel()} numbers" if name in own else "no such tensor"
                raise Misuse("MTH-0824", f"the undo file changes {name}, of which the model has {found}")
        if _seal(model, self.changes) != self.seal:
            raise Misuse(
                "MTH-0824",
                f"the undo file belongs to other weights: the {self.count} values that it would replace differ",
                hint="apply it to the healed model as it was returned, and only once",
            )
        with torch.no_grad():
            for name, change in self.changes.items():
                tensor = own[name]
                tensor.put_(change.index.to(tensor.device), change.old.to(tensor))

    def save(self, path: Path) -> None:
        """Write the file.

        Raises:
            WorkError: The disk is full or the folder cannot be written.
        """
        tensors = {f"index:{name}": change.index for name, change in self.changes.items()}
        tensors |= {f"old:{name}": change.old.contiguous() for name, change in self.changes.items()}
        tensors[_SEAL] = torch.tensor(list(bytes.fromhex(self.seal)), dtype=torch.uint8)
        write_atomic(path, safetensors.torch.save(tensors))

    @classmethod
    def load(cls, path: Path) -> "Undo":
        """Read a file.

        Raises:
            BadArtefact: The file is damaged, or no undo file.
        """
        arrays = {name: torch.from_numpy(array) for name, array in read_safetensors(path).items()}
        seal = arrays.pop(_SEAL, None)
        names = [name.removeprefix("index:") for name in arrays if name.startswith("index:")]
        pairs = {name: (arrays[f"index:{name}"], arrays.get(f"old:{name}")) for name in names}
        changes = {name: Change(index=index, old=old) for name, (index, old) in pairs.items() if old is not None}
        sound = all(
            change.index.dtype == torch.int64
            and change.index.shape == change.old.shape
            and change.index.dim() == 1
            and bool((change.index >= 0).all())
            for change in changes.values()
        )
        if seal is None or 2 * len(changes) != len(arrays) or not sound:
            raise BadArtefact("MTH-0825", f"{path} is no undo file", hint="a healer writes it beside its model")
        return cls(changes=changes, seal=bytes(seal.tolist()).hex())


def _bits(flat: Tensor) -> Tensor:
    """The numbers as integers, so that NaN equals itself and 0 differs from -0."""
    return flat.contiguous().view(_WORDS[flat.element_size()])


def _seal(model: nn.Module, changes: Mapping[str, Change]) -> str:
    digest = hashlib.sha256()
    own = dict(tensors(model))
    for name in sorted(changes):
        values = own[name].detach().reshape(-1)[changes[name].index.to(own[name].device)]
        digest.update(name.encode() + b"\0")
        digest.update(_bits(values).cpu().numpy().tobytes())
    return digest.hexdigest()
