"""Hierarchies: inference, generation, evaluation; one file per model. A run may name what this exports."""

from ladder_vae.models.bottom_up import BottomUpVAE
from ladder_vae.models.convolutional import ConvolutionalVAE
from ladder_vae.models.diffusion import Diffusion
from ladder_vae.models.ladder import LadderVAE
from ladder_vae.models.nvae import NVAE
from ladder_vae.models.residual import ResidualVAE
from ladder_vae.models.textbook import TextbookVAE

__all__ = ["NVAE", "BottomUpVAE", "ConvolutionalVAE", "Diffusion", "LadderVAE", "ResidualVAE", "TextbookVAE"]
