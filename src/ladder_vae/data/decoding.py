"""One image file, from PNG, JPEG or WebP to bytes."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ladder_vae.system.errors import one_line

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
KINDS = "PNG, JPEG or WebP"
FORMATS = ("PNG", "JPEG", "WEBP")
GRAY = ("1", "L", "LA", "La")
PNG, BIT_DEPTH = b"\x89PNG\r\n\x1a\n", 24  # how a PNG begins, and where it says how many bits a value has


class Unusable(ValueError):
    """An image file that cannot be used. The message goes on after the name of the file."""


def decode(path: Path, size: int | None, color: bool | None) -> tuple[np.ndarray, int]:
    """Read an image, turned upright as its EXIF orientation says.

    Args:
        path: The file.
        size: Height and width in pixels. The image is cut to the largest square around its center and resized
            with a Lanczos filter; a square of this size stays as it is. None leaves the image as it is.
        color: Whether the image gets three channels or one (its luma, ITU-R 601-2); None: as it is saved.

    Returns:
        Bytes ``(C, H, W)``, and the shorter side of the image in the file.

    Raises:
        Unusable: If the file cannot be read as one of these formats, or holds what is no image of opaque
            pixels of 8 bits: it is animated, transparent, CMYK, or has 16 bits a value.
    """
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large images, and of metadata that do not matter
            start = file.read(BIT_DEPTH + 1)
            if start.startswith(PNG) and start[BIT_DEPTH:] == b"\x10":
                raise Unusable("has 16 bits a value; save it with 8")
            file.seek(0)
            with Image.open(file, formats=FORMATS) as image:
                pixels = _opaque(image)
                wanted = pixels.mode not in GRAY if color is None else color
                pixels = ImageOps.exif_transpose(pixels).convert("RGB" if wanted else "L")
    except Unusable:
        raise
    except UnidentifiedImageError:
        raise Unusable(f"is broken, or no {KINDS} image") from None
    except Exception as error:  # whatever a decoder makes of damaged bytes
        if isinstance(error, OSError) and error.strerror:  # of the file system
            raise Unusable(f"cannot be read ({error.strerror})") from None
        raise Unusable(f"is broken, or no {KINDS} image ({one_line(error)})") from None
    shorter = min(pixels.size)
    if size is not None:
        pixels = ImageOps.fit(pixels, (size, size), Image.Resampling.LANCZOS)
    array = np.asarray(pixels)
    return (array.transpose(2, 0, 1) if wanted else array[None]), shorter


def _opaque(image: Image.Image) -> Image.Image:
    """The image itself, decoded. Raises Unusable if it is more, or other, than an opaque picture."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format in ("PNG", "WEBP"):  # a JPEG of a phone may hold a second, smaller one
        raise Unusable(f"is animated ({frames} frames); save one of them")
    if image.mode in ("CMYK", "YCCK"):
        raise Unusable("has the colors of print (CMYK); save it as RGB")
    image.load()
    if image.has_transparency_data:
        opaqueness = np.asarray(image.convert("RGBA").getchannel("A"))
        if opaqueness.min() < 255:
            raise Unusable("has transparent pixels; save it on a background")
    return image
