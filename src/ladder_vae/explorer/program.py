"""A small program of a few operations on arrays, which plain JavaScript can run: how it is put together.

Every array is a row of numbers in C order. Shapes are known here and turned into lengths and strides, so that
the one who runs the program needs none.
``interpreter.js`` runs it and lists what each operation does.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Value:
    """An array that a program computes.

    Args:
        key: Number of the array, in the order in which arrays are computed; inputs come first.
        shape: Its shape.
    """

    key: int
    shape: tuple[int, ...]


Operand = Value | Tensor


class Constants:
    """Arrays that programs share. Each is kept once, and in half precision where that loses nothing."""

    def __init__(self) -> None:
        self._places: dict[bytes, int] = {}
        self._parts: list[bytes] = []
        self.table: list[tuple[int, int, bool]] = []  # offset in bytes, number of elements, half precision?

    def place(self, value: Tensor) -> int:
        """The number of a constant, which is added if it is new."""
        flat = value.detach().float().contiguous().flatten()
        half = flat.half()
        exact = bool((half.float() == flat).all())
        content = (half if exact else flat).numpy().astype("<f2" if exact else "<f4").tobytes()
        name = hashlib.sha256(content).digest() + bytes([exact])
        if name not in self._places:
            self._places[name] = len(self.table)
            self.table.append((sum(map(len, self._parts)), flat.numel(), exact))
            self._parts.append(
                content + bytes(-len(content) % 4)
            )  # four bytes of a float begin at a multiple
        return self._places[name]

    @property
    def content(self) -> bytes:
        """All constants, one after the other, little-endian."""
        return b"".join(self._parts)


class Program:
    """Steps that compute outputs from inputs.

    Args:
        constants: Shared with other programs.
    """

    def __init__(self, constants: Constants) -> None:
        self.constants = constants
        self._sizes: list[int] = []
        self._inputs: list[Value] = []
        self._outputs: list[Value] = []
        self._steps: list[tuple[str, Value, list[Operand], dict[str, Any]]] = []

    def input(self, shape: Sequence[int]) -> Value:
        """Add an input."""
        value = self._new(shape)
        self._inputs.append(value)
        return value

    def output(self, value: Operand) -> None:
        """Add an output. One that depends on no input is copied."""
        shape = value.shape
        self._outputs.append(value if isinstance(value, Value) else self.step("copy", shape, [value]))

    def step(
        self, operation: str, shape: Sequence[int], operands: Sequence[Operand], **settings: Any
    ) -> Value:
        """Add a step; gives what it computes."""
        value = self._new(shape)
        self._steps.append((operation, value, list(operands), settings))
        return value

    def _new(self, shape: Sequence[int]) -> Value:
        self._sizes.append(math.prod(shape))
        return Value(len(self._sizes) - 1, tuple(shape))

    def moved(self, value: Operand, shape: Sequence[int], strides: Sequence[int], offset: int = 0) -> Operand:
        """``value`` read with strides, as ``torch.as_strided`` reads it; the same array if nothing moves."""
        sizes, steps = _merged(shape, strides)
        if offset == 0 and math.prod(shape) == math.prod(value.shape) and steps in ([], [1]):
            return value.reshape(*shape) if isinstance(value, Tensor) else Value(value.key, tuple(shape))
        return self.step("strided", shape, [value], sizes=sizes, strides=steps, offset=offset)

    def broadcast(self, value: Operand, shape: Sequence[int]) -> Operand:
        """``value`` in another shape; a single number is left alone."""
        if math.prod(value.shape) == 1 or tuple(value.shape) == tuple(shape):
            return value
        strides = torch.empty(value.shape, device="meta").expand(tuple(shape)).stride()
        return self.moved(value, shape, strides)

    def written(self) -> dict[str, Any]:
        """As JSON holds it, without steps that no output needs."""
        needed, kept = {value.key for value in self._outputs}, []
        for step in reversed(self._steps):
            if step[1].key in needed:
                needed |= {each.key for each in step[2] if isinstance(each, Value)}
                kept.append(step)
        # The constants of a program are known only now: those of steps that are left out are not kept.
        steps = [
            (operation, value, [self._slot(each) for each in operands], settings)
            for operation, value, operands, settings in reversed(kept)
        ]
        return {
            "sizes": self._sizes,
            "inputs": [value.key for value in self._inputs],
            "outputs": [value.key for value in self._outputs],
            "steps": [
                {"op": operation, "out": value.key, "in": slots, **settings}
                for operation, value, slots, settings in steps
            ],
        }

    def _slot(self, operand: Operand) -> int:
        """Where an operand lies: constant n at -1 - n, the array of a key at the key."""
        return operand.key if isinstance(operand, Value) else -1 - self.constants.place(operand)


def _merged(shape: Sequence[int], strides: Sequence[int]) -> tuple[list[int], list[int]]:
    """The same reading with as few axes as possible."""
    sizes: list[int] = []
    steps: list[int] = []
    for size, stride in zip(shape, strides, strict=True):
        if size == 1:
            continue
        if sizes and steps[-1] == stride * size:
            sizes[-1] *= size
            steps[-1] = stride
        else:
            sizes.append(size)
            steps.append(stride)
    return sizes, steps
