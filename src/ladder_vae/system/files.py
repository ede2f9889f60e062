"""Read and write files so that neither an interruption nor what a stranger left in a directory does harm.

What is written stands there whole or not at all, and never where a link leads. What is read is a regular file
of a size that it can have.
"""

from __future__ import annotations

import io
import os
import secrets
import stat
import time
import zipfile
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from ladder_vae.system.errors import UserError, one_line

PART = ".part-"  # begins the name of a file that is being written
STALE = 24 * 60 * 60  # seconds after which nobody is writing it any more


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a new file in the same directory, which takes the place of ``path`` once the block has ended.

    If the block raises, the old file stays and the new one is removed. A link at ``path`` is replaced, not
    followed. An OSError names ``path``: of a full disk it would name nothing, or else the new file.
    """
    directory = path.parent.resolve()
    remove_parts(directory, STALE)
    part = directory / f"{PART}{secrets.token_hex(6)}-{path.name}"
    try:
        part.touch(exist_ok=False)  # a name that nobody could foresee, so that no link waits there
        try:
            yield part
            os.replace(part, directory / path.name)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        error.filename = str(path)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as part:
        part.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def remove_parts(directory: Path, age: float = 0.0) -> None:
    """Remove what killed processes had begun to write.

    Args:
        age: Seconds for which it has not changed; unless they are many, nobody else may be writing there.
    """
    for part in directory.glob(f"{PART}{'[0-9a-f]' * 12}-*"):
        with suppress(OSError):  # another process may be removing it, too
            if time.time() - part.lstat().st_mtime >= age:
                part.unlink()


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a regular file.

    Args:
        limit: The most bytes that such a file can have.

    Raises:
        UserError: If it is a pipe, a device or a directory, which would hang or never end, or is too large.
        OSError: If it is missing or cannot be read.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path} is not a regular file; put the file itself there")
    if found.st_size > limit:
        raise UserError(f"{path} has {found.st_size:,} bytes; such a file has at most {limit:,}")
    return path.read_bytes()


def check_zip(content: bytes, limit: int) -> None:
    """Compare all that a zip archive holds with its checksums.

    NumPy and PyTorch do not: NumPy reads only as far as a damaged header says, and PyTorch reads no checksum.

    Args:
        limit: The most bytes that it may unpack to.

    Raises:
        ValueError: If it would unpack to more, or anything in it is damaged. Other exceptions say that it is
            no such archive.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        size = sum(member.file_size for member in archive.infolist())
        if size > limit:
            raise ValueError(f"it unpacks to {size:,} bytes; such a file has at most {limit:,}")
        damaged = archive.testzip()
        if damaged is not None:
            raise ValueError("a checksum in it is wrong")


def read_npz(path: Path, limit: int) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file, compared with its checksums.

    Args:
        limit: The most bytes that it can have, packed and unpacked.

    Raises:
        UserError: If it is damaged, too large, or no such file.
        OSError: If it is missing or cannot be read.
    """
    content = read_bytes(path, limit)
    try:
        check_zip(content, limit)
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # damage takes any form: zip, deflate, header, memory
        raise UserError(f"{path} is damaged ({one_line(error)[:200]})") from None


def refuse_links(root: Path, replaced: Container[str] = ()) -> None:
    """Refuse a directory to write into that a stranger may have filled with links to somewhere else.

    Args:
        root: The directory.
        replaced: Names of files that :func:`replacing` writes, which may be links.

    Raises:
        UserError: If a link below ``root`` leads out of it.
    """
    for folder, directories, files in os.walk(root):
        for path in (Path(folder, name) for name in (*directories, *files)):
            if path.name not in replaced or path.is_dir():
                refuse_link_out(path, root)


def refuse_link_out(path: Path, root: Path) -> None:
    """Raises UserError if ``path``, below ``root``, leads out of it by a link, its own or a folder's."""
    target = Path(os.path.realpath(path))
    if not target.is_relative_to(os.path.realpath(root)):
        raise UserError(
            f"{path} is a link out of {root}, to {target}, and nothing is written through it; put a copy in "
            "its place, or remove it"
        )
