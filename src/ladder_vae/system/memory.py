"""Memory: how much there is, and that it is kept."""

from __future__ import annotations

import ctypes
import os
import platform


def total_memory(device: str) -> int:
    """Bytes of memory that the device has."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**63


def keep_freed_memory() -> None:
    """Have the C library keep what is freed for the next allocation, instead of returning it to the system.

    glibc returns large blocks at once, and each training step then gets some thousand pages of gradients and
    activations back one page fault at a time. Elsewhere this does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_threshold = -1, -3  # of malloc.h
    library = ctypes.CDLL(None)
    for parameter in (trim_threshold, mmap_threshold):
        library.mallopt(parameter, 1 << 30)
