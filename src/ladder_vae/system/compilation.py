"""Compile a function if that pays, and use the result only if it can be trusted."""

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
# From these amounts of work on, compiling saves more time than it takes; see benchmarks/README.md.
# On an H100 the five-level ladder took 51 s to compile and saved 1.25 ms a step of a CUDA graph.
STEPS_THAT_PAY = {"cpu": 5_000, "cuda": 40_000}  # training steps
# Draws of all images together in an evaluation; on a GPU, which replays them, an estimate
DRAWS_THAT_PAY = {"cpu": 10_000_000, "cuda": 1_000_000_000}


def choose(setting: str, asked: Any, pays: bool) -> bool:
    """Decide whether to do what makes a run faster but takes time or a device.

    Args:
        setting: Name of the setting, for the error message.
        asked: True, False, or ``auto``, which does it if that pays.
        pays: Whether it saves more time than it takes.

    Raises:
        UserError: If ``asked`` is none of these.
    """
    meaning = {"auto": pays, "true": True, "false": False}
    word = str(asked).lower()
    if word not in meaning:
        raise UserError(f"{setting}={asked} is unknown; choose {', '.join(meaning)}")
    return meaning[word]


def compiler() -> str | None:
    """Name of the C++ compiler that ``torch.compile`` would call; None if there is none."""
    names = (os.environ.get("CXX"), "g++", "clang++")
    return next((name for name in names if name and shutil.which(name)), None)


def compiled(
    function: Callable[..., T], doubt: Callable[[Callable[..., T], Sequence[Any]], str]
) -> Callable[..., T]:
    """Compile ``function`` for the argument shapes of its first call.

    Calls with other shapes, such as the last batch of an epoch, use the plain function, because compiling
    again would take longer than it saves. If there is no compiler, compiling fails, or the result cannot be
    trusted, all calls use the plain function after one warning.

    Args:
        function: The plain function.
        doubt: Called once with the compiled function and the first arguments. It returns the reason why the
            compiled function cannot be trusted, or an empty string if it can
            (:mod:`ladder_vae.system.self_check`).
    """
    if compiler() is None:
        warn("no C++ compiler was found (g++, clang++, CXX); going on without compilation, more slowly")
        return function
    from torch._dynamo.exc import TorchDynamoException  # imported here, because it takes seconds

    torch.compiler.reset()  # functions compiled earlier in this process count against a limit of variants
    # With this option dropout draws the same as without compilation, so that both train the same model.
    options: dict[str, Any] = {"fallback_random": True}
    if hasattr(torch.compiler, "skip_guard_on_all_nn_modules_unsafe"):
        # Modules do not change during training, and checking that they did not costs more than two layers.
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
    """Names and versions of torch and of the compiler that it uses for the arguments' device."""
    device = next(argument.device.type for argument in arguments if isinstance(argument, Tensor))
    backend = f"triton {metadata.version('triton')}" if device == "cuda" else _version(compiler() or "")
    return f"torch {torch.__version__} with {backend} on {device}"


def _version(program: str) -> str:
    """The first line of ``PROGRAM --version``, or the program's name if that prints nothing."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return program
    return said.partition("\n")[0].strip() or program
