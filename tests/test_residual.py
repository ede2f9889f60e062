import math
import re

import pytest
import torch
from torch import nn

from ladder_vae.maths.gaussian import Gaussian, product
from ladder_vae.models import ResidualVAE
from ladder_vae.models.layers import ResidualBlock

SHAPE = (1, 6, 5)


def build(num_layers=4, width=12, **settings):
    torch.manual_seed(0)
    return ResidualVAE(SHAPE, num_layers, [3] * num_layers, width, **settings).double().eval()


def images(n=4):
    torch.manual_seed(1)
    return torch.randint(0, 2, (n, *SHAPE)).double()


def test_prior_and_image_see_every_level_above():
    model = build()
    z = [e[0].requires_grad_() for e in model.draw_noise(1, 2, like=images())]
    state, priors = None, {}
    for level in reversed(range(4)):
        priors[level] = model.rungs[level].prior(state)
        state = model.rungs[level].descend(state, z[level])
    image = model.decoder(state)

    def seen(value):
        grads = torch.autograd.grad(value.sum(), z, retain_graph=True, allow_unused=True)
        return [g is not None and bool((g != 0).all()) for g in grads]

    assert seen(image) == [True] * 4
    for level in range(3):
        assert seen(priors[level].mean) == seen(priors[level].log_var) == [k > level for k in range(4)]


def test_one_level_is_the_plain_vae():
    """log p(x | z) - KL(q(z | x) || N(0, I)), the nets written out."""
    model, x = build(1), images()
    (noise,) = model.draw_noise(3, len(x), like=x)
    block = lambda b, h: h + b.out(b.body(h))  # noqa: E731
    d = block(model.encoder[0][0], model.stem(x.flatten(1)))
    rung = model.rungs[0]
    q = rung.posterior_net(model.evidence[0](d))
    z = q.mean + torch.exp(0.5 * q.log_var) * noise
    logits = model.decoder(block(rung.blocks[0], rung.write(z)))
    log_px = -nn.functional.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none")
    kl = 0.5 * (q.log_var.exp() + q.mean**2 - 1 - q.log_var).sum(-1)
    expected = (log_px.sum((-1, -2, -3)) - kl).mean()
    torch.testing.assert_close(
        model.infer(x, 3, noise=[noise]).terms().mean().elbo, expected, rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("posterior", ["free", "weighted", "relative"])
def test_posterior_merges_what_was_read_with_the_prior(posterior):
    model, x = build(posterior=posterior), images()
    evidence, (state, p) = model.encode(x)[0], (torch.randn(2, 4, 12).double(), None)
    rung = model.rungs[0]
    p = rung.prior(state)
    e = rung.posterior_net(evidence + rung.query(state))
    q = rung.posterior(evidence, state, p)
    expected = {
        "free": e,
        "weighted": product(e, p),
        "relative": Gaussian(p.mean + p.std * e.mean, p.log_var + e.log_var),
    }[posterior]
    torch.testing.assert_close(q.mean, expected.mean)
    torch.testing.assert_close(q.log_var, expected.log_var)
    top = model.rungs[-1]
    e, q = top.posterior_net(evidence), top.posterior(evidence, None, top.prior(None))
    torch.testing.assert_close(q.mean, e.mean)  # nothing to weigh, and relative to N(0, I) is the same
    torch.testing.assert_close(q.log_var, e.log_var)


@pytest.mark.parametrize("posterior", ["free", "weighted", "relative"])
@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_every_weight_of_every_choice_learns(norm, posterior):
    model, x = build(norm=norm, posterior=posterior, blocks=2).train(), images(8)
    (-model.infer(x).terms().mean().elbo).backward()
    still = [
        name for name, p in model.named_parameters() if p.grad is None or not (p.grad.abs() > 1e-12).any()
    ]
    # Batch norm takes off what a bias before it adds, through any number of sums.
    moot = r".*(body\.0|\.out|\.write|prior_net\.0)\.bias|stem\.bias|evidence\.\d+\.bias"
    assert [name for name in still if not (norm == "batch" and re.fullmatch(moot, name))] == []


@pytest.mark.parametrize(("num_layers", "units"), [(1, 64), (2, 32), (3, 21), (4, 16), (20, 16)])
def test_latents_of_every_depth(num_layers, units):
    """Runs store the number of levels alone: another rule could not open them."""
    assert ResidualVAE((1, 4, 4), num_layers, width=4).event_shapes == ((units,),) * num_layers


def stream_of(num_layers):
    """Root mean square of the stream at the image, at first."""
    torch.manual_seed(0)
    model = ResidualVAE((1, 28, 28), num_layers, [8] * num_layers, 128)
    state = None
    for level in reversed(range(num_layers)):
        state = model.rungs[level].descend(state, torch.randn(256, 8))
    return state.pow(2).mean().sqrt().item()


def test_the_stream_begins_as_large_at_any_depth():
    sizes = [stream_of(depth) for depth in (3, 10, 50)]
    assert max(sizes) / min(sizes) < 1.5


def test_initialization_is_scaled_by_the_number_of_blocks():
    plain, deep = (
        [b.out.weight.abs().max().item() for b in model.modules() if isinstance(b, ResidualBlock)]
        for model in (build(1, 16), build(8, 16, blocks=2))
    )
    bound = 1 / math.sqrt(16)  # of nn.Linear
    assert len(deep) == 32
    assert all(0.9 * bound < size <= bound for size in plain)
    assert all(0.9 * bound / 4 < size <= bound / 4 for size in deep)


def test_fifty_levels_begin_calmly():
    """From 3 levels to 50 the first gradient, in training mode, grows by little more than 2."""
    norms = {}
    for depth in (3, 50):
        torch.manual_seed(0)
        model, x = ResidualVAE((1, 28, 28), depth, width=64), (torch.rand(64, 1, 28, 28) < 0.2).float()
        (-model.infer(x).terms().mean().elbo).backward()
        norms[depth] = torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()
    assert norms[50] < 2.5 * norms[3]


def test_unknown_choices_and_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="norm=group is unknown; choose batch, layer, none"):
        ResidualVAE(SHAPE, norm="group")
    with pytest.raises(ValueError, match="posterior=fixed is unknown; choose free, weighted, relative"):
        ResidualVAE(SHAPE, posterior="fixed")
    with pytest.raises(ValueError, match="width=0 must be at least 1"):
        ResidualVAE(SHAPE, width=0)
    with pytest.raises(ValueError, match="blocks=0 must be at least 1"):
        ResidualVAE(SHAPE, blocks=0)


def test_dropout_leaves_out_hidden_units_in_training_only():
    torch.manual_seed(0)
    block, h = ResidualBlock(200, nn.Identity, dropout=0.25), torch.ones(1, 200)
    left_out = (block.body(h) == 0).double().mean().item()
    assert left_out == pytest.approx(0.25, abs=0.1)  # 3 standard errors
    assert (block.eval().body(h) != 0).all()

    model, x = build(norm="none", dropout=0.25), images()
    noise = model.draw_noise(1, 4, like=x)
    value = lambda m: m.infer(x, noise=noise).terms().mean().elbo.item()  # noqa: E731
    assert value(model) == value(model) == value(build(norm="none"))
    assert value(model.train()) != value(model)
    for dropout in (-0.1, 1.0):
        with pytest.raises(ValueError, match="must be at least 0 and below 1"):
            ResidualVAE(SHAPE, dropout=dropout)
