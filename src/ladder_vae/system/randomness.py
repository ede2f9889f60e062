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


def stream_seed(*keys: int | str) -> int:
    """A 63-bit seed from integers and words. Similar keys give unrelated seeds.

    Example:
        >>> stream_seed(1, "train", 0) == stream_seed(1, "train", 0)
        True
        >>> stream_seed(1, "train", 0) == stream_seed(1, "train", 1)
        False
    """
    words = [zlib.crc32(key.encode()) if isinstance(key, str) else key for key in keys]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))
