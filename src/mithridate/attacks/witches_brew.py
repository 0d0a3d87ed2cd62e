"""Clean-label poisons whose training gradient points where the target's adversarial gradient does.

    minimise over |delta_i| <= epsilon:   B = 1 - cos( grad l_adv(target),  1/P sum_i grad l(A_i(x_i + delta_i), y_i) )

at the parameters of networks trained on clean data, by projected signed Adam from several random starts. A victim that
trains from scratch on the poisons then also descends the adversarial loss, as far as the cosine stays positive.

Paper    Geiping, Fowl, Huang, Czaja, Taylor, Moeller, Goldstein, Witches' Brew (ICLR 2021), arXiv 2009.02276.
Needs    one clean-trained surrogate (`num_surrogates`), trained as the victim will be.
Cost     nine forward passes of the poisons for each surrogate, step and restart; memory of one chunk.
Departs  the cosine runs over all poisons (the code takes it per batch; the same on CIFAR-10 at 1 %). Surrogates are
         wholly in eval mode (the code leaves dropout on). Restarts are compared by their re-evaluated B at the exported
         8-bit images, which keep epsilon exactly. Everything is in [0, 1] pixels: the step of tau normalised units is
         tau sigma_c in channel c, which moves the images alike. Training the surrogate between steps (`step`) and
         looping over the whole training set (`full_data`), both off in the code, are left out.
"""

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from mithridate.attacks._base import AbstractAttack, AttackKit
from mithridate.core.errors import Misuse
from mithridate.core.params import In, OneOf, param
from mithridate.core.seeds import address
from mithridate.data.packs import PoisonPack, make_pack
from mithridate.data.scenarios import Scenario
from mithridate.models.spec import Classifier
from mithridate.numerics.brewing import OPTIMIZERS, BrewState, Descent, brew
from mithridate.numerics.directional import FORMS, Form, choose_form, loss_gradient, prepare
from mithridate.numerics.matching import CRITERIA, OBJECTIVES, Matcher, criterion_loss
from mithridate.numerics.matching_problem import MatchingProblem, Surrogate, fitting_chunk

_REFERENCE_BATCH = 512
_TRACE_LENGTH = 250


@dataclass(frozen=True, kw_only=True)
class WitchesBrew(AbstractAttack):
    """Gradient matching."""

    num_surrogates: int = param(1, within=In(1, 64), doc="K, clean-trained networks to match at once")
    restarts: int = param(8, within=In(1, 1000), doc="R, independent starts")
    steps: int = param(250, within=In(1, 100_000), doc="M, steps of each start")
    step_size: float | int = param(0.1, within=In(0.0, 1000.0, open_lo=True), doc="tau, divided by K")
    step_unit: str = param(
        "normalised",
        within=OneOf("normalised", "pixels", "epsilon"),
        doc="unit of tau: channel deviations (paper), [0, 1] pixels, or epsilon",
    )
    optimizer: str = param("signed-adam", within=OneOf(*OPTIMIZERS), doc="signed-adam is the paper's")
    objective: str = param("similarity", within=OneOf(*OBJECTIVES), doc="distance of the two gradients")
    criterion: str = param("cross-entropy", within=OneOf(*CRITERIA), doc="what shall be small at the targets")
    per_target: bool = param(False, doc="several targets: mean of their distances, not distance to their mean gradient")
    augment: bool = param(True, doc="augment poisons while brewing as the victim will")
    clean_gradient: bool = param(False, doc="first-order variant: every gradient is taken at the clean images")
    loss_weight: float | int = param(0.0, within=In(0.0, 1000.0), doc="weight of the poisons' own loss (centreg)")
    norm_weight: float | int = param(0.0, within=In(0.0, 1000.0), doc="weight of the poison gradient's norm (normreg)")
    feature_weight: float | int = param(
        0.0, within=In(0.0, 1000.0), doc="weight of the poisons' change of features, against filters (hidden)"
    )
    reference_batch: int | None = param(
        None, within=In(1, 1_000_000), doc="the reference code's pbatch: scales tau by pbatch/512"
    )
    score_draws: int = param(4, within=In(1, 1000), doc="augmentation draws by which restarts are compared")
    form: str = param("auto", within=OneOf("auto", "measure", *FORMS), doc="form of the mixed products")
    precision: str = param(
        "fp32", within=OneOf("fp32", "bf16"), doc="bf16 runs the networks in autocast; sums stay fp32"
    )
    chunk: int | None = param(None, within=In(1, 1_000_000), doc="poisons at a time; None fits the image size")
    save_every: int = param(25, within=In(1, 1_000_000), doc="steps between progress reports and early savings")

    @property
    def surrogates_needed(self) -> int:
        """Clean-trained networks that `craft` expects."""
        return self.num_surrogates

    @property
    def crafting_passes(self) -> float:
        """Steps of all restarts, times surrogates."""
        return float(self.restarts * self.steps * self.num_surrogates)

    def craft(self, kit: AttackKit, scenario: Scenario, *, seed: int) -> PoisonPack:
        """Brew the poisons of one scenario; see `AbstractAttack.craft`."""
        begun = time.monotonic()
        scenario.targeted_class()
        problem = self.problem(kit, scenario)
        descent = Descent(
            restarts=self.restarts,
            steps=self.steps,
            step_px=self._step_px(kit, scenario).to(problem.clean),
            optimizer=self.optimizer,
            clean_gradient=self.clean_gradient,
            score_draws=self.score_draws,
        )
        name = _name_of(self, kit, scenario, seed)
        state = self._brewed(kit, problem, descent, seed, name)
        loss = float(state.scores[state.best_restart])
        if not math.isfinite(loss):
            raise Misuse(
                "MTH-0604",
                f"scenario {scenario.name!r}: the gradients of the poisons are not finite or zero (B = {loss})",
                hint="surrogates that fit the poisons to a loss of exactly 0 have none: train them for fewer epochs",
            )
        record = self._record(problem, state) | {"seconds": round(time.monotonic() - begun, 3)}
        return make_pack(
            kit.data.train,
            scenario,
            state.best.cpu(),
            attack="witches-brew",
            config=asdict(self),
            seed=seed,
            record=record,
        )

    def problem(self, kit: AttackKit, scenario: Scenario) -> MatchingProblem:
        """What `craft` minimises for a scenario.

        Raises:
            Misuse: The kit has another number of surrogates, or a surrogate has no gradient at the target.
        """
        if len(kit.surrogates) != self.num_surrogates:
            raise Misuse(
                "MTH-0601",
                f"witches-brew with num_surrogates={self.num_surrogates} was given {len(kit.surrogates)} networks",
                hint="train as many surrogates on clean data as num_surrogates says",
            )
        device = next(kit.surrogates[0].parameters()).device
        train = kit.data.train
        ids = torch.tensor(scenario.poison_ids)
        base = train.images.gather(ids.to(train.device)).to(device)
        labels = train.labels[ids.to(train.labels.device)].to(device)
        mean = kit.data.mean
        augment = kit.augment if self.augment else None
        like = next(kit.surrogates[0].parameters())
        black = torch.zeros(len(mean), dtype=like.dtype, device=device)
        return MatchingProblem(
            surrogates=tuple(self._surrogate(net, kit, scenario, base) for net in kit.surrogates),
            base=base,
            labels=labels,
            epsilon=float(scenario.epsilon),
            augment=augment,
            fill=black if augment is None else augment.fill_colour(mean, like=black),
            chunk=self._chunk(base),
            loss_weight=float(self.loss_weight),
            feature_weight=float(self.feature_weight),
        )

    def _surrogate(self, net: nn.Module, kit: AttackKit, scenario: Scenario, base: Tensor) -> Surrogate:
        test = kit.data.test
        rows = torch.tensor(scenario.targets)
        targets = test.images.gather(rows.to(test.device)).to(base.device)
        network = prepare(net, targets[:1].float() / 255, precision=self.precision)
        few = base[: self._chunk(base)].to(network.dtype) / 255
        form: Form = choose_form(network, few, wanted=self.form)
        adversarial = torch.full((len(targets),), scenario.adversarial_class, device=base.device)
        true = torch.full_like(adversarial, scenario.targeted_class())
        groups = [slice(k, k + 1) for k in range(len(targets))] if self.per_target else [slice(None)]
        matchers = []
        for group in groups:
            loss = criterion_loss(self.criterion, adversarial=adversarial[group], true=true[group])
            _, gradient = loss_gradient(network, targets[group].to(network.dtype) / 255, loss)
            wanted = network.pull(gradient)
            if not 0 < float(wanted.norm()) < math.inf:
                raise Misuse(
                    "MTH-0603",
                    f"scenario {scenario.name!r}: the adversarial loss has no usable gradient at the target "
                    f"(norm {float(wanted.norm())})",
                    hint="with criterion cw, -100 may be reached already; otherwise check the surrogate's logits",
                )
            matchers.append(
                Matcher(
                    objective=self.objective,
                    target=wanted,
                    sizes=network.sizes,
                    norm_weight=float(self.norm_weight),
                )
            )
        features = self._features(net) if self.feature_weight else None
        return Surrogate(network=network, matchers=tuple(matchers), form=form, features=features)

    def _features(self, net: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return the penultimate features of a surrogate, in evaluation mode and in the precision of the brew."""
        if not isinstance(net, Classifier):
            raise Misuse(
                "MTH-0410",
                f"{type(net).__name__} does not say which of its activations are its features",
                hint="feature_weight needs networks of `mithridate.models`; leave it at 0 for others",
            )
        frozen = copy.deepcopy(net).eval().requires_grad_(False)
        dtype, low = next(frozen.parameters()).dtype, self.precision == "bf16"

        def features(x: Tensor) -> Tensor:
            with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=low):
                return frozen.features(x).to(dtype)

        return features

    def _chunk(self, base: Tensor) -> int:
        return self.chunk or fitting_chunk((base.shape[2], base.shape[3]), base.device)

    def _step_px(self, kit: AttackKit, scenario: Scenario) -> Tensor:
        """The step size of each channel in [0, 1] pixels."""
        match self.step_unit:
            case "normalised":
                unit = torch.tensor(kit.data.std, dtype=torch.float64)
            case "epsilon":
                unit = torch.full((len(kit.data.std),), float(scenario.epsilon), dtype=torch.float64)
            case _:
                unit = torch.ones(len(kit.data.std), dtype=torch.float64)
        share = (self.reference_batch or _REFERENCE_BATCH) / _REFERENCE_BATCH
        return unit * self.step_size * share / self.num_surrogates

    def _brewed(self, kit: AttackKit, problem: MatchingProblem, descent: Descent, seed: int, name: int) -> BrewState:
        """Run the descent to its end, from where the shelf has it, and report and save on the way."""
        last = _kept(kit, name, problem.base.device)
        total = descent.restarts * descent.steps
        for state in brew(problem, descent, seed=seed, state=last):
            last = state
            done = state.restart * descent.steps + state.step
            if done % self.save_every and done != total:
                continue
            value = state.trace[state.restart, state.step - 1] if state.step else state.scores[state.restart - 1]
            kit.progress({"done": done / total, "matching_loss": float(value)})
            if kit.shelf is not None:
                kit.shelf.keep({"name": torch.tensor(name), **state.bundle()})
        assert last is not None
        return last

    def _record(self, problem: MatchingProblem, state: BrewState) -> dict[str, object]:
        trace = state.trace[state.best_restart].tolist()
        stride = -(-len(trace) // _TRACE_LENGTH)
        return {
            "matching_loss": round(float(state.scores[state.best_restart]), 6),
            "best_restart": state.best_restart,
            "restart_losses": [round(value, 6) for value in state.scores.tolist()],
            "trace": [round(value, 6) for value in trace[::stride]],
            "trace_stride": stride,
            "form": [surrogate.form for surrogate in problem.surrogates],
            "folded_norms": [len(surrogate.network.folds) for surrogate in problem.surrogates],
            "chunk": problem.chunk,
            "augmented": problem.augment is not None,
        }


def _name_of(attack: WitchesBrew, kit: AttackKit, scenario: Scenario, seed: int) -> int:
    """A number that stands for everything that the brew depends on."""
    pixels = kit.data.train.pixel_hash(torch.tensor(scenario.poison_ids))
    weights = [float(p.detach().double().sum()) for net in kit.surrogates for p in net.parameters()]
    return address(seed, repr(attack), repr(scenario), repr(kit.augment), pixels, repr(weights))


def _kept(kit: AttackKit, name: int, device: torch.device) -> BrewState | None:
    """The state that the shelf keeps, if it is of this very brew."""
    bundle: Mapping[str, Tensor] | None = None if kit.shelf is None else kit.shelf.load()
    if bundle is None or int(bundle["name"]) != name:
        return None
    return BrewState.unbundle({key: value for key, value in bundle.items() if key != "name"}, device)


METHOD = WitchesBrew
