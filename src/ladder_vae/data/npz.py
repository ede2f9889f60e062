"""Read a user's own images from an ``.npz`` file, and say what is wrong where that cannot be done."""

from __future__ import annotations

import lzma
import math
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from ladder_vae.data.data_sets import ImageData
from ladder_vae.data.labels import as_labels
from ladder_vae.data.mapping import is_mappable, mapped_array, read_header
from ladder_vae.data.sources import Images
from ladder_vae.system.errors import UserError, one_line, warn
from ladder_vae.system.memory import total_memory

CHANNELS = (1, 3)
BLOCK = 1_000  # images that become bytes at a time, so that a large array is not copied as a whole
MAPPED_FROM = 0.25  # share of the memory; reading takes twice the size of the images
ZIP = b"PK\x03\x04"
STARTS = {  # what other files begin with
    b"\x93NUMPY": "is a .npy file, which holds a single array",
    b"\x80": "is a pickle, which is not opened, because it could run any code",
    b"\x89HDF": "is an HDF5 file",
    b"\x1f\x8b": "is a gzip file",
}
REMEDY = "write one with np.savez(path, x_train=..., x_test=...)"
UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)


def load_npz(path: Path, *, validation: bool = False) -> Images:
    """Load an ``.npz`` file with ``x_train`` and ``x_test``, optionally ``x_val`` and ``y_...`` of each.

    Images are ``(N, H, W)``, or gray or in color ``(N, H, W, C)`` or ``(N, C, H, W)`` with C of 1 or 3. They
    are integers from 0 to 255, booleans, or floats from 0 to 1; floats are rounded to multiples of 1/255.
    Labels are ``(N,)`` or ``(N, 1)``; they are whole numbers, booleans, or text, which is numbered in
    alphabetical order unless it says numbers. Other arrays of the file are not read. A file that was written
    anew is read anew.

    Images that fill more than a quarter of the memory stay on disk, from where each batch is read, if they
    are bytes that ``np.savez`` wrote (not compressed, in the order of their axes): their number is not
    limited by memory. Such a file must not be written to meanwhile; its checksum is not verified.

    Args:
        path: The file.
        validation: Whether the images of ``x_val``, if there are any, follow those of ``x_train``. If not, a
            warning says that they are not used.

    Raises:
        UserError: If the file cannot be read or does not fit into memory, or an array has another form.
    """
    with _opened(path) as archive:
        # Its checksums tell the content, which a time of change need not.
        content = tuple((member.filename, member.CRC, member.file_size) for member in archive.infolist())
    return _load(path, content, validation)


@lru_cache(maxsize=2)
def _load(path: Path, content: tuple[tuple[str, int, int], ...], validation: bool) -> Images:
    """Load the file, whose members are ``content``."""
    there = {name.removesuffix(".npy") for name, _, _ in content if name.endswith(".npy")}
    if missing := {"x_train", "x_test"} - there:
        raise UserError(
            f"data.path={path} lacks the array {' and '.join(sorted(missing))}; "
            f"it has {', '.join(sorted(there)) or 'none'}"
        )
    if "x_val" in there and not validation:
        warn(
            f"data.path={path}: x_val is not used, because data.val_size is a number; "
            "data.val_size=null validates on it"
        )
    splits = [
        split for split in ("train", "val", "test") if split != "val" or (validation and "x_val" in there)
    ]
    keys = [f"{kind}_{split}" for split in splits for kind in "xy" if f"{kind}_{split}" in there]
    arrays, mapped = {}, set()
    with _opened(path) as archive:
        sizes = {key: _size(archive, key, path) for key in keys}
        if sum(sizes.values()) > total_memory("cpu") * MAPPED_FROM:
            mapped = {key for key in keys if key[0] == "x" and is_mappable(archive, f"{key}.npy")}
        _check_memory({key: size for key, size in sizes.items() if key not in mapped}, path)
        for key in keys:
            where = f"data.path={path}: {key}"
            if key in mapped:
                arrays[key] = _as_they_are(mapped_array(archive, f"{key}.npy"), where)
                continue
            with archive.open(f"{key}.npy") as member:
                array = npy.read_array(member, allow_pickle=False)
            arrays[key] = as_bytes(array, where) if key[0] == "x" else array
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that what stays on disk cannot be written to
        images = {split: torch.from_numpy(arrays[f"x_{split}"]) for split in splits}
    for split, found in images.items():
        if found.shape[1:] != images["train"].shape[1:]:
            raise UserError(
                f"data.path={path}: x_train has images of {_form(images['train'])}, "
                f"x_{split} of {_form(found)}; they must agree"
            )
    if len(images["train"]) < 2:
        raise UserError(f"data.path={path}: x_train holds a single image; training takes at least two")
    counts = {f"y_{s}": len(found) for s, found in images.items() if f"y_{s}" in arrays}
    labels = as_labels({key: arrays[key] for key in counts}, counts, path)
    if "val" not in splits:
        train_labels, test_labels = labels.get("y_train"), labels.get("y_test")
        return Images(images["train"], images["test"], train_labels, test_labels, mapped=bool(mapped))
    if mapped:
        raise UserError(
            f"data.path={path} stays on disk, because it fills {sum(sizes.values()) / 2**30:,.1f} GiB, and "
            "x_val cannot be joined to x_train there; save its images as the last ones of x_train, and set "
            "data.val_size to their number"
        )
    if "y_train" in labels and "y_val" not in labels:
        raise UserError(f"data.path={path} has y_train and x_val, but no y_val; add it, or leave out y_train")
    joined = torch.cat([labels["y_train"], labels["y_val"]]) if "y_train" in labels else None
    train = torch.cat([images["train"], images["val"]])
    return Images(train, images["test"], joined, labels.get("y_test"), held_out=len(images["val"]))


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The open file. What goes wrong while it is read becomes a UserError that names it."""
    where, start = f"data.path={path}", b""
    try:
        if not path.exists():
            raise UserError(f"{where} does not exist")
        if path.is_dir():
            raise UserError(f"{where} is a directory; name an .npz file")
        if not path.is_file():  # opening a pipe would wait for its other end
            raise UserError(f"{where} is a pipe or a device; name an .npz file on disk")
        with path.open("rb") as file:
            start = file.read(8)
        if not start:
            raise UserError(f"{where} is empty (0 bytes); {REMEDY}")
        for beginning, what in STARTS.items():
            if start.startswith(beginning):
                raise UserError(f"{where} {what}, not an .npz file; {REMEDY}")
        with zipfile.ZipFile(path) as archive:
            yield archive
    except MemoryError:
        raise UserError(f"{where} does not fit into memory; save bytes (uint8), or fewer images") from None
    except UNREADABLE as error:
        remedy = "it is cut short or damaged: copy or write it again" if start.startswith(ZIP) else REMEDY
        raise UserError(f"{where} is not a readable .npz file ({one_line(error)}); {remedy}") from None


def _size(archive: zipfile.ZipFile, key: str, path: Path) -> int:
    """Bytes of an array, of which only the header is read. Raises UserError if it holds Python objects."""
    header = read_header(archive, f"{key}.npy")
    there = archive.getinfo(f"{key}.npy").file_size - header.length
    if header.dtype.hasobject:
        remedy = "one size for all images" if key[0] == "x" else "whole numbers, or text by astype(str)"
        raise UserError(f"data.path={path}: {key} holds Python objects, not numbers; save {remedy}")
    size = math.prod(header.shape) * header.dtype.itemsize
    if size > there:
        raise ValueError(f"{key} should hold {size:,} bytes and has {there:,}")
    return size


def _check_memory(sizes: Mapping[str, int], path: Path) -> None:
    needed, there = sum(sizes.values()), total_memory("cpu")
    if needed > there:
        raise UserError(
            f"data.path={path} unpacks to {needed / 2**30:,.1f} GiB ({', '.join(sizes)}), and this machine "
            f"has {there / 2**30:,.1f} GiB of memory; save bytes (uint8) with np.savez, not compressed, "
            "which are read from disk, or fewer images"
        )


def as_bytes(array: np.ndarray, where: str) -> np.ndarray:
    """Images as bytes, ``(N, C, H, W)``, in the order of their axes in memory."""
    array = _channels_first(array, where)
    whole = not np.issubdtype(array.dtype, np.floating)
    images = np.empty(array.shape, np.uint8)
    for start in range(0, len(array), BLOCK):
        block = array[start : start + BLOCK]
        if array.dtype == np.bool_:
            block = block.astype(np.uint8) * 255
        elif not whole:
            with np.errstate(all="ignore"):
                block = np.rint(block * 255)  # what lies outside 0 to 1 by rounding comes to 0 or 255
        outside = ~((block >= 0) & (block <= 255))  # NaN is
        if outside.any():
            place = np.unravel_index(int(outside.argmax()), outside.shape)
            raise UserError(_outside(array, start + int(place[0]), tuple(map(int, place[1:])), where))
        images[start : start + BLOCK] = block
    if whole:
        _check_not_black(images, where)
    if not whole and 0 < array.max() <= 1.01 / 255:
        raise UserError(
            f"{where} holds floats of at most {array.max():.4f}, and 1/255 is 0.0039: "
            "it seems that they were divided by 255 twice; multiply them by 255"
        )
    return images


def _as_they_are(array: np.ndarray, where: str) -> np.ndarray:
    """Bytes on disk as ``(N, C, H, W)``, a view."""
    array = _channels_first(array, where)
    _check_not_black(array, where)
    return array


def _channels_first(array: np.ndarray, where: str) -> np.ndarray:
    """A view ``(N, C, H, W)``. Raises UserError if the array cannot hold images."""
    _check_form(array, where)
    if array.ndim == 3:
        return array[:, None]
    return array.transpose(0, 3, 1, 2) if array.shape[1] != 1 and array.shape[3] in CHANNELS else array


def _check_not_black(images: np.ndarray, where: str) -> None:
    highest = 0
    for start in range(0, len(images), BLOCK):  # most images are bright, so that the first block is enough
        highest = max(highest, images[start : start + BLOCK].max())
        if highest > 1:
            return
    if highest == 1:
        raise UserError(
            f"{where} holds bytes 0 and 1, almost black among 0 to 255; "
            "save it as booleans if these are binary images"
        )


def _check_form(array: np.ndarray, where: str) -> None:
    """Raises UserError if an array cannot hold images, gray or in color."""
    shape, numbers = array.shape, array.dtype.kind in "biuf"
    fits = array.ndim == 3 or (array.ndim == 4 and (shape[1] in CHANNELS or shape[3] in CHANNELS))
    if not array.size > 0:
        raise UserError(f"{where} holds no images: its shape is {shape}")
    if not fits:
        remedy = "images are (N, H, W), or (N, H, W, C) or (N, C, H, W) with C of 1 or 3"
        if array.ndim == 4 and 4 in (shape[1], shape[3]):
            colors = "array[..., :3]" if shape[3] == 4 else "array[:, :3]"
            remedy = f"transparency is not supported: save {colors}"
        elif array.ndim == 2:
            side = math.isqrt(shape[1])
            remedy += f"; array.reshape(-1, {side}, {side})" if side**2 == shape[1] else "; reshape it"
        raise UserError(f"{where} has shape {shape}; {remedy}")
    if not numbers:
        raise UserError(f"{where} has type {array.dtype}; use bytes (uint8), booleans, or floats from 0 to 1")


def _form(images: Tensor) -> str:
    """Size of images in words."""
    channels, height, width = images.shape[1:]
    return f"({height}, {width}) pixels" + (f" in {channels} channels" if channels > 1 else "")


def _outside(array: np.ndarray, image: int, place: tuple[int, ...], where: str) -> str:
    """The error message for a value that is no level of a pixel, at ``place`` (C, H, W) of an image."""
    value, pixel = array[image][place], place[1:]
    if not np.isfinite(value):
        what = "NaN" if np.isnan(value) else "an infinite value"
        return f"{where} holds {what} in image {image}, pixel {pixel}; replace it, or leave the image out"
    if np.issubdtype(array.dtype, np.integer):
        return f"{where} holds {value} in image {image}; scale integers to 0 to 255, or floats to 0 to 1"
    if np.nanmin(array) < 0:
        remedy = "undo the normalization"
    else:
        remedy = "divide them by 255" if np.nanmax(array) <= 255 else "scale them"
    return f"{where} holds {value:g} in image {image}, and floats outside 0 to 1 are no gray levels; {remedy}"


class Npz(ImageData):
    """A user's own images; see :func:`load_npz`. ``val_size=None`` takes its x_val."""

    def __init__(self, path: str, val_size: int | None = None, **settings) -> None:
        super().__init__(val_size=val_size or 0, **settings)
        self.path = Path(path).expanduser()
        self.own_validation = val_size is None

    def load(self) -> Images:
        images = load_npz(self.path.absolute(), validation=self.own_validation)
        if self.own_validation:
            self.val_size = images.held_out
        return images
