import pytest
import torch
from contracts import DENSE, MANY, MARKOV, MODELS, SHAPE, TOP_DOWN, binary_images, small

from ladder_vae.maths.gaussian import Gaussian, product, standard_normal
from ladder_vae.maths.likelihoods import Bernoulli
from ladder_vae.models import BottomUpVAE, LadderVAE, TextbookVAE


def build(cls, num_layers=3, **settings):
    return small(cls, num_layers, **settings).double().eval()


def images(n=4):
    return binary_images(n).double()


@pytest.mark.parametrize("cls", MODELS)
def test_shapes(cls):
    model = build(cls)
    inference = model.infer(images(), 7)
    shapes = [(5,), (4,), (3,)] if cls in DENSE else list(model.event_shapes)
    assert [tuple(level.z.shape) for level in inference.levels] == [(7, 4, *shape) for shape in shapes]
    assert inference.params.shape == (7, 4, *SHAPE)
    assert inference.log_px.shape == inference.log_weights().shape == (7, 4)
    assert inference.rates().shape == inference.rates(monte_carlo=True).shape == (3, 7, 4)
    generation = model.generate(6)
    assert generation.params.shape == (6, *SHAPE)
    assert [tuple(z.shape) for z in generation.z] == [(6, *shape) for shape in shapes]


@pytest.mark.parametrize("cls", MARKOV)
def test_one_level_is_the_plain_vae(cls):
    """log p(x | z) - KL(q(z | x) || N(0, I)) with z = mu + sigma eps, written out."""
    model, x = build(cls, 1), images()
    (noise,) = model.draw_noise(3, len(x), like=x)
    h = model.encoder[0](x.flatten(1))
    q = torch.relu(h) if cls is TextbookVAE else h
    q = model.rungs[0].posterior_net(q) if cls is TextbookVAE else model.evidence[0](q)
    z = q.mean + torch.exp(0.5 * q.log_var) * noise
    log_px = Bernoulli().log_prob(model.decoder(z), x)
    kl = 0.5 * (q.log_var.exp() + q.mean**2 - 1 - q.log_var).sum(-1)
    expected = (log_px - kl).mean()
    torch.testing.assert_close(
        model.infer(x, 3, noise=[noise]).terms().mean().elbo, expected, rtol=0, atol=1e-10
    )


def test_one_level_ladder_and_bottom_up_are_the_same_model():
    ladder, bottom_up, x = build(LadderVAE, 1), build(BottomUpVAE, 1), images()
    bottom_up.load_state_dict(ladder.state_dict())
    noise = ladder.draw_noise(2, len(x), like=x)
    a, b = ladder.infer(x, 2, noise=noise), bottom_up.infer(x, 2, noise=noise)
    assert torch.equal(a.log_px, b.log_px)
    assert torch.equal(a.rates(), b.rates())


@pytest.mark.parametrize("cls", MODELS)
def test_elbo_is_minus_rate_and_distortion_and_agrees_with_log_weights(cls):
    model, x = build(cls), images()
    inference = model.infer(x, 5)
    terms = inference.terms().mean()
    by_hand = inference.log_px.mean() - sum(level.rate().expand(5, 4).mean() for level in inference.levels)
    torch.testing.assert_close(terms.elbo, by_hand, rtol=0, atol=1e-10)
    torch.testing.assert_close(-(terms.rates.sum() + terms.distortion), by_hand, rtol=0, atol=1e-10)
    # log p(x, z) - log q(z | x), term by term
    log_weights = inference.log_px + sum(
        level.p.log_prob(level.z) - level.q.log_prob(level.z) for level in inference.levels
    )
    torch.testing.assert_close(inference.log_weights(), log_weights, rtol=0, atol=1e-10)
    monte_carlo = inference.terms(monte_carlo=True).mean().elbo
    torch.testing.assert_close(monte_carlo, log_weights.mean(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("cls", MODELS)
def test_closed_form_and_monte_carlo_rates_agree_in_the_mean(cls):
    model, x = build(cls), images(1)
    inference = model.infer(x, MANY[cls])
    difference = (inference.rates(monte_carlo=True) - inference.rates())[:, :, 0]
    error = difference.std(1) / MANY[cls] ** 0.5
    assert (difference.mean(1).abs() <= 4 * error + 1e-12).all()
    has_difference = difference.std(1) > 0
    assert has_difference.tolist() == [level.closed_form for level in inference.levels]


@pytest.mark.parametrize("cls", TOP_DOWN)
def test_top_down_posteriors_read_image_and_the_level_above(cls):
    model, x = build(cls), images().requires_grad_()
    noise = [e.requires_grad_() for e in model.draw_noise(1, len(x), like=x)]
    inference = model.infer(x, noise=noise)
    for level in range(3):
        grads = torch.autograd.grad(
            inference.levels[level].q.mean.sum(), [x, *noise], retain_graph=True, allow_unused=True
        )
        from_image, from_noise = grads[0], grads[1:]
        assert from_image is not None
        assert from_image.abs().sum() > 0
        reads = [g is not None and bool(g.abs().sum() > 0) for g in from_noise]
        assert reads == [source > level for source in range(3)]


def test_bottom_up_posteriors_read_only_the_level_below():
    model, x = build(BottomUpVAE), images().requires_grad_()
    noise = [e.requires_grad_() for e in model.draw_noise(1, len(x), like=x)]
    levels = model.infer(x, noise=noise).levels

    def grad(output, wrt, vector=None):
        return torch.autograd.grad(output, wrt, vector, retain_graph=True, allow_unused=True)

    for level in range(3):
        mean = levels[level].q.mean
        reads = [g is not None and bool(g.abs().sum() > 0) for g in grad(mean.sum(), noise)]
        assert reads == [source < level for source in range(3)]
        if level:  # all that arrives from the image comes through the sample below
            below = levels[level - 1].z
            (through_below,) = grad(below, x, grad(mean.sum(), below)[0])
            (total,) = grad(mean.sum(), x)
            assert total.abs().sum() > 0
            torch.testing.assert_close(total, through_below, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cls", MARKOV)
def test_the_image_is_decoded_from_the_posterior_sample(cls):
    model, x = build(cls), images()
    inference = model.infer(x, 2)
    torch.testing.assert_close(model.decoder(inference.levels[0].z), inference.params, rtol=0, atol=0)
    for level in range(2):  # and each prior stands on the posterior sample above
        p = model.rungs[level].prior(inference.levels[level + 1].z)
        torch.testing.assert_close(inference.levels[level].p.mean, p.mean, rtol=0, atol=0)


def test_ladder_merges_below_the_top_and_leaves_the_top_alone():
    model, x = build(LadderVAE), images()
    evidence = model.encode(x)
    levels = model.infer(x).levels
    torch.testing.assert_close(levels[2].q.mean, evidence[2].mean, rtol=0, atol=0)
    for level in range(2):
        expected = product(evidence[level], levels[level].p)
        torch.testing.assert_close(levels[level].q.mean, expected.mean, rtol=0, atol=0)
        assert (levels[level].q.log_var <= levels[level].p.log_var + 1e-12).all()


@pytest.mark.parametrize("cls", MODELS)
def test_top_prior_is_standard_normal(cls):
    model = build(cls)
    p, expected = model.infer(images()).levels[2].p, standard_normal(model.event_shapes[2], images())
    assert torch.equal(p.mean, expected.mean)
    assert torch.equal(p.log_var, expected.log_var)


@pytest.mark.parametrize("cls", MODELS)
def test_generate_holds_scales_and_repeats(cls):
    model = build(cls)
    first, again = (model.generate(4, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first.params, again.params)
    held = model.generate(4, hold={1: first.z[1]})
    assert torch.equal(held.z[1], first.z[1])
    assert not torch.equal(held.z[2], first.z[2])
    cold = model.generate(4, temperature={0: 0.0})
    torch.testing.assert_close(cold.z[0], cold.p[0].mean.expand_as(cold.z[0]))
    innovations = {
        level: (z - p.mean) / p.std for level, (z, p) in enumerate(zip(first.z, first.p, strict=True))
    }
    torch.testing.assert_close(model.generate(4, noise=innovations).params, first.params)
    with pytest.raises(ValueError, match="level 3 does not exist"):
        model.generate(1, hold={3: first.z[0]})


@pytest.mark.parametrize("cls", MARKOV)
@pytest.mark.parametrize("num_layers", [1, 2, 9, 32])
def test_depth_alone_is_enough(cls, num_layers):
    model = cls((1, 4, 4), num_layers)
    base = 32 if cls is TextbookVAE else 64
    assert model.event_shapes == tuple((max(base >> level, 4),) for level in range(num_layers))
    widths = {TextbookVAE: lambda level: 256}.get(cls, lambda level: max(512 >> level, 32))
    layers = [m if cls is TextbookVAE else m[0] for m in model.encoder]
    assert [layer.out_features for layer in layers] == [widths(level) for level in range(num_layers)]
    assert model.infer(torch.ones(2, 1, 4, 4)).terms().mean().elbo.isfinite()


@pytest.mark.parametrize("cls", DENSE)
def test_sizes_that_do_not_fit_are_refused(cls):
    with pytest.raises(ValueError, match=r"num_layers=5 needs 5 latent sizes, got 3: \[64, 32, 16\]"):
        cls((1, 28, 28), 5, latent_sizes=[64, 32, 16])
    if cls in MARKOV:
        with pytest.raises(ValueError, match="num_layers=2 needs 2 hidden sizes, got 1"):
            cls((1, 28, 28), 2, hidden_sizes=[64])
    with pytest.raises(ValueError, match="not between 1 and 64"):
        cls((1, 28, 28), 65)
    with pytest.raises(ValueError, match="at least 1"):
        cls((1, 28, 28), 2, latent_sizes=[4, 0])


def test_number_of_weights():
    """Counted by hand for the widths 512-256-128-64-64."""
    model = LadderVAE((1, 28, 28), 5, hidden_sizes=[512, 256, 128, 64, 64])
    latents, hidden = [64, 32, 16, 8, 4], [512, 256, 128, 64, 64]
    mlp = lambda i, h: i * h + h * h + 4 * h  # noqa: E731  two layers without bias, two batch norms
    head = lambda h, d: 2 * d * (h + 1)  # noqa: E731
    count = sum(mlp(i, h) for i, h in zip([784, *hidden], hidden, strict=False))
    count += sum(head(h, d) for h, d in zip(hidden, latents, strict=True))
    count += sum(mlp(d, h) for h, d in zip(hidden, latents, strict=True)) + 513 * 784
    count += sum(head(h, d) for h, d in zip(hidden[1:], latents, strict=False))
    assert sum(p.numel() for p in model.parameters()) == count == 1_868_280


def test_softplus_variances_stay_finite_far_out():
    from ladder_vae.models.layers import SoftplusHead

    head = SoftplusHead(1, 1)
    head.weight.data[:] = 1e4
    for x in (-1.0, 1.0):
        g = head(torch.tensor([[x]]))
        assert g.log_var.isfinite().all()
    assert isinstance(g, Gaussian)
