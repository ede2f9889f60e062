"""Check that a compiled function computes what the plain one does. (torch 2.11 silently got gradients wrong.)

Two correct ways to compute the same differ by rounding. How much to expect is measured on the spot: it is the
difference between the plain function and the same function in a higher precision.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from ladder_vae.system.errors import one_line
from ladder_vae.system.naming import z_name

# A difference is allowed up to MARGIN times the rounding error of the plain function, plus a floor:
MARGIN = 5.0
FLOOR = 4.0  # for a gradient, this many typical errors of a single number, and this many roundings
FULL_FLOOR = 32.0  # roundings in full precision: a long sum may be exact by chance in one of two orders
LEAST_HALF = 1e-4  # machine epsilons of half precision are above it
VALUE_FLOOR = 8.0  # for a value, this many roundings of the value, or of 1 if it is smaller
Function = Callable[..., Any]
Doubt = Callable[[Function, Sequence[Any]], str]
Numbers = dict[str, Tensor]  # the tensors to compare, by the name that a warning gives them


def step_doubt(model: nn.Module, make: Callable[[Any], Function]) -> Doubt:
    """Make a check of a compiled training step, which compares each value and the gradient of each weight.

    The check runs with beta = 1, so that the rates count fully, and without dropout.

    Args:
        model: The model that the compiled step trains.
        make: Called with a model, returns its plain step: a function of images, beta and noise whose result
            has a ``loss``, a ``distortion`` and the ``rates`` of the levels.

    Returns:
        A function of the compiled step and the arguments of its first call. It returns a sentence that says
        what differs by more than rounding explains, or an empty string if nothing does. It leaves buffers,
        gradients and random state as they were.
    """

    def numbers(function: Function, of: nn.Module, arguments: Sequence[Any]) -> tuple[Numbers, Numbers]:
        x, beta, *noise = arguments
        values = function(x, torch.ones_like(beta), *noise)
        weights = {name: weight for name, weight in of.named_parameters() if weight.requires_grad}
        found = torch.autograd.grad(values.loss, list(weights.values()), allow_unused=True)
        named = {"the loss": values.loss, "the distortion": values.distortion}
        named |= {f"the rate of {z_name(level)}": rate for level, rate in enumerate(values.rates)}
        return named, {
            f"the gradient of {name}": torch.zeros_like(weight) if gradient is None else gradient
            for (name, weight), gradient in zip(weights.items(), found, strict=True)
        }

    doubt_once = _doubt(model, make, numbers)

    def doubt(fast: Function, arguments: Sequence[Any]) -> str:
        x, *others = arguments
        # If an activation lies within rounding of the kink of a ReLU, two correct steps may see different
        # signs, and a gradient then differs by one image's share. Mirrored images have other activations, so
        # they rarely meet the same kink, but a wrongly compiled step is wrong for them, too. In half
        # precision the allowed rounding hides such differences.
        half = torch.is_autocast_enabled(x.device.type)
        said = ""
        for images in (x,) if half else (x, x.flip(-1), x.flip(-2)):
            said = doubt_once(fast, [images, *others])
            if not said:
                break
        return said

    return doubt


def pass_doubt(model: nn.Module, make: Callable[[Any], Function]) -> Doubt:
    """Make a check of a compiled pass of evaluation; see :func:`step_doubt`.

    Args:
        model: The model that is evaluated.
        make: Called with a model, returns its plain pass, a function that returns log p(x | z) and rates.
    """

    def numbers(function: Function, of: nn.Module, arguments: Sequence[Any]) -> tuple[Numbers, Numbers]:
        log_px, rates = function(*arguments)
        return {}, {"log p(x | z)": log_px, "the rates": rates}

    return _doubt(model, make, numbers)


def _doubt(
    model: nn.Module,
    make: Callable[[Any], Function],
    numbers: Callable[[Function, nn.Module, Sequence[Any]], tuple[Numbers, Numbers]],
) -> Doubt:
    def doubt(fast: Function, arguments: Sequence[Any]) -> str:
        x: Tensor = arguments[0]
        half = torch.is_autocast_enabled(x.device.type)
        with _undisturbed(model, x.device):
            try:
                twin = copy.deepcopy(model)
                plain = numbers(make(twin), twin, arguments)
                with torch.autocast(x.device.type, enabled=False):
                    exact = numbers(*_more_exactly(model, make, arguments, half))
            except (RuntimeError, TypeError, ValueError) as error:  # out of memory, or a constant's type
                return f"it could not be compared with the plain one ({one_line(error)[:200]})"
            found = numbers(fast, model, arguments)
        rounding = torch.finfo(torch.bfloat16 if half else x.dtype).eps
        return _difference(found, plain, exact, rounding)

    return doubt


def _more_exactly(
    model: nn.Module, make: Callable[[Any], Function], arguments: Sequence[Any], half: bool
) -> tuple[Function, nn.Module, list[Any]]:
    """The plain function, a copy of the model, and the arguments: in float64, or in float32 for ``half``."""
    dtype = torch.float32 if half else torch.float64
    where = arguments[0].device
    device = torch.device("cpu") if where.type == "mps" else where  # MPS has no float64
    twin = copy.deepcopy(model).to(device, dtype)
    given = [a.to(device, dtype) if isinstance(a, Tensor) else a for a in arguments]
    return make(twin), twin, given


def _difference(
    found: tuple[Numbers, Numbers],
    plain: tuple[Numbers, Numbers],
    exact: tuple[Numbers, Numbers],
    rounding: float,
) -> str:
    """Say what is off by most, and by how much; an empty string if rounding explains all differences.

    Args:
        found: Values and gradients of the compiled function.
        plain: The same of the plain function.
        exact: The same of the plain function in a higher precision.
        rounding: Machine epsilon of the compiled function's precision.
    """
    values, arrays = (
        {name: tuple(_flat(each[part][name]) for each in (found, plain, exact)) for name in plain[part]}
        for part in (0, 1)
    )
    if not all(p.isfinite().all() for _, p, _ in (*values.values(), *arrays.values())):
        return ""  # the run will end with an error of its own
    # A single number may be close to its exact value by chance, so the typical error of all counts, too.
    squares = sum(float((p - e).square().sum()) for _, p, e in arrays.values())
    typical = math.sqrt(squares / sum(len(p) for _, p, _ in arrays.values()))
    floors = {name: VALUE_FLOOR * rounding * max(float(p.norm()), 1.0) for name, (_, p, _) in values.items()}
    roundings = (FULL_FLOOR if rounding < LEAST_HALF else FLOOR) * rounding
    floors |= {name: roundings * float(p.norm()) + FLOOR * typical for name, (_, p, _) in arrays.items()}
    worst, said = 1.0, ""
    for name, (f, p, e) in (values | arrays).items():
        off, allowed = float((f - p).norm()), MARGIN * float((p - e).norm()) + floors[name]
        if off == 0:
            continue
        ratio = off / allowed if allowed > 0 and math.isfinite(off) else math.inf
        if ratio > worst:
            worst, size = ratio, float(p.norm())
            said = (
                f"{name} is off by {off / size:.2g} of its size" if size else f"{name} is {off:.2g} and not 0"
            )
    return said


def _flat(value: Tensor) -> Tensor:
    return value.detach().cpu().double().flatten()


@contextmanager
def _undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Switch dropout off within the block, and restore dropout, buffers and random state after it."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    dropout = [
        module
        for module in model.modules()
        if isinstance(module, _DropoutNd) and module.training and module.p
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
            torch.compiler.reset()  # the step was compiled without dropout; now it is compiled with it
