"""Tiles of the two photographs that come with scikit-learn."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ladder_vae.data.data_sets import ImageData
from ladder_vae.data.sources import Images
from ladder_vae.system.errors import UserError

TRAIN, TEST = "china.jpg", "flower.jpg"


class Photographs(ImageData):
    """Natural images in color without a download, for tests and examples: tiles of two photographs.

    They come with scikit-learn (``sklearn.datasets.load_sample_images``): a temple by danielbuechele, whose
    tiles train, and a flower by vultilion, whose tiles test (both CC BY 2.0), so that no photograph is in
    both. Each has 427 rows and 640 columns, which make
    260 tiles of 32 pixels; what is left at the right and the bottom is not used. Tiles are in the order of
    rows. Validation tiles, the last ones, are of the training photograph. There are no labels.

    Args:
        size: Height and width of a tile in pixels.
    """

    channels = 3

    def __init__(self, size: int = 32, val_size: int = 60, **settings) -> None:
        super().__init__(val_size=val_size, **settings)
        if not 1 <= size <= 213:
            raise UserError(f"data.size={size} must be from 1 to 213, half the height of a photograph")
        self.size = size

    def load(self) -> Images:
        photographs = _photographs()
        return Images(tiles(photographs[TRAIN], self.size), tiles(photographs[TEST], self.size))


@lru_cache(maxsize=1)
def _photographs() -> dict[str, np.ndarray]:
    """The photographs by name, bytes ``(427, 640, 3)``."""
    from sklearn.datasets import load_sample_images  # imported here, because it takes a second

    found = load_sample_images()
    return {Path(name).name: image for name, image in zip(found.filenames, found.images, strict=True)}


def tiles(photograph: np.ndarray, size: int) -> Tensor:
    """Cut an image ``(H, W, C)`` into squares that do not overlap, ``(N, C, size, size)``, row by row."""
    rows, columns = photograph.shape[0] // size, photograph.shape[1] // size
    whole = torch.from_numpy(photograph[: rows * size, : columns * size].copy())
    cut = whole.unflatten(0, (rows, size)).unflatten(2, (columns, size))  # (rows, size, columns, size, C)
    return cut.permute(0, 2, 4, 1, 3).flatten(0, 1).contiguous()
