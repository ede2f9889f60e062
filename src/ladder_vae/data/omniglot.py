"""The 28x28 Omniglot characters on which published bounds are measured."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ladder_vae.data.data_sets import ImageData
from ladder_vae.data.npz import as_bytes
from ladder_vae.data.sources import Images
from ladder_vae.system.errors import UserError, one_line

SIDE, ALPHABETS = 28, 50
SHUFFLE_SEED = 123  # as published
SPLITS = {"": 24_345, "test": 8_070}  # prefix of the names in the file: images
SOURCE = "take datasets/OMNIGLOT/chardata.mat of github.com/yburda/iwae"


class Omniglot(ImageData):
    """Handwritten characters of 50 alphabets, 28x28, as Burda et al. 2015 (arXiv 1509.00519) prepared them.

    24,345 train and 8,070 test, all gray; published bounds of "Omniglot" are on this file. The 105x105
    drawings of Lake et al. 2015 (Science 350), which torchvision has, are split otherwise and are another
    data set. A label is the number of the alphabet, from 0.

    Training images are in the order into which the code of that paper shuffles them (github.com/yburda/iwae),
    so that the last 1,345, the default of ``val_size``, are its validation images, too.

    Args:
        path: The file ``chardata.mat``.
    """

    noun = "alphabet"

    def __init__(self, path: str, val_size: int = 1_345, **settings) -> None:
        super().__init__(val_size=val_size, **settings)
        self.path = Path(path).expanduser()

    def load(self) -> Images:
        return load_omniglot(self.path.absolute())


@lru_cache(maxsize=1)
def load_omniglot(path: Path) -> Images:
    """Load ``chardata.mat``.

    ``data`` and ``testdata`` have a column per image: 784 gray levels from 0 to 1, the pixels column by
    column. ``target`` and ``testtarget`` are one-hot, ``(50, N)``.

    Raises:
        UserError: If the file cannot be read or holds something else.
    """
    from scipy.io import loadmat  # imported here, because no other data set needs it at once

    where = f"data.path={path}"
    if not path.is_file():
        what = "is a directory; name the file" if path.is_dir() else "does not exist"
        raise UserError(f"{where} {what}; {SOURCE}")
    names = [f"{prefix}{kind}" for prefix in SPLITS for kind in ("data", "target")]
    try:
        arrays = loadmat(path, variable_names=names)
    except Exception as error:  # whatever the parser makes of another file
        raise UserError(f"{where} is not a readable .mat file ({one_line(error)}); {SOURCE}") from None
    found = [
        tensor
        for prefix, count in SPLITS.items()
        for tensor in (
            _images(arrays, f"{prefix}data", count, where),
            _labels(arrays, f"{prefix}target", count, where),
        )
    ]
    train, train_labels, test, test_labels = found
    order = torch.from_numpy(np.random.RandomState(SHUFFLE_SEED).permutation(len(train)))
    return Images(train[order], test, train_labels[order], test_labels)


def _images(arrays: dict[str, np.ndarray], key: str, count: int, where: str) -> Tensor:
    """Upright images as bytes, ``(count, 1, 28, 28)``."""
    array = _of_shape(arrays, key, (SIDE**2, count), where)
    upright = array.T.reshape(count, SIDE, SIDE).transpose(0, 2, 1)
    return torch.from_numpy(as_bytes(upright, f"{where}: {key}"))


def _labels(arrays: dict[str, np.ndarray], key: str, count: int, where: str) -> Tensor:
    array = _of_shape(arrays, key, (ALPHABETS, count), where)
    if not ((array == 1).sum(0) == 1).all():
        raise UserError(f"{where}: {key} does not name one alphabet per image; {SOURCE}")
    return torch.from_numpy((array == 1).argmax(0))


def _of_shape(arrays: dict[str, np.ndarray], key: str, shape: tuple[int, int], where: str) -> np.ndarray:
    there = np.shape(arrays[key]) if key in arrays else "missing"
    if there != shape:
        raise UserError(f"{where}: {key} is {there}, where {shape} belongs; {SOURCE}")
    return arrays[key]
