"""Record the work of a function on a device, which then does it again without waiting for Python."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import torch

# Calls before a recording, in which compilers work, libraries choose kernels, optimizers make their state.
REHEARSALS = 3


class Recorder(Protocol):
    """What records the work of a function on a device."""

    def rehearse(self, function: Callable[[], None]) -> str:
        """Call the function as it will be recorded; say why it cannot be, or return an empty string."""

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        """Record what the function would do, and return what does it.

        Raises:
            RuntimeError: If that is not possible. Earlier recordings are then not to be replayed, either.
        """


class CudaGraphs:
    """Records the kernels of functions as CUDA graphs. They share memory, for one at a time is replayed."""

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()
        self.pool = torch.cuda.graph_pool_handle()

    def rehearse(self, function: Callable[[], None]) -> str:
        current, before = torch.cuda.current_stream(), torch.cuda.get_sync_debug_mode()
        self.stream.wait_stream(current)
        with warnings.catch_warnings(record=True) as caught, torch.cuda.stream(self.stream):
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                function()
            finally:
                torch.cuda.set_sync_debug_mode(before)
        current.wait_stream(self.stream)
        waits = any("called a synchronizing" in str(warning.message) for warning in caught)
        return "it reads numbers from the GPU" if waits else ""

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        current = torch.cuda.stream(torch.cuda.current_stream())  # which a failure would leave changed
        try:
            with current, torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                function()
        except BaseException:
            self._leave(graph)
            raise
        return graph.replay

    def _leave(self, graph: torch.cuda.CUDAGraph) -> None:
        """Leave a recording that failed.

        If CUDA has invalidated it, torch would stay in it: up to 2.11 it refuses to draw random numbers from
        then on, and up to 2.13 it may refuse to empty its cache of memory, as every training does at its end.
        """
        device = torch.cuda.current_device()
        generator = torch.cuda.default_generators[device]
        generator.graphsafe_set_state(generator.clone_state())  # the same numbers, outside of any recording
        graph.reset()
        end = getattr(torch._C, "_cuda_endAllocateToPool", None)
        end = end or getattr(torch._C, "_cuda_endAllocateCurrentStreamToPool", None)  # its name in torch 2.6
        if end is not None:
            with suppress(RuntimeError):  # it has left already
                end(device, self.pool)
                torch._C._cuda_releasePool(device, self.pool)


#: Devices whose work can be recorded.
RECORDERS: dict[str, Callable[[], Recorder]] = {"cuda": CudaGraphs}
