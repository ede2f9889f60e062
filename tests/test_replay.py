"""The whole training step, recorded once and replayed, trains as Lightning's loop does.

On a GPU the recording is a CUDA graph. Here it is a graph of PyTorch's operations, which freezes the same:
all that was a number of Python's when it was recorded.
"""

import json
from pathlib import Path

import pytest
import torch
from conftest import crash_after, scalars, tiny, weights
from contracts import MODELS, binary_images, small
from torch.fx.experimental.proxy_tensor import make_fx

from ladder_vae.training import lightning_module, replay
from ladder_vae.training.epoch_checkpoints import EpochCheckpoints
from ladder_vae.training.objective import Objective
from ladder_vae.training.replay import WARM_UP, WholeStep
from ladder_vae.training.step import batch_values

pytestmark = pytest.mark.usefixtures("undrawn")
RECORDED, PLAIN = "trainer.cuda_graph=true", "trainer.cuda_graph=false"
FULL_STEPS = 2  # of 40 images in batches of 16; the last batch of an epoch has 8


class Recorder:
    """Records operations, as a CUDA graph records kernels; counts recordings and replays."""

    def __init__(self):
        self.recordings = self.replays = 0

    def __call__(self, function):
        self.recordings += 1
        graph = make_fx(lambda _: function())(torch.zeros(()))  # does the step, too
        at_once = [True]

        def again():
            self.replays += 1
            if at_once:
                at_once.clear()
                return
            with torch.no_grad():  # the backward pass is among the operations
                graph(torch.zeros(()))

        return again


@pytest.fixture
def recorder(monkeypatch) -> Recorder:
    """A CPU whose steps can be recorded, and every reading logged."""
    recorder = Recorder()
    monkeypatch.setitem(replay.RECORDERS, "cpu", recorder)
    monkeypatch.setattr(lightning_module, "STEPS_PER_READING", 1)
    return recorder


CASES = {
    "ladder": ["objective.beta_warmup_epochs=3", "scheduler=cosine", "scheduler.warmup_steps=4"],
    # in front of a batch norm its biases have no gradient but rounding errors, which Adam makes steps of
    "residual": ["model=residual", "model.norm=layer", "objective.free_bits=0.3"],
    "textbook": ["model=textbook", "objective.importance_samples=3", "objective.beta_warmup_epochs=0"],
    "bottom_up": [
        "model=bottom_up",
        "data.val_size=8",
        "trainer.gradient_clip_val=0.1",
        "optimizer=adamw",
        "callbacks.averaging=null",
    ],
}


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_a_recorded_run_is_the_plain_run(train, recorder, settings):
    """Weights, their average, and what every step had: beta, learning rate, loss and terms."""
    settings = [*settings, "trainer.max_epochs=4"]
    ours, theirs = train(*settings, RECORDED, run_dir="ours"), train(*settings, PLAIN, run_dir="theirs")
    assert recorder.recordings == 1
    assert recorder.replays == 4 * FULL_STEPS - WARM_UP
    for name, value in weights(ours).items():
        torch.testing.assert_close(value, weights(theirs)[name], rtol=1e-4, atol=1e-5)
    for name in ("beta", "lr", "loss", "rate/z1", "rate/z2", "distortion"):
        one, two = (scalars(run, f"train/{name}") for run in (ours, theirs))
        assert [(p.step, p.value) for p in one] == [(p.step, pytest.approx(p.value, rel=1e-5)) for p in two]
    one, two = (json.loads((run / "metrics.json").read_text()) for run in (ours, theirs))
    for name in ("test/elbo", "train_eval/elbo", "train/epochs"):
        assert one[name] == pytest.approx(two[name], rel=1e-5)


def test_a_recorded_run_resumes(train, broken_off, recorder, workdir):
    settings = [RECORDED, "trainer.max_epochs=6"]
    whole = train(*settings, run_dir="whole")
    code, _ = broken_off(EpochCheckpoints, "on_train_epoch_end", crash_after(3), *settings)
    assert code == 1
    assert recorder.recordings == 3
    # Each begins with steps that are not recorded, which round otherwise here; on a GPU kernels are the same.
    for name, value in weights(workdir / "cut").items():
        torch.testing.assert_close(value, weights(whole)[name], rtol=1e-3, atol=1e-3)


def test_a_step_that_cannot_be_recorded_is_done_all_the_same(train, recorder, monkeypatch, command, npz):
    """It is found out before it is recorded, so that no step is done twice."""
    plain = train("trainer.max_epochs=4", PLAIN, run_dir="plain")

    def refuse(function):
        recorder.recordings += 1
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setitem(replay.RECORDERS, "cpu", refuse)
    code, _, err = command("train", *tiny(npz), "trainer.max_epochs=4", RECORDED, "run_dir=run")
    assert code == 0
    (line,) = [line for line in err.splitlines() if "CUDA graph" in line]
    assert "going on without a CUDA graph, more slowly" in line
    assert "operation not permitted when stream is capturing" in line
    assert recorder.recordings == 1
    for name, value in weights(Path("run")).items():
        torch.testing.assert_close(value, weights(plain)[name], rtol=1e-5, atol=1e-6)


def test_a_device_that_cannot_record_goes_on_without(command, npz):
    code, _, err = command("train", *tiny(npz), RECORDED, "run_dir=run")
    assert code == 0
    (line,) = [line for line in err.splitlines() if "CUDA graph" in line]
    assert "going on without a CUDA graph (trainer.cuda_graph), for this run trains on cpu" in line


def test_a_loss_that_is_not_finite_is_named(command, npz, recorder):
    code, _, err = command("train", *tiny(npz), RECORDED, "optimizer.lr=1e30", "scheduler=constant",
                           "trainer.max_epochs=9", "run_dir=run")  # fmt: skip
    assert code == 1
    assert "the loss is not finite at step" in err


def test_an_unknown_word_is_refused(command, npz):
    code, _, err = command("train", *tiny(npz), "trainer.cuda_graph=yes", "run_dir=run")
    assert (code, err) == (1, "error: trainer.cuda_graph=yes is unknown; choose auto, true, false\n")


def whole_step(record, **settings):
    torch.manual_seed(0)
    model = small(MODELS[0])
    optimizer = torch.optim.Adam(model.parameters(), **{"lr": 1e-3, "fused": True} | settings)
    return WholeStep(model, batch_values(model, Objective()), optimizer, 1, None, record)


def test_what_a_recording_holds_of_the_optimizer_may_change():
    """All but the learning rate is part of it, so that it is recorded anew."""
    recorder = Recorder()
    ours, theirs = whole_step(recorder), whole_step(lambda function: function)
    for number in range(3 * WARM_UP):
        for step in (ours, theirs):
            torch.manual_seed(number)
            step.optimizer.param_groups[0]["lr"] = 1e-3 / (1 + number)
            step.optimizer.param_groups[0]["betas"] = (0.9 if number < 6 else 0.5, 0.999)
            assert step.takes(binary_images())
            values = step(binary_images(), 1.0)
    assert recorder.recordings == 2
    for one, two in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        torch.testing.assert_close(one, two)
    assert isinstance(ours.optimizer.param_groups[0]["lr"], float)  # as checkpoints and schedules have it
    assert not values.loss.requires_grad


def test_other_shapes_are_left_to_lightning():
    step = whole_step(lambda function: function)
    assert step.takes(binary_images())
    assert not step.takes(binary_images()[:-1])
    assert step.takes(binary_images())


@pytest.mark.parametrize("objective", [Objective(free_bits=0.1), Objective(importance_samples=3)])
@pytest.mark.parametrize("cls", MODELS)
def test_no_model_reads_from_the_host(cls, objective):
    """On the meta device nothing has a value that could be read."""
    if objective.free_bits and not cls.closed_form_rates:
        objective = Objective()
    with torch.device("meta"):
        model, x = cls((1, 28, 28), 3), torch.empty(8, 1, 28, 28)
    noise = model.draw_noise(objective.importance_samples, 8, like=x)
    batch_values(model, objective)(x, x.new_full((), 0.5), *noise).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    with pytest.raises(RuntimeError):
        x.sum().item()
