"""Steps with a huge gradient change nothing, and training goes on."""

import copy
import importlib
import json
import math

import lightning as L
import pytest
import torch
from conftest import assert_same_weights, crash_after, scalars, tiny, weights
from contracts import binary_images, small
from test_replay import Again, Recorder
from torch.utils.data import DataLoader

from ladder_vae.models import LadderVAE
from ladder_vae.runs.checkpoints import read_checkpoint
from ladder_vae.system.errors import UserError
from ladder_vae.training import lightning_module, replay
from ladder_vae.training.epoch_checkpoints import EpochCheckpoints
from ladder_vae.training.lightning_module import HierarchicalVAE
from ladder_vae.training.objective import Objective
from ladder_vae.training.replay import WholeStep
from ladder_vae.training.skipping import GradientSkip
from ladder_vae.training.step import batch_values

pytestmark = pytest.mark.usefixtures("undrawn")


def judged(skip, *norms):
    return [bool(skip.judge(torch.tensor(float(norm)))) for norm in norms]


def test_a_norm_above_the_limit_is_skipped_and_the_first_never():
    skip = GradientSkip(10)
    assert judged(skip, 5, 4, 49, 70, 5) == [False, False, False, True, False]
    assert int(skip.skipped) == 1
    mean = 5.0
    for norm in (4, 49, 70, 5):
        mean += 0.01 * (min(norm, 10 * mean) - mean)
    assert skip.mean.item() == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("factor", [1.5, 10])
@pytest.mark.parametrize("rise", [30.0, 1e6])
def test_after_a_lasting_rise_training_goes_on(factor, rise):
    """A fixed limit would skip for ever (openai/vdvae#25)."""
    skip = GradientSkip(factor)
    judged(skip, *[1.0] * 20)
    needed = math.ceil(math.log(rise / factor) / math.log(1 + 0.01 * (factor - 1)))
    found = judged(skip, *[rise] * (needed + 100))
    assert found[0]
    assert sum(found) == pytest.approx(needed, abs=2)
    assert not any(found[needed + 2 :])


def test_a_norm_that_is_not_finite_is_skipped_and_never_enters_the_mean():
    skip = GradientSkip(10)
    assert judged(skip, math.nan, math.inf, 3, math.inf, math.nan) == [True, True, False, True, True]
    assert (skip.mean.item(), int(skip.skipped), int(skip.broken)) == (3, 4, 2)
    assert judged(skip, 3) == [False]
    assert int(skip.broken) == 0


def test_a_gradient_of_zero_is_no_mean_to_compare_with():
    assert judged(GradientSkip(10), 0, 0, 7, 8) == [False] * 4


@pytest.mark.parametrize("factor", [1, 0, math.nan])
def test_a_mean_that_could_not_follow_is_refused(factor):
    with pytest.raises(ValueError, match="must be above 1"):
        GradientSkip(factor)


def test_it_goes_on_from_its_state():
    one, two = GradientSkip(10), GradientSkip(10)
    judged(one, 3, 40, 2)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    assert judged(one, 4, 30, math.nan) == judged(two, 4, 30, math.nan)
    assert one.state_dict() == two.state_dict()


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3, fused=True),
    "adamax": lambda p: torch.optim.Adamax(p, lr=1e-3),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-4),
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-4, momentum=0.9, dampening=0.5),
    "nadam": lambda p: torch.optim.NAdam(p, lr=1e-3),  # its state does not begin at zero
}
SPIKES = (0, 4, 9)  # steps with a gradient out of proportion; the first one has a gradient that is not finite


def batches(number=12):
    torch.manual_seed(5)
    images = [(torch.rand(4, *binary_images().shape[1:]) < 0.4).float() for _ in range(number)]
    for step in SPIKES[1:]:
        images[step] = images[step] * 1e4  # no image of zeros and ones makes such a gradient
    images[0] = images[0] * 3e38
    return images


def fitted(optimizer, recorder=None, monkeypatch=None, limit=0.5):
    """A model after an epoch, its optimizer, and what was skipped; and weights and state after each step."""
    trace = []

    class Traced(HierarchicalVAE):
        def _read_recent(self, beta):
            self._recent.clear()  # the loss of the first step is not finite

        def on_train_batch_end(self, *_):
            optimizer = self.trainer.optimizers[0]
            states = [v.clone() for s in optimizer.state.values() for v in s.values() if v is not None]
            trace.append(([p.detach().clone() for p in self.model.parameters()], states))

    if recorder is not None:
        monkeypatch.setitem(replay.RECORDERS, "cpu", lambda: recorder)
        for name in ("adamax", "nadam"):  # as on a GPU
            module = importlib.import_module(f"torch.optim.{name}")
            monkeypatch.setattr(module, "_get_capturable_supported_devices", lambda **_: ["cpu"])
    model = small(LadderVAE, 1, batch_norm=False)
    module = Traced(model, Objective(), optimizer, record=recorder is not None, skip_factor=20.0)
    trainer = L.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", gradient_clip_val=limit,
    )  # fmt: skip
    trainer.fit(module, DataLoader(batches(), batch_size=None, num_workers=0))
    assert trainer.global_step == len(batches())  # skipped steps count
    return module, trace


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_skipped_step_leaves_weights_and_state_as_they_were(optimizer):
    module, trace = fitted(optimizer)
    assert int(module._skip.skipped) == len(SPIKES)
    torch.manual_seed(0)
    before = [p.detach() for p in small(LadderVAE, 1, batch_norm=False).parameters()], []
    for step, (parameters, states) in enumerate(trace):
        same = all(torch.equal(a, b) for a, b in zip(parameters, before[0], strict=True))
        assert same == (step in SPIKES)
        if same:
            assert len(states) == len(before[1])
            assert all(torch.equal(a, b) for a, b in zip(states, before[1], strict=True))
        before = parameters, states


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_whole_step_skips_what_lightnings_parts_skip(optimizer, monkeypatch):
    """Done by Python, step for step; the optimizers that can be recorded: below."""
    plain, trace = fitted(optimizer)
    whole, other = fitted(optimizer, Again(), monkeypatch)
    assert plain._skip.state_dict() == whole._skip.state_dict()
    for step, (one, two) in enumerate(zip(trace, other, strict=True)):
        for kind in (0, 1):
            for a, b in zip(one[kind], two[kind], strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7, msg=f"step {step}")


def test_a_recorded_step_skips_what_lightnings_parts_skip(monkeypatch):
    plain, trace = fitted(OPTIMIZERS["adam"])
    recorder = Recorder()
    recorded, other = fitted(OPTIMIZERS["adam"], recorder, monkeypatch)
    assert (recorder.recordings, recorder.replays) == (1, 9)  # with both later spikes among the replays
    assert int(plain._skip.skipped) == int(recorded._skip.skipped) == len(SPIKES)
    torch.testing.assert_close(plain._skip.mean, recorded._skip.mean)
    for one, two in zip(trace, other, strict=True):
        for kind in (0, 1):
            for a, b in zip(one[kind], two[kind], strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    for step in SPIKES[1:]:
        for a, b in zip(
            other[step][0] + other[step][1], other[step - 1][0] + other[step - 1][1], strict=True
        ):
            assert torch.equal(a, b)


class Counting(torch.optim.SGD):
    """Keeps a number in its state, by which it moves."""

    def step(self, closure=None):
        loss = super().step(closure)
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is not None:
                self.state[parameter]["count"] = self.state[parameter].get("count", 0) + 1
        return loss


def test_numbers_in_the_state_are_left_alone_too():
    model = small(LadderVAE)
    optimizer = Counting(model.parameters(), lr=1e-6)
    step = WholeStep(model, batch_values(model, Objective()), optimizer, 1, None, Again(), GradientSkip(20))
    for x in batches()[1:]:
        step(x, 1.0)
    assert int(step.skip.skipped) == 2
    assert {state["count"] for state in optimizer.state.values()} == {11 - 2}


def test_the_norm_is_judged_before_it_is_clipped():
    """So that clipping to a small norm hides no spike."""
    clipped, free = (fitted(OPTIMIZERS["adam"], limit=limit)[0]._skip for limit in (1e-3, None))
    assert int(clipped.skipped) == int(free.skipped) == len(SPIKES)


def test_gradients_that_are_never_finite_end_the_run(monkeypatch):
    monkeypatch.setattr(lightning_module, "STEPS_PER_READING", 3)
    module = HierarchicalVAE(small(LadderVAE), Objective(), OPTIMIZERS["adam"], skip_factor=10.0)
    module._skip = GradientSkip(10)
    judged(module._skip, math.nan, math.nan)
    assert module.counts() == {"train/skipped_steps": 2}
    judged(module._skip, math.nan)
    with pytest.raises(UserError, match="not finite in the last 3 steps"):
        module.counts()


def test_a_loss_that_is_not_finite_still_ends_the_run(command, npz):
    settings = [*tiny(npz), "trainer.gradient_skip_factor=10", "scheduler=constant", "model.batch_norm=false"]
    code, _, err = command("train", *settings, "optimizer.lr=1e30", "run_dir=run")
    assert code == 1
    assert "the loss is not finite at step 1: " in err


OFTEN = ["trainer.gradient_skip_factor=1.02", "data.val_size=8", "trainer.max_epochs=4"]


def test_a_run_counts_what_it_skips_and_resumes_exactly(train, broken_off, workdir, monkeypatch):
    monkeypatch.setattr(lightning_module, "STEPS_PER_READING", 1)
    whole = train(*OFTEN, run_dir="whole")
    assert broken_off(EpochCheckpoints, "on_train_epoch_end", crash_after(2), *OFTEN)[0] == 1
    assert_same_weights(whole, workdir / "cut")
    curves = [[r.value for r in scalars(run, "train/skipped_steps")] for run in (whole, workdir / "cut")]
    assert curves[0] == curves[1] == sorted(curves[0])
    assert 0 < curves[0][-1] < 8
    assert curves[0][3] < curves[0][-1]  # some after the resumption
    metrics = [json.loads((run / "metrics.json").read_text()) for run in (whole, workdir / "cut")]
    assert metrics[0]["train/skipped_steps"] == metrics[1]["train/skipped_steps"] == curves[0][-1]
    kept = [
        read_checkpoint(run / "checkpoints/last.ckpt")[lightning_module.BESIDE]["gradient_skip"]
        for run in (whole, workdir / "cut")
    ]
    assert kept[0] == kept[1]


def test_a_limit_that_is_never_met_changes_nothing(train, trained, command):
    """To the last bit; and one that is set for a resumption begins there."""
    ours, theirs = train("trainer.gradient_skip_factor=1e9", run_dir="ours"), trained(run_dir="theirs")
    assert_same_weights(ours, theirs)
    assert lightning_module.BESIDE not in read_checkpoint(theirs / "checkpoints/last.ckpt")
    before = weights(theirs)
    code, _, err = command(
        "train", "resume=theirs", "trainer.max_epochs=3", "trainer.gradient_skip_factor=10"
    )
    assert code == 0, err
    assert (
        read_checkpoint(theirs / "checkpoints/last.ckpt")[lightning_module.BESIDE]["gradient_skip"]["mean"]
        > 0
    )
    assert any(not torch.equal(value, before[name]) for name, value in weights(theirs).items())
