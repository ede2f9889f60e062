"""Record the work of a function on a device, which then does it again without waiting for Python."""

from __future__ import annotations

import warnings
from collections.abc import Callable
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
            RuntimeError: If that is not possible.
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
        waits = any("synchronizing" in str(warning.message) for warning in caught)
        return "it reads numbers from the GPU" if waits else ""

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        current = torch.cuda.stream(torch.cuda.current_stream())  # which a failure would leave changed
        with current, torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            function()
        return graph.replay


#: Devices whose work can be recorded.
RECORDERS: dict[str, Callable[[], Recorder]] = {"cuda": CudaGraphs}
