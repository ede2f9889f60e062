"""The loss that training minimizes, from the parts of the evidence lower bound (ELBO)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ladder_vae.maths.bounds import mean_bound
from ladder_vae.models.inference import Terms


@dataclass(frozen=True)
class Objective:
    r"""The loss is $D + \sum_l \beta \max(\lambda, R_l)$, with warm-up of beta and free bits lambda.

    D is the batch mean of the distortion, and R_l is the batch mean of the rate of level l. With beta = 1 and
    lambda = 0 the loss is minus the ELBO. (Lambda = 0 means no clamping: a Monte Carlo rate may be negative.)

    Args:
        beta_warmup_epochs: Epochs over which beta grows linearly from 0 to 1; with 0, beta is always 1.
        free_bits: Lambda in nats per level; a level whose rate is below it gets no gradient from its rate
            (Kingma et al. 2016, arXiv 1606.04934).
        monte_carlo_rates: Whether to train on log q - log p of the sample instead of the closed-form KL.
        importance_samples: Draws K per image. Above 1 the loss is minus L_K, the importance-weighted bound
            (Burda et al. 2015, arXiv 1509.00519, eq. 8), and the other settings must be 0 or False.

    Raises:
        ValueError: If a number is out of range, or another setting is combined with L_K.
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
        """Weight of the rates after ``epochs_done`` epochs, which may be a fraction."""
        if self.beta_warmup_epochs == 0:
            return 1.0
        return min(1.0, epochs_done / self.beta_warmup_epochs)

    def loss(self, terms: Terms, beta: float | Tensor) -> Tensor:
        """The loss of a batch, nats per image, shape ``()``.

        Args:
            terms: Distortion ``(K, B)`` and rates ``(L, K, B)`` of the batch.
            beta: Weight of the rates; it is not used for L_K.
        """
        if self.importance_samples > 1:
            return -mean_bound(terms.elbo)
        terms = terms.mean()
        # Without free bits rates are not clamped, since a Monte Carlo rate may be negative.
        rates = terms.rates.clamp(min=self.free_bits) if self.free_bits > 0 else terms.rates
        return terms.distortion + beta * rates.sum()
