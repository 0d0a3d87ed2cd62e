"""Opening what a user names for a scan or a healing: a model, its data with or without a pack, and a trigger."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import nn

from mithridate.audit.healing import check_data
from mithridate.audit.verifying import Probe, probe_of_png, reconstructed, target_of
from mithridate.core.errors import Misuse
from mithridate.core.pool import Tell, silent
from mithridate.data._cache import Kind
from mithridate.data.examples import Examples
from mithridate.data.packs import PoisonPack
from mithridate.data.sources import DataSet, load
from mithridate.evaluation.backdoor import published_poisons
from mithridate.models.saved import DESCRIPTION, Description, describe, load_model, weights_path
from mithridate.models.spec import Classifier
from mithridate.training.contracts import model_spec
from mithridate.unlearning._frame import check_finite


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A model with the data that it was trained on.

    Args:
        about: What network it is.
        model: The network, in evaluation mode.
        data: The data set as its source has it.
        pack: Poisons that the network was trained on, if they come as a pack.
    """

    about: Description
    model: Classifier
    data: DataSet
    pack: PoisonPack | None = None

    @cached_property
    def train(self) -> Examples:
        """The training data as the network saw them."""
        return self.data.train if self.pack is None else self.pack.apply(self.data.train)

    @cached_property
    def otherwise(self) -> str:
        """What to say if these are not the data that the network was trained on; empty if they are, or nobody knows."""
        wanted, pack = self.about.data.get("fingerprint"), self.about.data.get("pack")
        if not wanted or wanted == self.train.fingerprint:
            return ""
        named = f"; it was trained with --pack {pack}" if pack and self.pack is None else ""
        return (
            f"these are not the data that the model was trained on (fingerprint {self.train.fingerprint[:12]}..., in "
            f"{DESCRIPTION} {str(wanted)[:12]}...){named}"
        )

    @property
    def probe(self) -> Probe | None:
        """The pack's trigger, if there is one."""
        if self.pack is None or self.pack.trigger is None:
            return None
        return Probe(trigger=self.pack.trigger, target=self.pack.scenario.adversarial_class)

    @property
    def poisons(self) -> Examples | None:
        """The pack's poisons with the classes of their clean images."""
        return None if self.pack is None else published_poisons(self.data.train, self.pack)


def open_model(
    path: Path,
    source: str | None,
    *,
    name: str | None = None,
    per_class: int | None = None,
    size: int | None = None,
    pack: Path | None = None,
    device: str = "cpu",
) -> Opened:
    """Return a saved model and its data.

    Args:
        path: A folder that `mithridate train` or `mithridate heal` wrote, or a safetensors file.
        source: The data; None takes what the model's description names.
        name: The network, for weights without a description.
        per_class: As when the network was trained; None takes what the description says of the same source.
        size: The same for the size of the images.
        pack: A poison pack that the network was trained on.
        device: Where the network shall be.

    Raises:
        Misuse: MTH-0881 to MTH-0885, or the data are not there, or the weights are not finite.
        BadArtefact: A file is damaged.
    """
    file = weights_path(path)
    described = file.with_name(DESCRIPTION).is_file()
    about = describe(path, name=name) if described or source is None or name is None else None
    known = {} if about is None else dict(about.data)
    source = source if source is not None else str(known.get("source", ""))
    known = known if known.get("source") == source else {}
    per_class, size = per_class or known.get("per_class"), size or known.get("size")
    # What did not fit into memory for training does not now.
    store: Kind = "mapped" if known.get("store") == "mapped" else "resident"
    data = load(source, per_class=per_class, size=size, store=store)
    if about is None:
        assert name is not None, "describe has refused otherwise"
        spec = model_spec(data, name)
        about = Description(
            spec=spec, classes=data.train.classes, data={"source": source, "per_class": per_class, "size": size}
        )
    check_data(about, data.train)
    model = load_model(path, about)
    check_finite(model)
    poisons = None if pack is None else PoisonPack.load(pack)
    return Opened(about=about, model=model.to(device), data=data, pack=poisons)


def healed_of(before: Opened, path: Path, *, device: str = "cpu") -> Classifier:
    """Return the healed version of a model.

    Raises:
        Misuse: MTH-0888, it is another network; MTH-0826, it has weights that are not finite.
    """
    file = weights_path(path)
    if file.with_name(DESCRIPTION).is_file():
        spec = describe(path, name=before.about.spec.name).spec
        own = before.about.spec
        if (spec.num_classes, spec.channels, spec.size) != (own.num_classes, own.channels, own.size):
            raise Misuse(
                "MTH-0888",
                f"{str(path)!r} has {spec.num_classes} classes, {spec.channels} channels and size {spec.size}; the "
                f"model before has {own.num_classes}, {own.channels} and {own.size}",
                hint="give the model that was healed, and what `mithridate heal` wrote",
            )
    model = load_model(path, before.about)
    check_finite(model)
    return model.to(device)


def probe_of(
    opened: Opened,
    png: Path | None,
    target: str | None,
    *,
    seed: int,
    after: nn.Module | None = None,
    tell: Tell = silent,
) -> tuple[Probe | None, str]:
    """Return a trigger and whether it was `given`, `reconstructed` or is `unknown`.

    Args:
        opened: The model before healing.
        png: An image of the trigger; else the pack's is taken, else one is reconstructed.
        target: The class that it stands for, by name or number.
        seed: For the reconstruction.
        after: The model after healing, which tells a natural trigger from one that was planted.
        tell: Told how far it is.
    """
    test = opened.data.test
    if png is not None:
        return probe_of_png(png, target, opened.model, test), "given"
    if opened.probe is not None:
        return opened.probe, "given"
    label = None if target is None else target_of(target, test.classes)
    probe = reconstructed(opened.model, opened.train, seed=seed, label=label, after=after, tell=tell)
    return probe, "unknown" if probe is None else "reconstructed"
