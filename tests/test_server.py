"""``python -m ladder_vae.explore serve=true``: what a play shows, and a server that is asked for it."""

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from contracts import LEARNED, SHAPE, small
from PIL import Image
from test_errors import only_line

from ladder_vae.explorer import page, playing, server
from ladder_vae.explorer.board import DRAWS, SIDE, SLIDERS, Board, shown
from ladder_vae.models import ConvolutionalVAE, LadderVAE
from ladder_vae.models.innovations import innovations, render
from ladder_vae.runs.opened import load_subject

needs_extra = pytest.mark.skipif(
    importlib.util.find_spec(server.PACKAGE) is None, reason="needs pip install 'ladder-vae[serve]'"
)


def begun(cls, num_layers=3):
    """A model in eval mode, and a play with two pictures of its own."""
    model = small(cls, num_layers).eval()
    source = torch.Generator().manual_seed(0)
    noise = model.draw_noise(1, 1, like=next(model.parameters()), generator=source)
    pictures = torch.randint(0, 2, (2, 1, *SHAPE), generator=source).float()
    a, b = (playing.read(model, name, each, noise) for name, each in zip("AB", pictures, strict=True))
    return model, noise, playing.begin(a, b)


@pytest.mark.parametrize("cls", LEARNED)
@torch.no_grad()  # as the server works
def test_a_play_begins_with_the_reconstruction(cls):
    model, noise, play = begun(cls)
    found = model.infer(play.sources["A"].picture, noise=noise)
    shown = playing.picture(model, play)
    torch.testing.assert_close(shown, model.likelihood.mean(found.params[0]), rtol=0, atol=1e-5)
    expected = model.infer((shown > 0.5).float(), noise=noise).rates()[:, 0, 0]
    assert playing.rates(model, shown, noise) == pytest.approx(expected.tolist(), abs=1e-5)
    for ours, theirs in zip(play.code, innovations(found), strict=True):
        assert torch.equal(ours, theirs)


def test_a_level_is_exchanged_and_the_others_stay():
    _, _, play = begun(LadderVAE)
    taken = playing.choose(play, 1, "B", play.sources["B"].code)
    assert taken.origins == ("A", "B", "A")
    assert torch.equal(taken.code[1], play.sources["B"].code[1])
    assert torch.equal(taken.code[0], play.code[0])
    assert torch.equal(taken.code[2], play.code[2])
    # another image B: the level follows, unless it is kept
    other = replace(play.sources["A"], name="other")
    assert torch.equal(playing.exchange(taken, "B", other).code[1], play.code[1])
    held = playing.exchange(playing.keep(taken, 1, True), "B", other)
    assert held.origins == ("A", "new", "A")
    assert torch.equal(held.code[1], taken.code[1])
    assert held.sources["B"] is other


def test_what_is_kept_is_not_drawn_anew():
    _, _, play = begun(LadderVAE)
    source = torch.Generator().manual_seed(1)
    drawn = playing.draw(playing.keep(play, 2, True), source)
    assert drawn.origins == ("new", "new", "A")
    assert torch.equal(drawn.code[2], play.code[2])
    assert not torch.equal(drawn.code[0], play.code[0])
    for level in range(3):
        play = playing.keep(play, level, True)
    assert playing.draw(play, source) is play


def test_temperatures_multiply_what_a_level_adds():
    model, _, play = begun(LadderVAE)
    cold = playing.warm(play, 2, 0.0)
    zero = [*play.code[:2], torch.zeros_like(play.code[2])]
    assert torch.equal(playing.picture(model, cold), render(model, zero))
    assert torch.equal(cold.code[2], play.code[2])  # it comes back with the temperature
    assert torch.equal(playing.picture(model, playing.warm(cold, 2, 1.0)), playing.picture(model, play))


@pytest.mark.parametrize("cls", [LadderVAE, ConvolutionalVAE])
def test_a_slider_moves_one_unit_or_channel(cls):
    model, _, play = begun(cls)
    moved = playing.move(play, 1, 2, 1.5)
    assert playing.position(moved, 1, 2) == pytest.approx(1.5, abs=1e-5)
    assert moved.origins == ("A", "new", "A")
    change = moved.code[1] - play.code[1]
    assert change[:, 2].std(unbiased=False) < 1e-5  # places keep their differences
    change[:, 2] = 0
    assert change.abs().max() == 0
    assert not torch.equal(playing.picture(model, moved), playing.picture(model, play))


def test_small_pictures_are_what_choosing_them_gives():
    model, _, play = begun(LadderVAE)
    play = playing.warm(play, 0, 0.5)
    draws = [torch.randn(2, *event) for event in model.event_shapes]
    offers = playing.offers(play, draws)
    assert [origin for origin, _ in offers] == ["A", "B", "new", "new"]
    small_pictures = playing.small_pictures(model, play, 1, draws)
    for each, (origin, code) in zip(small_pictures, offers, strict=True):
        chosen = playing.choose(play, 1, origin, code)
        torch.testing.assert_close(each[None], playing.picture(model, chosen), rtol=0, atol=1e-6)


def test_a_drawing_is_centered_as_mnist_is():
    paper = Image.new("L", (280, 280))
    paper.paste(255, (10, 20, 50, 100))  # 40 wide, 80 high, in a corner
    digit = np.asarray(playing.centered(paper, 28, 28))
    rows, columns = np.nonzero(digit)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 23, 9, 18)
    assert not np.asarray(playing.centered(Image.new("L", (280, 280)), 28, 28)).any()


def test_a_picture_of_any_size_fits():
    wide = Image.fromarray(np.tile(np.arange(0, 240, 4, dtype=np.uint8), (30, 1)))  # 60 x 30, darker left
    gray, color = playing.fitted(wide, (1, 28, 28)), playing.fitted(wide, (3, 12, 16))
    assert gray.shape == (1, 1, 28, 28)
    assert color.shape == (1, 3, 12, 16)
    assert 0.2 < gray[0, 0, 0, 0] < gray[0, 0, 0, -1] < 0.8  # cut at both sides
    assert torch.equal(color[0, 0], color[0, 2])


def test_pictures_are_shown_in_color_and_magnified_by_whole_pixels():
    image = np.asarray(shown(torch.tensor([1.0, 0.0, 0.5]).view(3, 1, 1).expand(3, 20, 30)))
    assert image.shape == (20 * (SIDE // 30), 30 * (SIDE // 30), 3)
    assert (image == [255, 0, 128]).all()
    assert shown(torch.zeros(1, 2 * SIDE, 3)).size == (3, 2 * SIDE)  # a large one is left alone


@pytest.fixture
def board(trained) -> Board:
    return Board(load_subject(trained("logger=none"), "best"), 0)


def test_what_a_page_shows(board):
    play = playing.keep(playing.warm(board.begin(), 1, 0.5), 1, True)
    picture, told = board.picture(play)
    assert picture.size == (17 * 16, 17 * 12)
    assert "<td>z2</td><td>A, kept, temperature 0.5</td>" in told
    assert told.index("<td>z2</td>") < told.index("<td>z1</td><td>A</td>")
    assert [origin for _, origin in board.offers(play, 0, board.draws())] == ["A", "B", *["new"] * DRAWS]
    for level, fact in enumerate(board.facts):
        sliders = board.sliders(play, level)
        assert len(sliders) == SLIDERS
        assert sum(each["visible"] for each in sliders) == len(fact["movers"])
        for slider, mover in zip(sliders, fact["movers"], strict=False):
            assert slider["label"] == f"unit {mover['number']}, {mover['rate']:.2f} nats"


def taken_port() -> tuple[socket.socket, int]:
    """A socket that listens, and its port."""
    held = socket.create_server((server.HOST, 0))
    return held, held.getsockname()[1]


def test_without_the_extra_one_line_names_it(trained, command, monkeypatch):
    run = trained("logger=none")
    monkeypatch.setattr(server, "find_spec", lambda name: None)
    code, _, err = command("explore", f"run={run}", "serve=true")
    assert code == 1
    needs = "a server needs packages that are not installed (gradio); pip install 'ladder-vae[serve]'"
    assert only_line(err) == f"error: {needs}"
    monkeypatch.setattr(page, "LARGEST", 1_000)  # a run that is too large is served unasked
    code, _, err = command("explore", f"run={run}")
    assert code == 1
    assert only_line(err) == f"error: {run} is too large for a page in one file: {needs}"


def test_a_port_in_use(trained, command, monkeypatch):
    run = trained("logger=none")
    monkeypatch.setattr(server, "find_spec", lambda name: True)
    held, port = taken_port()
    with held:
        code, _, err = command("explore", f"run={run}", "serve=true", f"port={port}")
    assert code == 1
    assert re.fullmatch(rf"error: port={port} cannot be had \(.+\); choose another", only_line(err))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["run=run", "port=0"], "port=0 must be at least 1"),
        (["run=run", "port=70000"], "port=70000 must be at most 65535"),
        (["run=.", "serve=true"], "run=. is a folder of runs; name one of them, serve=true shows one"),
        (["run=nowhere", "serve=true"], "nowhere is not a directory"),
        (["run=run", "serve=true", "device=gpu"], "device=gpu is not here"),
    ],
)
def test_what_cannot_be_served(trained, command, settings, said):
    trained("logger=none")
    code, _, err = command("explore", *settings)
    assert code == 1
    assert said in only_line(err)


def test_a_run_of_a_folder_is_not_served(trained, command, monkeypatch):
    trained("logger=none", run_dir="runs/large")
    monkeypatch.setattr(page, "LARGEST", 1_000)
    code, _, err = command("explore", "run=runs")
    assert code == 1
    assert "ladder-vae explore run=runs/large serve=true plays with it" in err


@pytest.mark.slow
@needs_extra
@pytest.mark.skipif(os.name != "posix", reason="it is ended by a signal of POSIX")
def test_a_server_answers(trained):
    run = trained("logger=none")
    held, port = taken_port()
    held.close()
    arguments = [f"run={run}", "serve=true", f"port={port}", "device=cpu"]
    started = [sys.executable, "-m", "ladder_vae.explore", *arguments]
    told_by = Path("stderr.txt")  # a pipe that nobody reads may fill up
    with (
        told_by.open("w") as errors,
        subprocess.Popen(started, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            address = process.stdout.readline().strip()
            assert address == f"http://{server.HOST}:{port}", told_by.read_text()
            from gradio_client import Client

            client = Client(address, verbose=False)
            first, told, offers, pair, *_ = client.predict("z2", api_name="/look")
            assert Image.open(first).size == (17 * 16, 17 * 12)
            assert "<td>z2</td><td>A</td>" in told
            assert len(offers["value"]) == 2 + DRAWS
            assert [each["caption"][:2] for each in pair] == ["A:", "B:"]
            client.predict("z2", True, api_name="/keep")
            second, told, *_ = client.predict("z2", api_name="/new_picture")
            assert "<td>z2</td><td>A, kept</td>" in told
            assert "<td>z1</td><td>new</td>" in told
            assert Path(first).read_bytes() != Path(second).read_bytes()
            # another browser has a play of its own
            other = Client(address, verbose=False).predict("z2", api_name="/look")
            assert Path(other[0]).read_bytes() == Path(first).read_bytes()
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)
    assert process.returncode == 130
    assert told_by.read_text().splitlines()[-1] == "interrupted"
