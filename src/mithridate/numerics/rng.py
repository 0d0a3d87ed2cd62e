"""Torch generators by address."""

import torch

from mithridate.core.seeds import address


def generator(seed: int, *path: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator on `device` whose stream depends only on `seed` and `path`."""
    return torch.Generator(device=device).manual_seed(address(seed, *path))
