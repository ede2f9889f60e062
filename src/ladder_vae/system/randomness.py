"""Seeds of independent random streams, which are named by their purpose."""

from __future__ import annotations

import zlib

import numpy as np

from ladder_vae.system.errors import UserError


def check_seed(key: str, seed: int) -> None:
    """Raises UserError unless the seed is from 0 to 2**63 - 1, the range that every generator takes."""
    if not 0 <= seed < 2**63:
        shown = f"{seed}" if abs(seed) < 2**100 else f"a number of {len(str(abs(seed)))} digits"
        raise UserError(f"{key}={shown} must be from 0 to {2**63 - 1}")


def stream_seeds(count: int, *keys: int | str) -> list[int]:
    """Make 63-bit seeds from integers and words. They are unrelated, and to those of similar keys."""
    words = [zlib.crc32(key.encode()) if isinstance(key, str) else key for key in keys]
    state = np.random.SeedSequence(words).generate_state(count, np.uint64)
    return [int(word) for word in state >> np.uint64(1)]


def stream_seed(*keys: int | str) -> int:
    """Make one 63-bit seed; see :func:`stream_seeds`.

    Example:
        >>> stream_seed(1, "train", 0) == stream_seed(1, "train", 0)
        True
        >>> stream_seed(1, "train", 0) == stream_seed(1, "train", 1)
        False
    """
    return stream_seeds(1, *keys)[0]
