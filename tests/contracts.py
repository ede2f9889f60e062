"""What every model of the package has to keep: the list of models, and small ones of each kind to try it on.

A new model joins every contract by one word, in ``MODELS``.
"""

from __future__ import annotations

import inspect
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

import ladder_vae.conf
from ladder_vae.models import (
    NVAE,
    BottomUpVAE,
    ConvolutionalVAE,
    Diffusion,
    LadderVAE,
    ResidualVAE,
    TextbookVAE,
)
from ladder_vae.models.hierarchy import Hierarchy, TopDown

MODELS = [TextbookVAE, LadderVAE, BottomUpVAE, ResidualVAE, ConvolutionalVAE, Diffusion]
#: With NVAE, which is a convolutional one with other settings.
CLASSES = [*MODELS, NVAE]

#: Of these, z_1 is all that the image sees, and every level has a width of its own.
MARKOV = [cls for cls in MODELS if "hidden_sizes" in inspect.signature(cls).parameters]
#: Of these, a latent is a vector.
DENSE = [cls for cls in MODELS if "latent_sizes" in inspect.signature(cls).parameters]
MANY = {cls: 20_000 if cls in DENSE else 1_000 for cls in MODELS}  # draws of which a mean is looked at
#: Of these, training sees all levels of each image, and a level says what it learned to say.
LEARNED = [cls for cls in MODELS if not cls.estimates_rates]
TOP_DOWN = [cls for cls in MODELS if issubclass(cls, TopDown)]
SHAPE = (1, 6, 5)

CONF = Path(ladder_vae.conf.__file__).parent / "model"


def config_name(cls: type[Hierarchy]) -> str:
    """What stands behind ``model=`` for the class."""
    targets = {path.stem: yaml.safe_load(path.read_text())["_target_"] for path in CONF.glob("*.yaml")}
    (name,) = [name for name, target in targets.items() if target == f"ladder_vae.models.{cls.__name__}"]
    return name


NAMES = [config_name(cls) for cls in MODELS]
BY_NAME = {config_name(cls): cls for cls in CLASSES}


def sizes(cls: type[Hierarchy], latents: list[int], hidden: list[int]) -> dict[str, object]:
    """The keywords that make a model small: units and width of each level, where it has such settings."""
    if cls in DENSE:
        widths = {"hidden_sizes": hidden} if cls in MARKOV else {"width": hidden[0]}
        return {"latent_sizes": latents, **widths}
    if cls is Diffusion:
        return {"width": hidden[0] // 2, "blocks": 1, "denoiser": "dense", "continuous": False}
    return {"scale": 0.05} if cls is NVAE else {"width": hidden[0] // 2, "encoder_blocks": 1}


def small(
    cls: type[Hierarchy], num_layers: int = 3, shape: tuple[int, int, int] = SHAPE, **settings
) -> Hierarchy:
    """A model of a few units, in float32 and training mode, always with the same weights."""
    torch.manual_seed(0)
    few = sizes(cls, [5, 4, 3][:num_layers], [12, 10, 8][:num_layers])
    model = cls(shape, num_layers, **few | settings)
    for rung in model.rungs if cls not in DENSE else ():
        if rung.prior_net is not None:  # begins as N(0, I), whatever lies above
            nn.init.normal_(rung.prior_net[-1].weight, std=0.3)
    return model


def binary_images(n: int = 4, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """The same at every call, float32."""
    return torch.randint(0, 2, (n, *shape), generator=torch.Generator().manual_seed(1)).float()
