"""Poison packs: what an attacker publishes. Ids, uint8 images, labels, and a manifest whose claims can be recomputed.

A pack is an overlay: applying it to a data set of a million images costs the memory of its poisons. It is bound to the
training split that it was made for by fingerprint, and saved as an artefact folder of `manifest.json`, `poisons.npz`
and, if it plants a trigger, `trigger.npz`; nothing in it is pickled.

    on export   |x' - x| <= epsilon for every pixel, exactly, in whole steps of 1/255

Shapes   p poisons of c channels, h rows, w columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from mithridate.core.artefacts import disk_errors, new_artefact, open_artefact
from mithridate.core.boundary import read_npz
from mithridate.core.errors import BadArtefact, Misuse
from mithridate.data._pack_claims import (
    CLAIMS,
    Claims,
    content_hash,
    levels_allowed,
    make_claims,
    read_claims,
    trigger_claim,
)
from mithridate.data.examples import Examples
from mithridate.data.scenarios import Scenario
from mithridate.numerics.triggers import Trigger

KIND = "poison-pack"
_PAYLOAD = "poisons.npz"
_TRIGGER = "trigger.npz"


@dataclass(frozen=True, eq=False)
class PoisonPack:
    """Poisons and their manifest. Two packs are equal when ids, images, labels and manifest are.

    Args:
        ids: Rows of the training split, each once, in the scenario's order.
        images: The poisoned images of these rows.
        labels: Their labels.
        manifest: The claims; see `_pack_claims.Claims`.
        trigger: What the poisons plant, None for attacks without one.
    """

    ids: Int64[Tensor, " p"]
    images: UInt8[Tensor, "p c h w"]
    labels: Int64[Tensor, " p"]
    manifest: Mapping[str, Any]
    trigger: Trigger | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, PoisonPack)
            and all(torch.equal(mine, theirs) for mine, theirs in zip(self._tensors, other._tensors, strict=True))
            and dict(self.manifest) == dict(other.manifest)
            and self.trigger == other.trigger
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def _tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.ids, self.images, self.labels

    @property
    def scenario(self) -> Scenario:
        """What the poisons are for."""
        return Scenario.from_json(self.manifest["scenario"])

    def check_base(self, examples: Examples) -> None:
        """Check that `examples` is the training split that this pack was made for.

        Raises:
            Misuse: MTH-0301, naming both.
        """
        made_for = self.manifest["dataset"]
        if examples.fingerprint != made_for["fingerprint"]:
            raise Misuse(
                "MTH-0301",
                f"the poison pack was made for {made_for['name']!r} ({made_for['rows']:,} rows, fingerprint "
                f"{made_for['fingerprint'][:16]}...), not for {examples.name!r} ({len(examples):,} rows, fingerprint "
                f"{examples.fingerprint[:16]}...)",
                hint="load the data set with the same options as when the pack was made, or craft a new pack",
            )

    def apply(self, examples: Examples) -> Examples:
        """Return the poisoned training split; the clean one is shared, not copied.

        Raises:
            Misuse: MTH-0301 when the pack was made for other data.
        """
        self.check_base(examples)
        return examples.overlay(self.ids, self.images, self.labels if self.manifest["labels_changed"] else None)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the pack as an artefact folder; it appears whole or not at all.

        Raises:
            Misuse: There is something at `path` already and `overwrite` is not set.
            WorkError: The disk is full or not writable.
        """
        with new_artefact(Path(path), kind=KIND, overwrite=overwrite) as draft:
            draft.manifest.update(self.manifest)
            with disk_errors(Path(path), self.images.numel()):
                np.savez(draft.path / _PAYLOAD, ids=self.ids, images=self.images, labels=self.labels)
                if self.trigger is not None:
                    arrays = self.trigger.arrays()
                    np.savez(draft.path / _TRIGGER, mask=arrays["mask"], pattern=arrays["pattern"])

    @classmethod
    def load(cls, path: str | Path) -> "PoisonPack":
        """Read a pack, checking its files, its claims, and that they belong together.

        Raises:
            BadArtefact: It is damaged, altered, or no poison pack.
        """
        artefact = open_artefact(Path(path), KIND)
        manifest = {key: artefact.manifest[key] for key in CLAIMS if key in artefact.manifest}
        trigger = read_npz(artefact.path / _TRIGGER) if manifest.get("trigger") is not None else None
        return assemble(read_npz(artefact.path / _PAYLOAD), manifest, trigger=trigger, where=str(path))


def make_pack(
    base: Examples,
    scenario: Scenario,
    images: Tensor,
    *,
    attack: str,
    config: Mapping[str, object],
    seed: int,
    record: Mapping[str, object],
    labels: Tensor | None = None,
) -> PoisonPack:
    """Make a pack out of finished poisons, and measure what its manifest claims.

    Args:
        base: The clean training split.
        scenario: What the poisons are for; its poison ids say which rows `images` replace, in this order.
        images: The poisons: uint8, one image of the split's shape for each poison id.
        attack: The name of the attack.
        config: Its configuration.
        seed: The seed it was crafted with.
        record: What else is worth keeping, such as loss traces; numbers that are not finite are kept as null.
        labels: Labels of the poisons; those of the base images when absent (clean-label attacks).

    Raises:
        Misuse: The images have another shape or type or exceed epsilon, an id does not exist, a label names no class.
    """
    if any(row >= len(base) for row in scenario.poison_ids):
        raise Misuse(
            "MTH-0305",
            f"scenario {scenario.name!r} poisons row {max(scenario.poison_ids)}; {base.name!r} has {len(base):,} rows",
            hint="use the data set that the scenario was made for",
        )
    ids = torch.tensor(scenario.poison_ids, dtype=torch.int64)
    wanted = (len(ids), *base.images.shape)
    if images.dtype != torch.uint8 or tuple(images.shape) != wanted:
        raise Misuse(
            "MTH-0320",
            f"poisons must be uint8 of shape {wanted}, got {str(images.dtype).removeprefix('torch.')} of shape "
            f"{tuple(images.shape)}",
            hint="round them into the epsilon ball with numerics.ball.quantise, one image for each poison id",
        )
    images = images.detach().cpu().contiguous()
    labels = base.labels.cpu()[ids] if labels is None else _checked_labels(labels, ids, base)
    claims = make_claims(base, scenario, (ids, images, labels), attack=attack, config=config, seed=seed, record=record)
    if claims.epsilon.levels > levels_allowed(scenario.epsilon):
        raise Misuse(
            "MTH-0321",
            f"the poisons change a pixel by {claims.epsilon.measured_text}, but scenario {scenario.name!r} allows "
            f"{claims.epsilon.allowed_text}",
            hint="round them into the epsilon ball with numerics.ball.quantise",
        )
    return PoisonPack(ids, images, labels, claims.plain())


def with_trigger(pack: PoisonPack, base: Examples, trigger: Trigger) -> PoisonPack:
    """Return the pack with the trigger that its poisons plant.

    The manifest then says whether the poisons are their base images with exactly this trigger.

    Args:
        pack: What `make_pack` returned.
        base: The clean training split.
        trigger: What shall bring about the adversarial class.

    Raises:
        Misuse: MTH-0331, the trigger is for images of another shape.
    """
    claims, _ = read_claims(pack.manifest, "the pack")
    named = trigger_claim(base, pack.ids, pack.images, trigger)
    return replace(pack, trigger=trigger, manifest=claims.model_copy(update={"trigger": named}).signed().plain())


def assemble(
    arrays: Mapping[str, NDArray[Any]],
    manifest: Mapping[str, Any],
    *,
    trigger: Mapping[str, NDArray[Any]] | None = None,
    where: str,
) -> PoisonPack:
    """Put a pack together from decoded arrays and a manifest, checking everything that needs no data set.

    Args:
        arrays: `ids`, `images` and `labels`.
        manifest: The claims.
        trigger: `mask` and `pattern` of the trigger, if there is one.
        where: What was read, for messages.

    Raises:
        BadArtefact: The arrays are no poisons, or not the ones that the claims are about.
    """
    wanted = {"ids": ("int64", 1), "images": ("uint8", 4), "labels": ("int64", 1)}
    found = {key: (array.dtype.name, array.ndim) for key, array in arrays.items()}
    if found != wanted:
        raise BadArtefact("MTH-0322", f"{where} does not hold poisons: arrays {found}, expected {wanted}")
    lengths = {key: len(array) for key, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise BadArtefact("MTH-0322", f"{where} does not hold poisons: lengths {lengths} differ")
    ids, images, labels = (
        torch.from_numpy(np.ascontiguousarray(arrays[key], dtype=kind)) for key, (kind, _) in wanted.items()
    )
    if len(ids) and (int(ids.min()) < 0 or len(set(ids.tolist())) != len(ids)):
        raise BadArtefact("MTH-0322", f"{where}: poison ids must be distinct rows, numbered from 0")
    claims, scenario = read_claims(manifest, where)
    if claims.content != content_hash(ids, images, labels):
        raise BadArtefact(
            "MTH-0323",
            f"{where}: the poisons are not the ones that the manifest is about",
            hint="fetch the pack again from where it was made",
        )
    if tuple(ids.tolist()) != scenario.poison_ids:
        raise BadArtefact("MTH-0323", f"{where}: the poison ids are not those of scenario {scenario.name!r}")
    return PoisonPack(ids, images, labels, claims.plain(), _checked_trigger(trigger, claims, where))


def _checked_trigger(arrays: Mapping[str, NDArray[Any]] | None, claims: Claims, where: str) -> Trigger | None:
    """Return the trigger that the claims are about, None if they are about none."""
    claimed = claims.trigger
    if (arrays is None) != (claimed is None):
        there, said = ("no trigger", "one") if arrays is None else ("a trigger", "none")
        raise BadArtefact("MTH-0323", f"{where} holds {there}, and its claims are about {said}")
    if arrays is None or claimed is None:
        return None
    found = Trigger.of_arrays(arrays, claimed.name, where=where)
    if found.content != claimed.content or list(found.shape) != claims.dataset.shape:
        raise BadArtefact(
            "MTH-0323",
            f"{where}: the trigger is not the one that the manifest is about",
            hint="fetch the pack again from where it was made",
        )
    return found


def _checked_labels(labels: Tensor, ids: Tensor, base: Examples) -> Tensor:
    labels = labels.detach().cpu()
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if not whole or labels.shape != ids.shape:
        raise Misuse(
            "MTH-0320",
            f"labels must be {len(ids)} whole numbers, got {str(labels.dtype).removeprefix('torch.')} of shape "
            f"{tuple(labels.shape)}",
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(base.classes):
        raise Misuse(
            "MTH-0320",
            f"labels must lie in [0, {len(base.classes) - 1}], got {int(labels.min())} to {int(labels.max())}",
        )
    return labels.to(torch.int64)
