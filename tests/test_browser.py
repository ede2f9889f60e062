"""The explorer in a real browser shows what Python computes, in a wide window and in a narrow one."""

import base64
import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("fcntl", reason="the browser is steered through file descriptors of POSIX")

from chromium import FOUND, Page
from contracts import CLASSES, small
from torch import Tensor

from ladder_vae.explorer import page
from ladder_vae.explorer.program import Constants
from ladder_vae.explorer.translation import translate
from ladder_vae.explorer.walks import generator, in_half_precision, inference
from ladder_vae.maths import LogisticMixture
from ladder_vae.models import ConvolutionalVAE
from ladder_vae.runs.checkpoints import Run
from ladder_vae.runs.opened import Subject, load_subject
from ladder_vae.runs.releases import RELEASES

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(FOUND is None, reason="there is no Chromium: install chromium to run it"),
]
WIDTHS = (1300, 400)  # pixels


def release(name: str, there: Path) -> Subject:
    """A release, in a directory of its own."""
    found = load_subject(RELEASES / name, "best")
    return Subject(Run(found.run.model, found.run.config, there, {}), found.data, "best")


@pytest.fixture(scope="session")
def subject(tmp_path_factory) -> Subject:
    return release("three_levels", tmp_path_factory.mktemp("explored"))


@pytest.fixture(scope="session")
def file(subject) -> Path:
    return page.write(subject)


@pytest.fixture(scope="session")
def model(subject):
    return in_half_precision(subject.run.model)


@pytest.fixture
def opened(file, tmp_path):
    """Opens the explorer, and looks afterwards whether it had an error to report."""

    def call(width: int) -> Page:
        shown = Page(file, tmp_path / "profile", width)
        open_pages.append(shown)
        shown.run("explorer.view.settled()")
        return shown

    open_pages: list[Page] = []
    yield call
    for shown in open_pages:
        with shown:
            assert shown.said == []


def numbers(shown: Page, expression: str) -> Tensor:
    return torch.tensor(shown.run(f"Array.from({expression})"))


def code(shown: Page, model) -> list[Tensor]:
    """The innovations that make the picture, after temperatures."""
    flat = shown.run("explorer.code().map((e) => Array.from(e))")
    return [torch.tensor(e).view(1, *event) for e, event in zip(flat, model.event_shapes, strict=True)]


def python_picture(shown: Page, model) -> Tensor:
    return model.generate(1, noise=dict(enumerate(code(shown, model)))).mean.flatten()


def assert_shown_as_computed(shown: Page, model) -> None:
    """The picture, and the pixels of its canvas, which are bytes."""
    shown.run("explorer.view.settled()")
    expected = python_picture(shown, model)
    torch.testing.assert_close(numbers(shown, "explorer.view.picture"), expected, rtol=0, atol=1e-4)
    canvas = "document.getElementById('picture').getContext('2d').getImageData(0, 0, 28, 28).data"
    pixels = numbers(shown, canvas).view(-1, 4)[:, 0] / 255
    torch.testing.assert_close(pixels, expected, rtol=0, atol=0.6 / 255)


def box(shown: Page, selector: str) -> tuple[float, float, float, float]:
    """Left, top, width and height of an element in the window, which is scrolled to it."""
    script = f"""(() => {{
        const found = document.querySelector({json.dumps(selector)});
        found.scrollIntoView({{ block: "center" }});
        const box = found.getBoundingClientRect();
        return [box.left, box.top, box.width, box.height];
    }})()"""
    return tuple(shown.run(script))


def click(shown: Page, selector: str) -> None:
    left, top, width, height = box(shown, selector)
    shown.stroke((left + width / 2, top + height / 2))
    shown.run("explorer.view.settled()")


@pytest.mark.parametrize("width", WIDTHS)
def test_a_slider_changes_the_picture_to_what_python_computes(opened, model, width):
    shown = opened(width)
    assert shown.run("innerWidth") == width
    assert shown.run("document.documentElement.scrollWidth") <= width  # nothing is cut off
    before, pictured = code(shown, model), numbers(shown, "explorer.view.picture")
    rates = numbers(shown, "explorer.view.told")
    assert_shown_as_computed(shown, model)
    left, top, wide, high = box(shown, "#levels .movers input")  # the first awake unit of the top level
    middle = top + high / 2
    shown.stroke((left + wide / 2, middle), (left + wide * 0.7, middle), (left + wide * 0.95, middle))
    assert_shown_as_computed(shown, model)
    after, unit = code(shown, model), shown.run("explorer.levels[2].movers[0].number")
    assert after[2][0, unit] > 2
    changed = [(a != b).nonzero()[:, 1].tolist() for a, b in zip(before, after, strict=True)]
    assert changed == [[], [], [unit]]
    assert (numbers(shown, "explorer.view.picture") - pictured).abs().max() > 0.5
    assert (numbers(shown, "explorer.view.told") - rates).abs().max() > 0.5  # the bars moved, too
    bars = shown.run("[...document.querySelectorAll('#rates .value')].map((each) => each.textContent)")
    told = numbers(shown, "explorer.view.told").flip(0)
    assert bars == [f"{rate:.1f}" for rate in told.tolist()]


@pytest.mark.parametrize("width", WIDTHS)
def test_a_drawn_digit_is_read_as_python_reads_it(opened, model, width):
    shown = opened(width)
    click(shown, "#open-pad")
    left, top, side, _ = box(shown, "#paper")
    seven = [(0.3, 0.2), (0.5, 0.2), (0.7, 0.2), (0.6, 0.5), (0.45, 0.85)]
    hand = shown.stroke if width > 600 else shown.finger
    hand(*((left + x * side, top + y * side) for x, y in seven))
    shown.run("explorer.view.settled()")
    drawn = numbers(shown, "explorer.sources.a.picture").view(28, 28)
    rows, columns = (drawn.sum(axis).nonzero()[:, 0] for axis in (1, 0))
    assert max(int(rows.max() - rows.min()), int(columns.max() - columns.min())) + 1 in (19, 20)
    places = torch.arange(28) + 0.5
    for axis in (0, 1):  # centered by its center of mass
        assert (drawn.sum(axis) * places).sum() / drawn.sum() == pytest.approx(14, abs=0.51)
    assert drawn[rows.min() + 1, columns.min() + 2] > 0.5  # the bar on top
    assert drawn[rows.max() - 1, columns.min() + 1] < 0.1  # none at the bottom left
    flat = shown.run("explorer.noise.map((e) => Array.from(e))")
    noise = [torch.tensor(e).view(1, 1, *event) for e, event in zip(flat, model.event_shapes, strict=True)]
    x = (drawn > 0.5).float()[None, None]
    expected = model.infer(x, noise=noise)
    found = numbers(shown, "explorer.infer(explorer.sources.a.picture).rates")
    torch.testing.assert_close(found, expected.rates()[:, 0, 0], rtol=1e-3, atol=1e-3)
    assert (expected.rates() > 1).all()
    assert_shown_as_computed(shown, model)
    assert ((numbers(shown, "explorer.view.picture").view(28, 28) > 0.5) != (x[0, 0] > 0.5)).sum() < 60
    assert shown.run("document.querySelector('.source .name').textContent") == "drawn by you"


def test_draw_hold_swap_and_heat(opened, model):
    shown = opened(1300)
    top, bottom = ".level:nth-of-type(1)", ".level:nth-of-type(3)"
    begun = code(shown, model)
    click(shown, f"{top} .cell:nth-of-type(2)")  # the top level from B
    swapped = code(shown, model)
    of_b = numbers(shown, "explorer.sources.b.code[2]")
    assert torch.equal(swapped[2][0], of_b)
    assert torch.equal(swapped[0], begun[0])
    assert_shown_as_computed(shown, model)
    click(shown, f"{top} .hold input")
    click(shown, "#anew")  # every level but the one that is held
    drawn = code(shown, model)
    assert [torch.equal(a, b) for a, b in zip(swapped, drawn, strict=True)] == [False, False, True]
    click(shown, ".thumb:nth-of-type(5)")  # A is another image; no level is from A any more
    assert all(map(torch.equal, drawn, code(shown, model)))
    click(shown, f"{bottom} .cell:nth-of-type(5)")  # a draw of the lowest level
    anew = code(shown, model)
    assert [torch.equal(a, b) for a, b in zip(drawn, anew, strict=True)] == [False, True, True]
    small_picture = f"document.querySelector('{bottom} .cell:nth-of-type(5) canvas')"
    for canvas in (small_picture, "document.getElementById('picture')"):  # the small one became the big one
        pixels = numbers(shown, f"{canvas}.getContext('2d').getImageData(0, 0, 28, 28).data").view(-1, 4)[
            :, 0
        ]
        assert (pixels / 255 - python_picture(shown, model)).abs().max() < 0.6 / 255
    shown.run(f"""(() => {{
        const warm = document.querySelector("{bottom} .warm input");
        warm.value = 0.5;
        warm.dispatchEvent(new Event("input"));
    }})()""")
    assert_shown_as_computed(shown, model)
    torch.testing.assert_close(code(shown, model)[0], anew[0] / 2)
    click(shown, "#reset")
    assert shown.run(
        "explorer.levels.every((each) => each.choice === 'a' && !each.held && each.temperature === 1)"
    )
    for level, e in enumerate(code(shown, model)):
        assert torch.equal(e[0], numbers(shown, f"explorer.sources.a.code[{level}]"))


def test_the_record_is_shown_as_computed(tmp_path):
    subject = release("record", tmp_path)
    with Page(page.write(subject), tmp_path / "profile", 1300) as shown:
        assert_shown_as_computed(shown, in_half_precision(subject.run.model))
        assert shown.run("document.querySelectorAll('.level').length") == 10
        assert shown.said == []


def test_a_browser_that_lacks_what_the_page_needs(file, tmp_path):
    text = file.read_text().replace("<head>", "<head><script>window.atob = undefined</script>")
    (tmp_path / "page.html").write_text(text)
    with Page(tmp_path / "page.html", tmp_path / "profile", 1300) as shown:
        assert shown.run("document.body.innerText").count("This browser cannot run the network") == 1
        assert shown.run("document.getElementById('main').hidden")


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory):
    """A page with the interpreter alone."""
    there = tmp_path_factory.mktemp("interpreter")
    script = (resources.files(page.__package__) / "interpreter.js").read_text(encoding="utf-8")
    (there / "page.html").write_text(f"<!DOCTYPE html><script>{script}</script>")
    with Page(there / "page.html", there / "profile", 400) as shown:
        yield shown


def assert_the_same(shown: Page, function, *inputs: Tensor) -> None:
    """A function in Python and its program in the browser."""
    constants = Constants()
    program = translate(function, inputs, constants).written()
    given = json.dumps([x.flatten().tolist() for x in inputs])
    weights = json.dumps(base64.b64encode(constants.content).decode())
    results = shown.run(
        f"runnable({json.dumps(program)}, constantsOf(bytesOf({weights}), {json.dumps(constants.table)}))"
        f"(...{given}.map((x) => Float32Array.from(x))).map((x) => Array.from(x))"
    )
    with torch.no_grad():
        for result, expected in zip(results, function(*inputs), strict=True):
            torch.testing.assert_close(
                torch.tensor(result).float(), expected.float().flatten(), rtol=1e-4, atol=1e-5
            )


KINDS = [
    *((cls, {}) for cls in CLASSES),
    (ConvolutionalVAE, {"norm": "batch", "posterior": "relative"}),
    (ConvolutionalVAE, {"shape": (3, 6, 5), "likelihood": LogisticMixture(2), "posterior": "weighted"}),
]


@pytest.mark.parametrize(("cls", "settings"), KINDS)
def test_every_kind_of_model(interpreter, cls, settings):
    model = in_half_precision(small(cls, **settings))
    draw = torch.Generator().manual_seed(2)
    code = [torch.randn(1, *event, generator=draw) for event in model.event_shapes]
    assert_the_same(interpreter, generator(model), *code)
    picture = torch.rand(1, *settings.get("shape", (1, 6, 5)), generator=draw)
    assert_the_same(interpreter, inference(model), picture, *(e[None] for e in code))


X = torch.tensor([[-2.0, -0.5, 0.0], [0.25, 1.0, 3.0]])
CONVOLUTION = torch.nn.Conv2d(4, 6, 3, padding=1, groups=2).requires_grad_(False)
FUNCTIONS = {
    "elements": lambda x: (
        x.abs(),
        x.exp(),
        x.expm1(),
        -x,
        x.relu(),
        x.sigmoid(),
        x.sign(),
        x.tanh(),
        x**3,
        x**2,
    ),
    "roots": lambda x: ((x + 3).log(), (x + 3).log1p(), (x + 3).sqrt(), (x + 3).rsqrt(), 1 / (x + 3)),
    "comparisons": lambda x: (x < 1, x <= 1, x > 1, x >= 1, x == 1, x != 1, ~(x > 0), (x > 0) & (x < 2)),
    "broadcasting": lambda x: (
        x + x[:1],
        x[:, :1] * x,
        torch.where(x > 0, x[1:], 7.0),
        2 - x,
        x.sub(x, alpha=3),
    ),
    "reductions": lambda x: (
        x.sum(),
        x.sum(0),
        x.mean(1, keepdim=True),
        x.amax(0),
        x.softmax(0),
        x.logsumexp(1),
    ),
    "moves": lambda x: (
        x.T.flatten(),
        x.flip(1),
        torch.cat([x, x[:1]]),
        torch.nn.functional.pad(x, (1, 2, 0, 1)),
    ),
    "more moves": lambda x: (
        x.repeat(2, 1),
        x[:, 1],
        torch.stack([x, -x], 1),
        *x.split([1, 2], 1),
        x.roll(1, 1),
    ),
    "norms": lambda x: (
        torch.nn.functional.layer_norm(x, (3,)),
        torch.nn.functional.leaky_relu(x),
        x.clamp(-1, 1),
    ),
    "products": lambda x: (
        x @ torch.ones(3, 5),
        torch.nn.functional.silu(x),
        torch.nn.functional.softplus(x),
    ),
    "in place": lambda x: (x.clone().mul_(2), x.select_scatter(torch.tensor([5.0, 6.0]), 1, 1)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_operation(interpreter, name):
    assert_the_same(interpreter, FUNCTIONS[name], X)


def test_images(interpreter):
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 4, 5, 7))).float()
    pool = torch.nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)
    assert_the_same(interpreter, lambda x: (CONVOLUTION(x), pool(x)), images)
