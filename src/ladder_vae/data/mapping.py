"""Arrays of an uncompressed ``.npz`` file, mapped into memory instead of read."""

from __future__ import annotations

import struct
import zipfile
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy

LOCAL_HEADER = struct.Struct("<26xHH")  # of a member of a zip file: the lengths of its name and extra field


class Header(NamedTuple):
    """What stands before an array.

    Args:
        shape: Of the array.
        fortran: Whether it is in Fortran's order.
        dtype: Its type.
        length: Bytes of the header itself.
    """

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    length: int


def read_header(archive: zipfile.ZipFile, name: str) -> Header:
    """The header of a member ``NAME.npy``. Raises ValueError if it has none."""
    with archive.open(name) as file:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        return Header(*read(file), file.tell())


def is_mappable(archive: zipfile.ZipFile, name: str) -> bool:
    """Whether a member holds bytes, as they are and in the order of their axes."""
    member, header = archive.getinfo(name), read_header(archive, name)
    plain = member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & 1  # bit 0: encrypted
    return plain and header.dtype == np.uint8 and not header.fortran


def mapped_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """The array of a member that :func:`is_mappable`; it cannot be written to."""
    member, header = archive.getinfo(name), read_header(archive, name)
    assert archive.filename is not None
    with open(archive.filename, "rb") as file:
        file.seek(member.header_offset)
        name_length, extra_length = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
    offset = member.header_offset + LOCAL_HEADER.size + name_length + extra_length + header.length
    # a mapping that may be written to would count as memory, of which there may be less
    return np.memmap(archive.filename, np.uint8, mode="r", offset=offset, shape=header.shape)
