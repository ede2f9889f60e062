"""The whole training step as one recording, which a GPU replays without waiting for Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.system.errors import one_line, warn
from ladder_vae.training.step import StepValues

WARM_UP = 3  # steps before recording, in which libraries choose kernels and the optimizer makes its state
#: Records what a function without arguments would do on a device, and returns what does it again.
Recorder = Callable[[Callable[[], None]], Callable[[], None]]


def cuda_graph(function: Callable[[], None]) -> Callable[[], None]:
    """Record the kernels of a function as a CUDA graph. Nothing is computed until it is replayed.

    Raises:
        RuntimeError: If the function does what a graph cannot hold, such as reading a number on the host.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


#: Devices whose steps can be recorded.
RECORDERS: dict[str, Recorder] = {"cuda": cuda_graph}


class WholeStep:
    """Noise, forward and backward pass, clipping and the update of the weights as one function.

    Batches of the first one's shape are recorded after :data:`WARM_UP` of them, and then replayed. What
    changes from step to step lies in tensors that the recording reads: images, beta, learning rates. Random
    numbers go on as if every step were computed, for a replay advances the generator of the device. Each
    step, recorded or not, does the same in the same order as Lightning's loop with
    :class:`~ladder_vae.training.lightning_module.HierarchicalVAE`.

    Args:
        model: The model that is trained.
        values: The step's loss and terms from images, beta and the noise of each level; it may be compiled.
        optimizer: Of the model's weights.
        samples: Draws K per image.
        largest_norm: Gradients are clipped to this norm; None does not clip.
        record: How steps are recorded on the model's device.
    """

    def __init__(
        self,
        model: Hierarchy,
        values: Callable[..., StepValues],
        optimizer: Optimizer,
        samples: int,
        largest_norm: float | None,
        record: Recorder,
    ) -> None:
        self.model = model
        self.values = values
        self.optimizer = optimizer
        self.samples = samples
        self.largest_norm = largest_norm
        self.record = record
        self._device = next(model.parameters()).device
        self._beta = torch.zeros((), device=self._device)
        self._rates = [torch.zeros((), device=self._device) for _ in optimizer.param_groups]
        self._x: Tensor | None = None
        self._found = torch.zeros(2 + model.num_layers, device=self._device)  # of the last step
        self._replay: Callable[[], None] | None = None
        self._recorded: list[dict[str, Any]] = []  # settings of the optimizer in the recording
        self._steps = 0
        self._failed = False

    def takes(self, x: Tensor) -> bool:
        """Whether it does the step of this batch. The smaller last batch of an epoch is left to Lightning."""
        if self._x is None:
            self._x = torch.empty_like(x)
        fits = x.shape == self._x.shape and x.dtype == self._x.dtype
        return fits and not self._failed

    def __call__(self, x: Tensor, beta: float) -> StepValues:
        """Do a step and return its values, detached."""
        assert self._x is not None
        self._x.copy_(x)
        self._beta.fill_(beta)
        for rate, group in zip(self._rates, self.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        if self._replay is not None and self._recorded != self._settings():
            self._replay = None  # a schedule has changed another setting than the learning rate
        if self._replay is None and self._steps >= WARM_UP:
            self._try_to_record()
        if self._replay is not None:
            self._replay()
        else:
            self._warm_up()
        self._steps += 1
        found = self._found.detach().clone()  # the next step writes there again
        return StepValues(found[0], found[1], found[2:])

    def _settings(self) -> list[dict[str, Any]]:
        """What a recording holds of the optimizer: all but weights and learning rates."""
        return [
            {key: value for key, value in group.items() if key not in ("params", "lr")}
            for group in self.optimizer.param_groups
        ]

    def _try_to_record(self) -> None:
        try:
            self._recorded = self._settings()
            self._replay = self.record(self._step)
        except RuntimeError as error:
            self._failed = True
            warn(
                "going on without a CUDA graph, more slowly: the step cannot be recorded "
                f"({one_line(error)[:200]})"
            )

    def _warm_up(self) -> None:
        """Do a step that is not recorded; on CUDA in a stream of its own, as recording asks for."""
        if self._device.type != "cuda":
            self._step()
            return
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._step()
        torch.cuda.current_stream().wait_stream(stream)

    def _step(self) -> None:
        assert self._x is not None
        self.optimizer.zero_grad()
        torch.clear_autocast_cache()  # a cast weight of an earlier step would be an old weight
        noise = self.model.draw_noise(self.samples, len(self._x), like=self._x)
        loss, *terms = self.values(self._x, self._beta, *noise)
        with torch.autocast(self._device.type, enabled=False):
            loss.backward()
            if self.largest_norm:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.largest_norm)
            with self._recordable():
                self.optimizer.step()
        torch.clear_autocast_cache()
        self._found.copy_(torch.cat([part.detach().flatten() for part in (loss, *terms)]))

    @contextmanager
    def _recordable(self) -> Iterator[None]:
        """Within the block, the optimizer reads its rates from tensors and counts its steps on the device."""
        groups = self.optimizer.param_groups
        before = [(group["lr"], group.get("capturable")) for group in groups]
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] = rate
            if group.get("capturable") is not None:
                group["capturable"] = self._device.type == "cuda"
        for state in self.optimizer.state.values():
            state.update({k: v.to(self._device) for k, v in state.items() if isinstance(v, Tensor)})
        try:
            yield
        finally:
            for group, (rate, capturable) in zip(groups, before, strict=True):
                group["lr"] = rate
                if capturable is not None:
                    group["capturable"] = capturable
