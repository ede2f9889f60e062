import pytest
import torch
from contracts import LEARNED, MANY, MARKOV, MODELS
from test_hierarchy import build, images

from ladder_vae.models.inference import Inference, Level
from ladder_vae.models.innovations import (
    innovations,
    interpolate,
    keep_above,
    pairs,
    render,
    resample,
    swap,
    traverse,
)

ALL = (0, 1, 2)


def inferred(model, x, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return model.infer(x, noise=model.draw_noise(1, len(x), like=x, generator=generator))


def latents(model, code):
    return model.generate(len(code[0]), noise=dict(enumerate(code))).z


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cls", MODELS)
def test_all_innovations_kept_give_the_reconstruction(cls):
    model, x = build(cls), images()
    inference = inferred(model, x)
    code = innovations(inference)
    same(render(model, code), torch.sigmoid(inference.params[0]))
    for z, level in zip(latents(model, code), inference.levels, strict=True):
        same(z, level.z[0])
    same(render(model, keep_above(code, 0)), torch.sigmoid(inference.params[0]))


@pytest.mark.parametrize("cls", MODELS)
def test_all_innovations_swapped_give_the_other_image(cls):
    model, x = build(cls), images(6)
    a, b = x[:3], x[3:]
    one, other = inferred(model, a), inferred(model, b, seed=1)
    swapped = swap(innovations(one), innovations(other), *ALL)
    same(render(model, swapped), torch.sigmoid(other.params[0]))
    for name in ("swap", "interpolate"):
        with pytest.raises(ValueError, match=f"no level is given; name those to change, as in {name}"):
            swap(code(), code()) if name == "swap" else interpolate(code(), code(), torch.zeros(1))


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize("level", ALL)
def test_levels_above_are_untouched_and_levels_below_follow(cls, level):
    model, x = build(cls), images()
    code = innovations(inferred(model, x))
    changed = resample(code, level, generator=torch.Generator().manual_seed(5))
    before, after = latents(model, code), latents(model, changed)
    for other in ALL:
        if other > level:
            assert torch.equal(before[other], after[other])
        else:  # the level itself, and every latent below it, image by image
            assert ((before[other] - after[other]).abs().flatten(1).max(1).values > 1e-6).all()
    assert ((render(model, code) - render(model, changed)).abs().flatten(1).max(1).values > 0).all()
    for other in ALL:
        assert torch.equal(changed[other], code[other]) == (other != level)


@pytest.mark.parametrize("cls", MARKOV)
def test_holding_the_samples_below_would_hide_the_change(cls):
    """Why innovations: in a Markov hierarchy, z_1 held, no change above it moves a pixel."""
    model, x = build(cls), images()
    code = innovations(inferred(model, x))
    z = latents(model, code)
    held = model.generate(len(x), noise=dict(enumerate(resample(code, 2))), hold={0: z[0]})
    same(torch.sigmoid(held.params), render(model, code))


def cut(model, level):
    """Zero the weights that lead out of a level."""
    if type(model) not in MARKOV:
        model.rungs[level].write.weight.data.zero_()
        return model
    reader = model.decoder if level == 0 else model.rungs[level - 1].prior_net
    first = next(module for module in reader.modules() if isinstance(module, torch.nn.Linear))
    first.weight.data.zero_()
    return model


@pytest.mark.parametrize("cls", LEARNED)
@pytest.mark.parametrize("level", ALL)
def test_a_level_whose_weights_out_are_zero_has_no_influence(cls, level):
    model, x = cut(build(cls), level), images()
    code = innovations(inferred(model, x))
    assert torch.equal(render(model, resample(code, level)), render(model, code))
    for other in range(level + 1, 3):  # nor what reaches the image through it alone
        same = torch.equal(render(model, resample(code, other)), render(model, code))
        assert same == (cls in MARKOV)
    if level:
        assert not torch.equal(render(model, resample(code, level - 1)), render(model, code))


@pytest.mark.parametrize("cls", MODELS)
def test_innovations_of_prior_samples_are_standard_normal(cls):
    """And those of the top level's posterior are its sample, since its prior is N(0, I)."""
    model, x = build(cls), images()
    inference = inferred(model, x)
    assert torch.equal(innovations(inference)[2], inference.levels[2].z[0])
    many = MANY[cls]
    drawn = model.generate(many, generator=torch.Generator().manual_seed(0))
    levels = [Level(z[None], p, p) for z, p in zip(drawn.z, drawn.p, strict=True)]
    for e in innovations(Inference(tuple(levels), drawn.params, drawn.params)):
        assert e.mean(0).abs().max() < 4.5 / many**0.5
        assert (e.std(0) - 1).abs().max() < 4.5 / (2 * many) ** 0.5


def code(n=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(n, 5), (n, 2, 3, 3), (n, 3)]  # an event may have any shape
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def test_several_draws_of_an_image_lie_in_a_row():
    model, x = build(MODELS[0]), images(2)
    inference = model.infer(x, 3)
    drawn = innovations(inference)
    assert [tuple(e.shape) for e in drawn] == [(6, 5), (6, 4), (6, 3)]
    rendered = render(model, drawn).unflatten(0, (3, 2))
    same(rendered, torch.sigmoid(inference.params))


def test_keep_above():
    a, b = code(), code(seed=1)
    kept = keep_above(a, 1)
    assert not kept[0].any()
    assert all(torch.equal(kept[i], a[i]) for i in (1, 2))
    filled = keep_above(a, 2, b)
    assert [torch.equal(e, f) for e, f in zip(filled, b, strict=True)] == [True, True, False]
    assert not any(e.any() for e in keep_above(a, 3))


def test_pairs_hold_every_combination():
    a, b = code(2), code(3, seed=1)
    first, second = pairs(a, b)
    for level in ALL:
        for i in range(2):
            for j in range(3):
                assert torch.equal(first[level][3 * i + j], a[level][i])
                assert torch.equal(second[level][3 * i + j], b[level][j])


def test_traverse_moves_one_unit():
    one, values = code(1), torch.tensor([-3.0, 0.0, 3.0])
    walked = traverse(one, 1, 7, values)
    moved = walked[1].flatten(1)
    assert torch.equal(moved[:, 7], values.double())
    others = [unit for unit in range(18) if unit != 7]
    assert torch.equal(moved[:, others], one[1].flatten(1)[:, others].expand(3, -1))
    for level in (0, 2):
        assert torch.equal(walked[level], one[level].expand_as(walked[level]))
    assert torch.equal(one[1], code(1)[1])  # what was given is as it was
    with pytest.raises(ValueError, match="unit 18 does not exist: units of level 1 are 0 to 17"):
        traverse(one, 1, 18, values)


def test_interpolate_from_end_to_end_at_full_length():
    a, b, weights = code(3), code(3, seed=1), torch.linspace(0, 1, 5)
    between = interpolate(a, b, weights, 1)
    rows = between[1].unflatten(0, (3, 5))
    same(rows[:, 0], a[1])
    same(rows[:, -1], b[1])
    for level in (0, 2):
        assert torch.equal(between[level], a[level].repeat_interleave(5, dim=0))
    norms = rows.flatten(2).norm(dim=-1)
    ends = torch.minimum(norms[:, 0], norms[:, -1])[:, None]
    assert (norms > 0.95 * ends).all()  # the straight line between orthogonal ends falls to 0.71 of them
    same(interpolate(a, a, weights, *ALL)[2], a[2].repeat_interleave(5, dim=0))
    opposite = interpolate(a, [-e for e in a], weights, *ALL)
    assert all(e.isfinite().all() for e in opposite)


@pytest.mark.parametrize("level", [3, -1])
def test_a_level_that_does_not_exist(level):
    a, message = code(), f"level {level} does not exist: levels are z1 to z3, or their indices 0 to 2"
    calls = [
        lambda: resample(a, level),
        lambda: swap(a, a, level),
        lambda: traverse(code(1), level, 0, torch.zeros(1)),
        lambda: interpolate(a, a, torch.zeros(1), level),
        lambda: keep_above(a, level if level < 0 else 4),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=message if call is not calls[-1] else "does not exist"):
            call()


def test_draws_repeat_with_the_generator():
    a = code()
    draws = [resample(a, 0, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draws[0][0], draws[1][0])
    assert not torch.equal(draws[0][0], draws[2][0])


def test_rendering_draws_nothing():
    """So that a notebook's own draws do not depend on what it looked at."""
    model, x = build(MODELS[0]), images()
    code = innovations(inferred(model, x))
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    render(model, code)
    assert torch.equal(torch.rand(1), expected)
