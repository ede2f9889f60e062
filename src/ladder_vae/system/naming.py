"""How levels are named wherever people meet them."""

from __future__ import annotations

import operator
import re
from itertools import pairwise
from typing import Any


def z_name(level: int) -> str:
    """``z3`` for level index 2: code counts levels from 0, people count them from 1."""
    return f"z{level + 1}"


def level_index(level: Any, num_layers: int) -> int:
    """The index of a level that is given by its name, ``"z2"``, or by its index, 1.

    Raises:
        ValueError: If there is no such level.

    Example:
        >>> level_index("z2", 3), level_index(1, 3)
        (1, 1)
    """
    index = -1
    if isinstance(level, str):
        index = int(level[1:]) - 1 if re.fullmatch(r"z\d{1,9}", level) else -1
    elif not isinstance(level, bool) and hasattr(level, "__index__"):
        index = operator.index(level)
    if not 0 <= index < num_layers:
        names = f"levels are {z_name(0)} to {z_name(num_layers - 1)}, or their indices 0 to {num_layers - 1}"
        raise ValueError(
            f"level {level!r} does not exist: "
            + (names if num_layers > 1 else "there is one level, z1, whose index is 0")
        )
    return index


CURVES = 16  # rates that training draws over time, at most


def level_groups(num_layers: int, most: int | None = None) -> dict[str, slice]:
    """Split the levels into at most ``most`` groups of neighbors, as equal as they can be.

    Returns:
        The levels of each group by its name, from the image up: ``z3`` for one level, ``z1-z4`` for four.
        None makes a group of each level.
    """
    count = min(num_layers, most or num_layers)
    cuts = [group * num_layers // count for group in range(count + 1)]
    parts = [slice(low, high) for low, high in pairwise(cuts)]
    return {"-".join(dict.fromkeys((z_name(p.start), z_name(p.stop - 1)))): p for p in parts}
