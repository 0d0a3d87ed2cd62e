"""Victim contracts: complete, named recipes. A variant is a new value; options override scalars only.

Sources: specifications of the two protocols as named in `contracts_index`. Class A contracts (`paper-*`, `bench-*`)
keep the published augmentation, optimiser and schedule; `fast-*` are other recipes and are never mixed with them.
`bench-*` normalise by the constants of the benchmark's code, which are not quite those of the data.

Departs  `bench-transfer40`: the benchmark assembles another training set for every setup, the first 250 images of each
         class without the setup's poison rows. Here all setups of an audit share one set: `per_class: 250` has its
         size, and poison rows that are drawn from it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mithridate.core.boundary import read_safetensors
from mithridate.core.errors import Misuse
from mithridate.core.params import Checked, In, OneOf, param
from mithridate.core.registry import unknown_name
from mithridate.data.sources import DataSet
from mithridate.models.loading import is_brittle
from mithridate.models.spec import ModelSpec
from mithridate.numerics.warp import Shift, published_shift
from mithridate.training.contracts_index import CONTRACT_NAMES
from mithridate.training.draw import Shuffle
from mithridate.training.plan import Phase, Plan
from mithridate.training.step import Step
from mithridate.training.update import SGD, Milestones, Triangle
from mithridate.training.view import Warp


@dataclass(frozen=True, kw_only=True)
class Options(Checked):
    """Scalars that a user may override; None keeps the contract's value."""

    epochs: int | None = param(None, within=In(1, 100_000), doc="passes over the training set")
    batch: int | None = param(None, within=In(1, 1 << 20), doc="examples per step")
    lr: float | None = param(None, within=In(0.0, 1e3, open_lo=True), doc="base (or peak) step size")
    augment: bool | None = param(
        None, doc="false trains without shifts and flips; true adds one-pixel shifts to digits-*"
    )
    precision: str = param("fp32", within=OneOf("fp32", "bf16"), doc="bf16 uses autocast inside the network")
    pretrained: str | None = param(None, doc="safetensors file with the weights to begin from")
    device: str = param("cpu", doc="where to train")


def contract(name: str, data: DataSet, model: str, options: Options | None = None) -> Plan:
    """Return the plan of a named contract on a data set.

    Raises:
        Misuse: Unknown contract; a transfer contract without pretrained weights.
    """
    options = options or Options()
    if name not in _RECIPES:
        raise unknown_name("contract", name, CONTRACT_NAMES)
    spec = model_spec(data, model)
    if name.startswith("bench-"):
        mean, std = _BENCHMARK.get((spec.size, spec.num_classes), (spec.mean, spec.std))
        spec = replace(spec, mean=mean, std=std)
    phase = _RECIPES[name](spec, options)
    if options.augment is False:
        phase = replace(phase, step=replace(phase.step, views=()))
    if options.batch is not None:
        phase = replace(phase, step=replace(phase.step, draw=Shuffle(batch=options.batch)))
    plan = Plan(
        data=data.train.to(options.device),
        model=spec,
        phases=(phase,),
        precision="bf16" if options.precision == "bf16" else "fp32",
        device=options.device,
    )
    if name == "bench-transfer40" and options.pretrained is None:
        raise Misuse(
            "MTH-0508",
            f"{name} trains a head on a pretrained network, and no weights were given",
            hint="set recipe_options.pretrained to a safetensors file of this architecture",
        )
    if options.pretrained is not None:
        weights = read_safetensors(Path(options.pretrained))
        tensors = {key: torch.from_numpy(value) for key, value in weights.items()}
        plan = replace(plan, pretrained=tensors, head_only=name == "bench-transfer40")
    return plan


def model_spec(data: DataSet, model: str) -> ModelSpec:
    """Return the specification of a model for a data set."""
    channels, size, _ = data.train.images.shape
    return ModelSpec(
        name=model, num_classes=len(data.train.classes), channels=channels, size=size, mean=data.mean, std=data.std
    )


def augmentation(plan: Plan) -> Shift | None:
    """Return the plan's law of shifts and flips, or None if it has none."""
    return next((view.law for view in plan.phases[0].step.views if isinstance(view, Warp)), None)


def thirds(epochs: int) -> tuple[int, int, int]:
    """Return the milestones of the Witches' Brew code: floor divisions by 2.667, 1.6 and 1.142 (40: 14, 24, 35)."""
    return int(epochs // 2.667), int(epochs // 1.6), int(epochs // 1.142)


def _sgd_thirds(spec: ModelSpec, options: Options, *, views: tuple[Warp, ...], batch: int) -> Phase:
    epochs = options.epochs or 40
    lr = options.lr or (0.01 if is_brittle(spec.name) else 0.1)
    update = SGD(lr=lr, schedule=Milestones(at=thirds(epochs)))
    return Phase(step=Step(draw=Shuffle(batch=batch), views=views, update=update), epochs=epochs)


def _paper_wb40(spec: ModelSpec, options: Options) -> Phase:
    warp = Warp(law=Shift(law="bilinear", max_px=published_shift(spec.size), flip=True, fill="mean"))
    return _sgd_thirds(spec, options, views=(warp,), batch=128)


def _digits_mlp40(spec: ModelSpec, options: Options) -> Phase:
    """No augmentation unless asked for; then shifts of one pixel, since digits must not be mirrored."""
    views = (Warp(law=Shift(law="integer", max_px=1, flip=False, fill="black")),) if options.augment else ()
    return _sgd_thirds(spec, replace(options, lr=options.lr or 0.1), views=views, batch=64)


def _padded_crop(spec: ModelSpec) -> Warp:
    """Padding of 4 at 32 pixels and above, an eighth of the size below."""
    return Warp(law=Shift(law="integer", max_px=min(4, max(1, spec.size // 8)), flip=True, fill="black"))


def _bench_scratch200(spec: ModelSpec, options: Options) -> Phase:
    epochs = options.epochs or 200
    update = SGD(
        lr=options.lr or 0.1,
        nesterov=False,
        weight_decay=2e-4,
        schedule=Milestones(at=(epochs // 2, 3 * epochs // 4)),
    )
    return Phase(step=Step(views=(_padded_crop(spec),), update=update), epochs=epochs)


def _bench_transfer40(spec: ModelSpec, options: Options) -> Phase:
    epochs = options.epochs or 40
    schedule = Milestones(at=(3 * epochs // 4,))
    update = SGD(lr=options.lr or 0.01, nesterov=False, weight_decay=2e-4, schedule=schedule)
    return Phase(step=Step(views=(_padded_crop(spec),), update=update), epochs=epochs)


def _fast_triangle(spec: ModelSpec, options: Options) -> Phase:
    epochs = options.epochs or 12
    lr = options.lr or (0.02 if is_brittle(spec.name) else 0.2)
    update = SGD(lr=lr, schedule=Triangle(peak=0.2 * epochs, end=float(epochs)))
    return Phase(step=Step(views=(_padded_crop(spec),), update=update), epochs=epochs)


def _fast_light(spec: ModelSpec, options: Options) -> Phase:
    warp = Warp(law=Shift(law="integer", max_px=1, flip=True, fill="black"))
    return _sgd_thirds(spec, replace(options, epochs=options.epochs or 20), views=(warp,), batch=64)


def _digits_cnn30(spec: ModelSpec, options: Options) -> Phase:
    """No augmentation unless asked for; then shifts of one pixel, which may push a patch out of the image."""
    del spec
    epochs = options.epochs or 30
    views = (Warp(law=Shift(law="integer", max_px=1, flip=False, fill="black")),) if options.augment else ()
    update = SGD(lr=options.lr or 0.05, nesterov=False, schedule=Triangle(peak=0.0, end=float(epochs)))
    return Phase(step=Step(draw=Shuffle(batch=64), views=views, update=update), epochs=epochs)


def _potion_cifar(spec: ModelSpec, options: Options) -> Phase:
    """A warm-up of one hundredth of the run, then a linear fall that would reach zero after 1.25 times the run."""
    epochs = options.epochs or 41
    schedule = Triangle(peak=epochs / 100, end=1.25 * epochs)
    update = SGD(lr=options.lr or 0.025, nesterov=False, schedule=schedule)
    return Phase(step=Step(draw=Shuffle(batch=512), views=(_padded_crop(spec),), update=update), epochs=epochs)


_CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_TINY_IMAGENET = ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262))
_BENCHMARK = {(32, 10): _CIFAR10, (64, 100): _TINY_IMAGENET, (64, 200): _TINY_IMAGENET}
"""Mean and deviation in the benchmark's code, by the side of its images and the number of its classes."""

_RECIPES: Mapping[str, Callable[[ModelSpec, Options], Phase]] = {
    "paper-wb40": _paper_wb40,
    "bench-scratch200": _bench_scratch200,
    "bench-transfer40": _bench_transfer40,
    "fast-triangle": _fast_triangle,
    "fast-light": _fast_light,
    "digits-mlp40": _digits_mlp40,
    "digits-cnn30": _digits_cnn30,
    "potion-cifar": _potion_cifar,
}
