"""Training loops in processes of their own, of which one at a time trains: the others wait for their turn.

So loops whose modules and settings would be in each other's way are timed side by side, and each starts and
compiles once.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context, set_start_method
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ladder_vae.system.errors import UserError

WARM_UP = 10  # steps: more than the batches that workers have loaded while their loop waited


class Over(BaseException):
    """Ends a training loop that has had its last turn. Nothing that catches errors catches it."""


class Clock:
    """The clock of a training loop, in the loop's own process.

    It counts the operations of the loop's second step, but no others: that would take time.

    Args:
        connection: To the process that gives the turns.
    """

    def __init__(self, connection: Connection) -> None:
        #: Whether to count operations. It does not work where a step is compiled.
        self.counts = True
        self._connection = connection
        self._counter: FlopCounterMode | None = None
        self._seconds, self._warm_up = 0.0, 0  # of the turn
        self._steps = self._images = 0
        self._began = 0.0

    def step(self, model: nn.Module, images: int) -> None:
        """Call it once in each step of the loop. It waits while others have their turn.

        Args:
            model: What is trained.
            images: Number of images of the step.

        Raises:
            Over: After the last turn.
        """
        if not self._seconds:
            self._begin(model, images)
            return
        self._steps += 1
        if self._steps == self._warm_up:
            self._images, self._began = 0, time.perf_counter()
        elif self._steps > self._warm_up:
            self._images += images
            passed = time.perf_counter() - self._began
            if passed >= self._seconds:
                self._pause(self._images / passed)

    def _begin(self, model: nn.Module, images: int) -> None:
        if self.counts and self._counter is None:
            self._counter = FlopCounterMode(display=False)
            self._counter.__enter__()
            return
        operations = None
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            operations = self._counter.get_total_flops() / images
        self._pause((sum(p.numel() for p in model.parameters() if p.requires_grad), operations))

    def _pause(self, said: float | tuple[int, float | None]) -> None:
        self._connection.send(said)
        turn = self._connection.recv()
        if turn is None:
            raise Over
        self._seconds, self._warm_up = turn
        self._steps = 0


class Loop:
    """A training loop that has made its first steps and waits.

    Args:
        name: What a message calls it.
        train: The loop; it is called in a new process, whose working directory is ``directory``.
        directory: A new one. What the loop prints is in its ``log.txt``.

    Raises:
        UserError: If the loop fails before it waits.
    """

    def __init__(self, name: str, train: Callable[[Clock], None], directory: Path) -> None:
        self._name, self._log = name, directory / "log.txt"
        directory.mkdir(parents=True, exist_ok=True)
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(train, theirs, directory, self._log))
        self._process.start()
        theirs.close()
        #: Number of weights that are trained; and additions and multiplications an image of the matrix
        #: products and convolutions of a step, forward and backward, or None if they were not counted.
        self.weights, self.operations = self._heard()

    def turn(self, seconds: float, warm_up: int = WARM_UP) -> float:
        """Let it train for so many seconds, and return the images a second.

        Args:
            seconds: Above 0. The step in which they are over is finished and counts.
            warm_up: Number of steps before the clock starts, at least 1.

        Raises:
            UserError: If the loop has failed.
        """
        self._connection.send((seconds, warm_up))
        return float(self._heard())

    def end(self) -> None:
        """End the loop and its process."""
        if self._process.is_alive():
            self._connection.send(None)
        self._process.join()

    def _heard(self) -> Any:
        try:
            return self._connection.recv()
        except EOFError:
            self._process.join()
            said = self._log.read_text(errors="replace").split("\n")
            last = next((line for line in reversed(said) if line.strip()), "it said nothing")
            raise UserError(f"{self._name} failed: {last.strip()}") from None


def _run(train: Callable[[Clock], None], connection: Connection, directory: Path, log: Path) -> None:
    """In the new process."""
    set_start_method(None, force=True)  # its own processes, such as workers, begin as they do elsewhere
    os.chdir(directory)
    with log.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    try:
        train(Clock(connection))
    except Over:
        return
    raise RuntimeError("the loop ended before its last turn")
