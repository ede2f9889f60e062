"""The images that a run keeps: test images, their reconstructions, samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ladder_vae.runs.record import IMAGES
from ladder_vae.system.errors import UserError, warn
from ladder_vae.system.files import read_npz, replacing

NAMES = {"originals", "reconstructions", "samples"}
FORMS = ({("|u1", 3)}, {("|u1", 4, 3)})  # type, axes, and colors; gray or all in color
MOST_BYTES = 1 << 28


def write_images(path: Path, **images: np.ndarray) -> None:
    """Write ``images.npz``: bytes ``(n, H, W)``, or ``(n, H, W, 3)`` in color."""
    with replacing(path / IMAGES) as part:
        np.savez_compressed(part, **images)  # type: ignore[arg-type]


def read_images(path: Path) -> dict[str, np.ndarray]:
    """Arrays of ``images.npz``, uint8 ``(n, H, W)``, or ``(n, H, W, 3)``; empty if they cannot be used."""
    file = path / IMAGES
    try:
        images = read_npz(file, MOST_BYTES)
        forms = {(image.dtype.str, image.ndim, *image.shape[3:]) for image in images.values()}
        if not set(images) >= NAMES or forms not in FORMS:
            raise UserError(f"{file} does not hold {', '.join(sorted(NAMES))} as bytes (n, H, W)")
        return images
    except FileNotFoundError:
        return {}
    except (UserError, OSError) as error:
        warn(f"{error}; its pictures are left out")
        return {}
