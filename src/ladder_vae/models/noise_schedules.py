"""How noise grows with time in a diffusion: gamma, minus the log signal-to-noise ratio, of t in [0, 1]."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ladder_vae.system.ranks import batch_mean

LEAST_SHARE = 0.1  # of what a piece would have if all were equal, so that no piece vanishes
#: Gamma of the upper end above which nothing of the image is left: the top's rate is below 1e-6 nats for 784
#: pixels. Nothing pulls such an end back, and Adam would carry it on by the sign of however small a gradient.
FARTHEST = 20.0


class NoiseSchedule(nn.Module):
    r"""$\gamma(t)$ grows from $\gamma(0)$ to $\gamma(1)$ in straight pieces, which are equally high.

    A piece covers an equal part of the range of gamma and a share of the time that may be learned. With one
    piece the schedule is linear. Both ends are held exactly, whatever is learned between.

    Args:
        lowest: Gamma at t = 0, where there is least noise.
        highest: Gamma at t = 1.
        pieces: Number of pieces.
        learned_ends: Whether training changes the two ends.

    Raises:
        ValueError: If the ends are out of order or too far out for float32, or there is no piece.
    """

    def __init__(
        self, lowest: float = -3.0, highest: float = 8.0, pieces: int = 1, learned_ends: bool = True
    ) -> None:
        super().__init__()
        if not -30 <= lowest < highest <= 30:
            raise ValueError(
                f"gamma, minus the log signal-to-noise ratio, goes from gamma_min={lowest:g} to "
                f"gamma_max={highest:g}; it must rise, between -30 and 30"
            )
        if pieces < 1:
            raise ValueError(f"pieces={pieces} must be at least 1")
        self.lowest = nn.Parameter(torch.tensor(float(lowest)), requires_grad=learned_ends)
        self.log_range = nn.Parameter(torch.tensor(math.log(highest - lowest)), requires_grad=learned_ends)
        self.pieces = pieces
        if pieces > 1:
            self.shape = nn.Parameter(torch.zeros(pieces))

    def range(self) -> Tensor:
        """gamma(1) - gamma(0), ``()``. It has no gradient where gamma(1) is above ``FARTHEST``."""
        found = torch.exp(self.log_range)
        return torch.where(self.lowest + found > FARTHEST, found.detach(), found)

    def highest(self) -> Tensor:
        """gamma(1), ``()``."""
        return self.lowest + self.range()

    def shares(self) -> Tensor:
        """The share of the time that each piece has, ``(pieces,)``."""
        if self.pieces == 1:
            return torch.ones_like(self.lowest)[None]
        return (1 - LEAST_SHARE) * self.shape.softmax(0) + LEAST_SHARE / self.pieces

    def at(self, t: Tensor, *, shape_fixed: bool = False) -> tuple[Tensor, Tensor]:
        r"""$\gamma(t)$ and its slope $\gamma'(t)$, both of the shape of ``t``.

        Args:
            t: Times in [0, 1].
            shape_fixed: Whether neither has a gradient by the shares.
        """
        shares = self.shares()
        shares = shares.detach() if shape_fixed else shares
        edges = torch.cat([shares.new_zeros(1), shares.cumsum(0)[:-1], shares.new_ones(1)])
        t = t.to(edges)
        piece = torch.searchsorted(edges[1:-1].contiguous().detach(), t.contiguous(), right=True)
        start, length = edges[piece], edges.diff()[piece]
        height = (piece + (t - start) / length) / self.pieces
        return self.lowest + self.range() * height, self.range() / (self.pieces * length)

    def forward(self, t: Tensor) -> Tensor:
        r"""$\gamma(t)$."""
        return self.at(t)[0]

    def spread(self, t: Tensor, squared: Tensor) -> Tensor:
        r"""What the second moment of a loss is proportional to, as a function of the shares alone, ``()``.

        In the limit of many steps the mean of the loss does not depend on how gamma rises between its ends,
        but its variance does (Kingma et al. 2021, section 5.1). With a density p of gamma under uniform t, a
        loss is w(gamma) / p(gamma); its second moment under other shares is the mean of
        $w^2 / (p\,\tilde p)$ over draws from p. Its gradient needs no gradient of w. The value is 1.
        Processes that share a batch have the same, that of the whole batch.

        Args:
            t: The times of some losses.
            squared: The squares of these losses, of the same shape.
        """
        if self.pieces == 1 or not torch.is_grad_enabled():  # processes evaluate as many batches as each has
            return torch.ones_like(self.lowest)
        slope = self.at(t)[1] / self.range()  # 1 / p
        moments = squared.detach() * slope / slope.detach()
        mean = batch_mean(moments)
        return mean / mean.detach().clamp(min=torch.finfo(moments.dtype).tiny)
