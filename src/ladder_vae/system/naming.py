"""How levels are named wherever people meet them."""

from __future__ import annotations

from itertools import pairwise


def z_name(level: int) -> str:
    """``z3`` for level index 2: code counts levels from 0, people count them from 1."""
    return f"z{level + 1}"


CURVES = 16  # rates that training draws over time, at most


def level_groups(num_layers: int, most: int | None = None) -> dict[str, slice]:
    """Split the levels into at most ``most`` groups of neighbours, as equal as they can be.

    Returns:
        The levels of each group by its name, from the image up: ``z3`` for one level, ``z1-z4`` for four.
        None makes a group of each level.
    """
    count = min(num_layers, most or num_layers)
    cuts = [group * num_layers // count for group in range(count + 1)]
    parts = [slice(low, high) for low, high in pairwise(cuts)]
    return {"-".join(dict.fromkeys((z_name(p.start), z_name(p.stop - 1)))): p for p in parts}
