"""A diffusion of a thousand steps needs the memory of one of a few, and gives the same numbers as before."""

import pytest
import torch
from contracts import MODELS, binary_images, small

from ladder_vae.models import Diffusion, descending_noise
from ladder_vae.training.memory import _Live
from ladder_vae.training.tensorboard import draw_pictures

SHAPE = (1, 28, 28)
FEW, MANY = 32, 1_024  # steps
MORE = MANY - FEW
GAMMAS = 16 * MORE * 4  # bytes: the gammas of all levels, and what they come from
ON_A_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


def model(steps, transition="gaussian", shape=SHAPE):
    torch.manual_seed(0)
    made = Diffusion(shape, FEW + 1, denoiser="dense", width=2, blocks=1).eval().requires_grad_(False)
    return made.with_steps(steps, transition)


def peak(work):
    """The most bytes that tensors had at the same time during the work."""
    with _Live() as live:
        work()
    return live.peak


@pytest.mark.parametrize("transition", ["gaussian", "mixture"])
def test_an_evaluation_of_a_thousand_steps_has_the_memory_of_a_few(transition):
    shape, draws = (1, 4, 4), 64  # far fewer pixels than levels
    x, keys = binary_images(2, shape), torch.arange(2)

    def needed(steps):
        hierarchy = model(steps, transition, shape)
        hierarchy.estimate(x, keys, 1, per_pass=1)  # tables that are made once are there
        return peak(lambda: hierarchy.estimate(x, keys, draws, per_pass=draws))

    result = 2 * MORE * 8 * len(x)  # the rates of each image and level in float64, and their mean
    assert needed(MANY) - needed(FEW) <= result + GAMMAS
    assert result + GAMMAS < 0.2 * MORE * 4 * draws * len(x)  # a number of each level and draw would be more


def test_samples_of_a_thousand_steps_have_the_memory_of_a_few(monkeypatch):
    n, numbers = 4, 4 * 28 * 28
    monkeypatch.setattr(descending_noise, "MOST_HELD", 8 * numbers)

    def needed(steps, **settings):
        hierarchy, generator = model(steps), torch.Generator().manual_seed(0)
        return peak(lambda: hierarchy.generate(n, generator=generator, **settings))

    few, many = (needed(steps, keep_levels=False) for steps in (FEW, MANY))
    states = MORE / 8 * torch.Generator().get_state().nbytes  # one for each 8 levels
    assert many - few <= states + GAMMAS < 0.06 * MORE * 4 * numbers
    assert needed(FEW) > few + (FEW - 8) * 4 * numbers  # what is asked for is there


def test_pictures_of_a_thousand_steps_have_the_memory_of_a_few(monkeypatch):
    monkeypatch.setattr(descending_noise, "MOST_HELD", 8 * 4 * 28 * 28)
    x = binary_images(4, SHAPE)

    def needed(steps):
        return peak(lambda: draw_pictures(model(steps).with_steps(steps, continuous=True), x, len(x)))

    needed(FEW)  # tables that are made once are there
    assert needed(MANY) - needed(FEW) < 0.1 * MORE * 4 * x.numel()


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize(
    ("seed", "device"), [(7, "cpu"), (None, "cpu"), pytest.param(None, "cuda", marks=ON_A_GPU)]
)
@pytest.mark.parametrize("held", [1, 100, 4_000_000])
def test_whatever_is_held_the_noise_of_each_level_is_the_same(cls, seed, device, held, monkeypatch):
    """That of ``draw_noise``, bit for bit, and the generator goes on from the same place."""
    hierarchy = small(cls).eval().to(device)
    like = next(hierarchy.parameters())

    def source():
        torch.manual_seed(5)
        return None if seed is None else torch.Generator().manual_seed(seed)

    generator = source()
    noise = hierarchy.draw_noise(1, 4, like=like, generator=generator)
    after = torch.rand(3, generator=generator, device=device)
    wanted = hierarchy.generate(4, noise={level: e[0] for level, e in enumerate(noise)})
    monkeypatch.setattr(descending_noise, "MOST_HELD", held)
    for keep_levels in (True, False):
        generator = source()
        found = hierarchy.generate(4, generator=generator, keep_levels=keep_levels)
        assert torch.equal(found.params, wanted.params)
        assert torch.equal(torch.rand(3, generator=generator, device=device), after)
        assert len(found.levels) == (hierarchy.num_layers if keep_levels else 0)


def test_a_level_that_is_held_or_given_changes_no_other_draw(monkeypatch):
    monkeypatch.setattr(descending_noise, "MOST_HELD", 1)
    hierarchy = model(5)
    first, held = (
        hierarchy.generate(2, generator=torch.Generator().manual_seed(0), hold=hold)
        for hold in (None, {"z3": torch.zeros(2, *SHAPE)})
    )
    for level in (3, 4, 5):
        assert torch.equal(first.z[level], held.z[level])
    again = hierarchy.generate(
        2, generator=torch.Generator().manual_seed(0), hold={2: first.z[2], 4: first.z[4]}
    )
    assert torch.equal(first.mean, again.mean)


def test_levels_that_were_not_kept_are_asked_for_by_name():
    with pytest.raises(ValueError, match="keep_levels=True"):
        model(2).generate(1, keep_levels=False)["z1"]
