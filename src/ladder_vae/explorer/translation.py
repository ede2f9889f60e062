"""From a function of tensors to a program: call the function and translate each operation that it asks for.

The function is called once, on examples, and what PyTorch is asked to compute is seen operation by operation,
decomposed into core ATen operations. What depends on no input becomes a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from ladder_vae.explorer.program import Constants, Operand, Program, Value
from ladder_vae.explorer.steps import Untranslatable, operands, translated


@torch.no_grad()
def translate(
    function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], constants: Constants
) -> Program:
    """The program of a function.

    Args:
        function: Maps tensors to a sequence of tensors and draws no random numbers.
        inputs: Examples. The program takes inputs of their shapes.
        constants: Where it keeps its weights.

    Raises:
        Untranslatable: If the function uses an operation that no step computes, or looks at its numbers to
            choose what to compute.
    """
    program = Program(constants)
    recorder = _Recorder(program)
    for x in inputs:
        recorder.keep(x, program.input(x.shape))
    with recorder:
        results = torch.func.functionalize(function)(*inputs)  # nothing is written in place
    for result in results:
        program.output(recorder.known(result))
    return program


class _Recorder(TorchDispatchMode):
    """Adds to a program what PyTorch is asked to compute meanwhile."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self._program = program
        self._values: dict[
            int, tuple[Tensor, Value]
        ] = {}  # by identity; tensors are kept, so that it stays one

    def keep(self, tensor: Tensor, value: Operand) -> None:
        """``tensor`` is what the program has as ``value``."""
        if isinstance(value, Value):
            self._values[id(tensor)] = tensor, value

    def known(self, tensor: Tensor) -> Operand:
        """What the program has of a tensor; the tensor itself if it depends on no input."""
        return self._values[id(tensor)][1] if id(tensor) in self._values else tensor

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in function.tags:
            raise Untranslatable(f"{function} draws random numbers")
        known, settings = tree_map_only(Tensor, self.known, (list(args), kwargs))
        if not operands([known, settings], Value):
            return function(*args, **kwargs)
        with self:
            result = _decompositions().get(function, function.decompose)(*args, **kwargs)
        if result is not NotImplemented:
            return result
        values = translated(self._program, function, known, settings)
        result = function(*args, **kwargs)
        several = isinstance(result, tuple | list)
        for tensor, value in zip(result, values, strict=False) if several else [(result, values)]:
            self.keep(tensor, value)
        return result


@cache
def _decompositions() -> dict[Any, Callable[..., Any]]:
    return dict(torch.export.default_decompositions())
