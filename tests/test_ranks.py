"""Two processes that share each batch compute what one computes with the whole batch."""

import contextlib
import multiprocessing
import pickle
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from contracts import CLASSES, binary_images, small
from torch.nn.parallel import DistributedDataParallel

from ladder_vae.models import Diffusion, LadderVAE, ResidualVAE, TextbookVAE
from ladder_vae.models.evaluator import Settings, shared_statistics
from ladder_vae.models.layers import BatchNorm
from ladder_vae.system import ranks
from ladder_vae.training.objective import Objective
from ladder_vae.training.processes import joined
from ladder_vae.training.step import batch_values

#: Forked, because importing takes longer than all they compute.
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or torch.cuda.is_available(),
    reason="processes that compute cannot be forked here",
)


def in_two(function, *arguments, count=2):
    """What each of the processes returns, or says that it raised."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as directory:
        pipes, started = [], []
        for rank in range(count):
            ours, theirs = context.Pipe()
            place = rank, count, "gloo", Path(directory) / "ranks"
            process = context.Process(target=_answer, args=(theirs, place, function, arguments))
            process.start()
            theirs.close()
            pipes.append(ours)
            started.append(process)
        found = [pickle.loads(pipe.recv()) for pipe in pipes]
        for process in started:
            process.join()
    for each in found:
        if isinstance(each, Exception):
            raise each
    return found


def _answer(pipe, place, function, arguments):
    try:
        with joined(*place):
            answer = function(*arguments)
    except Exception as error:
        answer = RuntimeError(f"rank {place[0]}: {type(error).__name__}: {error}")
    pipe.send(pickle.dumps(answer))  # as bytes: multiprocessing would have this process share its memory


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(
            a[name], b[name], rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}"
        )


def steps(model, objective, x, noise, number=2):
    """Loss, terms, weights and buffers after some steps of SGD; the last batch has a single image."""
    model = model.double()
    module = _Step(model, objective)
    if ranks.world_size() > 1:
        module = DistributedDataParallel(module, broadcast_buffers=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    found = {}
    for step in range(number):
        few = slice(0, len(x) if step + 1 < number else 2)
        optimizer.zero_grad()
        batch = x[few]
        mine = ranks.share(len(batch))
        values = module(batch[mine], *(e[:, few][:, mine] for e in noise))
        values.loss.backward()
        found |= {f"{name} {step}": value.detach() for name, value in values._asdict().items()}
        found |= {f"grad {name} {step}": weight.grad.clone() for name, weight in model.named_parameters()}
        optimizer.step()
    return found | {name: value.clone() for name, value in model.state_dict().items()}


class _Step(torch.nn.Module):
    def __init__(self, model, objective):
        super().__init__()
        self.model = model
        self.values = batch_values(model, objective)

    def forward(self, x, *noise):
        return self.values(x, x.new_full((), 0.7), *noise)


OBJECTIVES = {
    "ladder": (LadderVAE, {}, Objective()),
    "free bits": (LadderVAE, {}, Objective(free_bits=0.4)),
    "balanced": (LadderVAE, {}, Objective(balance_rates=True, beta_warmup_epochs=9)),
    "textbook": (TextbookVAE, {}, Objective(monte_carlo_rates=True)),
    "importance-weighted": (ResidualVAE, {"norm": "layer"}, Objective(importance_samples=2)),
    "learned schedule": (Diffusion, {"continuous": True, "schedule": "learned"}, Objective()),
}


def given(cls, settings, objective, images=5):
    model = small(cls, **settings).double()
    x = binary_images(images).double()
    torch.manual_seed(3)
    return model, objective, x, model.terms_noise(objective.importance_samples, images, like=x)


@pytest.mark.parametrize("case", OBJECTIVES)
def test_steps_are_those_of_one_process(case):
    arguments = given(*OBJECTIVES[case])
    alone = steps(*given(*OBJECTIVES[case]))
    for found in in_two(steps, *arguments):
        same(found, alone)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_process_without_an_image_takes_part(cls):
    arguments = given(cls, {}, Objective(), 2)
    alone = steps(*given(cls, {}, Objective(), 2))
    for found in in_two(steps, *arguments, count=3):
        same(found, alone)


def test_images_are_shared_and_none_twice():
    for images in (0, 1, 2, 7):
        shares, *others = in_two(lambda n: ranks.gathered(list(range(n))[ranks.share(n)]), images, count=3)
        assert others == [shares, shares]
        assert [image for each in shares for image in each] == list(range(images))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def moments(x, momentum=0.1):
    norm = BatchNorm(3, momentum=momentum).double()
    for scale in (1, 2):
        y = norm(scale * x[:, ranks.share(x.shape[1])])
    return {"mean": norm.running_mean, "var": norm.running_var, "count": norm.num_batches_tracked}, y.detach()


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_is_that_of_the_whole_batch(momentum):
    x = 100 + torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    alone, y = moments(x, momentum)
    found = in_two(moments, x, momentum)
    for statistics, _ in found:
        same(statistics, alone)
    same({"y": torch.cat([part for _, part in found], 1)}, {"y": y})


def evaluated(model, images):
    x = binary_images(images)
    found = shared_statistics(model.eval(), x, range(images), Settings(4, (2,)))
    return {name: getattr(found, name) for name in ("log_px", "distortion", "rates", "mse")} | vars(
        found.units
    )


@pytest.mark.parametrize("images", [1, 5])
def test_evaluation_counts_each_image_once(images):
    model = small(LadderVAE)
    alone = evaluated(model, images)
    for found in in_two(evaluated, model, images):
        for name, value in alone.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, equal_nan=True)


def fails():
    if ranks.rank() == 1:
        raise ValueError("a stone")
    ranks.summed(torch.ones(1))


def test_a_process_that_is_lost_is_noticed():
    with pytest.raises(RuntimeError, match="rank 0: RuntimeError"), contextlib.suppress(BrokenPipeError):
        in_two(fails)
