"""The LightningModule: training step, validation, test, and what each of them logs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ladder_vae.data.sources import FINGERPRINT
from ladder_vae.maths.bounds import image_bounds
from ladder_vae.models.evaluator import MIN_UNIT_DRAWS, Settings, shared_statistics, unit_counts
from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.models.inference import Terms
from ladder_vae.models.statistics import ImageStatistics
from ladder_vae.models.summary import summarize
from ladder_vae.runs.metrics import SKIPPED
from ladder_vae.system.compilation import compiled
from ladder_vae.system.errors import UserError, warn
from ladder_vae.system.naming import CURVES, z_name
from ladder_vae.system.randomness import stream_seed
from ladder_vae.system.ranks import batch_mean, rank, share, world_size
from ladder_vae.system.recording import RECORDERS
from ladder_vae.system.self_check import step_doubt
from ladder_vae.training.objective import Objective
from ladder_vae.training.replay import WholeStep, why_not_recorded
from ladder_vae.training.skipping import GradientSkip
from ladder_vae.training.spectral import SpectralNorms, penalized
from ladder_vae.training.step import StepValues, batch_values, clip

REMEDY = "lower optimizer.lr, or set trainer.gradient_clip_val"
STEPS_PER_READING = 50  # how often the loop reads numbers back from the device, at the latest
BESIDE = "beside_the_weights"  # in a checkpoint: what training steps keep, by name
TESTED = Settings(num_samples=MIN_UNIT_DRAWS, sample_sizes=())  # what ends a training; bounds take more draws


class HierarchicalVAE(L.LightningModule):
    """Trains any :class:`~ladder_vae.models.hierarchy.Hierarchy`.

    Args:
        model: The hierarchy.
        objective: What training minimizes.
        optimizer: Called with the parameters.
        scheduler: Called with ``(optimizer, total_steps=N)`` and stepped every step; None: constant.
        seed: Seed of the latent noise. Every epoch reseeds from (seed, epoch), so that a run resumed
            at an epoch boundary is the run that was never stopped. Processes that share the images of
            each batch draw the noise of the whole batch and take their images' part.
        compile: Whether to compile the step.
        record: Whether to record the whole step and replay it where the device can
            (:class:`~ladder_vae.training.replay.WholeStep`).
        skip_factor: Steps with a gradient norm above this multiple of its running mean change nothing
            (:class:`~ladder_vae.training.skipping.GradientSkip`); None skips no step. A loss that is not
            finite still ends the run: it has passed through batch norm.

    Raises:
        UserError: If free bits, or balanced rates, are asked of a model whose rates may be negative.
    """

    def __init__(
        self,
        model: Hierarchy,
        objective: Objective,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[..., LRScheduler] | None = None,
        seed: int = 0,
        compile: bool = False,
        record: bool = False,
        skip_factor: float | None = None,
    ) -> None:
        super().__init__()
        if problem := objective.misfit(model):
            raise UserError(problem)
        self.model = model
        self.objective = objective
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.seed = seed
        self.compile_step = compile
        self.record_step = record
        self.skip_factor = skip_factor
        self._skip: GradientSkip | None = None
        self._norms: SpectralNorms | None = None
        self._source: torch.Generator | None = None  # of noise; None: torch's own, as of a single process
        self._resumed: dict[str, dict[str, Tensor]] = {}  # what an earlier part of the run kept
        self._values = self._plain_values(model)
        self._whole: WholeStep | None = None  # None: Lightning goes through the parts of a step
        self._recent: list[StepValues] = []  # of each step since they were last read
        self._tested: list[ImageStatistics] = []  # of each batch

    def _plain_values(self, model: Hierarchy) -> Callable[..., StepValues]:
        return batch_values(model, self.objective)

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self._parameters_by_decay())
        if self.make_scheduler is None:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = self.make_scheduler(optimizer, total_steps=steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _parameters_by_decay(self) -> list[Any]:
        """All parameters; those that weight decay would bias are a group without it, if there are any."""
        named = list(self.model.named_parameters())
        spared = [weight for name, weight in named if name.startswith(self.model.undecayed)]
        if not spared:
            return [weight for _, weight in named]
        rest = [weight for name, weight in named if not name.startswith(self.model.undecayed)]
        return [{"params": rest}, {"params": spared, "weight_decay": 0.0}]

    def on_fit_start(self) -> None:
        self._values = self._plain_values(self.model)  # anew: the model is on its device now
        if self.compile_step and self.trainer.world_size > 1:
            warn("going on without compilation (trainer.compile), for several processes share each batch")
        elif self.compile_step:
            self._values = compiled(self._values, step_doubt(self.model, self._plain_values))
        if self.objective.spectral > 0:
            self._norms = SpectralNorms(self.model)
            self._values = penalized(self._values, self._norms, self.objective.spectral)
        if self.skip_factor is not None:
            self._skip = GradientSkip(self.skip_factor, self.device)
        for name, kept in self._beside().items():
            if name in self._resumed:
                kept.load_state_dict(self._resumed[name])
        if self.record_step:
            self._whole = self._recordable_step()

    def _beside(self) -> dict[str, GradientSkip | SpectralNorms]:
        """What training steps keep beside weights and optimizer state, by its name in checkpoints."""
        kept = {"gradient_skip": self._skip, "spectral_norms": self._norms}
        return {name: value for name, value in kept.items() if value is not None}

    def _recordable_step(self) -> WholeStep | None:
        """The step as a recording; None, after a warning, where Lightning has to do more than count steps."""
        if reason := why_not_recorded(self.trainer, self.device.type):
            warn(f"going on without a CUDA graph (trainer.cuda_graph), for {reason}")
            return None
        samples, largest = self.objective.importance_samples, self.trainer.gradient_clip_val
        optimizer, recorder = self.trainer.optimizers[0], RECORDERS[self.device.type]()
        return WholeStep(self.model, self._values, optimizer, samples, largest, recorder, self._skip)

    def release(self) -> None:
        """Forget what belongs to a training that has ended: its recordings hold memory of the device."""
        self._whole = None

    def on_train_epoch_start(self) -> None:
        seed = stream_seed(self.seed, "train", self.current_epoch)
        torch.manual_seed(seed)
        if world_size() > 1:  # all draw the same noise, but dropout of their own
            self._source = torch.Generator(self.device).manual_seed(seed)
            torch.manual_seed(stream_seed(self.seed, "train", self.current_epoch, "rank", rank()))
        if self.objective.importance_samples > 1:
            self.model.eval()  # a log-weight is a function of one sample, not of the batch

    def training_step(self, x: Tensor, batch_idx: int) -> Tensor:
        steps = int(self.trainer.num_training_batches)
        beta = self.objective.beta(self.current_epoch + batch_idx / steps)
        if self._whole is not None:
            values = self._whole(x, beta)
        else:
            # The noise is drawn outside, so that the compiled step sees the same as the plain one.
            noise = self._noise(x, self._source)
            values = self._values(x[share(len(x))], x.new_full((), beta), *noise)
        self._recent.append(StepValues(values.loss.detach(), values.distortion, values.rates))
        if len(self._recent) == STEPS_PER_READING or batch_idx + 1 == steps:
            self._read_recent(beta)
        return values.loss

    def _noise(self, x: Tensor, generator: torch.Generator | None = None) -> list[Tensor]:
        """The noise of this process's images of the batch, ``(K, B, *event)`` each, cut from that of all."""
        noise = self.model.terms_noise(self.objective.importance_samples, len(x), like=x, generator=generator)
        return noise if world_size() == 1 else [level[:, share(len(x))].clone() for level in noise]

    def _read_recent(self, beta: float) -> None:
        """Bring the values of the last steps to the host: check that they are finite, log their means."""
        losses, distortions, rates = (torch.stack(each).cpu() for each in zip(*self._recent, strict=True))
        self._recent.clear()
        finite = distortions.isfinite() & rates.isfinite().all(1)  # (steps,)
        if not finite.all():
            first = int((~finite).nonzero()[0])
            step = self.global_step + 1 - len(finite) + first  # zero-based, this step is not counted yet
            raise _diverged(f"at step {step}", Terms(distortions[first], rates[first]))
        terms = Terms(distortions.mean(), rates.mean(0))
        metrics: dict[str, Any] = {**terms.named("train", CURVES)}
        metrics["train/loss"] = losses.mean()
        metrics["train/beta"] = beta
        metrics["train/lr"] = self.trainer.optimizers[0].param_groups[0]["lr"]
        metrics |= self.counts()
        for logger in self.loggers:
            logger.log_metrics({name: float(value) for name, value in metrics.items()}, self.global_step)
        self.log("elbo", terms.elbo, prog_bar=True, logger=False)

    def counts(self) -> dict[str, float]:
        """``train/skipped_steps``, where steps may be skipped. Raises UserError if only such are left."""
        if self._skip is None:
            return {}
        if self._skip.broken >= STEPS_PER_READING:
            raise UserError(
                f"the gradient was not finite in the last {int(self._skip.broken)} steps, all of which were "
                f"skipped; {REMEDY}"
            )
        return {SKIPPED: float(self._skip.skipped)}

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        if self._whole is not None:
            assert optimizer_closure is not None
            optimizer_closure()  # does the whole step; Lightning counts it
            return
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        optimizer.zero_grad()  # so that the next batch finds this memory free, and still in the cache

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if self._whole is None:  # else it was done
            super().backward(loss, *args, **kwargs)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        pass  # it was done

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        # Lightning's own refuses fused optimizers under mixed precision, for the sake of a scaler of float16
        # gradients. bfloat16 needs none.
        if self._skip is None and not gradient_clip_val:
            return
        norm = clip(self.model, gradient_clip_val)
        if self._skip is not None and self._skip.judge(norm):
            optimizer.zero_grad()  # without gradients it changes nothing

    def on_validation_epoch_start(self) -> None:
        # The next training epoch reseeds; here every epoch and run gets the same noise.
        torch.manual_seed(stream_seed(self.seed, "val"))

    def validation_step(self, x: Tensor, batch_idx: int) -> None:
        with torch.autocast(x.device.type, enabled=False):  # half precision flatters
            mine, noise = x[share(len(x))], self._noise(x)
            # What is trained on says which epoch is best. L_K may rise while the ELBO falls.
            weighted = self.objective.importance_samples > 1
            terms = self.model.terms(mine, noise).mean()
            bound = terms.elbo
            if weighted:
                bound = batch_mean(image_bounds(self.model.infer(mine, noise=noise).log_weights()))
        if not (terms.distortion.isfinite() & terms.rates.isfinite().all()):
            raise _diverged(f"in validation after step {self.global_step}", terms)
        self.log_dict(terms.named("val", CURVES), batch_size=len(x))
        self.log("val_elbo", terms.elbo, batch_size=len(x), prog_bar=True, logger=False)
        self.log("val/bound", bound, batch_size=len(x), logger=weighted)

    def on_train_epoch_end(self) -> None:
        # A checkpoint follows. The loss was finite, but the last step may have broken the weights.
        for name, parameter in self.model.named_parameters():
            if not parameter.isfinite().all():
                raise UserError(
                    f"the weights {name} are no longer finite after step {self.global_step}; {REMEDY}"
                )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[FINGERPRINT] = self.trainer.datamodule.data.fingerprint  # type: ignore[attr-defined]
        if kept := self._beside():
            checkpoint[BESIDE] = {name: value.state_dict() for name, value in kept.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._resumed = checkpoint.get(BESIDE, {})

    def on_test_epoch_start(self) -> None:
        self._tested.clear()  # of a test that was broken off

    def test_step(self, x: Tensor, batch_idx: int) -> None:
        start = sum(len(batch.elbo) for batch in self._tested)
        with torch.autocast(x.device.type, enabled=False):
            self._tested.append(shared_statistics(self.model, x, range(start, start + len(x)), TESTED))

    def on_test_epoch_end(self) -> None:
        self.log_dict(self.summary(ImageStatistics.concatenate(self._tested), "test"))

    def summary(self, statistics: ImageStatistics, stage: str) -> Mapping[str, float]:
        """The metrics that end a training, by name. Raises UserError if the ELBO is not finite."""
        if not statistics.elbo.isfinite().all():
            raise UserError(f"the ELBO of {stage} images is not finite; {REMEDY}")
        return summarize(statistics, TESTED, unit_counts(self.model), stage)


def _diverged(where: str, terms: Terms) -> UserError:
    broken = [] if terms.distortion.isfinite() else ["the distortion"]
    levels = (~terms.rates.isfinite()).nonzero()[:, 0].tolist()
    broken += [f"the rate of {z_name(level)}" for level in levels]
    return UserError(f"the loss is not finite {where}: {', '.join(broken)}; {REMEDY}")
