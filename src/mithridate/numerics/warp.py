"""Batched differentiable shifts and flips: the augmentation law shared by victims and attackers.

    y_i = fill + A_i (x_i - fill),   A_i = rows(dy_i) (x) columns(dx_i, flip_i)

Both crop laws are one pair of small matrices per image, so that the warp is linear in the image, its adjoint is the
transposed pair, both are batched matrix products (deterministic on every device), and integer offsets copy pixels
exactly. Offsets are in pixels; what is shifted in from outside is `fill`.

Paper    bilinear law: Geiping et al., Witches' Brew (ICLR 2021), section 4 and its code (continuous shift, zero padding
         in normalised space, that is the mean colour; with probability 1/2 the shifted column grid is negated).
         Integer law: the usual padded random crop (pad by `max_px`, crop at a uniform integer offset).
Promise  `<A x, y> = <x, adjoint(y)>`; no shift and no flip is the identity, bit for bit.
Cost     2 c s^2 (h + w)/2 multiply-adds for an s by s image of c channels: under a percent of a small ResNet.
Shapes   b images, c channels, h rows, w columns.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mithridate.core.errors import Misuse


@dataclass(frozen=True, kw_only=True, eq=False)
class WarpParams:
    """One draw of the law: an offset and a mirror bit per image.

    Args:
        dy: Row offset in pixels; output row i reads input row i + dy.
        dx: Column offset in pixels; output column j reads column j + dx of the (possibly mirrored) input.
        flip: Whether the image is mirrored left to right before the shift.
    """

    dy: Float[Tensor, " b"]
    dx: Float[Tensor, " b"]
    flip: Bool[Tensor, " b"]

    def rows(self, start: int, stop: int) -> "WarpParams":
        """The draw for images `start` to `stop` (a chunk)."""
        return WarpParams(dy=self.dy[start:stop], dx=self.dx[start:stop], flip=self.flip[start:stop])


@dataclass(frozen=True, kw_only=True)
class Shift:
    """Random shift and mirror.

    Args:
        law: `bilinear` (uniform continuous offset) or `integer` (uniform whole pixels, as a padded random crop).
        max_px: Largest offset in pixels in either direction; whole for the integer law.
        flip: Mirror with probability one half.
        fill: Colour outside the image: the data's `mean` (zero after normalisation) or `black`.
    """

    law: str = "bilinear"
    max_px: float | int = 4.0
    flip: bool = True
    fill: str = "mean"

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("law", self.law, ("bilinear", "integer")),
            ("fill", self.fill, ("mean", "black")),
        ):
            if value not in allowed:
                raise Misuse("MTH-0110", f"Shift: {name} must be one of {', '.join(allowed)}, got {value!r}")
        if not 0 <= self.max_px <= 1024:
            raise Misuse("MTH-0110", f"Shift: max_px must be in [0, 1024], got {self.max_px}")
        if self.law == "integer" and self.max_px != int(self.max_px):
            raise Misuse("MTH-0110", f"Shift: max_px must be a whole number for the integer law, got {self.max_px}")

    def draw(
        self, n: int, size: tuple[int, int], gen: torch.Generator, device: torch.device | str = "cpu"
    ) -> WarpParams:
        """Draw offsets and mirror bits for `n` images of `size` rows and columns.

        Args:
            n: Number of images.
            size: Rows and columns of the images; the offset must leave a part of them visible.
            gen: Source of randomness; three numbers per image are consumed whatever the law.
            device: Where the draw is wanted (the generator may live elsewhere).
        """
        if self.max_px > min(size):
            raise Misuse("MTH-0110", f"Shift: max_px={self.max_px} exceeds the image size {size[0]}x{size[1]}")
        u = torch.rand(3, n, generator=gen, device=gen.device).to(device, non_blocking=True)
        if self.law == "integer":
            # the clamp guards the one float below 1 that rounds up when multiplied
            offset = (u[:2] * (2 * self.max_px + 1)).floor().clamp_max(2 * self.max_px) - self.max_px
        else:
            offset = (2 * u[:2] - 1) * self.max_px
        flip = u[2] < 0.5 if self.flip else torch.zeros(n, dtype=torch.bool, device=u.device)
        return WarpParams(dy=offset[0], dx=offset[1], flip=flip)

    def fill_colour(self, mean: tuple[float, ...], *, like: Tensor) -> Float[Tensor, " c"]:
        """The outside colour in [0, 1] for data with channel `mean`, with dtype and device of `like`."""
        colour = mean if self.fill == "mean" else tuple(0.0 for _ in mean)
        return torch.tensor(colour, dtype=like.dtype, device=like.device)

    def apply(
        self, x: Float[Tensor, "b c h w"], params: WarpParams, fill: Float[Tensor, " c"]
    ) -> Float[Tensor, "b c h w"]:
        """Warp the images; differentiable in `x`, and exact for whole offsets."""
        rows, columns = _operators(x, params)
        bare = 1 - rows.sum(2)[:, None, :, None] * columns.sum(2)[:, None, None, :]
        return torch.addcmul(_sandwich(rows, x, columns), fill.to(x.dtype)[:, None, None], bare)

    def adjoint(self, y: Float[Tensor, "b c h w"], params: WarpParams) -> Float[Tensor, "b c h w"]:
        """Apply the transposed warp: pulls a gradient at the warped image back to the image."""
        rows, columns = _operators(y, params)
        return _sandwich(rows.transpose(1, 2), y, columns.transpose(1, 2))


Augmentation = Shift


def published_shift(size: int) -> float:
    """Largest shift in pixels that Witches' Brew uses for images of `size` pixels (32: 4, 28: 2, 64: 8, 224: 28)."""
    return 2.0 if size == 28 else size / 8


def _sandwich(
    rows: Float[Tensor, "b h h"], x: Float[Tensor, "b c h w"], columns: Float[Tensor, "b w w"]
) -> Float[Tensor, "b c h w"]:
    """Return R_i x_i C_i^T for every image: one product an image and side, over all channels at once."""
    b, c, h, w = x.shape
    with torch.autocast(x.device.type, enabled=False):
        moved = torch.bmm(rows, x.transpose(1, 2).reshape(b, h, c * w))
        moved = torch.bmm(moved.view(b, h * c, w), columns.transpose(1, 2))
    return moved.view(b, h, c, w).transpose(1, 2)


def _operators(
    like: Float[Tensor, "b c h w"], params: WarpParams
) -> tuple[Float[Tensor, "b h h"], Float[Tensor, "b w w"]]:
    """Interpolation matrices: output position by input position, rows of weights that sum to at most one."""
    height, width = like.shape[-2:]
    i = torch.arange(height, dtype=like.dtype, device=like.device)
    j = torch.arange(width, dtype=like.dtype, device=like.device)
    reads_row = i + params.dy.to(like.dtype)[:, None]
    reads_column = j + params.dx.to(like.dtype)[:, None]
    reads_column = torch.where(params.flip[:, None], width - 1 - reads_column, reads_column)
    rows = (1 - (reads_row[:, :, None] - i).abs()).clamp_min(0)
    columns = (1 - (reads_column[:, :, None] - j).abs()).clamp_min(0)
    return rows, columns
