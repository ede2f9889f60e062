"""Compiling a function, where that pays and can be trusted."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any, TypeVar

import torch
from torch import Tensor

from ladder_vae.system.errors import UserError, one_line, warn

T = TypeVar("T")
# What wins back the time that compiling takes; see benchmarks/README.md
STEPS_THAT_PAY = 5_000  # of training
DRAWS_THAT_PAY = 10_000_000  # of evaluation, of all images together


def choose_compile(setting: str, asked: Any, pays: bool) -> bool:
    """Whether to compile.

    Args:
        setting: Name of the setting, for the error.
        asked: True, False, or ``auto``: where it pays.
        pays: Whether there is enough to compute to win back the time that compiling takes.

    Raises:
        UserError: If it is none of these.
    """
    meaning = {"auto": pays, "true": True, "false": False}
    word = str(asked).lower()
    if word not in meaning:
        raise UserError(f"{setting}={asked} is unknown; choose {', '.join(meaning)}")
    return meaning[word]


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
            cannot be trusted; an empty string: it can (:mod:`ladder_vae.system.self_check`).
    """
    if compiler() is None:
        warn("no C++ compiler was found (g++, clang++, CXX); going on without compilation, more slowly")
        return function
    from torch._dynamo.exc import TorchDynamoException  # here, because it takes seconds to import

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
