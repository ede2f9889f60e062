"""Learning-rate schedules that know the length of the run.

A schedule is called once, as ``schedule(optimizer, total_steps=N)``, and stepped after every
optimizer step. Any callable of that form can be named by ``_target_``.
"""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(
    optimizer: Optimizer, total_steps: int, warmup_steps: int = 0, final_factor: float = 0.0
) -> LambdaLR:
    """Raise the learning rate linearly over ``warmup_steps``, then lower it by half a cosine.

    Args:
        warmup_steps: Steps over which the rate rises to the optimizer's.
        final_factor: Share of the optimizer's rate that the cosine ends at; 0.01 in NVAE (Vahdat and Kautz
            2020, arXiv 2007.03898).

    Raises:
        ValueError: If ``warmup_steps`` is negative, or ``final_factor`` does not lie in [0, 1].
    """
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps={warmup_steps} must be at least 0")
    if not 0 <= final_factor <= 1:
        raise ValueError(f"final_factor={final_factor} must lie in [0, 1]")

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return final_factor + (1 - final_factor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return LambdaLR(optimizer, factor)


def constant(optimizer: Optimizer, total_steps: int) -> LambdaLR:
    """Keep the learning rate constant."""
    return LambdaLR(optimizer, lambda step: 1.0)
