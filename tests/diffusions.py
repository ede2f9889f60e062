"""A small diffusion, and Gaussian data of which everything is known: for tests of diffusions."""

from __future__ import annotations

import torch
from torch import Tensor

from ladder_vae.models import Diffusion

SHAPE = (1, 4, 3)
MEAN, VARIANCE = 0.3, 0.6  # of Gaussian data, a pixel
LOWEST, HIGHEST = -3.0, 5.0


def tiny(num_layers: int = 5, **settings: object) -> Diffusion:
    """A diffusion whose denoiser says something of all pixels."""
    settings = {"denoiser": "dense", "width": 4, "blocks": 1} | settings
    torch.manual_seed(3)
    model = Diffusion(SHAPE, num_layers, **settings)
    for parameter in model.denoiser.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def smallest_error(gamma: Tensor) -> Tensor:
    """E[(x - E[x | z_t])^2] of a pixel."""
    return 1 / (1 / VARIANCE + torch.exp(-gamma))
