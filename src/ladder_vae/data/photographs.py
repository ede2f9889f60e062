"""Tiles of photographs that come with Python packages."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ladder_vae.data.data_sets import ImageData
from ladder_vae.data.sources import Images
from ladder_vae.system.errors import UserError
from ladder_vae.system.memory import total_memory

#: Names of photographs by the package that they come with.
PHOTOGRAPHS = {
    "scikit-learn": ("china", "flower"),
    "matplotlib": ("grace_hopper",),
    "scikit-image": ("astronaut", "chelsea", "coffee", "motorcycle", "rocket"),
}
NAMES = tuple(name for names in PHOTOGRAPHS.values() for name in names)


class Photographs(ImageData):
    """Natural images in color without a download: tiles of photographs that come with Python packages.

    Unless ``val_size`` is given, each photograph belongs to one split, so that validation and test are of
    photographs that were not trained on. ``china``, a temple by danielbuechele, and ``flower`` by vultilion
    (both CC BY 2.0) come with scikit-learn, the portrait ``grace_hopper`` with matplotlib; ``astronaut``,
    ``chelsea`` (a cat), ``coffee``, ``motorcycle`` (the left one of a pair) and ``rocket`` come with
    scikit-image, which has to be installed for them. They have 300 to 600 rows and 451 to 741 columns. Some
    are JPEG files, whose 8x8 blocks can be seen in the pixels.

    Tiles are in the order of the names, and of rows. Those that validate and test do not overlap; what is
    left at the right and the bottom is not used. There are no labels.

    Args:
        size: Height and width of a tile in pixels.
        train: Names of the photographs that train.
        val: Names of the photographs that validate; there may be none.
        test: Names of the photographs that test.
        stride: Pixels from one training tile to the next, to the right and down; None: ``size``, so that
            tiles do not overlap. With a multiple of 8 they all begin where a block of a JPEG file does, as
            those that validate and test do if ``size`` is one, too.
        mirror: Whether training tiles are there a second time with left and right exchanged.
        val_size: None validates on the photographs of ``val``; a number validates on so many last tiles of
            ``train`` and ``val`` together.

    Raises:
        UserError: If a setting is out of range, a name is unknown or in two splits, or ``val_size`` would
            validate on pixels that train.
    """

    channels = 3

    def __init__(
        self,
        size: int = 32,
        train: Sequence[str] = ("china",),
        val: Sequence[str] = (),
        test: Sequence[str] = ("flower",),
        stride: int | None = None,
        mirror: bool = False,
        val_size: int | None = None,
        **settings,
    ) -> None:
        super().__init__(val_size=val_size or 0, **settings)
        if not 1 <= size <= 213:
            raise UserError(f"data.size={size} must be from 1 to 213, so that each photograph has some tiles")
        if stride is not None and not 1 <= stride <= size:
            raise UserError(f"data.stride={stride} must be from 1 to data.size={size}, or null for that")
        self.size, self.stride, self.mirror = size, stride or size, mirror
        self.names = {"train": tuple(train), "val": tuple(val), "test": tuple(test)}
        _check_names(self.names)
        self.own_validation = val_size is None

    def load(self) -> Images:
        self._check_memory()
        train = self._tiles("train", self.stride)
        if self.mirror:
            train = torch.cat([train, train.flip(-1)])
        val = self._tiles("val", self.size)
        if self.own_validation:
            self.val_size = len(val)
        elif self.val_size > len(val) and (self.mirror or self.stride < self.size):
            raise UserError(
                f"data.val_size={self.val_size} would validate on pixels that train, since training tiles "
                "overlap or are mirrored; name photographs in data.val, and leave data.val_size at null"
            )
        return Images(torch.cat([train, val]), self._tiles("test", self.size), held_out=len(val))

    def _tiles(self, split: str, stride: int) -> Tensor:
        """The tiles of a split's photographs, ``(N, 3, size, size)``."""
        cut = [tiles(photograph(name), self.size, stride) for name in self.names[split]]
        return torch.cat([torch.empty(0, 3, self.size, self.size, dtype=torch.uint8), *cut])

    def _check_memory(self) -> None:
        """Raises UserError if overlapping tiles would not fit into the memory of this machine."""
        count = 0
        for name in self.names["train"]:
            rows, columns = ((side - self.size) // self.stride + 1 for side in photograph(name).shape[:2])
            count += rows * columns * (2 if self.mirror else 1)
        needed, there = 3 * count * 3 * self.size**2, total_memory("cpu")  # they are joined, and copied
        if needed > there:
            raise UserError(
                f"data.stride={self.stride} makes {count:,} training tiles, which take "
                f"{needed / 2**30:,.1f} GiB, and this machine has {there / 2**30:,.1f}; "
                "raise data.stride"
            )


@lru_cache(maxsize=len(NAMES))
def photograph(name: str) -> np.ndarray:
    """A photograph by its name, one of ``NAMES``: bytes ``(H, W, 3)``, which may not be written to.

    Raises:
        UserError: If the package that it comes with is not installed, or came without it.
    """
    package = next(package for package, names in PHOTOGRAPHS.items() if name in names)
    try:
        image = np.array(_READERS[package](name))
    except ImportError:
        raise UserError(
            f"the photograph {name} comes with {package}; install it (pip install {package}), or name others "
            "in data.train, data.val and data.test"
        ) from None
    except OSError as error:
        raise UserError(f"{package} came without its photograph {name} ({error}); name another") from None
    image.setflags(write=False)
    return image


def tiles(image: np.ndarray, size: int, stride: int | None = None) -> Tensor:
    """Cut an image into squares, row by row.

    Args:
        image: Bytes ``(H, W, C)``.
        size: Height and width of a square.
        stride: Pixels from one square to the next; None: ``size``, so that they do not overlap.

    Returns:
        ``(N, C, size, size)``. What is left at the right and the bottom is in none.
    """
    step = stride or size
    whole = torch.from_numpy(image.copy())
    cut = whole.unfold(0, size, step).unfold(1, size, step)  # (rows, columns, C, size, size)
    return cut.flatten(0, 1).contiguous()


def _check_names(splits: dict[str, tuple[str, ...]]) -> None:
    """Raises UserError if a name is unknown or given twice, or no photograph trains or tests."""
    seen: dict[str, str] = {}
    for split, names in splits.items():
        if not names and split != "val":
            raise UserError(f"data.{split} is empty; name photographs: {', '.join(NAMES)}")
        for name in names:
            if name not in NAMES:
                raise UserError(f"data.{split} names {name}; the photographs are {', '.join(NAMES)}")
            if name in seen:
                raise UserError(
                    f"the photograph {name} is in data.{seen[name]} and data.{split}; each belongs to one"
                    if seen[name] != split
                    else f"data.{split} names {name} twice"
                )
            seen[name] = split


# Packages are imported where they are needed, because each takes a second.
def _of_scikit_learn(name: str) -> np.ndarray:
    from sklearn.datasets import load_sample_image

    return load_sample_image(f"{name}.jpg")


def _of_matplotlib(name: str) -> Image.Image:
    from matplotlib.cbook import get_sample_data

    return Image.open(get_sample_data(f"{name}.jpg", asfileobj=False))


def _of_scikit_image(name: str) -> np.ndarray:
    from skimage import data

    return data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)()


_READERS = {
    "scikit-learn": _of_scikit_learn,
    "matplotlib": _of_matplotlib,
    "scikit-image": _of_scikit_image,
}
