"""One level of a hierarchy: what its prior and its posterior read, and what it passes on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ladder_vae.maths.gaussian import Gaussian, standard_normal


class Rung(nn.Module):
    """One level: its prior, its posterior, and the state that it passes to the level below.

    The *state*, ``(*lead, ...)``, is all that a level sees of the levels above. At the top, and only there,
    it is ``None``.

    Args:
        event_shape: Shape of one image's z_l.
        prior_net: Maps the state to p(z_l | z_>l). It is None at the top, where the prior is N(0, I).
    """

    zero: Tensor

    def __init__(self, event_shape: tuple[int, ...], prior_net: nn.Module | None) -> None:
        super().__init__()
        self.event_shape = event_shape
        self.prior_net = prior_net
        self.register_buffer("zero", torch.zeros(()), persistent=False)  # has the model's device and dtype

    def prior(self, state: Any) -> Gaussian:
        """p(z_l | z_>l), with parameters ``(*lead, *event)``; at the top ``(*event,)``."""
        if self.prior_net is None:
            return standard_normal(self.event_shape, like=self.zero)
        return self.prior_net(state)

    def posterior(self, evidence: Any, state: Any, p: Gaussian) -> Gaussian:
        """q(z_l | x, z_>l) of top-down inference, parameters ``(K, B, *event)``; at the top ``(B, *event)``.

        Args:
            evidence: The entry of :meth:`TopDown.encode` for this level, ``(B, ...)``.
            state: The state from above, ``(K, B, ...)``; None at the top.
            p: The prior of this level.

        Raises:
            TypeError: If the rung has no top-down posterior, as in a bottom-up model.
        """
        raise TypeError(f"{type(self).__name__} has no top-down posterior")

    def descend(self, state: Any, z: Tensor) -> Any:
        """The state for the level below, ``(*lead, ...)``. In a Markov hierarchy it is ``z`` alone.

        Args:
            state: The state that this level got, ``(*lead, ...)``; None at the top.
            z: The latent of this level, ``(*lead, *event)``.
        """
        return z
