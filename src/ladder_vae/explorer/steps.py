"""What the core ATen operations are in a program of :mod:`ladder_vae.explorer.program`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from ladder_vae.explorer.program import Operand, Program, Value


class Untranslatable(RuntimeError):
    """A function uses an operation that a program has no step for.

    It is a RuntimeError, as PyTorch raises where a number is asked for that a trace does not have.
    """


def translated(program: Program, target: Any, args: list[Any], keywords: dict[str, Any]) -> Any:
    """Add the steps of an ATen operation.

    Args:
        program: What they are added to.
        target: The operation.
        args: Its arguments; in place of a tensor that depends on inputs stands what the program has of it.
        keywords: The same, by name.

    Returns:
        What the program has of its result, or of each of its results.

    Raises:
        Untranslatable: If no step computes it.
    """
    name = target.overloadpacket.__name__
    if name == "_local_scalar_dense":
        raise Untranslatable("it looks at numbers to choose what to compute")
    if name in MOVES:
        return _moved(program, target, args, keywords)
    if name not in STEPS:
        raise Untranslatable(f"a page cannot compute {target}")
    return STEPS[name](program, *args, **keywords)


def operands(arguments: Any, kinds: type | tuple[type, ...]) -> list[Any]:
    """All arrays of some kinds among the arguments, also those in lists."""
    return [each for each in tree_leaves(arguments) if isinstance(each, kinds)]


MOVES = {
    "alias", "cat", "clone", "constant_pad_nd", "detach", "expand", "flip", "index_select", "lift_fresh_copy",
    "permute", "repeat", "select", "select_scatter", "slice", "slice_scatter", "split",
    "split_with_sizes", "squeeze", "t", "transpose", "unsqueeze", "view", "_unsafe_view",
}  # fmt: skip
JOINS = {"cat", "select_scatter", "slice_scatter"}  # of several arrays


def _moved(program: Program, target: Any, args: list[Any], keywords: dict[str, Any]) -> Any:
    """Apply the operation to the positions of all elements, counted from 1; what it fills in is 0.

    Where the positions come to lie is where the elements do.
    """
    name = target.overloadpacket.__name__
    kinds = (Value, Tensor) if name in JOINS else (Value,)  # else a tensor says where
    moved = operands(args, kinds)
    if name == "constant_pad_nd" and any(args[2:]):
        raise Untranslatable(f"a page cannot compute {target} with {args[2]:g}")
    positions, start = [], 1
    for each in moved:
        size = math.prod(each.shape)
        positions.append(torch.arange(start, start + size).view(each.shape))
        start += size
    remaining = iter(positions)
    result = target(*tree_map_only(kinds, lambda each: next(remaining), args), **keywords)
    if isinstance(result, list | tuple):
        return [_taken(program, moved, positions, each) for each in result]
    return _taken(program, moved, positions, result)


def _taken(program: Program, moved: list[Operand], positions: list[Tensor], result: Tensor) -> Operand:
    """The elements of ``moved``, which have ``positions``, at the positions ``result``."""
    first = positions[0]
    if len(moved) == 1:
        if result.untyped_storage().data_ptr() == first.untyped_storage().data_ptr():
            return program.moved(moved[0], result.shape, result.stride(), int(result.storage_offset()))
        if torch.equal(result.flatten(), first.flatten()):
            return program.moved(moved[0], result.shape, result.contiguous().stride())
    return program.step("take", result.shape, moved, index=result.flatten().tolist())


def _unary(name: str, program: Program, x: Value, **settings: Any) -> Value:
    return program.step(name, x.shape, [x], **settings)


def _together(name: str, program: Program, *operands: Any) -> Value:
    """An operation on the elements of several arrays, which broadcast."""
    arrays = [each if isinstance(each, Value | Tensor) else torch.tensor(float(each)) for each in operands]
    shape = torch.broadcast_shapes(*(tuple(each.shape) for each in arrays))
    return program.step(name, shape, [program.broadcast(each, shape) for each in arrays])


def _sum_of_two(name: str, program: Program, a: Any, b: Any, alpha: float = 1) -> Value:
    return _together(name, program, a, b if alpha == 1 else _together("mul", program, b, alpha))


def _power(program: Program, x: Any, exponent: Any) -> Value:
    return _together("mul", program, x, x) if exponent == 2 else _together("pow", program, x, exponent)


def _clamp(program: Program, x: Value, low: Any = None, high: Any = None) -> Value:
    x = x if low is None else _together("maximum", program, x, low)
    return x if high is None else _together("minimum", program, x, high)


def _copy(program: Program, x: Any, source: Operand, **settings: Any) -> Operand:
    strides = torch.empty(source.shape, device="meta").expand(x.shape).stride()
    return program.moved(source, x.shape, strides)


def _filled(program: Program, x: Value, value: float, **settings: Any) -> Tensor:
    return torch.full(x.shape, float(value))


def _converted(program: Program, x: Value, **settings: Any) -> Value:
    """Truth is 0 or 1 here, so that no number changes."""
    if settings.get("dtype") not in (None, torch.float32):
        raise Untranslatable(f"a page cannot compute with {settings['dtype']}")
    return x


def _reduced(
    kind: str, program: Program, x: Value, axes: Any = None, keepdim: bool = False, dtype: Any = None
) -> Value:
    """Sum, mean or maximum over some axes, which are moved to the end."""
    rank = len(x.shape)
    gone = sorted({axis % rank for axis in ([axes] if isinstance(axes, int) else axes or range(rank))})
    kept = [axis for axis in range(rank) if axis not in gone]
    order, strides = [*kept, *gone], torch.empty(x.shape, device="meta").stride()
    rows = program.moved(x, [x.shape[a] for a in order], [strides[a] for a in order])
    shape = [1 if a in gone else x.shape[a] for a in range(rank) if keepdim or a not in gone]
    return program.step(kind, shape, [rows], count=math.prod(x.shape[a] for a in gone))


def _log_softmax(program: Program, x: Value, axis: int, half_to_float: bool = False) -> Value:
    highest = _reduced("max", program, x, axis, True)
    below = _together("sub", program, x, highest)
    total = _reduced("sum", program, _unary("exp", program, below), axis, True)
    return _together("sub", program, below, _unary("log", program, total))


def _softmax(program: Program, x: Value, axis: int, half_to_float: bool = False) -> Value:
    return _unary("exp", program, _log_softmax(program, x, axis))


def _linear(program: Program, x: Operand, matrix: Operand, *bias: Operand) -> Value:
    """``x @ matrix + bias``. The matrix is kept with a row for each output, which are read in order."""
    if not isinstance(matrix, Tensor) or not all(isinstance(b, Tensor) and b.dim() == 1 for b in bias):
        raise Untranslatable("a page cannot compute the product of two arrays of which neither is a weight")
    inputs, outputs = matrix.shape
    return program.step(
        "linear", (x.shape[0], outputs), [x, matrix.t(), *bias], inputs=inputs, outputs=outputs
    )


def _addmm(program: Program, bias: Operand, x: Operand, matrix: Operand, **factors: float) -> Value:
    if any(factor != 1 for factor in factors.values()):
        raise Untranslatable("a page cannot compute addmm with factors")
    return _linear(program, x, matrix, bias)


def _batch_norm(
    program: Program,
    x: Value,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    *settings: Any,
) -> list[Value]:
    """A factor and a summand for each channel, from averages: a model in eval mode looks at no batch."""
    if any(each is True for each in settings):
        raise Untranslatable("a page cannot normalize over a batch; the model must be in eval mode")
    factor = (var.double() + settings[-1]).rsqrt() * (1 if weight is None else weight.double())
    summand = (0 if bias is None else bias.double()) - mean.double() * factor
    inner = math.prod(x.shape[2:])
    return [program.step("affine", x.shape, [x, factor.float(), summand.float()], inner=inner)]


def _layer_norm(
    program: Program, x: Value, shape: Sequence[int], weight: Any, bias: Any, eps: float
) -> list[Value]:
    y = program.step("standardize", x.shape, [x], count=math.prod(shape), eps=eps)
    y = y if weight is None else _together("mul", program, y, weight)
    return [y if bias is None else _together("add", program, y, bias)]


def _convolution(
    program: Program,
    x: Value,
    weight: Operand,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Value:
    if transposed or len(x.shape) != 4 or not isinstance(weight, Tensor) or {*stride, *dilation} != {1}:
        raise Untranslatable("a page computes convolutions of images only, with stride and dilation 1")
    _, channels, height, width = x.shape
    rows, columns = (
        size + 2 * pad - kernel + 1
        for size, pad, kernel in zip((height, width), padding, weight.shape[2:], strict=True)
    )
    return program.step(
        "convolution",
        (x.shape[0], len(weight), rows, columns),
        [x, weight, torch.zeros(len(weight)) if bias is None else bias],
        images=x.shape[0],
        channels=[channels, len(weight)],
        size=[height, width],
        result=[rows, columns],
        kernel=list(weight.shape[2:]),
        padding=list(padding),
        groups=groups,
    )


def _average_pool(
    program: Program,
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Value:
    if any(padding) or list(stride or kernel) != list(kernel) or divisor is not None:
        raise Untranslatable("a page computes means over blocks of pixels only where these do not overlap")
    *lead, height, width = x.shape
    rows, columns = (
        -(-side // k) if ceil_mode else side // k for side, k in zip((height, width), kernel, strict=True)
    )
    return program.step(
        "average_pool",
        (*lead, rows, columns),
        [x],
        images=math.prod(lead),
        size=[height, width],
        result=[rows, columns],
        kernel=list(kernel),
    )


UNARY = (
    "abs", "exp", "expm1", "log", "log1p", "logical_not", "neg", "reciprocal", "relu", "rsqrt", "sigmoid",
    "sign", "sqrt", "tanh",
)  # fmt: skip
TOGETHER = (
    "div", "eq", "ge", "gt", "le", "logical_and", "lt", "maximum", "minimum", "mul", "ne", "where",
)  # fmt: skip
#: What translates an operation, by its name.
STEPS: dict[str, Callable[..., Any]] = {
    **{name: partial(_unary, name) for name in UNARY},
    **{name: partial(_together, name) for name in TOGETHER},
    "add": partial(_sum_of_two, "add"),
    "sub": partial(_sum_of_two, "sub"),
    "bitwise_and": partial(_together, "logical_and"),
    "bitwise_not": partial(_unary, "logical_not"),
    "pow": _power,
    "clamp": _clamp,
    "copy": _copy,
    "full_like": _filled,
    "_to_copy": _converted,
    "leaky_relu": lambda program, x, slope=0.01: _unary("leaky_relu", program, x, slope=slope),
    "sum": partial(_reduced, "sum"),
    "mean": partial(_reduced, "mean"),
    "amax": partial(_reduced, "max"),
    "_log_softmax": _log_softmax,
    "_softmax": _softmax,
    "mm": _linear,
    "addmm": _addmm,
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "native_layer_norm": _layer_norm,
    "convolution": _convolution,
    "avg_pool2d": _average_pool,
}
