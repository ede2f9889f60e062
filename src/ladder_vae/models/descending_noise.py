"""Noise for a walk from the top down, without that of all levels at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

MOST_HELD = 4_000_000  # numbers of noise that are held at once, unless a single level has more: 16 MB


def from_the_top(
    sizes: Sequence[int],
    draw: Callable[[int, torch.Generator | None], Tensor],
    generator: torch.Generator | None,
    device: torch.device,
) -> Iterator[Tensor]:
    """The noise of each level, the top level's first.

    Numbers are those of drawing level after level from z_1 up, and the generator is left as that leaves it.
    If they are too many to be held, the levels fall into blocks: on the way up only the state of the
    generator at the beginning of each block is kept, and on the way down a block is drawn once more.

    Args:
        sizes: How many numbers each level has, z_1 first.
        draw: Draws a level's noise from a generator; from torch's own, if it is None.
        generator: Source of the noise; None: torch's own of ``device``.
        device: Where numbers are drawn if there is no generator.
    """
    blocks = _blocks(sizes)
    states: list[Tensor] = []
    for block in blocks[:-1]:
        states.append(_state(generator, device))
        for level in block:
            draw(level, generator)
    held = [draw(level, generator) for level in blocks[-1]]
    again = torch.Generator(generator.device if generator else device) if states else None
    while True:
        while held:
            yield held.pop()
        if again is None or not states:
            return
        again.set_state(states.pop())
        held = [draw(level, again) for level in blocks[len(states)]]


def _blocks(sizes: Sequence[int]) -> list[range]:
    """Neighboring levels that together have no more numbers than are held at once, z_1's block first."""
    starts, held = [0], 0
    for level, size in enumerate(sizes):
        if held and held + size > MOST_HELD:
            starts.append(level)
            held = 0
        held += size
    return [range(start, end) for start, end in zip(starts, [*starts[1:], len(sizes)], strict=True)]


def _state(generator: torch.Generator | None, device: torch.device) -> Tensor:
    """The state of a generator, or of torch's own for the device."""
    if generator is not None:
        return generator.get_state()
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    # MPS keeps its state in torch.mps, and nobody has tried that.
    return torch.get_rng_state() if device.type == "cpu" else getattr(torch, device.type).get_rng_state()
