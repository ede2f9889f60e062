"""What every model of the package has to keep: the list of models, and small ones of each kind to try it on.

A new model joins every contract by one word, in ``MODELS``.
"""

from __future__ import annotations

import inspect
from pathlib import Path

import torch
import yaml
from torch import Tensor

import ladder_vae.conf
from ladder_vae.models import BottomUpVAE, LadderVAE, ResidualVAE, TextbookVAE
from ladder_vae.models.hierarchy import Hierarchy, TopDown

MODELS = [TextbookVAE, LadderVAE, BottomUpVAE, ResidualVAE]

#: Of these, z_1 is all that the image sees, and every level has a width of its own.
MARKOV = [cls for cls in MODELS if "hidden_sizes" in inspect.signature(cls).parameters]
TOP_DOWN = [cls for cls in MODELS if issubclass(cls, TopDown)]
SHAPE = (1, 6, 5)

CONF = Path(ladder_vae.conf.__file__).parent / "model"


def config_name(cls: type[Hierarchy]) -> str:
    """What stands behind ``model=`` for the class."""
    targets = {path.stem: yaml.safe_load(path.read_text())["_target_"] for path in CONF.glob("*.yaml")}
    (name,) = [name for name, target in targets.items() if target == f"ladder_vae.models.{cls.__name__}"]
    return name


NAMES = [config_name(cls) for cls in MODELS]


def widths(cls: type[Hierarchy], sizes: list[int]) -> dict[str, object]:
    """The keyword that makes the nets of a model small: a width a level, or one for all."""
    return {"hidden_sizes": sizes} if cls in MARKOV else {"width": sizes[0]}


def small(
    cls: type[Hierarchy], num_layers: int = 3, shape: tuple[int, int, int] = SHAPE, **settings
) -> Hierarchy:
    """A model of a few units, in float32 and training mode, always with the same weights."""
    torch.manual_seed(0)
    return cls(shape, num_layers, [5, 4, 3][:num_layers], **widths(cls, [12, 10, 8][:num_layers]), **settings)


def binary_images(n: int = 4, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """The same at every call, float32."""
    return torch.randint(0, 2, (n, *shape), generator=torch.Generator().manual_seed(1)).float()
