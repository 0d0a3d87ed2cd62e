"""Marks: for every key, a few images whose training gradient points where the gradient of the secret key does.

    t_k = grad_theta CE(f(key_k), label_k)                     at a surrogate trained on the clean data
    minimise over |delta_i| <= epsilon, i in S_k:  1 - cos( t_k, 1/|S_k| sum grad_theta CE(f(A_i(x_i + delta_i)), y_i))

Each key is a problem of its own, on images of its own, under their true labels. Whoever trains on them takes steps that
also fit the keys, which are never in the data.

Paper    Bouaziz, El-Mhamdi, Usunier, Data Taggants (ICLR 2025), arXiv 2410.09101, by the specification's account.
Needs    one clean-trained surrogate or more, trained as the data's users will.
Cost     nine forward passes of the marked images for each step, view and surrogate; network memory of one chunk, and
         four float copies of the images of the key at hand, however many keys there are.
Departs  100 steps of one view, where the released script takes 250 of two: a fifth of the work, so that marking 1 %
         costs less than a tenth of training a surrogate for 40 epochs, at nearly the same cosine. The first point lies
         in the ball and in the pixel range. The cosine runs over all images of a key, not over batches. Penalties are
         means over images, as the matching is, so that their weight does not depend on the budget. Networks are wholly
         in eval mode. Restarts are compared at the 8-bit images.
Shapes   p marked images, c channels, h rows, w columns.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mithridate.core.errors import Misuse
from mithridate.core.params import Checked, In, OneOf, check_fields, param
from mithridate.core.pool import Tell, silent
from mithridate.core.seeds import address
from mithridate.data.examples import Examples
from mithridate.numerics.brewing import OPTIMIZERS, STARTS, Descent, brew
from mithridate.numerics.directional import Network, choose_form, loss_gradient, prepare
from mithridate.numerics.matching import Matcher
from mithridate.numerics.matching_problem import MatchingProblem, Surrogate, fitting_chunk
from mithridate.numerics.visibility import PENALTIES, Visibility, penalty, psnr
from mithridate.numerics.warp import Augmentation
from mithridate.ownership.choosing import choose_rows, per_key
from mithridate.ownership.keys import Key
from mithridate.ownership.learned_penalty import lpips_penalty

MODES = ("attractors", "attractors-selective", "betrayal")
_DROPS = (6.25, 2.667, 1.6, 1.142)
_DECAY = 0.3
_TELL_EVERY = 25


@dataclass(frozen=True, kw_only=True)
class Marking(Checked):
    """How a data set is marked."""

    budget: float | int = param(
        0.001, within=In(0.0, 1e9, open_lo=True), doc="images of each key: a share of the data below 1, or a number"
    )
    total_budget: float | int | None = param(
        None, within=In(0.0, 1e9, open_lo=True), doc="images of all keys together; lowers the budget of each"
    )
    epsilon: float = param(16 / 255, within=In(0.0, 1.0, open_lo=True), doc="largest change of a pixel in [0, 1]")
    steps: int = param(100, within=In(1, 100_000), doc="steps of each start; the released script takes 250")
    step: float = param(0.1, within=In(0.0, 100.0, open_lo=True), doc="first step size")
    step_unit: str = param("pixels", within=OneOf("pixels", "epsilon"), doc="its unit: [0, 1] pixels, or epsilon")
    views: int = param(1, within=In(1, 64), doc="augmentation draws of every step; the released script takes 2")
    restarts: int = param(1, within=In(1, 1000), doc="independent starts")
    mode: str = param(
        "attractors",
        within=OneOf(*MODES),
        doc="images of the key's class; those of smallest gradient; or of the class that the key is taken for",
    )
    optimizer: str = param("signed-adam", within=OneOf(*OPTIMIZERS), doc="signed-adam is the paper's")
    start: str = param("uniform", within=OneOf(*STARTS), doc="law of the first change")
    perceptual: str = param("none", within=OneOf(*PENALTIES, "lpips"), doc="penalty on what the eye sees")
    weight: float = param(0.01, within=In(0.0, 1e6), doc="weight of that penalty")
    precision: str = param("fp32", within=OneOf("fp32", "bf16"), doc="bf16 runs the networks in autocast")
    chunk: int | None = param(None, within=In(1, 1_000_000), doc="images at a time; None fits the image size")

    def __post_init__(self) -> None:
        check_fields(self)
        for name, value in (("budget", self.budget), ("total_budget", self.total_budget)):
            if value is not None and value >= 1 and value != int(value):
                raise Misuse(
                    "MTH-0110", f"Marking: {name} must be a share below 1 or a whole number of images, got {value}"
                )


@dataclass(frozen=True, kw_only=True)
class KeyMark:
    """What became of one key.

    Args:
        index: The key.
        label: Its label.
        rows: The images that carry it.
        cosine: Of the gradients of the 8-bit images and of the key, without augmentation, mean over surrogates.
        clean_cosine: The same for the images before.
        largest: The largest change of a pixel, in [0, 1].
        psnr: Mean over its images, in decibels.
        note: What differs from the order: a lowered budget; empty otherwise.
    """

    index: int
    label: int
    rows: tuple[int, ...]
    cosine: float
    clean_cosine: float
    largest: float
    psnr: float
    note: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Marked:
    """The marked images: an overlay of the data that they were made for.

    Args:
        rows: The rows that change, key after key.
        images: Their new images.
        marks: What became of each key, in the same order.
        fingerprint: Of the clean data.
        config: How it was done.
        seed: With what seed.
    """

    rows: Int64[Tensor, " p"]
    images: UInt8[Tensor, "p c h w"]
    marks: tuple[KeyMark, ...]
    fingerprint: str
    config: Marking
    seed: int

    @property
    def notes(self) -> tuple[str, ...]:
        """What the owner should know, one line a key that differs from the order."""
        return tuple(mark.note for mark in self.marks if mark.note)

    @property
    def cosine(self) -> float:
        """The mean cosine that the keys reached."""
        return sum(mark.cosine for mark in self.marks) / len(self.marks)

    def apply(self, data: Examples) -> Examples:
        """Return the marked data; the clean one is shared, not copied.

        Raises:
            Misuse: MTH-1035, these are other data.
        """
        if data.fingerprint != self.fingerprint:
            raise Misuse(
                "MTH-1035",
                f"the marks were made for data of fingerprint {self.fingerprint[:16]}..., and {data.name} has "
                f"{data.fingerprint[:16]}...",
                hint="mark the data that are there now, or restore those that were marked",
            )
        return data.overlay(self.rows, self.images)

    def of_key(self, place: int) -> UInt8[Tensor, "n c h w"]:
        """The images of the key at a place in `marks`."""
        start = sum(len(mark.rows) for mark in self.marks[:place])
        return self.images[start : start + len(self.marks[place].rows)]

    def to_json(self) -> dict[str, Any]:
        """Return everything but the pixels as plain JSON values."""
        return {
            "fingerprint": self.fingerprint,
            "config": asdict(self.config),
            "seed": self.seed,
            "keys": [asdict(mark) | {"rows": list(mark.rows)} for mark in self.marks],
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Signal:
    """Measures how well images carry a key, at frozen copies of the surrogates.

    Args:
        networks: The surrogates, ready for derivatives.
        chunk: Images at a time.
    """

    networks: tuple[Network, ...]
    chunk: int

    @classmethod
    def of(
        cls, surrogates: Sequence[nn.Module], shape: tuple[int, int, int], *, precision: str, chunk: int | None = None
    ) -> "Signal":
        """Prepare the surrogates for images of so many channels, rows and columns.

        Raises:
            Misuse: MTH-1033, there is none.
        """
        if not surrogates:
            raise Misuse(
                "MTH-1033", f"marking needs a surrogate, got {len(surrogates)}", hint="train one on clean data"
            )
        like = next(surrogates[0].parameters())
        example = torch.full((1, *shape), 0.5, dtype=like.dtype, device=like.device)
        networks = tuple(prepare(net, example, precision=precision) for net in surrogates)
        return cls(networks=networks, chunk=chunk or fitting_chunk(shape[1:], like.device))

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(iter(self.networks[0].theta.values())).device

    def wanted(self, key: Key) -> tuple[Float[Tensor, " d"], ...]:
        """The gradient of the key under its label, of every network.

        Raises:
            Misuse: MTH-1032, a network has none.
        """
        found = []
        image = torch.from_numpy(key.image.copy())[None].to(self.device)
        label = torch.tensor([key.label], device=self.device)
        for network in self.networks:
            pixels = image.to(network.dtype) / 255
            _, gradient = loss_gradient(network, pixels, lambda z: cross_entropy(z, label))
            flat = network.pull(gradient)
            if not 0 < float(flat.norm()) < math.inf:
                raise Misuse(
                    "MTH-1032",
                    f"key {key.index}: its loss has no usable gradient at a surrogate (norm {float(flat.norm())})",
                    hint="a surrogate that is certain of the key's label, or that diverged, cannot mark; train it for "
                    "fewer epochs",
                )
            found.append(flat)
        return tuple(found)

    def problem(self, key: Key, base: UInt8[Tensor, "p c h w"], labels: Int64[Tensor, " p"]) -> MatchingProblem:
        """The matching of these images with the key, bare: no augmentation and no penalty."""
        surrogates = tuple(
            Surrogate(
                network=network,
                matchers=(Matcher(objective="similarity", target=wanted, sizes=network.sizes),),
                form=choose_form(network, base[:2].to(network.dtype) / 255, wanted="auto"),
            )
            for network, wanted in zip(self.networks, self.wanted(key), strict=True)
        )
        return MatchingProblem(
            surrogates=surrogates,
            base=base,
            labels=labels,
            epsilon=0.0,
            augment=None,
            fill=torch.zeros(base.shape[1], dtype=self.networks[0].dtype, device=self.device),
            chunk=self.chunk,
        )


def cosine(problem: MatchingProblem, images: UInt8[Tensor, "p c h w"]) -> float:
    """How well 8-bit images carry the key, mean over surrogates; negative if they do the opposite."""
    bare = replace(problem, augment=None, visibility=None)
    return 1 - float(bare.value(images.to(problem.dtype) / 255, None))


def mark(
    data: Examples,
    keys: Sequence[Key],
    surrogates: Sequence[nn.Module],
    config: Marking,
    *,
    augment: Augmentation | None = None,
    mean: tuple[float, ...] | None = None,
    seed: int = 0,
    tell: Tell = silent,
) -> Marked:
    """Mark a data set with keys.

    Args:
        data: The clean training images.
        keys: The keys, in any order.
        surrogates: Networks trained on the clean data, pixels in [0, 1] in and logits out; they are not changed.
        config: How.
        augment: The law of shifts and flips that users of the data are expected to train with.
        mean: The data's channel means, the colour that shifts bring in; None is black.
        seed: All draws derive from it. It need not be secret.
        tell: Told `done`, `key` and `matching_loss` now and then.

    Raises:
        Misuse: A key does not fit the data, a class has no image for a key, or a surrogate has no gradient there.
    """
    _check_keys(data, keys)
    signal = Signal.of(surrogates, data.images.shape, precision=config.precision, chunk=config.chunk)
    count = per_key(config.budget, config.total_budget, keys=len(keys), images=len(data))
    rows = _rows(data, keys, signal, config, count, seed)
    visibility = _visibility(config, signal.device)
    descent = _descent(config, data, signal)
    marks: list[KeyMark] = []
    parts: list[Tensor] = []
    for place, key in enumerate(keys):
        mine = rows[key.index]
        labels = data.labels[mine.to(data.labels.device)].to(signal.device)
        problem = signal.problem(key, data.images.gather(mine.to(data.device)).to(signal.device), labels)
        problem = replace(
            problem,
            epsilon=config.epsilon,
            augment=augment,
            fill=problem.fill if augment is None or mean is None else augment.fill_colour(mean, like=problem.fill),
            visibility=visibility,
            visibility_weight=config.weight,
        )
        images = _brewed(problem, descent, address(seed, "mark", key.index), _told(tell, key, place, len(keys)))
        marks.append(_measured(problem, key, mine, images, count, data))
        parts.append(images.cpu())
    return Marked(
        rows=torch.cat([rows[key.index] for key in keys]),
        images=torch.cat(parts),
        marks=tuple(marks),
        fingerprint=data.fingerprint,
        config=config,
        seed=seed,
    )


def _check_keys(data: Examples, keys: Sequence[Key]) -> None:
    if len({key.index for key in keys}) != len(keys) or not keys:
        raise Misuse("MTH-1031", f"marking needs keys with different indices, got {[key.index for key in keys][:20]}")
    for key in keys:
        if tuple(key.image.shape) != data.images.shape:
            raise Misuse(
                "MTH-1031",
                f"key {key.index} has the shape {tuple(key.image.shape)}, the images of {data.name} have "
                f"{data.images.shape} (channels, rows, columns)",
                hint="derive the keys for the size at which users will train",
            )
        if not 0 <= key.label < len(data.classes):
            raise Misuse(
                "MTH-1031",
                f"key {key.index} has the label {key.label}; {data.name} has {len(data.classes)} classes",
                hint="the number of classes is part of the commitment; mark the data that were committed to",
            )


def _rows(
    data: Examples, keys: Sequence[Key], signal: Signal, config: Marking, count: int, seed: int
) -> dict[int, Tensor]:
    classes = {key.index: key.label for key in keys}
    if config.mode == "betrayal":
        classes = {key.index: _taken_for(signal.networks[0], key) for key in keys}
    rank = None
    if config.mode == "attractors-selective":

        def rank(candidates: Tensor) -> Tensor:
            norms = _gradient_norms(signal.networks[0], data, candidates)
            return candidates[norms.argsort(stable=True)]

    return choose_rows(data, classes, count, seed=seed, rank=rank)


def _taken_for(network: Network, key: Key) -> int:
    """The class, other than its label, that the network takes the key for."""
    image = torch.from_numpy(key.image.copy())[None].to(next(iter(network.theta.values())))
    with torch.no_grad():
        scores = network.logits(image / 255)[0]
    scores[key.label] = -math.inf
    return int(scores.argmax())


def _gradient_norms(network: Network, data: Examples, rows: Tensor) -> Tensor:
    """The norm of each image's own gradient."""
    norms = []
    for row in torch.split(rows, 1):
        image = data.images.gather(row.to(data.device)).to(next(iter(network.theta.values()))) / 255
        label = data.labels[row.to(data.labels.device)].to(image.device)
        _, gradient = loss_gradient(network, image, lambda z, y=label: cross_entropy(z, y))  # type: ignore[misc]
        norms.append(network.pull(gradient).norm().cpu())
    return torch.stack(norms)


def _visibility(config: Marking, device: torch.device) -> Visibility | None:
    return lpips_penalty(device) if config.perceptual == "lpips" else penalty(config.perceptual)


def _descent(config: Marking, data: Examples, signal: Signal) -> Descent:
    step = config.step * (config.epsilon if config.step_unit == "epsilon" else 1.0)
    dtype = signal.networks[0].dtype
    return Descent(
        restarts=config.restarts,
        steps=config.steps,
        step_px=torch.full((data.images.shape[0],), step, dtype=dtype, device=signal.device),
        optimizer=config.optimizer,
        views=config.views,
        drops=_DROPS,
        decay=_DECAY,
        start=config.start,
    )


def _told(tell: Tell, key: Key, place: int, keys: int) -> Callable[[float, float], None]:
    def told(done: float, value: float) -> None:
        tell({"done": (place + done) / keys, "key": key.index, "matching_loss": value})

    return told


def _brewed(problem: MatchingProblem, descent: Descent, seed: int, told: Callable[[float, float], None]) -> Tensor:
    """Run the descent to its end and return the best 8-bit images."""
    total = descent.restarts * descent.steps
    best = problem.base
    states: Iterator[Any] = brew(problem, descent, seed=seed)
    for done, state in enumerate(states, 1):
        best = state.best
        if done % _TELL_EVERY == 0 or done == total:
            value = state.trace[state.restart, state.step - 1] if state.step else state.scores[state.restart - 1]
            told(done / total, float(value))
    return best


def _measured(problem: MatchingProblem, key: Key, rows: Tensor, images: Tensor, count: int, data: Examples) -> KeyMark:
    change = images.to(problem.dtype) / 255
    note = ""
    if len(rows) < count:
        note = (
            f"key {key.index}: {len(rows)} images instead of {count}, as {data.name} has no more of "
            f"{data.classes[int(problem.labels[0])]!r} for it"
        )
    return KeyMark(
        index=key.index,
        label=key.label,
        rows=tuple(rows.tolist()),
        cosine=cosine(problem, images),
        clean_cosine=cosine(problem, problem.base),
        largest=float((change - problem.clean).abs().max()),
        psnr=float(psnr(change, problem.clean).mean()),
        note=note,
    )
