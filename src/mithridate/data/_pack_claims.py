"""What a poison pack says about itself, and the measurements behind it.

Every claim about content is a function of (base images, ids, images, labels) below, which `make_pack` calls to write
the claim and `verify_pack` to check it. `content` binds the claims to the poisons, `digest` binds the claims to each
other: both find accidents and careless editing. Somebody who recomputes them is found by comparing with the data only.

Shapes   p poisons of c channels, h rows, w columns.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from torch import Tensor

import mithridate
from mithridate.core.errors import BadArtefact, Misuse
from mithridate.core.units import Pixels, format_epsilon
from mithridate.data.examples import Examples
from mithridate.data.scenarios import Scenario
from mithridate.numerics.triggers import Trigger

_CHUNK = 4096


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class DataSetClaim(_Strict):
    """The training split that the pack was made for."""

    name: str
    fingerprint: str
    rows: int
    classes: list[str]
    shape: list[int]
    base_pixels: str


class ClassShare(_Strict):
    """How much of one class is poisoned."""

    label: int
    name: str
    poisons: int
    rows: int
    fraction: float


class BudgetClaim(_Strict):
    """The poisons as fractions of the training split and of each class they come from."""

    of_set: float
    of_class: list[ClassShare]


class EpsilonClaim(_Strict):
    """The largest change of a pixel: allowed, and as measured on the exported bytes; `levels` counts 1/255."""

    allowed: float
    allowed_text: str
    measured: float
    measured_text: str
    levels: int


class TriggerClaim(_Strict):
    """The trigger: its name, the sha256 of mask and pattern, and whether poisons are base images with exactly it."""

    name: str
    content: str
    stamped: bool


class Claims(_Strict):
    """The manifest of a poison pack. A pack without a trigger does not speak of one, as packs did before there were."""

    attack: str
    config: dict[str, JsonValue]
    seed: int
    scenario: dict[str, JsonValue]
    dataset: DataSetClaim
    count: int
    budget: BudgetClaim
    epsilon: EpsilonClaim
    labels_changed: int
    content: str
    trigger: TriggerClaim | None = None
    made_with: dict[str, str]
    record: dict[str, JsonValue]
    digest: str = ""

    def plain(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return self.model_dump(mode="json", exclude={"trigger"} if self.trigger is None else None)

    def computed_digest(self) -> str:
        """Return the sha256 of all other claims in canonical JSON."""
        rest = {key: value for key, value in self.plain().items() if key != "digest"}
        text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def signed(self) -> "Claims":
        """Return the claims with the digest of all others."""
        return self.model_copy(update={"digest": self.computed_digest()})


CLAIMS = tuple(Claims.model_fields)
"""The names of the claims, as they stand in the manifest."""


def read_claims(plain: Mapping[str, Any], where: str) -> tuple[Claims, Scenario]:
    """Read the claims out of a manifest.

    Args:
        plain: The manifest; keys that are no claims are left alone.
        where: What was read, for messages.

    Raises:
        BadArtefact: A claim is absent, of another type, or does not belong to the others.
    """
    try:
        claims = Claims.model_validate({key: plain[key] for key in CLAIMS if key in plain})
        scenario = Scenario.from_json(claims.scenario)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadArtefact(
            "MTH-0322", f"{where} is no poison pack of this version: claim {place!r}: {first['msg']}"
        ) from None
    except Misuse as error:
        raise BadArtefact("MTH-0322", f"{where}: {error.message}") from None
    if claims.digest != claims.computed_digest():
        raise BadArtefact(
            "MTH-0323",
            f"{where}: the claims were altered: their digest is {claims.computed_digest()[:16]}..., "
            f"the manifest says {claims.digest[:16]!r}...",
            hint="fetch the pack again from where it was made",
        )
    return claims, scenario


def make_claims(
    base: Examples,
    scenario: Scenario,
    poisons: tuple[Int64[Tensor, " p"], UInt8[Tensor, "p c h w"], Int64[Tensor, " p"]],
    *,
    attack: str,
    config: Mapping[str, object],
    seed: int,
    record: Mapping[str, object],
) -> Claims:
    """Measure everything that a manifest claims about `poisons`: ids, images and labels."""
    ids, images, labels = poisons
    levels = largest_change(base, ids, images)
    open_claims = Claims(
        attack=attack,
        config=plain_mapping("config", config),
        seed=seed,
        scenario=scenario.to_json(),
        dataset=DataSetClaim(
            name=base.name,
            fingerprint=base.fingerprint,
            rows=len(base),
            classes=list(base.classes),
            shape=list(base.images.shape),
            base_pixels=base.pixel_hash(ids),
        ),
        count=len(ids),
        budget=BudgetClaim(of_set=len(ids) / len(base), of_class=class_shares(base, ids)),
        epsilon=EpsilonClaim(
            allowed=scenario.epsilon,
            allowed_text=format_epsilon(scenario.epsilon),
            measured=levels / 255,
            measured_text=format_epsilon(Pixels(levels / 255)),
            levels=levels,
        ),
        labels_changed=changed_labels(base, ids, labels),
        content=content_hash(ids, images, labels),
        made_with={"mithridate": mithridate.__version__, "torch": str(torch.__version__), "numpy": np.__version__},
        record=plain_mapping("record", record),
    )
    return open_claims.signed()


def levels_allowed(epsilon: float) -> int:
    """Return the largest whole number of 1/255 steps within `epsilon`, a float such as 16/255."""
    return math.floor(epsilon * 255 + 1e-6)


def largest_change(base: Examples, ids: Int64[Tensor, " p"], images: UInt8[Tensor, "p c h w"]) -> int:
    """Return the largest difference of a pixel to the base image, in steps of 1/255."""
    largest = 0
    for start in range(0, len(ids), _CHUNK):
        below = base.images.gather(ids[start : start + _CHUNK].to(base.device)).cpu().to(torch.int16)
        above = images[start : start + _CHUNK].cpu().to(torch.int16)
        largest = max(largest, int((above - below).abs().max()))
    return largest


def trigger_claim(
    base: Examples, ids: Int64[Tensor, " p"], images: UInt8[Tensor, "p c h w"], trigger: Trigger
) -> TriggerClaim:
    """Return what a manifest claims about a trigger."""
    return TriggerClaim(name=trigger.name, content=trigger.content, stamped=is_stamped(base, ids, images, trigger))


def is_stamped(base: Examples, ids: Int64[Tensor, " p"], images: UInt8[Tensor, "p c h w"], trigger: Trigger) -> bool:
    """Tell whether the poisons are the base images with the trigger, bit for bit.

    Raises:
        Misuse: MTH-0331, the trigger is for images of another shape.
    """
    clean = base.images.gather(ids.to(base.device)).cpu()
    return torch.equal(trigger.to("cpu").stamp(clean), images.cpu())


def class_shares(base: Examples, ids: Int64[Tensor, " p"]) -> list[ClassShare]:
    """Return how many poisons come from each class, and what fraction of it they are."""
    every = torch.bincount(base.labels.cpu(), minlength=len(base.classes)).tolist()
    found = torch.bincount(base.labels.cpu()[ids.cpu()], minlength=len(base.classes)).tolist()
    return [
        ClassShare(label=label, name=base.classes[label], poisons=count, rows=rows, fraction=count / rows)
        for label, (count, rows) in enumerate(zip(found, every, strict=True))
        if count
    ]


def changed_labels(base: Examples, ids: Int64[Tensor, " p"], labels: Int64[Tensor, " p"]) -> int:
    """Return how many poisons carry another label than their base image."""
    return int((base.labels.cpu()[ids.cpu()] != labels.cpu()).sum())


def content_hash(ids: Int64[Tensor, " p"], images: UInt8[Tensor, "p c h w"], labels: Int64[Tensor, " p"]) -> str:
    """Return the sha256 of ids, labels, shape and pixels."""
    digest = hashlib.sha256(json.dumps({"shape": list(images.shape)}).encode())
    for tensor in (ids, labels):
        digest.update(np.ascontiguousarray(tensor.cpu().numpy(), dtype="<i8").tobytes())
    for start in range(0, len(images), _CHUNK):
        digest.update(images[start : start + _CHUNK].cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def plain_mapping(name: str, value: Mapping[str, object]) -> dict[str, Any]:
    """Return a mapping as plain JSON values: tuples become lists, numbers that are not finite become null.

    Raises:
        Misuse: A value is of a type that JSON has no word for.
    """
    return {key: _plain(f"{name}.{key}", inner) for key, inner in value.items()}


def _plain(name: str, value: object) -> Any:
    if isinstance(value, Tensor | np.ndarray | np.generic):
        value = value.tolist()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(f"{name}.{key}", inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(f"{name}[{index}]", inner) for index, inner in enumerate(value)]
    raise Misuse(
        "MTH-0326",
        f"{name} is a {type(value).__name__}; a manifest holds numbers, texts, truth values, lists and mappings",
        hint="turn it into one of these before making the pack",
    )
