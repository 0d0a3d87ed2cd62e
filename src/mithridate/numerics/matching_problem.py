"""The gradient-matching problem: a number and its exact gradient in the poisons, at the memory of one chunk.

    g(x) = 1/P sum_i grad_theta l(A_i x_i, y_i)          over all P poisons, in chunks
    B(x) = D(g) + w/P sum_i l(A_i x_i, y_i) + h/P sum_i |f(A_i x_i) - f(A'_i c_i)|^2/e + u/P sum_i V(x_i)
                                                         D from `numerics.matching`; mean over surrogates but for V
    v    = dD/dg                                         fixed once g is known
    dB/dx_i = 1/P A_i^T grad_x ( < grad_theta l, v > + w l )(A_i x_i, y_i) + u/P grad V(x_i)

V is a penalty on what the eye sees, from `numerics.visibility`, of the images before any augmentation. The term in the
e penultimate features f keeps the poisons where their clean images c are, so that filters of features do not find them;
clean images are augmented by another draw, that of their neighbour.

Paper    Geiping et al., Witches' Brew (ICLR 2021); the two-pass form is exact, where the paper and its code take the
         cosine of each batch and differentiate through the backward pass.
Promise  invariant to the order of the poisons and to the chunk size, up to rounding.
Cost     nine forward passes of all poisons per surrogate: three for g, six for the products.
Shapes   p poisons, c channels, h rows, w columns, d parameters, e features.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn.functional import cross_entropy

from mithridate.numerics.directional import Form, Network, loss_gradient, mixed_product
from mithridate.numerics.matching import Matcher, matching_loss
from mithridate.numerics.visibility import Visibility
from mithridate.numerics.warp import Augmentation, WarpParams

_CHUNK_PIXELS = {"cpu": 64 * 32 * 32}
_CHUNK_PIXELS_ELSEWHERE = 512 * 32 * 32
_CHUNKS = (8, 512)


def fitting_chunk(size: tuple[int, int], device: torch.device) -> int:
    """How many images of so many rows and columns to work on at a time."""
    pixels = _CHUNK_PIXELS.get(device.type, _CHUNK_PIXELS_ELSEWHERE)
    return min(max(pixels // (size[0] * size[1]), _CHUNKS[0]), _CHUNKS[1])


@dataclass(frozen=True, kw_only=True, eq=False)
class Surrogate:
    """One network, the gradients that the attacker wants of it, and the form of its products."""

    network: Network
    matchers: tuple[Matcher, ...]
    form: Form
    features: Callable[[Tensor], Tensor] | None = None
    """From images in [0, 1] to penultimate features; needed where their change is penalised."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MatchingProblem:
    """What is minimised.

    Args:
        surrogates: The networks; the problem is the mean over them.
        base: The clean images of the poisons.
        labels: The labels that the poisons are published with.
        epsilon: Radius of the l-infinity ball, in [0, 1] units.
        augment: The law that every poison passes, redrawn for every evaluation; None for none.
        fill: Colour outside the image, one number per channel.
        chunk: Poisons at a time.
        loss_weight: Weight w of the poisons' own loss.
        feature_weight: Weight h of the change of features.
        visibility: The penalty V, None for none.
        visibility_weight: Its weight u.
    """

    surrogates: tuple[Surrogate, ...]
    base: UInt8[Tensor, "p c h w"]
    labels: Int64[Tensor, " p"]
    epsilon: float
    augment: Augmentation | None
    fill: Float[Tensor, " c"]
    chunk: int
    loss_weight: float = 0.0
    feature_weight: float = 0.0
    visibility: Visibility | None = None
    visibility_weight: float = 0.0

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of images and changes."""
        return self.surrogates[0].network.dtype

    @cached_property
    def clean(self) -> Float[Tensor, "p c h w"]:
        """The base images in [0, 1]."""
        return self.base.to(self.dtype) / 255

    def draw(self, gen: torch.Generator) -> WarpParams | None:
        """One draw of the augmentation for every poison."""
        if self.augment is None:
            return None
        return self.augment.draw(len(self.base), (self.base.shape[2], self.base.shape[3]), gen, self.base.device)

    def value(self, x: Float[Tensor, "p c h w"], draw: WarpParams | None) -> Float[Tensor, ""]:
        """B at the images `x` in [0, 1], under one draw of the augmentation."""
        values = [self._matched(surrogate, x, draw)[0] for surrogate in self.surrogates]
        return self._with_penalties(torch.stack([v.to(self.dtype) for v in values]).mean(), x, draw, None)

    def gradient(
        self, x: Float[Tensor, "p c h w"], draw: WarpParams | None
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "p c h w"]]:
        """B and dB/dx at the images `x` in [0, 1], under one draw of the augmentation."""
        values = []
        total = torch.zeros_like(x)
        for surrogate in self.surrogates:
            value, direction = self._matched(surrogate, x, draw)
            values.append(value.to(self.dtype))
            live = surrogate.network.push(direction)
            for rows, seen, warp in self._chunks(surrogate, x, draw):
                product = mixed_product(
                    surrogate.network,
                    seen,
                    self.labels[rows],
                    live,
                    form=surrogate.form,
                    loss_weight=self.loss_weight,
                )
                total[rows] += self._pulled(product, warp).to(total.dtype)
        total /= len(x) * len(self.surrogates)
        return self._with_penalties(torch.stack(values).mean(), x, draw, total), total

    def _pulled(self, gradient: Tensor, warp: WarpParams | None) -> Tensor:
        """Carry a gradient in what the network sees back to the images."""
        return gradient if self.augment is None or warp is None else self.augment.adjoint(gradient, warp)

    def _with_penalties(self, matched: Tensor, x: Tensor, draw: WarpParams | None, total: Tensor | None) -> Tensor:
        """What is minimised, from what the matchers say; the gradients of the penalties are added to `total`."""
        if self.feature_weight:
            matched = matched + self._hidden(x, draw, total)
        return matched + self._seen(x, total) if self.visibility else matched

    def _hidden(self, x: Tensor, draw: WarpParams | None, total: Tensor | None) -> Tensor:
        """The weighted change of the features; its gradient is added to `total`."""
        share = self.feature_weight / (len(x) * len(self.surrogates))
        value = torch.zeros((), dtype=self.dtype, device=x.device)
        other = None if draw is None else WarpParams(dy=draw.dy.roll(1), dx=draw.dx.roll(1), flip=draw.flip.roll(1))
        for surrogate in self.surrogates:
            features = surrogate.features
            assert features is not None
            pairs = zip(self._chunks(surrogate, x, draw), self._chunks(surrogate, self.clean, other), strict=True)
            for (rows, seen, warp), (_, seen_clean, _) in pairs:
                with torch.no_grad():
                    wanted = features(seen_clean)
                leaf = seen.detach().requires_grad_(total is not None)
                penalty = share * (features(leaf) - wanted).square().mean(1).sum().to(self.dtype)
                value += penalty.detach()
                if total is not None:
                    total[rows] += self._pulled(torch.autograd.grad(penalty, leaf)[0], warp).to(total.dtype)
        return value

    def _seen(self, x: Tensor, total: Tensor | None) -> Tensor:
        """The weighted penalty; its gradient is added to `total`."""
        assert self.visibility is not None
        share = self.visibility_weight / len(x)
        value = torch.zeros((), dtype=self.dtype, device=x.device)
        for start in range(0, len(x), self.chunk):
            rows = slice(start, start + self.chunk)
            part = x[rows].detach().requires_grad_(total is not None)
            penalty = share * self.visibility(part, self.clean[rows]).sum()
            value += penalty.detach()
            if total is not None:
                total[rows] += torch.autograd.grad(penalty, part)[0]
        return value

    def _matched(self, surrogate: Surrogate, x: Tensor, draw: WarpParams | None) -> tuple[Tensor, Tensor]:
        """B of one surrogate, and the direction dD/dg."""
        network = surrogate.network
        sums = {name: torch.zeros_like(value) for name, value in network.live.items()}
        own = torch.zeros((), dtype=network.dtype, device=x.device)
        for rows, seen, _ in self._chunks(surrogate, x, draw):
            loss, part = loss_gradient(network, seen, partial(cross_entropy, target=self.labels[rows], reduction="sum"))
            own += loss
            for name, gradient in part.items():
                sums[name] += gradient
        value, direction = matching_loss(surrogate.matchers, network.pull(sums) / len(x))
        return value + self.loss_weight / len(x) * own, direction

    def _chunks(
        self, surrogate: Surrogate, x: Tensor, draw: WarpParams | None
    ) -> Iterator[tuple[slice, Tensor, WarpParams | None]]:
        """Rows, the images as the network sees them, and the part of the draw that made them."""
        for start in range(0, len(x), self.chunk):
            rows = slice(start, min(start + self.chunk, len(x)))
            part = x[rows].to(surrogate.network.dtype)
            if self.augment is None or draw is None:
                yield rows, part, None
                continue
            warp = draw.rows(rows.start, rows.stop)
            yield rows, self.augment.apply(part, warp, self.fill), warp
