"""Choose the device and the precision to compute in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ladder_vae.system.errors import UserError
from ladder_vae.system.machine import processors
from ladder_vae.system.memory import total_memory

DEVICES = ("cpu", "cuda", "mps")
MOST_AT_ONCE = 4  # jobs of a sweep, and fewer where a job would not get this memory:
MEMORY_OF_A_JOB = 2**30
PRECISIONS = ("auto", "32-true", "bf16-mixed")


def best_device() -> str:
    """``cuda`` or ``mps`` if such an accelerator is available, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def choose_device_type(accelerator: str) -> str:
    """The type of device that Lightning's ``accelerator`` setting stands for."""
    return {"auto": best_device(), "gpu": best_device()}.get(accelerator, accelerator)


def jobs_at_once(asked: Any, device: str, cores: int) -> int:
    """How many jobs of a sweep run at once.

    Args:
        asked: A number; or ``auto``, one per core up to four, and one on a GPU.

    Raises:
        UserError: If it is neither.
    """
    if asked == "auto":
        room = total_memory("cpu") // MEMORY_OF_A_JOB
        return max(1, min(cores, MOST_AT_ONCE, room)) if device == "cpu" else 1
    if not isinstance(asked, int) or isinstance(asked, bool) or asked < 1:
        raise UserError(f"hydra.launcher.jobs={asked} must be a number from 1, or auto")
    return asked


def share_cores(asked: Any, accelerator: str, jobs: int, devices: int = 1) -> tuple[int, int]:
    """How many jobs of a sweep run at once, and on how many threads each.

    Args:
        asked: See :func:`jobs_at_once`.
        accelerator: Lightning's setting.
        jobs: How many there are.
        devices: How many each takes; on a CPU each device is a process, and the threads are for all of them.
    """
    cores = torch.get_num_threads()
    room = max(1, cores // devices)
    at_once = min(jobs_at_once(asked, choose_device_type(accelerator), room), jobs)
    return at_once, max(1, cores // at_once)


def has_bfloat16(device: str) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware, not by emulation."""
    if device == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


def choose_precision(asked: str, device: str) -> str:
    """The precision that the nets compute in: ``bf16-mixed`` or ``32-true``.

    Args:
        asked: One of these, or ``auto``, which means ``bf16-mixed`` if the device has hardware for it.
        device: ``cpu``, ``cuda``, ...

    Raises:
        UserError: If the precision is unknown, or ``bf16-mixed`` is asked of a device without the hardware.
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
def fast_products(device: str) -> Iterator[None]:
    """Within the block, multiply float32 matrices as fast as an evaluation can afford; sums are in float32.

    CPUs with AMX round the factors to bfloat16, and other CPUs use another library than usual. A GPU keeps to
    float32, in convolutions too: TF32 as emulated on a CPU, which cuts bits off, moved L_1000 by 0.01 nats.

    Args:
        device: ``cpu``, ``cuda``, ...
    """
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("medium" if device == "cpu" else "highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


def choose_device(name: str) -> torch.device:
    """The device of that name; ``auto`` means the accelerator if there is one, else the CPU.

    A GPU becomes the current one, on which CUDA graphs are recorded: those of another would stay empty.

    Raises:
        UserError: If this machine does not have the device.
    """
    if name == "auto":
        name = best_device()
    try:
        device = torch.device(name)
        if device.type not in DEVICES:
            raise RuntimeError
        torch.empty(1, device=device)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
        return device
    except (RuntimeError, AssertionError):
        raise UserError(f"device={name} is not here; choose auto or cpu") from None


def choose_devices(name: str, count: int) -> list[torch.device]:
    """So many devices of one kind, for a process each. On a CPU these are processors, which have no numbers.

    Args:
        name: See :func:`choose_device`.
        count: How many, from 1.

    Raises:
        UserError: If this machine does not have them.
    """
    device = choose_device(name)
    if count == 1:
        return [device]
    if device.index is not None:
        raise UserError(f"device={name} is a single one; devices={count} takes device={device.type}")
    check_number("devices", count, device.type)
    return [torch.device("cuda", i) if device.type == "cuda" else device for i in range(count)]


def check_number(setting: str, count: int, device: str) -> None:
    """Raises UserError if this machine has fewer devices of the type.

    Args:
        setting: Name of the setting that asks for them, for the error message.
        count: How many it asks for.
        device: Their type; a CPU has as many as processors.
    """
    there = {"cuda": torch.cuda.device_count, "cpu": processors}.get(device, lambda: 1)()
    if count > there:
        what = "processor" if device == "cpu" else f"{device} device"
        found = f"there are {there} {what}s" if there > 1 else f"there is {there} {what}"
        raise UserError(f"{setting}={count}: {found} here; set {setting}={there}{' or less' * (there > 1)}")
