"""The two importances of a healing: of the suspects and of the reference, kept on a shelf while they grow."""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mithridate.core.pool import Tell
from mithridate.data.examples import Examples
from mithridate.numerics.importance import Accumulator, Importance, Kind
from mithridate.numerics.rng import generator
from mithridate.numerics.shelf import Shelf
from mithridate.unlearning._frame import Session

SECONDS_BETWEEN = 30.0
"""How often unfinished work is kept."""
_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What is measured, on which part of the reference.

    Args:
        kind: The importance.
        batch: None for means over samples, else the size of the batches whose gradients are meant first.
        samples: How many of the reference are used, drawn once; None for all.
    """

    kind: Kind
    batch: int | None
    samples: int | None


@dataclass
class Desk:
    """Unfinished work on a shelf, if there is one; what lies there from other work is not touched until replaced.

    Args:
        shelf: Where to keep it.
        key: What the work is.
        bundle: What is kept beside the present state.
    """

    shelf: Shelf | None
    key: str
    bundle: dict[str, Tensor] = field(default_factory=dict)
    _last: float = field(default_factory=time.monotonic)

    def load(self) -> dict[str, Tensor]:
        """Return what was kept of this work, or nothing."""
        found = None if self.shelf is None else self.shelf.load()
        if found is None or not torch.equal(found.get("key", torch.zeros(0)), self._key()):
            return {}
        return {name: tensor for name, tensor in found.items() if name != "key"}

    def keep(self, state: Mapping[str, Tensor], *, force: bool = False) -> None:
        """Keep the bundle and a state, if it is time."""
        if self.shelf is not None and (force or time.monotonic() - self._last >= SECONDS_BETWEEN):
            self.shelf.keep({**self.bundle, **state, "key": self._key()})
            self._last = time.monotonic()

    def _key(self) -> Tensor:
        return torch.tensor(list(self.key.encode()), dtype=torch.uint8)


def desk(session: Session, method: str, config: Mapping[str, Any], seed: int) -> Desk:
    """Return the desk of a healing: its key says the model, the data, the method, its configuration and the seed."""
    kit = session.kit
    if kit.shelf is None:
        return Desk(None, "")
    parts = [method, config, seed, kit.suspects.fingerprint, kit.reference.fingerprint, kit.training_size]
    parts += [session.watch.enabled, session.watch.budget, session.watch.data.fingerprint, kit.labelled]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode())
    for name, tensor in session.original.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return Desk(kit.shelf, digest.hexdigest())


def reference_ids(session: Session, samples: int | None, seed: int) -> Int64[Tensor, " k"]:
    """Return the rows of the reference that are used, in order."""
    count = len(session.kit.reference)
    if samples is None or samples >= count:
        return torch.arange(count)
    gen = generator(seed, "unlearning", "reference")
    return torch.randperm(count, generator=gen)[:samples].sort().values


def measured(session: Session, measure: Measure, desk: Desk, *, seed: int) -> tuple[Importance, Importance]:
    """Return the importances of the suspects and of the reference, going on with what the desk has of them."""
    kit = session.kit
    kept = desk.load()
    found: list[Importance] = []
    for what, data, ids in (
        ("suspects", kit.suspects, torch.arange(len(kit.suspects))),
        ("reference", kit.reference, reference_ids(session, measure.samples, seed)),
    ):
        found.append(_measured(session.model, measure, data, ids, kit.progress, desk, kept, what))
    return found[0], found[1]


def _measured(
    model: nn.Module,
    measure: Measure,
    data: Examples,
    ids: Int64[Tensor, " k"],
    tell: Tell,
    desk: Desk,
    kept: Mapping[str, Tensor],
    what: str,
) -> Importance:
    mean = Accumulator(model, measure.kind, per_sample=measure.batch is None)
    done = 0
    if f"{what}.done" in kept:
        done, mean.count = (int(number) for number in kept[f"{what}.done"])
        for name, total in mean.sums.items():
            total.copy_(kept[f"{what}:{name}"])

    def state() -> dict[str, Tensor]:
        sums = {f"{what}:{name}": total for name, total in mean.sums.items()}
        return {**sums, f"{what}.done": torch.tensor([done, mean.count])}

    with mean:
        for x, labels, rows in _batches(data, ids[done:], measure.batch or _AT_ONCE):
            mean.add(x, labels)
            done += rows
            tell({"what": f"importance of the {what}", "done": done / len(ids)})
            desk.keep(state())
    if desk.shelf is not None:
        desk.bundle |= state()
    return mean.result(last=desk.shelf is None)


def _batches(
    data: Examples, ids: Int64[Tensor, " k"], size: int
) -> Iterator[tuple[Float[Tensor, "b c h w"], Int64[Tensor, " b"], int]]:
    for part in torch.split(ids, size) if len(ids) else ():
        x = data.images.gather(part).to(torch.float32).div_(255)
        yield (
            x.contiguous(memory_format=torch.channels_last),
            data.labels[part.to(data.labels.device)].to(x.device),
            len(part),
        )
