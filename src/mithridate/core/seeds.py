"""Randomness has an address: every consumer derives its own integer seed from the run's seed by name.

Adding a consumer never changes another one's draws, and a draw depends on no order of execution.
"""

import hashlib


def address(seed: int, *path: str | int) -> int:
    """Return a 63-bit seed that depends only on `seed` and `path`.

    Args:
        seed: The run's integer seed.
        path: The address of the consumer, such as `("view", "shift", step)`.
    """
    digest = hashlib.sha256(repr((seed, *path)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
