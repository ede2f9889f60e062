"""The whole training step as a recording, which a GPU replays without waiting for Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import Parameter, signature
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.optim import Optimizer

from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.system.errors import one_line, warn
from ladder_vae.system.recording import RECORDERS, REHEARSALS, Recorder
from ladder_vae.training.skipping import GradientSkip
from ladder_vae.training.step import StepValues, clip

MOST_RECORDINGS = 4  # of one shape; a schedule that asks for more would spend its time on them


# Hooks in which a callback finds gradients, or may change them; a recorded step has no place for them.
AROUND_THE_UPDATE = (
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_before_zero_grad",
)


def why_not_recorded(trainer: L.Trainer, device: str) -> str:
    """Why the step is none of which Lightning only counts that it was done; empty if it is one.

    Args:
        device: Type of the device that trains.
    """
    reason = "" if device in RECORDERS else f"this run trains on {device}"
    if trainer.accumulate_grad_batches != 1:
        reason = "trainer.accumulate_grad_batches adds up gradients"
    if trainer.world_size > 1:
        reason = "several processes share each batch"
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        sees = any(is_overridden(hook, callback, L.Callback) for hook in AROUND_THE_UPDATE)
        if sees or isinstance(callback, GradientAccumulationScheduler):
            reason = f"{type(callback).__name__} has to do with the gradients of each step"
    optimizer = trainer.optimizers[0]
    closure = signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is Parameter.empty:
        reason = f"{type(optimizer).__name__} computes a step several times"
    return reason


class WholeStep:
    """Noise, forward and backward pass, clipping and the update of the weights as one function.

    Steps of each shape of batch are recorded after some rehearsals, and then replayed. What changes from step
    to step lies in tensors that the recording reads: images, beta, learning rates. Random numbers go on as if
    every step were computed, for a replay advances the generator of the device. All else that is Python's,
    such as numbers that an optimizer counts for itself, would stay as it was recorded; such steps are done
    without recording. A step that is not recorded does the same.

    Args:
        model: The model that is trained.
        values: The step's loss and terms from images, beta and the noise of each level; it may be compiled.
        optimizer: Of the model's weights.
        samples: Draws K per image.
        largest_norm: Gradients are clipped to this norm; None does not clip.
        recorder: Records on the model's device.
        skip: Says which steps leave weights and optimizer state as they were; None skips no step.
    """

    def __init__(
        self,
        model: Hierarchy,
        values: Callable[..., StepValues],
        optimizer: Optimizer,
        samples: int,
        largest_norm: float | None,
        recorder: Recorder,
        skip: GradientSkip | None = None,
    ) -> None:
        self.model = model
        self.values = values
        self.optimizer = optimizer
        self.samples = samples
        self.largest_norm = largest_norm
        self.recorder = recorder
        self.skip = skip
        self.doubt = ""  # why no step is recorded
        self._device = next(model.parameters()).device
        self._beta = torch.zeros((), device=self._device)
        self._rates = [torch.zeros((), device=self._device) for _ in optimizer.param_groups]
        self._found = torch.zeros(2 + model.num_layers, device=self._device)  # of the last step
        self._shapes: dict[torch.Size, _Shape] = {}
        self._begun = False  # whether there was an update: what state the optimizer has, it has by then

    def __call__(self, x: Tensor, beta: float) -> StepValues:
        """Do a step with the images ``(B, C, H, W)`` and return its values, which have no gradient."""
        if x.shape not in self._shapes:
            self._shapes[x.shape] = _Shape(x)
        shape = self._shapes[x.shape]
        shape.x.copy_(x)
        self._beta.fill_(beta)
        for rate, group in zip(self._rates, self.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        if shape.replay is not None and shape.settings != self._settings():
            self._forget()  # a schedule has changed more than the learning rate
        if shape.replay is None and shape.steps >= REHEARSALS and not self.doubt:
            self._record(shape)
        if shape.replay is not None:
            shape.replay()
        elif self.doubt:
            self._step(shape.x)
        else:
            doubt = self.recorder.rehearse(lambda: self._step(shape.x))
            if shape.steps == REHEARSALS - 1:  # in the first one, a compiler may have worked
                self._give_up(doubt or self._frozen())
        shape.steps += 1
        found = self._found.clone()  # the next step writes there again
        return StepValues(found[0], found[1], found[2:])

    def _record(self, shape: _Shape) -> None:
        shape.recordings += 1
        if shape.recordings > MOST_RECORDINGS:
            self._give_up("a schedule changes more than the learning rate")
            return
        try:
            shape.settings, shape.replay = self._settings(), self.recorder.record(lambda: self._step(shape.x))
        except RuntimeError as error:
            self._give_up(one_line(error)[:200])

    def _give_up(self, reason: str) -> None:
        if reason and not self.doubt:
            self.doubt = reason
            self._forget()
            warn(f"going on without a CUDA graph, more slowly: the step cannot be recorded ({reason})")

    def _forget(self) -> None:
        """Drop all recordings at once. With any of them torch from 2.12 on frees what the others compute in.

        That is the workspace of cuBLAS on the stream of the recordings.
        """
        for shape in self._shapes.values():
            shape.replay = None

    def _settings(self) -> list[dict[str, Any]]:
        """What a recording holds of the optimizer: all but weights and learning rates."""
        return [
            {key: value for key, value in group.items() if key not in ("params", "lr")}
            for group in self.optimizer.param_groups
        ]

    def _frozen(self) -> str:
        """What of the optimizer's state a recording would hold as it is; empty if there is nothing."""
        values = (pair for state in self.optimizer.state.values() for pair in state.items())
        name = type(self.optimizer).__name__
        return next((f"{name} keeps {k} as a number" for k, v in values if not _is_kept(v)), "")

    def _step(self, x: Tensor) -> None:
        self.optimizer.zero_grad()
        noise = self.model.terms_noise(self.samples, len(x), like=x)
        loss, *terms = self.values(x, self._beta, *noise)
        with torch.autocast(self._device.type, enabled=False):
            loss.backward()
            if self.skip is not None:
                self._update_or_skip(self.skip.judge(clip(self.model, self.largest_norm)))
            else:
                if self.largest_norm:
                    clip(self.model, self.largest_norm)
                with self._recordable():
                    self.optimizer.step()
            self._found.copy_(torch.cat([part.detach().flatten() for part in (loss, *terms)]))

    @torch.no_grad()
    def _update_or_skip(self, skip: Tensor) -> None:
        """Update the weights, and take that back where ``skip`` says so: a recording cannot branch on it."""
        begun = self._begun or bool(self.optimizer.state)
        if not begun or self.doubt or self._frozen():
            # Not recorded. What state begins with is the optimizer's to know, and numbers take nothing back.
            if skip:
                self.optimizer.zero_grad()  # without gradients it changes nothing
            with self._recordable():
                self.optimizer.step()
            self._begun = begun or not skip
            return
        with self._recordable():
            states = (value for state in self.optimizer.state.values() for value in state.values())
            kept = [value for value in (*self.model.parameters(), *states) if value is not None]
            before = [torch.empty_like(value) for value in kept]
            torch._foreach_copy_(before, kept)
            self.optimizer.step()
            for value, old in zip(kept, before, strict=True):
                torch.where(skip, old, value, out=value)  # a kernel each, of which a step has hundreds

    @contextmanager
    def _recordable(self) -> Iterator[None]:
        """Within the block, the optimizer reads its rates from tensors and counts its steps on the device."""
        groups = self.optimizer.param_groups
        before = [(group["lr"], group.get("capturable")) for group in groups]
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] = rate
            if group.get("capturable") is not None:
                group["capturable"] = self._device.type in RECORDERS
        for state in self.optimizer.state.values():
            state.update({k: v.to(self._device) for k, v in state.items() if isinstance(v, Tensor)})
        try:
            yield
        finally:
            for group, (rate, capturable) in zip(groups, before, strict=True):
                group["lr"] = rate
                if capturable is not None:
                    group["capturable"] = capturable


class _Shape:
    """Steps of batches of one shape: the tensor that recordings read images from, and the recording."""

    def __init__(self, x: Tensor) -> None:
        self.x = torch.empty_like(x)
        self.steps = self.recordings = 0
        self.replay: Callable[[], None] | None = None
        self.settings: list[dict[str, Any]] = []  # of the optimizer in the recording


def _is_kept(value: Any) -> bool:
    return value is None or isinstance(value, Tensor)
