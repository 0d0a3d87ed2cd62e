"""A node's state on the disk: model, momentum and step, without pickle, whole or not at all.

A folder `state` holds the two newest checkpoints, `step-N`, and `starts`, the number of times that the node was begun.
Rejoining nodes agree on a step that enough of them still have, which is why there are two.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save as serialise

from mithridate.byzantine.source import Learner, Vector
from mithridate.core.artefacts import disk_errors, new_artefact, open_artefact, write_atomic
from mithridate.core.boundary import read_json, read_safetensors
from mithridate.core.errors import BadArtefact, Misuse

_KIND = "byzantine-node"
_KEPT = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Kept:
    """A checkpoint that was read."""

    step: int
    vector: Vector
    momentum: NDArray[np.float32] | None


@final
class Keeper:
    """Keeps a node's state in a folder, or nowhere.

    Args:
        folder: The node's own folder; None keeps nothing.
        identity: What a checkpoint must agree with: the digest of the cluster file and the node's number.
        every: Steps between two checkpoints.
    """

    def __init__(self, folder: Path | None = None, *, identity: str = "", every: int = 10) -> None:
        self._folder, self._identity, self._every = folder, identity, every
        self._last = -1

    def begun(self) -> int:
        """Count this start, and return how many there were before."""
        if self._folder is None:
            return 0
        path = self._folder / "starts"
        before = int(read_json(path)) if path.is_file() else 0
        with disk_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(before + 1).encode())
        return before

    def due(self, step: int) -> bool:
        """Tell whether a checkpoint belongs to this step."""
        return self._folder is not None and step % self._every == 0 and step != self._last

    def save(self, step: int, learner: Learner) -> None:
        """Write the state after `step` updates, and forget all but the two newest."""
        if self._folder is None or step == self._last:
            return
        arrays = {"vector": learner.vector()}
        if learner.momentum is not None:
            arrays["momentum"] = learner.momentum[0].detach().numpy().copy()
        path = self._folder / f"step-{step}"
        with new_artefact(path, kind=_KIND, overwrite=True) as draft:
            draft.manifest["node"] = {"identity": self._identity, "step": step}
            with disk_errors(path):
                (draft.path / "tensors.safetensors").write_bytes(serialise(arrays))
        self._last = step
        for old in self.steps()[:-_KEPT]:
            _remove(self._folder / f"step-{old}")

    def steps(self) -> list[int]:
        """Return the steps of which there are checkpoints, in order."""
        if self._folder is None or not self._folder.is_dir():
            return []
        names = (entry.name.removeprefix("step-") for entry in self._folder.glob("step-*"))
        return sorted(int(name) for name in names if name.isdecimal())

    def read(self, step: int) -> Kept:
        """Return the checkpoint of a step.

        Raises:
            BadArtefact: It is damaged.
            Misuse: MTH-0959, it belongs to another cluster file or another node.
        """
        assert self._folder is not None
        path = self._folder / f"step-{step}"
        artefact = open_artefact(path, _KIND)
        found = artefact.manifest.get("node", {})
        if not isinstance(found, dict) or found.get("identity") != self._identity or found.get("step") != step:
            raise Misuse(
                "MTH-0959",
                f"the state in {str(path)!r} belongs to another cluster file or another node",
                hint="remove the folder to begin anew, or run with the cluster file that it belongs to",
            )
        arrays = read_safetensors(artefact.path / "tensors.safetensors")
        if "vector" not in arrays:
            raise BadArtefact("MTH-0709", f"{path} holds no model")
        return Kept(step=step, vector=arrays["vector"], momentum=arrays.get("momentum"))

    def restore(self, learner: Learner, step: int | None = None) -> int:
        """Put the newest checkpoint, or that of a step, into the learner and return its step; 0 if there is none."""
        steps = self.steps()
        if not steps or (step is not None and step not in steps):
            return 0
        kept = self.read(steps[-1] if step is None else step)
        if kept.vector.size != learner.size:
            raise Misuse(
                "MTH-0959", f"the state has {kept.vector.size} numbers and the model {learner.size}", hint="begin anew"
            )
        learner.load(kept.vector)
        learner.momentum = None if kept.momentum is None else torch.tensor(kept.momentum)[None]
        self._last = kept.step
        return kept.step


def _remove(path: Path) -> None:
    import shutil

    shutil.rmtree(path, ignore_errors=True)
