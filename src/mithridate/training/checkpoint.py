"""Saving and resuming a run: parameters, buffers and the state of every stage, without pickle.

A checkpoint is an artefact folder: `tensors.safetensors` and `run.json`. A resumed run continues bit for bit, because
all randomness is addressed by stage and step and nothing else is remembered.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialise
from torch import Tensor

from mithridate.aggregation._base import State
from mithridate.core.artefacts import disk_errors, new_artefact, open_artefact
from mithridate.core.boundary import read_json, read_safetensors
from mithridate.core.errors import Misuse
from mithridate.training.loop import begin
from mithridate.training.plan import Plan
from mithridate.training.run import Run

_KIND = "training-checkpoint"


def save(run: Run, plan: Plan, seed: int, path: Path) -> None:
    """Write the run to `path`, replacing an older checkpoint of the same path whole or not at all."""
    tensors: dict[str, Tensor] = {"values": run.net.values}
    tensors |= {f"buffer/{name}": buffer for name, buffer in run.net.buffers().items()}
    document = {
        "phase": run.phase,
        "step_in_phase": run.step_in_phase,
        "step": run.step,
        "epoch": run.epoch,
        "states": _strip(run.states, "state", tensors),
    }
    own = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    with new_artefact(path, kind=_KIND, overwrite=True) as draft:
        draft.manifest["run"] = _identity(plan, seed)
        with disk_errors(path):
            (draft.path / "tensors.safetensors").write_bytes(serialise(own))  # which refuses shared memory
            (draft.path / "run.json").write_text(json.dumps(document))


def load(plan: Plan, seed: int, path: Path) -> Run:
    """Return the saved run, ready for `loop.steps`.

    Raises:
        BadArtefact: The checkpoint is damaged.
        Misuse: It belongs to another plan or seed.
    """
    artefact = open_artefact(path, _KIND)
    for key, value in _identity(plan, seed).items():
        found = artefact.manifest["run"].get(key)
        if found != value:
            raise Misuse("MTH-0509", f"the checkpoint was written with {key} {found!r}, the plan has {value!r}")
    arrays = read_safetensors(artefact.path / "tensors.safetensors")
    tensors = {name: torch.tensor(array, device=plan.device) for name, array in arrays.items()}
    document = read_json(artefact.path / "run.json")
    run = begin(plan, seed)
    run.net.load(tensors["values"], {n[len("buffer/") :]: t for n, t in tensors.items() if n.startswith("buffer/")})
    run.phase, run.step_in_phase = document["phase"], document["step_in_phase"]
    run.step, run.epoch = document["step"], document["epoch"]
    run.states = _restore(document["states"], tensors)
    return run


def _identity(plan: Plan, seed: int) -> dict[str, int | str]:
    """Return what must agree for a checkpoint to be continued; a recipe is its representation as text."""
    recipe = repr((plan.phases, plan.precision, plan.head_only))
    digest = hashlib.sha256(recipe.encode()).hexdigest()
    return {"seed": seed, "data": plan.data.fingerprint, "model": repr(plan.model), "recipe": digest}


def _strip(state: State, key: str, tensors: dict[str, Tensor]) -> Any:
    """Return the state with each tensor moved to `tensors` and replaced by its key."""
    if isinstance(state, Tensor):
        tensors[key] = state
        return {"$tensor": key}
    if isinstance(state, Mapping):
        return {name: _strip(value, f"{key}/{name}", tensors) for name, value in state.items()}
    if isinstance(state, list | tuple):
        return [_strip(value, f"{key}/{number}", tensors) for number, value in enumerate(state)]
    return state


def _restore(document: Any, tensors: Mapping[str, Tensor]) -> State:
    if isinstance(document, dict):
        if set(document) == {"$tensor"}:
            return tensors[document["$tensor"]]
        return {name: _restore(value, tensors) for name, value in document.items()}
    if isinstance(document, list):
        return [_restore(value, tensors) for value in document]
    return document
