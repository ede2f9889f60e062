"""How much memory a device has, and how to reuse freed memory."""

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
    """Make glibc keep freed memory for the next allocation, instead of returning it to the system.

    By default glibc returns large blocks at once. Each training step then gets memory for its gradients and
    activations back page by page, with some thousand page faults. With other C libraries this does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_threshold = -1, -3  # of malloc.h
    library = ctypes.CDLL(None)
    for parameter in (trim_threshold, mmap_threshold):
        library.mallopt(parameter, 1 << 30)
