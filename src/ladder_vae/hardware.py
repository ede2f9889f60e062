"""What the machine can do fast: devices, bfloat16, compilation, memory that is kept. Knows no model."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from ladder_vae.errors import UserError, one_line, warn

T = TypeVar("T")

PRECISIONS = ("auto", "32-true", "bf16-mixed")
COMPILE = ("auto", "true", "false")
# What wins back the time that compiling takes; see benchmarks/README.md
STEPS_THAT_PAY = 5_000  # of training
DRAWS_THAT_PAY = 10_000_000  # of evaluation, of all images together


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


def choose_compile(setting: str, asked: str, pays: bool) -> bool:
    """Whether to compile.

    Args:
        setting: Name of the setting, for the error.
        asked: ``true``, ``false``, or ``auto``: where it pays.
        pays: Whether there is enough to compute to win back the time that compiling takes.

    Raises:
        UserError: If it is none of these.
    """
    if asked.lower() not in COMPILE:
        raise UserError(f"{setting}={asked} is unknown; choose {', '.join(COMPILE)}")
    return pays if asked.lower() == "auto" else asked.lower() == "true"


def total_memory(device: str) -> int:
    """Bytes of memory that the device has."""
    if device == "cuda":
        return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**63


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


def compiler() -> str | None:
    """The C++ compiler that ``torch.compile`` would call, if it is there."""
    names = (os.environ.get("CXX"), "g++", "clang++")
    return next((name for name in names if name and shutil.which(name)), None)


def compiled(
    function: Callable[..., T], doubt: Callable[[Callable[..., T], Sequence[Any]], str]
) -> Callable[..., T]:
    """``function``, compiled for arguments of the shapes that it is first called with.

    Other shapes, as of the last batch of an epoch, take the plain way: compiling anew for them would take
    longer than it saves. Without a compiler, or where it fails or cannot be trusted, everything does, after
    one warning.

    Args:
        doubt: Called once, with what was compiled and the first arguments. What it returns says why it
            cannot be trusted; an empty string: it can (:mod:`ladder_vae.self_check`).
    """
    if compiler() is None:
        warn("no C++ compiler was found (g++, clang++, CXX); going on without compilation, more slowly")
        return function
    torch.compiler.reset()  # of earlier runs in this process, which count against a limit of variants
    # Dropout draws what it draws without compilation, so that both ways train the same.
    options: dict[str, Any] = {"fallback_random": True}
    if hasattr(torch.compiler, "skip_guard_on_all_nn_modules_unsafe"):
        # Nobody changes the model while it trains; looking whether somebody did takes longer than two layers.
        options["guard_filter_fn"] = torch.compiler.skip_guard_on_all_nn_modules_unsafe
    fast = torch.compile(function, dynamic=False, options=options)
    compiled_for: list[torch.Size] = []
    failed = trusted = False

    def call(*arguments: Any) -> T:
        nonlocal failed, trusted
        shapes = [argument.shape for argument in arguments if isinstance(argument, Tensor)]
        compiled_for[:] = compiled_for or shapes
        if failed or shapes != compiled_for:
            return function(*arguments)
        try:
            if not trusted:
                if reason := doubt(fast, arguments):
                    failed = True
                    warn(
                        f"going on without compilation, more slowly: as compiled by {_toolchain(arguments)}, "
                        f"{reason}; another torch may compile it right"
                    )
                    return function(*arguments)
                trusted = True
            return fast(*arguments)
        except TorchDynamoException as error:
            failed = True
            warn(f"going on without compilation, which failed ({one_line(error)[:200]})")
            return function(*arguments)

    return call


def _toolchain(arguments: Sequence[Any]) -> str:
    """What compiles for the device of the arguments, with versions."""
    device = next(argument.device.type for argument in arguments if isinstance(argument, Tensor))
    backend = f"triton {metadata.version('triton')}" if device == "cuda" else _version(compiler() or "")
    return f"torch {torch.__version__} with {backend} on {device}"


def _version(program: str) -> str:
    """The first line of ``PROGRAM --version``; its name if it has none."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return program
    return said.partition("\n")[0].strip() or program


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
