"""Find the steps whose gradient is far longer than usual, so that they change nothing."""

from __future__ import annotations

import torch
from torch import Tensor

DECAY = 0.99  # of the running mean, which has forgotten an old norm after some hundred steps


class GradientSkip:
    """Says which steps to skip: those whose gradient norm is not finite, or far above its running mean.

    Very deep VAEs have rare steps with a huge gradient, and leaving them out keeps training stable (Child
    2021, arXiv 2011.10650). There the largest norm is a fixed number, and if norms rise for good, all later
    steps are skipped (openai/vdvae#25). Here a skipped step moves the running mean, too, by its norm cut to
    the limit: each multiplies the mean by 1 + (1 - DECAY) (factor - 1), until training goes on. A norm that
    is not finite never enters the mean. The first finite norm is the first mean; before it there is no limit.

    The norm is that of the whole gradient before any clipping. A step that is not skipped may be clipped.

    All state lies in tensors, so that a recorded step keeps it up to date.

    Args:
        factor: Multiple of the running mean from which on a step is skipped, above 1.
        device: Where the gradients are.

    Raises:
        ValueError: If the factor is not above 1: the mean could not follow a norm that has risen.
    """

    def __init__(self, factor: float, device: torch.device | str = "cpu") -> None:
        if not factor > 1:
            raise ValueError(f"factor={factor} must be above 1")
        self.factor = factor
        self.mean = torch.zeros((), device=device)  # of the norms; 0: there is none yet
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)  # steps so far
        self.broken = torch.zeros((), dtype=torch.int64, device=device)  # norms in a row that are not finite

    def judge(self, norm: Tensor) -> Tensor:
        """Whether to skip the step with this gradient norm, both ``()``; the norm enters the running mean."""
        finite, begun = norm.isfinite(), self.mean > 0
        limit = torch.where(begun, self.factor * self.mean, torch.inf)
        skip = ~finite | (norm > limit)
        moved = self.mean + (1 - DECAY) * (torch.minimum(norm, limit) - self.mean)
        self.mean.copy_(torch.where(finite, torch.where(begun, moved, norm), self.mean))
        self.broken.add_(1).mul_(~finite)
        self.skipped.add_(skip)
        return skip

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run goes on from."""
        return {"mean": self.mean, "skipped": self.skipped, "broken": self.broken}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from the state of an earlier run."""
        for name, value in self.state_dict().items():
            value.copy_(state[name])
