"""MNIST, and the fixed binarization of it on which the static bounds of papers were measured."""

from __future__ import annotations

import hashlib
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from ladder_vae.data.data_sets import BINARIZATIONS, ImageData
from ladder_vae.data.sources import Images, load_mnist
from ladder_vae.system.errors import UserError, warn

PIXELS = 28 * 28
ROWS = {"train": 50_000, "valid": 10_000, "test": 10_000}
PUBLISHED = {  # SHA-256 of the files of www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist
    "train": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
    "valid": "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
    "test": "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
}


class MNIST(ImageData):
    """The MNIST digits (LeCun, Cortes and Burges; CC BY-SA 3.0), 28x28; they come with the package.

    Args:
        path: With ``binarization=larochelle``, the directory of its three files; see
            :func:`load_larochelle`.
    """

    noun = "digit"
    binarizations = (*BINARIZATIONS, "larochelle")

    def __init__(self, path: str | None = None, **settings) -> None:
        super().__init__(**settings)
        if self.binarization == "larochelle" and path is None:
            raise UserError(
                "data.binarization=larochelle reads the files of Larochelle and Murray (2011), which do not "
                "come with the package; set data.path to the directory of binarized_mnist_train.amat, ..."
            )
        if self.binarization != "larochelle" and path is not None:
            raise UserError(
                f"data.path={path} is for data.binarization=larochelle alone; set that, or leave the path out"
            )
        self.path = None if path is None else Path(path).expanduser()

    def load(self) -> Images:
        return load_mnist() if self.path is None else load_larochelle(self.path.absolute())


@lru_cache(maxsize=1)
def load_larochelle(directory: Path) -> Images:
    """Load the fixed binarization of MNIST (Larochelle and Murray 2011, The neural autoregressive estimator).

    ``binarized_mnist_train.amat``, ``..._valid.amat`` and ``..._test.amat`` hold one image a line: 784
    numbers, 0 or 1, separated by spaces. The 10,000 images of ``valid`` follow the 50,000 of ``train``, so
    that ``val_size=10000`` validates on them. The files have no labels. The SHA-256 of each is printed on
    standard error, with a warning where it is not that of the published file, and ``status.json`` of a run
    keeps it. A checkpoint keeps the fingerprint of all pixels.

    Raises:
        UserError: If a file is missing or has another form.
    """
    if not directory.is_dir():
        what = "is a file; name its directory" if directory.exists() else "does not exist"
        raise UserError(f"data.path={directory} {what}; it holds binarized_mnist_train.amat, ...")
    paths = {name: directory / f"binarized_mnist_{name}.amat" for name in ROWS}
    found = {name: _read(path, name) for name, path in paths.items()}
    splits = {name: images for name, (images, _) in found.items()}
    files = {paths[name].name: digest for name, (_, digest) in found.items()}
    train = torch.cat([splits["train"], splits["valid"]])
    return Images(train, splits["test"], held_out=len(splits["valid"]), files=files)


def _read(path: Path, name: str) -> tuple[torch.Tensor, str]:
    """Images of a file, bytes of 0 and 255, ``(N, 1, 28, 28)``, and its SHA-256."""
    rows = ROWS[name]
    try:
        content = path.read_bytes()
    except OSError as error:
        remedy = "data.path is the directory of binarized_mnist_train.amat, ..._valid.amat, ..._test.amat"
        raise UserError(f"{path} cannot be read ({error.strerror}); {remedy}") from None
    characters = np.frombuffer(content, np.uint8)
    written = characters > ord(" ")
    digits = characters[written]
    bits = digits - np.uint8(ord("0"))  # what stands before "0" comes to 200 and more
    lines = content.count(b"\n") + (not content.endswith(b"\n"))
    if bits.size and bits.max() > 1:
        odd = chr(digits[int((bits > 1).argmax())])
        raise UserError(f"{path} holds {odd!r}, where each pixel is 0 or 1; take the file as published")
    if bits.size != rows * PIXELS or lines != rows or (written[1:] & written[:-1]).any():
        raise UserError(
            f"{path} holds {bits.size:,} digits in {lines:,} lines, where {rows:,} lines of {PIXELS} numbers "
            "0 or 1 belong, separated by spaces; take the file as published"
        )
    found = hashlib.sha256(content).hexdigest()
    if found == PUBLISHED[name]:
        print(f"{path.name}: SHA-256 {found}, as published", file=sys.stderr)
    else:
        warn(
            f"{path}: SHA-256 {found} is not that of the published file ({PUBLISHED[name][:12]}...); bounds "
            "compare with published ones only if the pixels are the same"
        )
    return torch.from_numpy(bits * np.uint8(255)).view(rows, 1, 28, 28), found
