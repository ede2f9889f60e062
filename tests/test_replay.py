"""The whole training step, recorded once and replayed, trains as Lightning's loop does.

On a GPU the recording is a CUDA graph. Here it is a graph of PyTorch's operations, which freezes the same:
all that was a number of Python's when it was recorded.
"""

import importlib
import json
from pathlib import Path

import pytest
import torch
from conftest import assert_same_weights, crash_after, scalars, tiny, weights
from contracts import MODELS, binary_images, small
from lightning.pytorch.callbacks import Callback
from torch.fx.experimental.proxy_tensor import make_fx

from ladder_vae.maths import Bernoulli, LogisticMixture
from ladder_vae.system import recording
from ladder_vae.system.recording import REHEARSALS
from ladder_vae.training import lightning_module
from ladder_vae.training.epoch_checkpoints import EpochCheckpoints
from ladder_vae.training.lightning_module import HierarchicalVAE
from ladder_vae.training.objective import Objective
from ladder_vae.training.replay import MOST_RECORDINGS, WholeStep
from ladder_vae.training.step import batch_values

pytestmark = pytest.mark.usefixtures("undrawn")
RECORDED, PLAIN = "trainer.cuda_graph=true", "trainer.cuda_graph=false"
FULL_STEPS = 2  # of 40 images in batches of 16; the last batch of an epoch has 8


class Recorder:
    """Records operations, as a CUDA graph records kernels; counts recordings and replays."""

    def __init__(self):
        self.recordings = self.replays = 0

    def rehearse(self, function):
        function()
        return ""

    def record(self, function):
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
    monkeypatch.setitem(recording.RECORDERS, "cpu", lambda: recorder)
    monkeypatch.setattr(lightning_module, "STEPS_PER_READING", 1)
    return recorder


CASES = {
    "ladder": ["objective.beta_warmup_epochs=3", "scheduler=cosine", "scheduler.warmup_steps=4"],
    # in front of a batch norm its biases have no gradient but rounding errors, which Adam makes steps of
    "residual": ["model=residual", "model.norm=layer", "objective.free_bits=0.3"],
    "textbook": ["model=textbook", "objective.importance_samples=3", "objective.beta_warmup_epochs=0"],
    "regularized": [
        "objective.spectral=0.1",
        "objective.balance_rates=true",
        "objective.beta_warmup_epochs=3",
        "trainer.gradient_skip_factor=20",
        "scheduler.final_factor=0.01",
    ],
    "bottom_up": [
        "model=bottom_up",
        "data.val_size=8",
        "trainer.gradient_clip_val=0.1",
        "optimizer=adamw",
        "callbacks.averaging=null",
    ],
}


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(
            settings,
            id=name,
            marks=pytest.mark.slow if name in ("bottom_up", "residual", "textbook", "regularized") else (),
        )
        for name, settings in CASES.items()
    ],
)
def test_a_recorded_run_is_the_plain_run(train, recorder, settings):
    """Weights, their average, and what every step had: beta, learning rate, loss and terms."""
    settings = [*settings, "trainer.max_epochs=4"]
    ours, theirs = train(*settings, RECORDED, run_dir="ours"), train(*settings, PLAIN, run_dir="theirs")
    shapes = 1 if "data.val_size=8" in settings else 2  # of the last batch of an epoch, too
    assert recorder.recordings == shapes
    assert recorder.replays == 4 * FULL_STEPS - REHEARSALS + (shapes - 1) * (4 - REHEARSALS)
    for name, value in weights(ours).items():
        torch.testing.assert_close(value, weights(theirs)[name], rtol=1e-4, atol=1e-5)
    for name in ("beta", "lr", "loss", "rate/z1", "rate/z2", "distortion"):
        one, two = (scalars(run, f"train/{name}") for run in (ours, theirs))
        assert [(p.step, p.value) for p in one] == [(p.step, pytest.approx(p.value, rel=1e-5)) for p in two]
    one, two = (json.loads((run / "metrics.json").read_text()) for run in (ours, theirs))
    for name in ("test/elbo", "train_eval/elbo", "train/epochs"):
        assert one[name] == pytest.approx(two[name], rel=1e-5)


@pytest.mark.slow
def test_a_recorded_run_resumes(train, broken_off, recorder, workdir):
    settings = [RECORDED, "trainer.max_epochs=6"]
    whole = train(*settings, run_dir="whole")
    code, _ = broken_off(EpochCheckpoints, "on_train_epoch_end", crash_after(3), *settings)
    assert code == 1
    assert (
        recorder.recordings == 2 + 1 + 1
    )  # the runs that were broken off and resumed have three epochs each
    # Each begins with steps that are not recorded, which round otherwise here; on a GPU kernels are the same.
    for name, value in weights(workdir / "cut").items():
        torch.testing.assert_close(value, weights(whole)[name], rtol=1e-3, atol=1e-3)


class Refuses(Recorder):
    def record(self, function):
        self.recordings += 1
        raise RuntimeError("operation not permitted\nwhen stream is capturing")


class Doubts(Recorder):
    def rehearse(self, function):
        function()
        return "it reads numbers from the GPU"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Refuses, "operation not permitted when stream is capturing"),
        (Doubts, "it reads numbers from the GPU"),
    ],
)
def test_a_step_that_cannot_be_recorded_is_done_all_the_same(train, command, npz, monkeypatch, kind, said):
    """Each step once: when it turns out, nothing has been computed."""
    plain = train("trainer.max_epochs=4", PLAIN, run_dir="plain")
    recorder = kind()
    monkeypatch.setitem(recording.RECORDERS, "cpu", lambda: recorder)
    code, _, err = command("train", *tiny(npz), "trainer.max_epochs=4", RECORDED, "run_dir=run")
    assert code == 0
    (line,) = [line for line in err.splitlines() if "CUDA graph" in line]
    assert f"going on without a CUDA graph, more slowly: the step cannot be recorded ({said})" in line
    assert recorder.replays == 0
    for name, value in weights(Path("run")).items():
        torch.testing.assert_close(value, weights(plain)[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["+trainer.accumulate_grad_batches=2"], "trainer.accumulate_grad_batches adds up gradients"),
        (["+callbacks.norms._target_=test_replay.Norms"], "Norms has to do with the gradients of each step"),
    ],
)
def test_where_lightning_has_more_to_do_nothing_is_recorded(command, npz, recorder, settings, said):
    for run_dir, how in (("ours", RECORDED), ("theirs", PLAIN)):
        code, _, err = command("train", *tiny(npz), *settings, how, f"run_dir={run_dir}")
        assert code == 0, err
        lines = [line for line in err.splitlines() if "CUDA graph" in line]
        assert [said in line for line in lines] == [True] * (run_dir == "ours")
    assert recorder.recordings == 0
    assert_same_weights(Path("ours"), Path("theirs"))


class Norms(Callback):
    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        assert all(p.grad is not None for p in pl_module.model.parameters())


def test_a_device_that_cannot_record_goes_on_without(command, npz):
    code, _, err = command("train", *tiny(npz), RECORDED, "run_dir=run")
    assert code == 0
    (line,) = [line for line in err.splitlines() if "CUDA graph" in line]
    assert "going on without a CUDA graph (trainer.cuda_graph), for this run trains on cpu" in line


def test_an_unknown_word_is_refused(command, npz):
    code, _, err = command("train", *tiny(npz), "trainer.cuda_graph=yes", "run_dir=run")
    assert (code, err) == (1, "error: trainer.cuda_graph=yes is unknown; choose auto, true, false\n")


class Again(Recorder):
    """Replays a step by doing it again."""

    def record(self, function):
        self.recordings += 1
        return function


def whole_step(recorder, optimizer=torch.optim.Adam, **settings):
    torch.manual_seed(0)
    model = small(MODELS[0])
    made = optimizer(model.parameters(), **(settings or {"lr": 1e-3, "fused": True}))
    return WholeStep(model, batch_values(model, Objective()), made, 1, None, recorder)


def test_what_a_recording_holds_of_the_optimizer_may_change():
    """All but the learning rate is part of it, so that it is recorded anew."""
    ours, theirs = whole_step(Recorder()), whole_step(Again())
    for number in range(3 * REHEARSALS):
        for step in (ours, theirs):
            torch.manual_seed(number)
            step.optimizer.param_groups[0]["lr"] = 1e-3 / (1 + number)
            step.optimizer.param_groups[0]["betas"] = (0.9 if number < 6 else 0.5, 0.999)
            values = step(binary_images(), 1.0)
    assert ours.recorder.recordings == 2
    for one, two in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        torch.testing.assert_close(one, two)
    assert isinstance(ours.optimizer.param_groups[0]["lr"], float)  # as checkpoints and schedules have it
    assert not values.loss.requires_grad


def test_a_schedule_that_changes_more_each_step_is_not_recorded(capsys):
    """As OneCycleLR does with momentum."""
    step = whole_step(Again())
    for number in range(20):
        step.optimizer.param_groups[0]["betas"] = (0.9 - number / 100, 0.999)
        step(binary_images(), 1.0)
    assert step.recorder.recordings == MOST_RECORDINGS
    assert capsys.readouterr().err.count("a schedule changes more than the learning rate") == 1


class Counting(torch.optim.SGD):
    """Keeps a number in its state."""

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["count"] = self.state[parameter].get("count", 0) + 1


def test_an_optimizer_that_counts_for_itself_is_not_recorded(capsys):
    step = whole_step(Again(), Counting, lr=0.1)
    for _ in range(REHEARSALS + 2):
        step(binary_images(), 1.0)
    assert step.recorder.recordings == 0
    assert "Counting keeps count as a number" in capsys.readouterr().err


def test_adamax_is_recorded_where_it_counts_on_the_device(recorder, monkeypatch):
    """As on a GPU: only there does torch let an optimizer count so, and its learning rate be a tensor."""
    optimizers = importlib.import_module("torch.optim.adamax")
    monkeypatch.setattr(optimizers, "_get_capturable_supported_devices", lambda **_: ["cpu"])
    ours, theirs = (whole_step(kind, torch.optim.Adamax, lr=1e-3) for kind in (recorder, Again()))
    for number in range(2 * REHEARSALS):
        for step in (ours, theirs):
            torch.manual_seed(number)
            step.optimizer.param_groups[0]["lr"] = 1e-3 / (1 + number)
            step(binary_images(), 1.0)
    assert (recorder.recordings, recorder.replays) == (1, REHEARSALS)
    for one, two in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        torch.testing.assert_close(one, two)
    plain = whole_step(Again(), torch.optim.Adamax, lr=1e-3)  # no device to count on
    monkeypatch.undo()
    for number in range(2 * REHEARSALS):
        torch.manual_seed(number)
        plain.optimizer.param_groups[0]["lr"] = 1e-3 / (1 + number)
        plain(binary_images(), 1.0)
    for one, two in zip(ours.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(one, two)


def test_adamax_that_counts_on_the_host_is_not_recorded(capsys):
    step = whole_step(Recorder(), torch.optim.Adamax, lr=1e-3)
    for _ in range(REHEARSALS + 2):
        step(binary_images(), 1.0)
    assert (step.recorder.recordings, step.recorder.replays) == (1, 0)
    said = "going on without a CUDA graph, more slowly: the step cannot be recorded"
    assert capsys.readouterr().err.count(said) == 1


def test_each_shape_of_batch_is_recorded():
    step = whole_step(Again())
    for _ in range(REHEARSALS + 2):
        step(binary_images(), 1.0)
        step(binary_images()[:-1], 1.0)
    assert step.recorder.recordings == 2


class Fails(Again):
    """Records steps of one shape only."""

    def __init__(self):
        super().__init__()
        self.rehearsals = 0

    def rehearse(self, function):
        self.rehearsals += 1
        return super().rehearse(function)

    def record(self, function):
        if self.recordings:
            raise RuntimeError("out of memory")
        return super().record(function)


def test_where_one_shape_cannot_be_recorded_no_step_is_replayed(capsys):
    """What failed may have freed what the other recordings compute in, and have moved the random numbers."""
    step, plain = whole_step(Fails()), whole_step(Doubts())
    for number in range(REHEARSALS + 3):
        for images in (binary_images(), binary_images()[:-1]):
            for each in (step, plain):
                torch.manual_seed(number)
                each(images, 1.0)
        recorded = [shape.replay is not None for shape in step._shapes.values()]
        assert recorded == [False, False]  # the first was recorded just before the second failed
    assert step.recorder.recordings == 1
    assert step.recorder.rehearsals == 2 * REHEARSALS
    assert capsys.readouterr().err.count("going on without a CUDA graph, more slowly") == 2
    for one, two in zip(step.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(one, two)


def test_recordings_of_all_shapes_are_dropped_together():
    """With one of them torch frees the workspace that the others compute in."""
    step = whole_step(Again())
    for number in range(REHEARSALS + 3):
        for images in (binary_images(), binary_images()[:-1]):
            odd = number == REHEARSALS + 1 and len(images) == len(binary_images())
            step.optimizer.param_groups[0]["betas"] = (0.5 if odd else 0.9, 0.999)
            step(images, 1.0)
    assert step.recorder.recordings == 3 * 2  # of both at first, and after each change


def test_a_run_that_fails_holds_no_recording(command, npz, recorder, monkeypatch):
    """It would hold memory of the GPU while the other jobs of a sweep are trained."""
    modules = []
    release = HierarchicalVAE.release
    monkeypatch.setattr(HierarchicalVAE, "release", lambda self: (modules.append(self), release(self)))
    code, _, err = command("train", *tiny(npz), RECORDED, "optimizer.lr=1e30", "scheduler=constant",
                           "trainer.max_epochs=9", "run_dir=run")  # fmt: skip
    assert code == 1
    assert "the loss is not finite at step" in err
    (module,) = modules
    assert module._whole is None


@pytest.mark.parametrize("likelihood", [Bernoulli(), LogisticMixture(2)])
@pytest.mark.parametrize("objective", [Objective(free_bits=0.1), Objective(importance_samples=3)])
@pytest.mark.parametrize("cls", MODELS)
def test_no_model_reads_from_the_host(cls, objective, likelihood):
    """On the meta device nothing has a value that could be read."""
    if cls.estimates_rates or (objective.free_bits and not cls.closed_form_rates):
        objective = Objective()
    with torch.device("meta"):
        model, x = cls((1, 28, 28), 3, likelihood=likelihood), torch.empty(8, 1, 28, 28)
    noise = model.terms_noise(objective.importance_samples, 8, like=x)
    batch_values(model, objective)(x, x.new_full((), 0.5), *noise).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    with pytest.raises(RuntimeError):
        x.sum().item()
