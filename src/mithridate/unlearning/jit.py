"""JiT: make the network flat around the suspects, so that it no longer tells them from their surroundings.

    x'_k = clamp(x + sigma e_k, min x, max x),  e_k ~ N(0, 1),   k = 1 .. N
    theta <- theta - eta d/dtheta (1/N) sum_k sum_x ||f(x) - f(x'_k)||_2 / ||x - x'_k||_2,   f(x'_k) held constant

Paper    Foster et al., Zero-Shot Machine Unlearning at Scale via Lipschitz Regularization (2024), as in its code: one
         pass over the suspects, N = 25, plain gradient steps. Needs no reference and no labels.
Departs  noise is in pixels of [0, 1], where the published 0.5 and 0.8 are in units of normalised ones (about 0.12 and
         0.2). The network stays in evaluation mode. A guard may refuse the result.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mithridate.core.params import In, param
from mithridate.numerics.importance import trainable
from mithridate.numerics.rng import generator
from mithridate.unlearning._base import AbstractHealer, Healed, HealKit
from mithridate.unlearning._frame import begin
from mithridate.unlearning._settling import settle


@dataclass(frozen=True, kw_only=True)
class Jit(AbstractHealer):
    """Lipschitz regularisation at the suspects."""

    sigma: float = param(0.12, within=In(0.0, 10.0, open_lo=True), doc="deviation of the noise, in pixels of [0, 1]")
    lr: float = param(3e-4, within=In(0.0, 1e3, open_lo=True), doc="step size; 3e-4 for VGG16, 1.5 for ViT")
    copies: int = param(25, within=In(1, 10_000), doc="noisy copies of each suspect")
    batch: int = param(64, within=In(1, 1 << 20), doc="suspects per step")
    passes: int = param(1, within=In(1, 10_000), doc="passes over the suspects")

    def heal(self, kit: HealKit, *, seed: int) -> Healed:
        """Take the steps; see `AbstractHealer.heal`.

        Raises:
            Misuse: MTH-0832, all parameters are frozen.
        """
        session = begin(kit, seed=seed)
        suspects, gen = session.kit.suspects, generator(seed, "unlearning", "jit")
        steps = 0
        for _ in range(self.passes):
            for part in torch.split(torch.arange(len(suspects)), self.batch):
                x = suspects.images.gather(part).to(torch.float32).div_(255)
                self._step(session.model, x, gen)
                steps += 1
                kit.progress({"what": "steps", "step": steps})
        return settle(session, session.model, method=self.label(), steps=steps)

    def _step(self, model: nn.Module, x: Float[Tensor, "b c h w"], gen: torch.Generator) -> None:
        named = list(trainable(model).values())
        total = [torch.zeros_like(p, requires_grad=False) for p in named]
        low, high = float(x.min()), float(x.max())
        for _ in range(self.copies):
            noise = torch.randn(x.shape, generator=gen).to(x)
            noisy = (x + self.sigma * noise).clamp(low, high)
            distance = (x - noisy).flatten(1).norm(dim=1)
            with torch.no_grad():
                there = model(noisy)
            change = (model(x) - there).square().sum(1)
            moved = (distance > 0) & (change > 0)  # where nothing changes there is no slope
            slope = torch.where(moved, torch.where(moved, change, 1).sqrt() / torch.where(moved, distance, 1), 0)
            found = torch.autograd.grad(slope.sum() / self.copies, named, allow_unused=True)
            for so_far, g in zip(total, found, strict=True):
                if g is not None:
                    so_far.add_(g)
        with torch.no_grad():
            for p, g in zip(named, total, strict=True):
                p.sub_(self.lr * g)


METHOD = Jit
