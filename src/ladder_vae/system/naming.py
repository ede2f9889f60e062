"""How levels are named wherever people meet them."""


def z_name(level: int) -> str:
    """``z3`` for level index 2: code counts levels from 0, people count them from 1."""
    return f"z{level + 1}"
