"""The loss that training minimizes, from the parts of the evidence lower bound (ELBO)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ladder_vae.maths.bounds import image_bounds
from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.models.inference import Terms
from ladder_vae.system.ranks import batch_mean

# Nats added to each rate before balancing, as in NVAE, so that an unused level has a weight, too.
UNUSED = 0.01


@dataclass(frozen=True)
class Objective:
    r"""The loss is $D + \sum_l \beta \max(\lambda, R_l)$, with warm-up of beta and free bits lambda.

    D is the batch mean of the distortion, and R_l is the batch mean of the rate of level l. With beta = 1 and
    lambda = 0 the loss is minus the ELBO. (Lambda = 0 means no clamping: a Monte Carlo rate may be negative.)
    Processes that share a batch have the same means, those of the whole batch, and the same loss.

    Args:
        beta_warmup_epochs: Epochs over which beta grows linearly from 0 to 1; with 0, beta is always 1.
        free_bits: Lambda in nats per level; a level whose rate is below it gets no gradient from its rate
            (Kingma et al. 2016, arXiv 1606.04934).
        monte_carlo_rates: Whether to train on log q - log p of the sample instead of the closed-form KL.
        importance_samples: Draws K per image. Above 1 the loss is minus L_K, the importance-weighted bound
            (Burda et al. 2015, arXiv 1509.00519, eq. 8), and the other settings but ``spectral`` must be 0 or
            False.
        balance_rates: Whether each rate has the weight of :func:`balance` while beta is below 1, so that a
            level of a high rate per unit costs more, and one that hardly has a rate costs little
            (Vahdat and Kautz 2020, arXiv 2007.03898, appendix A).
        spectral: Strength of the penalty on the spectral norms of the weights, which the training step adds
            (:mod:`~ladder_vae.training.spectral`): lambda of L_SR in section 3.2 there.

    Raises:
        ValueError: If a number is out of range, or settings do not go together.
    """

    beta_warmup_epochs: float = 0.0
    free_bits: float = 0.0
    monte_carlo_rates: bool = False
    importance_samples: int = 1
    balance_rates: bool = False
    spectral: float = 0.0

    def __post_init__(self) -> None:
        for name in ("beta_warmup_epochs", "free_bits", "spectral"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.importance_samples < 1:
            raise ValueError(f"importance_samples must be at least 1, got {self.importance_samples}")
        if self.importance_samples > 1:
            for name in ("beta_warmup_epochs", "free_bits", "monte_carlo_rates", "balance_rates"):
                if getattr(self, name):
                    raise ValueError(
                        f"importance_samples={self.importance_samples} trains on L_K, which has no place for "
                        f"{name}={getattr(self, name)}; set objective.{name}=0"
                    )
        if self.balance_rates and self.beta_warmup_epochs == 0:
            raise ValueError(
                "balance_rates=True weights the rates while beta warms up, and beta_warmup_epochs=0; set "
                "objective.beta_warmup_epochs above 0"
            )
        if self.balance_rates and self.free_bits:
            # Both make a low rate cheap. Below free bits a rate has no gradient that a weight could change.
            raise ValueError(
                f"balance_rates=True and free_bits={self.free_bits} both keep levels in use; set one to 0"
            )

    def misfit(self, model: Hierarchy) -> str:
        """Why this model cannot be trained like that; empty if it can."""
        kind = type(model).__name__
        if model.estimates_rates:
            for name, plain in (
                ("free_bits", 0),
                ("balance_rates", False),
                ("monte_carlo_rates", False),
                ("importance_samples", 1),
            ):
                if getattr(self, name) != plain:
                    return (
                        f"objective.{name}={getattr(self, name)} needs all levels of each image, of which "
                        f"{kind} trains a few; set objective.{name}={str(plain).lower()}"
                    )
        for name in ("free_bits", "balance_rates"):
            if getattr(self, name) and not model.closed_form_rates:
                return (
                    f"objective.{name}={getattr(self, name)} needs rates that cannot be negative, which "
                    f"{kind} does not have below its top level; set objective.{name}=0"
                )
        return ""

    def beta(self, epochs_done: float) -> float:
        """Weight of the rates after ``epochs_done`` epochs, which may be a fraction."""
        if self.beta_warmup_epochs == 0:
            return 1.0
        return min(1.0, epochs_done / self.beta_warmup_epochs)

    def loss(self, terms: Terms, beta: float | Tensor, units: Tensor | None = None) -> Tensor:
        """The loss of a batch, nats per image, shape ``()``.

        Args:
            terms: Distortion ``(K, B)`` and rates ``(L, K, B)`` of the batch.
            beta: Weight of the rates; it is not used for L_K.
            units: Number of units of each level, z_1 first, ``(L,)``, which ``balance_rates`` needs.
        """
        if self.importance_samples > 1:
            return -batch_mean(image_bounds(terms.elbo))
        terms = terms.mean()
        # Without free bits rates are not clamped, since a Monte Carlo rate may be negative.
        rates = terms.rates.clamp(min=self.free_bits) if self.free_bits > 0 else terms.rates
        if self.balance_rates:
            assert units is not None
            warming = torch.as_tensor(beta, device=rates.device) < 1
            rates = rates * torch.where(warming, balance(rates, units), 1.0)
        return terms.distortion + beta * rates.sum()


def balance(rates: Tensor, units: Tensor) -> Tensor:
    r"""Weights of the rates, $\gamma_l \propto R_l / s_l$ with mean one, ``(L,)``, without a gradient.

    The paper (Vahdat and Kautz 2020, arXiv 2007.03898, appendix A) has the product of R_l and s_l, which its
    author calls a typo (NVlabs/NVAE#26); its code, ``kl_balancer``, divides: by 4^i over the number of levels
    of the i-th resolution, and here by the number of units.

    Args:
        rates: Mean rate R_l of each level over the batch, nats, ``(L,)``.
        units: Number of units s_l of each level, ``(L,)``.
    """
    per_unit = (rates.detach().clamp(min=0) + UNUSED) / units
    return per_unit / per_unit.mean()
