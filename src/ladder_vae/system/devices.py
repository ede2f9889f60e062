"""Which device, and which precision on it. Knows no model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ladder_vae.system.errors import UserError

PRECISIONS = ("auto", "32-true", "bf16-mixed")


def best_device() -> str:
    """The accelerator, if there is one: ``cuda``, ``mps`` or ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def choose_device_type(accelerator: str) -> str:
    """The device that Lightning's ``accelerator`` stands for."""
    return {"auto": best_device(), "gpu": best_device()}.get(accelerator, accelerator)


def has_bfloat16(device: str) -> bool:
    """Whether the device multiplies bfloat16 matrices in units made for it, rather than by emulation."""
    if device == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


def choose_precision(asked: str, device: str) -> str:
    """What the nets compute in: ``bf16-mixed`` or ``32-true``.

    Args:
        asked: One of these; or ``auto``, the former where it is fast.
        device: ``cpu``, ``cuda``, ...

    Raises:
        UserError: If it is unknown, or slower on this device than without it.
    """
    if asked not in PRECISIONS:
        raise UserError(f"trainer.precision={asked} is unknown; choose {', '.join(PRECISIONS)}")
    if asked == "auto":
        return "bf16-mixed" if has_bfloat16(device) else "32-true"
    if asked == "bf16-mixed" and not has_bfloat16(device):
        raise UserError(
            f"trainer.precision=bf16-mixed needs bfloat16 units, which this {device} does not have; "
            "set trainer.precision=32-true, or auto"
        )
    return asked


@contextmanager
def fast_products() -> Iterator[None]:
    """Products of float32 matrices as fast as sums in float32 allow, until the block ends.

    From factors rounded to bfloat16 on CPUs with AMX, to TF32 on GPUs that have it; elsewhere float32 through
    another library than usual.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


DEVICES = ("cpu", "cuda", "mps")


def choose_device(name: str) -> torch.device:
    """The device of that name, or with ``auto`` the accelerator, if there is one.

    Raises:
        UserError: If it is not here.
    """
    if name == "auto":
        name = best_device()
    try:
        if torch.device(name).type not in DEVICES:
            raise RuntimeError
        torch.empty(1, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError):
        raise UserError(f"device={name} is not here; choose auto or cpu") from None
