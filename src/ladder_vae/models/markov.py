"""The Markov generative model p(z_L) prod p(z_l | z_{l+1}) p(x | z_1), shared by several pathways."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from ladder_vae.gaussian import Gaussian, standard_normal
from ladder_vae.hierarchy import ImageShape, Rung
from ladder_vae.nets import MLP, ImageDecoder, SoftplusHead


class MarkovRung(Rung):
    """p(z_l | z_{l+1}) = N(net(z_{l+1})), or N(0, I) at the top, where ``prior_net`` is None."""

    def __init__(self, latents: int, prior_net: nn.Module | None) -> None:
        super().__init__()
        self.event_shape = (latents,)
        self.prior_net = prior_net

    def prior(self, state: Tensor | None, like: Tensor) -> Gaussian:
        if self.prior_net is None:
            return standard_normal(self.event_shape, like)
        return self.prior_net(state)


def mirrored_priors(
    latents: Sequence[int], hidden: Sequence[int], *, batch_norm: bool
) -> list[nn.Module | None]:
    """Net of p(z_l | z_{l+1}) per level: MLP as wide as the one that leads *up* to level l+1, softplus head.

    None at the top, whose prior is N(0, I).
    """
    nets: list[nn.Module | None] = [
        nn.Sequential(MLP(above, width, batch_norm=batch_norm), SoftplusHead(width, below))
        for (below, above), width in zip(pairwise(latents), hidden[1:], strict=True)
    ]
    return [*nets, None]


def mirrored_decoder(latents: int, hidden: int, image: ImageShape, *, batch_norm: bool) -> ImageDecoder:
    """z_1 ``(*, latents)`` to logits ``(*, C, H, W)`` by an MLP as wide as the one that reads the image."""
    return ImageDecoder(MLP(latents, hidden, batch_norm=batch_norm), hidden, image)
