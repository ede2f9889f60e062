"""How much memory a device has, and how to reuse freed memory."""

from __future__ import annotations

import ctypes
import platform

from ladder_vae.system import machine


def total_memory(device: str) -> int:
    """Bytes of memory that this process may use on the device."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_properties(0).total_memory
    return machine.memory()


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
