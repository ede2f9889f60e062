"""The evidence lower bound and what training minimizes in its place."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ladder_vae.maths.bounds import mean_bound
from ladder_vae.models.inference import Terms


@dataclass(frozen=True)
class Objective:
    r"""Loss $= D + \sum_l \beta \max(\lambda, R_l)$ with warm-up of beta and free bits.

    D is the batch mean of the distortion and R_l that of a level's rate. With beta = 1 and lambda = 0 the
    loss is minus the ELBO.

    Args:
        beta_warmup_epochs: Epochs over which beta grows linearly from 0 to 1 (0: beta is 1).
        free_bits: lambda, nats per level below which a rate costs nothing more
            (Kingma et al. 2016, arXiv 1606.04934).
        monte_carlo_rates: Train on log q - log p of the sample instead of the closed-form KL.
        importance_samples: K. Above 1 the loss is minus L_K, the importance-weighted bound of K draws
            (Burda et al. 2016, arXiv 1509.00519, eq. 8), and none of the above applies.

    Raises:
        ValueError: If a number is out of range, or one is set that L_K has no room for.
    """

    beta_warmup_epochs: float = 0.0
    free_bits: float = 0.0
    monte_carlo_rates: bool = False
    importance_samples: int = 1

    def __post_init__(self) -> None:
        for name in ("beta_warmup_epochs", "free_bits"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.importance_samples < 1:
            raise ValueError(f"importance_samples must be at least 1, got {self.importance_samples}")
        if self.importance_samples > 1:
            for name in ("beta_warmup_epochs", "free_bits", "monte_carlo_rates"):
                if getattr(self, name):
                    raise ValueError(
                        f"importance_samples={self.importance_samples} trains on L_K, which has no place for "
                        f"{name}={getattr(self, name)}; set objective.{name}=0"
                    )

    def beta(self, epochs_done: float) -> float:
        """Weight of the rates after ``epochs_done`` epochs; fractions count."""
        if self.beta_warmup_epochs == 0:
            return 1.0
        return min(1.0, epochs_done / self.beta_warmup_epochs)

    def loss(self, terms: Terms, beta: float | Tensor) -> Tensor:
        """What training minimizes, shape ``()``.

        Args:
            terms: Of a batch, ``(K, B)`` and ``(L, K, B)``.
            beta: Weight of the rates; L_K has none.
        """
        if self.importance_samples > 1:
            return -mean_bound(terms.elbo)
        terms = terms.mean()
        # Without free bits nothing is clamped: a Monte Carlo rate may pass below zero.
        rates = terms.rates.clamp(min=self.free_bits) if self.free_bits > 0 else terms.rates
        return terms.distortion + beta * rates.sum()
