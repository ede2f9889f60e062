"""The convolutional hierarchies: which resolutions they have, and that their nets see what they should."""

import pytest
import torch
from contracts import binary_images, small

from ladder_vae.maths.gaussian import Gaussian
from ladder_vae.maths.logistic_mixture import LogisticMixture
from ladder_vae.models import NVAE, ConvolutionalVAE
from ladder_vae.models.convolutions import Bottleneck, Enlarge, Halve, PatchDecoder, Patches, SpatialHead
from ladder_vae.models.posteriors import MERGES
from ladder_vae.models.pyramid import default_levels, pyramid, stages


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((28, 28), {28: (28, 28), 14: (14, 14), 7: (7, 7), 4: (4, 4), 2: (2, 2), 1: (1, 1)}),
        ((33, 17), {33: (33, 17), 17: (17, 9), 9: (9, 5), 5: (5, 3), 3: (3, 2), 2: (2, 1), 1: (1, 1)}),
        ((4, 5), {5: (4, 5), 3: (2, 3), 2: (1, 2), 1: (1, 1)}),
    ],
)
def test_each_resolution_is_half_the_one_below(size, expected):
    assert pyramid(*size) == expected


@pytest.mark.parametrize(
    ("side", "num_layers", "expected"),
    [
        (28, 1, [(7, 1)]),
        (28, 2, [(7, 1), (1, 1)]),
        (28, 3, [(14, 1), (7, 1), (1, 1)]),
        (28, 16, [(14, 7), (7, 7), (4, 1), (1, 1)]),
        (64, 8, [(32, 2), (16, 2), (8, 2), (4, 1), (1, 1)]),
        (4, 3, [(4, 2), (1, 1)]),
        (256, 4, [(32, 1), (16, 1), (8, 1), (1, 1)]),
    ],
)
def test_the_number_of_levels_alone_is_enough(side, num_layers, expected):
    assert default_levels(list(pyramid(side, side)), num_layers) == expected


@pytest.mark.parametrize("cls", [ConvolutionalVAE, NVAE])
@pytest.mark.parametrize(
    ("shape", "num_layers"),
    [((1, 4, 4), 1), ((1, 5, 9), 2), ((1, 28, 28), 3), ((1, 64, 40), 7), ((1, 256, 256), 2), ((1, 6, 4), 20)],
)
def test_any_image_and_any_number_of_levels(cls, shape, num_layers):
    width = {"scale": 0.05} if cls is NVAE else {"width": 4}
    with torch.device("meta"):
        model, x = cls(shape, num_layers, **width), torch.empty(2, *shape)
    inference = model.infer(x, 3)
    assert inference.params.shape == (3, 2, *shape)
    assert inference.rates().shape == (num_layers, 3, 2)
    for event, stage in zip(
        model.event_shapes, [s for s in model.stages for _ in range(s.levels)], strict=True
    ):
        assert event == (stage.latents, *stage.size)


BAD = {
    "names resolution 13, which the image does not have; its resolutions are 28, 14, 7, 4, 2, 1": {
        "levels": [[13, 1]]
    },
    "must begin with the largest resolution": {"levels": [[7, 1], [14, 1]], "num_layers": 2},
    "are 2 levels, and num_layers=3; set num_layers=2, or leave": {
        "levels": [[14, 2]],
        "num_layers": 3,
    },
    "has no level at its smallest resolution": {"levels": [[14, 2], [7, 0]], "num_layers": 2},
    "names resolution 7 twice": {"levels": [[7, 1], [7, 1]], "num_layers": 2},
    "must be pairs of a resolution and a number": {"levels": [[7, 1, 2]], "num_layers": 1},
    "levels of resolution 7 must be at least 0, got -1": {"levels": [[7, -1]]},
    "widths names resolution 28, which has no levels; those are": {"widths": [[28, 3]]},
    "latent_channels of resolution 7 must be at least 1, got 0": {"latent_channels": [[7, 0]]},
    "num_layers=65 is not between 1 and 64": {"num_layers": 65},
    "num_layers=0 is not between 1 and 64": {"num_layers": 0},
    "levels=\\[\\] are 0 levels; a model has 1 to 64": {"levels": [], "num_layers": 0},
    "levels=.* are 65 levels; a model has 1 to 64": {"levels": [[7, 65]], "num_layers": 65},
    "levels of resolution 14 must be at least 0, got -1": {"levels": [[14, -1]], "num_layers": -1},
    "width=0 must be at least 1": {"width": 0},
    "blocks=-1 must be between 0 and 100": {"blocks": -1},
    "encoder_blocks=101 must be between 0 and 100": {"encoder_blocks": 101},
    "cell=resnet is unknown; choose bottleneck, nvae": {"cell": "resnet"},
    "norm=group is unknown": {"norm": "group"},
    "posterior=bound is unknown": {"posterior": "bound"},
}


@pytest.mark.parametrize("message", BAD)
def test_sizes_that_do_not_fit_are_refused(message):
    with pytest.raises(ValueError, match=message):
        ConvolutionalVAE((1, 28, 28), **BAD[message])


@pytest.mark.parametrize("num_layers", [0, 65])
def test_numbers_of_levels_that_nvae_refuses(num_layers):
    with pytest.raises(ValueError, match=f"num_layers={num_layers} is not between 1 and 64"):
        NVAE((1, 28, 28), num_layers)


@pytest.mark.parametrize("shape", [(1, 3, 28), (1, 28, 257), (1, 1, 1)])
@pytest.mark.parametrize("cls", [ConvolutionalVAE, NVAE])
def test_images_too_small_or_too_large_are_refused(cls, shape):
    with pytest.raises(ValueError, match="takes images of 4x4 to 256x256 pixels, got"):
        cls(shape, 2)


def test_levels_without_a_number_of_their_own():
    """``model.levels`` alone is enough on the command line; here the numbers have to agree."""
    model = ConvolutionalVAE((1, 28, 28), 4, [[14, 2], [7, 0], [4, 2]], width=8)
    assert model.event_shapes == ((4, 14, 14), (4, 14, 14), (16, 4, 4), (16, 4, 4))


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("size", [(28, 28), (9, 6)])
def test_patches_and_back(factor, size):
    """With identities for weights, the image comes back, also where patches exceed it."""
    small_size = tuple(-(-side // factor) for side in size)
    cut = Patches(1, factor, small_size, factor**2) if factor > 1 else None
    paste = PatchDecoder(torch.nn.Identity(), factor**2, factor, (1, *size))
    for linear in (cut.net if cut else None, paste.linear):
        if linear is not None:
            torch.nn.init.eye_(linear.weight)
            torch.nn.init.zeros_(linear.bias)
    x = torch.randn(3, 1, *size)
    features = cut(x) if cut else x.movedim(-3, -1)
    assert features.shape == (3, *small_size, factor**2)
    torch.testing.assert_close(paste(features), x)


@pytest.mark.parametrize("size", [(8, 8), (7, 5)])
def test_enlarge_repeats_what_halve_averages(size):
    half = tuple(-(-side // 2) for side in size)
    down, up = Halve(2, 3, 3), Enlarge(2, size, 3, 3)
    h = torch.randn(2, 1, *half, 3)
    large = up(h)
    assert large.shape == (2, 1, *size, 3)
    torch.testing.assert_close(large[0, 0, 0, 0], h[0, 0, 0, 0])
    torch.testing.assert_close(large[1, 0, size[0] - 1, size[1] - 1], h[1, 0, -1, -1])
    torch.testing.assert_close(down(large[:, 0]), h[:, 0])  # blocks at the edges count what they hold


def test_a_cell_reads_pixel_and_neighbors():
    cell, h = Bottleneck(4, (9, 9), "none", 1), torch.randn(1, 9, 9, 4, requires_grad=True)
    (grad,) = torch.autograd.grad(cell(h)[0, 4, 4].sum(), h)
    reach = grad.abs().sum(-1)[0] > 0
    expected = torch.zeros(9, 9, dtype=torch.bool)
    expected[2:7, 2:7] = True  # two 3x3 convolutions
    assert torch.equal(reach, expected)


def test_standard_deviations_are_bounded():
    head = SpatialHead(3, 2)
    q = head(1e6 * torch.randn(4, 5, 5, 3))
    assert q.mean.shape == (4, 2, 5, 5)
    assert q.event_dims == 3
    assert q.std.log().abs().max() <= 5 + 1e-5
    assert q.kl(q).shape == (4,)


@pytest.mark.parametrize("cls", [ConvolutionalVAE, NVAE])
def test_priors_begin_as_standard_normals(cls):
    torch.manual_seed(0)
    model = cls((1, 8, 8), 4).eval() if cls is ConvolutionalVAE else cls((1, 8, 8), 4, 0.1).eval()
    for level in model.infer(binary_images(2, (1, 8, 8))).levels:
        assert not level.p.mean.any()
        assert not level.p.log_var.any()


def test_the_stream_of_many_levels_begins_as_large_as_that_of_few():
    """1 / sqrt(N): without it the stream of 48 levels would be some 4 times as large as that of 3."""
    found = []
    for num_layers in (3, 48):
        torch.manual_seed(0)
        model = ConvolutionalVAE((1, 16, 16), num_layers, width=32).eval()
        states = []
        model.decoder.body.register_forward_pre_hook(lambda _, args, kept=states: kept.append(args[0]))
        model.generate(64)
        found.append(float(states[0].std()))
    assert 0.5 < found[1] / found[0] < 2


def test_merging_with_the_prior():
    e, p = (Gaussian(torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), 3) for _ in range(2))
    assert MERGES["free"](e, p) is e
    nothing = Gaussian(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4), 3)
    same = MERGES["relative"](nothing, p)
    torch.testing.assert_close(same.kl(p), torch.zeros(2))
    narrower = MERGES["weighted"](e, p)
    assert (narrower.log_var <= torch.minimum(e.log_var, p.log_var) + 1e-6).all()


@pytest.mark.parametrize("cls", [ConvolutionalVAE, NVAE])
def test_images_in_color(cls):
    few = {"scale": 0.1} if cls is NVAE else {"width": 8}
    model = cls((3, 9, 8), 3, **few, likelihood=LogisticMixture(2)).eval()
    x = model.likelihood.prepare(torch.randint(0, 256, (2, 3, 9, 8), dtype=torch.uint8))
    inference = model.infer(x, 2)
    assert inference.log_px.isfinite().all()
    assert model.generate(2).mean.shape == (2, 3, 9, 8)


@pytest.mark.parametrize("cls", [ConvolutionalVAE, NVAE])
def test_every_weight_is_trained(cls):
    model = small(cls, shape=(1, 16, 12))
    x = binary_images(4, (1, 16, 12))
    model.terms(x, model.draw_noise(1, 4, like=x)).mean().elbo.backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None]
    assert silent == []


def test_the_plan_knows_sizes():
    plan = stages((28, 20), 3, [[14, 1], [4, 2]], 16, [[4, 24]], [[14, 1]])
    assert [(s.size, s.halvings, s.levels, s.width, s.latents) for s in plan] == [
        ((14, 10), 1, 1, 16, 1),
        ((4, 3), 3, 2, 24, 16),
    ]


def test_levels_alone_are_enough_on_the_command_line(command, npz):
    quick = "trainer.max_epochs=1", "trainer.accelerator=cpu", "callbacks.pictures=null", "data.val_size=0"
    model = "model=convolutional", "model.width=4", "model.levels=[[8,1],[4,2]]"
    code, out, err = command("train", "data=npz", f"data.path={npz}", "data.batch_size=16", *quick, *model)
    assert code == 0, err
    assert "z3" in out


def test_a_wrong_resolution_stops_before_training(command, npz):
    code, _, err = command("train", "data=npz", f"data.path={npz}", "model=convolutional",
                           "model.levels=[[9,1]]", "run_dir=run")  # fmt: skip
    assert code == 1
    assert "levels names resolution 9, which the image does not have" in err


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("channels", [1, 3])
def test_features_begin_channels_last_in_memory(factor, channels):
    patches = Patches(channels, factor, (8 // factor, 8 // factor), 5)
    assert patches(torch.randn(2, channels, 8, 8)).is_contiguous()


def test_the_stream_stays_in_float32_even_without_cells():
    model = small(ConvolutionalVAE, 3, (1, 8, 8), levels=[(4, 3)], blocks=0)
    rung, z = model.rung(2), torch.randn(2, *model.event_shapes[2])
    with torch.autocast("cpu", torch.bfloat16):
        assert rung.descend(None, z).dtype == torch.float32
