"""Whether what was compiled computes what the plain function does; torch 2.11 got gradients wrong in silence.

Two ways to compute the same differ by rounding. How much of that to expect is measured on the spot: it is
what sets the plain function apart from itself in a higher precision.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

MARGIN = 5.0  # how many times the rounding error of the plain function is let pass
FLOOR = 4.0  # roundings of a typical number that are let pass besides: some numbers are zero but for rounding

Function = Callable[..., Any]
Doubt = Callable[[Function, Sequence[Any]], str]


def step_doubt(model: nn.Module, make: Callable[[Any], Function]) -> Doubt:
    """Doubt of a compiled training step: of its values, and of the gradient of each weight.

    Args:
        model: The model that the compiled step trains.
        make: Gives the plain step of a model: a function of tensors whose first result, ``values[0]``, is
            the loss.

    Returns:
        A function of what was compiled and of the arguments of its first call. It says in words what
        differs by more than rounding explains, and nothing (an empty string) if all is well. It leaves no
        trace: buffers, gradients and random state of the model are as before. Dropout is off meanwhile.
    """
    names = ["the loss and its terms", *(f"the gradient of {name}" for name, _ in model.named_parameters())]

    def numbers(function: Function, of: nn.Module, arguments: Sequence[Any]) -> list[Tensor]:
        values = function(*arguments)
        weights = list(of.parameters())
        found = torch.autograd.grad(values[0], weights, allow_unused=True)
        gradients = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]
        return [values.detach(), *gradients]

    return _doubt(model, make, names, numbers)


def pass_doubt(model: nn.Module, make: Callable[[Any], Function]) -> Doubt:
    """Doubt of a compiled pass of evaluation, as :func:`step_doubt`.

    Args:
        model: The model that is evaluated.
        make: Gives the plain pass of a model, which returns log p(x | z) and rates.
    """

    def numbers(function: Function, of: nn.Module, arguments: Sequence[Any]) -> list[Tensor]:
        return list(function(*arguments))

    return _doubt(model, make, ["log p(x | z)", "the rates"], numbers)


def _doubt(
    model: nn.Module,
    make: Callable[[Any], Function],
    names: Sequence[str],
    numbers: Callable[[Function, nn.Module, Sequence[Any]], list[Tensor]],
) -> Doubt:
    def doubt(fast: Function, arguments: Sequence[Any]) -> str:
        x: Tensor = arguments[0]
        half = torch.is_autocast_enabled(x.device.type)
        with _undisturbed(model, x.device):
            twin = copy.deepcopy(model)
            plain = numbers(make(twin), twin, arguments)
            with torch.autocast(x.device.type, enabled=False):
                exact = numbers(*_more_exactly(model, make, arguments, half))
            found = numbers(fast, model, arguments)
        rounding = torch.finfo(torch.bfloat16 if half else x.dtype).eps
        return _difference(names, found, plain, exact, rounding)

    return doubt


def _more_exactly(
    model: nn.Module, make: Callable[[Any], Function], arguments: Sequence[Any], half: bool
) -> tuple[Function, nn.Module, list[Any]]:
    """The plain function of a copy of the model in float64, in float32 where it computes in half "
    "precision."""
    dtype = torch.float32 if half else torch.float64
    device = "cpu" if model_device(model).type == "mps" else model_device(model)  # MPS has no float64
    twin = copy.deepcopy(model).to(device, dtype)
    given = [a.to(device, dtype) if isinstance(a, Tensor) else a for a in arguments]
    return make(twin), twin, given


def model_device(model: nn.Module) -> torch.device:
    """Where the weights of the model lie."""
    return next(model.parameters()).device


def _difference(
    names: Sequence[str],
    found: Sequence[Tensor],
    plain: Sequence[Tensor],
    exact: Sequence[Tensor],
    rounding: float,
) -> str:
    """What is off by most, if by more than rounding explains, and by what share of itself."""
    a, b, c = (
        [value.detach().cpu().double().flatten() for value in values] for values in (found, plain, exact)
    )
    if not all(value.isfinite().all() for value in b):
        return ""  # the run ends anyway, and says why
    numbers = sum(len(value) for value in b[1:])
    typical = (sum(float(value.square().sum()) for value in b[1:]) / numbers) ** 0.5
    worst, said = 1.0, ""
    for name, f, p, e in zip(names, a, b, c, strict=True):
        scale = typical * len(p) ** 0.5 if name != names[0] else float(p.norm())
        allowed = MARGIN * float((p - e).norm()) + FLOOR * rounding * scale
        off = float((f - p).norm())
        if not off <= worst * allowed:  # NaN is off, too
            worst, said = (
                off / allowed,
                f"{name} is off by {off / max(float(p.norm()), 1e-30):.2g} of its size",
            )
    return said


@contextmanager
def _undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Dropout is off within; afterwards it is as before, as are buffers and random state."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    dropout = [
        module
        for module in model.modules()
        if isinstance(module, nn.Dropout) and module.training and module.p
    ]
    for module in dropout:
        module.eval()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        for module in dropout:
            module.train()
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)
        if dropout:
            torch.compiler.reset()  # what was compiled is without dropout
