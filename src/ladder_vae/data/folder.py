"""A folder of image files."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple, NoReturn

import numpy as np
import torch

from ladder_vae.data.data_sets import ImageData
from ladder_vae.data.decoding import KINDS, SUFFIXES, Unusable, decode
from ladder_vae.data.sources import Images
from ladder_vae.system.errors import UserError, warn
from ladder_vae.system.memory import total_memory

SPLITS = ("train", "val", "test")
LESS = (  # what to do where memory is short
    "lower data.size, or write them as bytes to an .npz file (np.savez, not compressed), "
    "which data=npz reads from disk"
)


class File(NamedTuple):
    """An image file.

    Args:
        name: Its path below the folder, with ``/`` between its parts.
        length: Bytes.
        changed: When, in nanoseconds; with the length it tells whether the file is another one.
    """

    name: str
    length: int
    changed: int

    @property
    def key(self) -> str:
        """The name as it is sorted and hashed; file systems differ in how they write accents."""
        return unicodedata.normalize("NFC", self.name)


class Folder(ImageData):
    """A user's own images, PNG, JPEG or WebP files in a folder; all that is below it is read into memory.

    Subfolders are labels, numbered from 0 in alphabetical order; images without subfolders, or in a single
    one, have no labels. If there are folders ``train`` and ``test`` (and ``val``), these are the splits, and
    their subfolders are labels. Otherwise a hash of a file's name below the folder chooses its split, so that
    adding files moves no other. Other files and hidden ones are not read. Images are in the order of their
    names. Their pixels, and with them the fingerprint of the data, depend on the version of Pillow where a
    file is JPEG or WebP or is resized.

    Args:
        path: The folder.
        size: Height and width in pixels; see :func:`~ladder_vae.data.decoding.decode`. None: all images are
            of one size, and stay as they are.
        color: Whether images are in color; None: if at least one of them is saved so.
        test_share: Share of the files that test, where there is no folder ``test``.
        val_share: Share of the files that validate, where there is no folder ``val``.
        skip_broken: Whether to leave out files that cannot be used, with a warning, instead of refusing them.
        val_size: None validates on these; a number validates on so many last images of training and
            validation files together.
    """

    def __init__(
        self,
        path: str,
        size: int | None = 32,
        color: bool | None = None,
        test_share: float = 0.1,
        val_share: float = 0.1,
        skip_broken: bool = False,
        val_size: int | None = None,
        **settings,
    ) -> None:
        if not path:
            raise UserError("data.path is empty; name the folder of the images")
        self.channels = 3 if color else None
        super().__init__(val_size=val_size or 0, **settings)
        if size is not None and size < 1:
            raise UserError(f"data.size={size} must be at least 1, or null for images of one size")
        if not (0 < test_share < 1 and 0 <= val_share < 1 and test_share + val_share < 1):
            raise UserError(
                f"data.test_share={test_share:g} and data.val_share={val_share:g} must lie between 0 and 1, "
                "and leave some images to train on"
            )
        self.path = Path(path).expanduser()
        self.own_validation = val_size is None
        self.pixels = size, color, skip_broken
        self.shares = test_share, val_share

    def load(self) -> Images:
        path = self.path.absolute()
        images = _load(path, tuple(_files(path)), *self.pixels, *self.shares)
        if self.own_validation:
            self.val_size = images.held_out
        return images


def _files(path: Path) -> Iterator[File]:
    """The image files below a folder, sorted by name. Raises UserError if it cannot be read or has none."""
    where = f"data.path={path}"
    if not path.is_dir():
        what = "is a file; name the folder of the images" if path.exists() else "does not exist"
        raise UserError(f"{where} {what}")

    def refuse(error: OSError) -> NoReturn:
        raise UserError(f"{where}: {error.filename} cannot be read ({error.strerror})") from None

    found, others = [], set()
    for directory, names in _folders(path, refuse):
        for file in (Path(directory, name) for name in names if name[0] != "."):
            if file.suffix.lower() not in SUFFIXES:
                others.add(file.suffix.lower())
                continue
            name = file.relative_to(path).as_posix()
            try:
                status = file.stat()
                found.append(File(name, status.st_size, status.st_mtime_ns))
            except OSError:  # a link to nowhere, which decoding refuses or leaves out
                found.append(File(name, 0, 0))
    if not found:
        there = f"; it has files of {', '.join(sorted(others))[:60]}" if others - {""} else ""
        raise UserError(f"{where} holds no {KINDS} image{there}")
    yield from sorted(found, key=lambda file: file.key)


def _folders(path: Path, refuse: Callable[[OSError], NoReturn]) -> Iterator[tuple[str, list[str]]]:
    """Each folder at or below a path once, and the names of its files; links come after what is no link."""
    seen: set[str] = set()
    left = [str(path)]
    while left:
        for directory, below, names in os.walk(left.pop(0), onerror=refuse):
            if (real := os.path.realpath(directory)) in seen:  # links may run in a circle
                below.clear()
                continue
            seen.add(real)
            below[:] = sorted(name for name in below if name[0] != "." and name != "__MACOSX")
            left += [linked for name in below if os.path.islink(linked := os.path.join(directory, name))]
            yield directory, names


@lru_cache(maxsize=2)
def _load(
    path: Path,
    files: tuple[File, ...],
    size: int | None,
    color: bool | None,
    skip_broken: bool,
    test_share: float,
    val_share: float,
) -> Images:
    """Load the images of a folder whose files are ``files``."""
    where = f"data.path={path}"
    split_of = _splits(files, test_share, val_share, where)
    classes = _classes(files, split_of, where)
    images, kept = _decoded(path, files, size, color, skip_broken)
    sorts = {split: [i for i in kept if split_of[i] == split] for split in SPLITS}
    for split in ("train", "test"):
        if len(sorts[split]) < 1 + (split == "train"):
            raise UserError(
                f"{where} has {len(sorts[split])} {split} images of {len(kept)}; add images, or sort them "
                "into folders train and test"
            )
    place = {i: row for row, i in enumerate(kept)}
    rows = {
        split: torch.tensor([place[i] for i in chosen], dtype=torch.long) for split, chosen in sorts.items()
    }
    names = {name: number for number, name in enumerate(sorted({c for c in classes if c is not None}))}
    labels = torch.tensor([names.get(str(classes[i]), -1) for i in kept])
    train = torch.cat([rows["train"], rows["val"]])
    every = torch.from_numpy(images)
    if len(names) < 2:
        return Images(every[train], every[rows["test"]], held_out=len(rows["val"]))
    return Images(every[train], every[rows["test"]], labels[train], labels[rows["test"]], len(rows["val"]))


def _splits(files: Sequence[File], test_share: float, val_share: float, where: str) -> list[str]:
    """The split of each file. Raises UserError if folders ``train``, ``val`` and ``test`` are not all."""
    tops = {PurePosixPath(file.key).parts[0] for file in files}
    sorted_by_hand = {"train", "test"} <= tops
    if sorted_by_hand and (beside := tops - set(SPLITS)):
        raise UserError(f"{where} holds {sorted(beside)[0]} beside train and test; move it into one of them")
    if not sorted_by_hand and tops <= set(SPLITS):
        missing = " and ".join(sorted({"train", "test"} - tops))
        raise UserError(f"{where} holds {' and '.join(sorted(tops))}, but no images in {missing}; add some")
    if sorted_by_hand and "val" in tops:
        return [PurePosixPath(file.key).parts[0] for file in files]
    splits = []
    for file in files:
        name = file.key.encode(errors="surrogateescape")  # of a name that is no UTF-8, the bytes on disk
        number = int.from_bytes(hashlib.sha256(name).digest()[:8], "big") / 2**64  # in [0, 1)
        if sorted_by_hand:
            top = PurePosixPath(file.key).parts[0]
            splits.append("val" if top == "train" and number < val_share else top)
        else:
            splits.append(
                "test" if number < test_share else "val" if number < test_share + val_share else "train"
            )
    return splits


def _classes(files: Sequence[File], splits: Sequence[str], where: str) -> list[str | None]:
    """The subfolder of each file; None where it lies in none."""
    by_hand = {PurePosixPath(file.key).parts[0] for file in files} <= set(SPLITS)
    parts = [PurePosixPath(file.key).parts[by_hand:-1] for file in files]
    classes = [part[0] if part else None for part in parts]
    if None in classes and set(classes) != {None}:
        alone = files[classes.index(None)].name
        raise UserError(
            f"{where}: {alone} lies beside subfolders, which are labels; move it into one, or away"
        )
    return classes


def _decoded(
    path: Path, files: Sequence[File], size: int | None, color: bool | None, skip_broken: bool
) -> tuple[np.ndarray, list[int]]:
    """The images, bytes ``(N, C, H, W)``, and the numbers of their files."""
    images: list[np.ndarray] = []
    kept: list[int] = []
    refused, enlarged, filled = [], 0, 0
    there = total_memory("cpu")
    if size is not None and len(files) * size**2 > there:
        raise UserError(
            f"data.path={path}: {len(files):,} images of data.size={size} take more than the memory "
            f"({there / 2**30:,.1f} GiB); {LESS}"
        )
    for number, file in enumerate(files):
        try:
            image, shorter = decode(path / file.name, size, color)
        except Unusable as error:
            if not skip_broken:
                raise UserError(
                    f"data.path={path}: {file.name} {error}; or data.skip_broken=true leaves out what cannot "
                    "be used"
                ) from None
            refused.append(f"{file.name} {error}")
            continue
        if images and image.shape[1:] != images[0].shape[1:]:
            sizes = [f"{one.shape[1]}x{one.shape[2]}" for one in (images[0], image)]
            raise UserError(
                f"data.path={path}: {files[kept[0]].name} has {sizes[0]} pixels and {file.name} {sizes[1]}; "
                "set data.size, to which all are cut and resized"
            )
        images.append(image)
        kept.append(number)
        enlarged += size is not None and shorter < size
        filled += image.nbytes
        if 2 * filled > there:  # joining them takes as much again
            raise UserError(
                f"data.path={path} fills more than half of the memory ({there / 2**30:,.1f} GiB) after "
                f"{len(kept):,} of {len(files):,} images; {LESS}"
            )
    if refused:
        warn(f"data.path={path}: {len(refused)} of {len(files)} files are left out; the first: {refused[0]}")
    if not images:
        raise UserError(f"data.path={path}: none of {len(files)} files can be used; the first: {refused[0]}")
    if enlarged:
        warn(
            f"data.path={path}: {enlarged} of {len(kept)} images are smaller than data.size={size}; they are "
            "enlarged"
        )
    channels = max(len(image) for image in images)
    joined = np.empty((len(images), channels, *images[0].shape[1:]), np.uint8)
    for row, image in enumerate(images):
        joined[row] = image  # gray ones are repeated where others are in color
    return joined, kept
