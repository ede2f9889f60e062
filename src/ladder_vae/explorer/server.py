"""A server on this machine, by Gradio, with a page on which one plays with a model of any size."""

# Annotations are no strings here, because Gradio reads those of functions within a function.
import logging
import os
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from PIL import Image, ImageOps

from ladder_vae.explorer import playing
from ladder_vae.explorer.board import REACH, SIDE, SLIDERS, Board, shown
from ladder_vae.explorer.page import fits
from ladder_vae.explorer.playing import Play
from ladder_vae.models.innovations import Code
from ladder_vae.runs.checkpoints import Run
from ladder_vae.runs.opened import Subject, check_learned
from ladder_vae.system.errors import UserError
from ladder_vae.system.naming import z_name

PACKAGE = "gradio"
HOST = "127.0.0.1"  # only this machine is answered
FORGET = 3600  # seconds after which Gradio deletes its files of pictures
STYLE = """
img {image-rendering: pixelated}
td, th {padding: 0 .6em; text-align: left}
.grid-wrap {min-height: 0 !important}
.grid-container {grid-template-columns: repeat(var(--grid-cols), minmax(0, 1fr)) !important}
"""
WORDS = """
A picture is made level by level, the top one first. Click a small picture to take the chosen level from image
A or B, or to draw it anew; all others stay as they are. *Keep* holds a level when you ask for a new picture
or exchange an image. The *temperature* multiplies what a level adds: 0 is what the levels above expect. A
slider moves a unit that is awake; beside its number stands what it tells on average.
"""


def check(run: Run, port: int) -> None:
    """Check what can be checked before anything is computed.

    Raises:
        UserError: If the levels of the run encode nothing, Gradio is missing, or the port cannot be had.
    """
    check_learned(run)
    if find_spec(PACKAGE) is None:
        why = "" if fits(run) else f"{run.path} is too large for a page in one file: "
        raise UserError(
            f"{why}a server needs packages that are not installed ({PACKAGE}); "
            "pip install 'ladder-vae[serve]'"
        )
    with socket.socket() as probe:
        if os.name == "posix":  # a server that has just ended is in nobody's way; elsewhere this means more
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(f"port={port} cannot be had ({error.strerror}); choose another") from None


def serve(subject: Subject, port: int, seed: int, device: torch.device) -> None:
    """Serve the page until the process is interrupted, and print its address.

    Args:
        subject: The run and its data; its model moves to the device.
        port: Of this machine.
        seed: Seed of all draws.
        device: Where the model computes.

    Raises:
        UserError: If the port cannot be had.
    """
    subject.run.model.to(device)
    board = Board(subject, seed)
    import gradio as gr  # an extra

    logging.getLogger("httpx").setLevel(logging.WARNING)  # Gradio asks itself whether it is there
    looks = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # others are fetched
    with tempfile.TemporaryDirectory() as pictures:
        os.environ.setdefault("GRADIO_TEMP_DIR", pictures)  # its usual one may be another user's
        blocks = page(board)
        try:
            blocks.launch(
                server_name=HOST,
                server_port=port,
                share=False,
                ssr_mode=False,
                run_history=False,
                footer_links=[],
                quiet=True,
                prevent_thread_lock=True,
                theme=looks,
                css=STYLE,
            )
        except OSError as error:
            raise UserError(f"port={port} cannot be had ({error}); choose another") from None
        try:
            print(f"http://{HOST}:{port}", flush=True)
            while True:
                time.sleep(1)  # on Windows, Ctrl-C ends no longer wait
        finally:
            blocks.close(verbose=False)


def page(board: Board) -> Any:
    """The page as Gradio's ``Blocks``, not launched yet; each browser has a play of its own."""
    import gradio as gr

    names = [z_name(level) for level in range(board.model.num_layers)]
    title = f"Play with the levels of a {type(board.model).__name__}"
    plain = {"format": "png", "interactive": False, "buttons": []}
    rows = {**plain, "allow_preview": False, "object_fit": "contain", "height": "auto"}
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(FORGET, FORGET)) as blocks:
        play, draws = gr.State(board.begin()), gr.State(board.draws())
        gr.Markdown(f"# {title}\n{WORDS}")
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                picture = gr.Image(label="The picture", height=320, **plain)
                with gr.Row():
                    anew, back = gr.Button("New picture", variant="primary"), gr.Button("Back to A")
                told = gr.HTML()
                pair = gr.Gallery(label="Two images to mix", columns=2, **rows)
                target = gr.Radio(["A", "B"], value="A", label="Exchange this image for a")
                with gr.Tab("test image"):
                    shelf = [shown(each) for _, each in board.pictures]
                    tests = gr.Gallery(shelf, show_label=False, columns=5, **rows)
                if board.shape[0] == 1:
                    with gr.Tab("drawing"):
                        sketch = gr.Sketchpad(
                            image_mode="L",
                            type="pil",
                            canvas_size=(SIDE, SIDE),
                            layers=False,
                            brush=gr.Brush(default_size=SIDE // 24, colors=["#000000"], color_mode="fixed"),
                            show_label=False,
                        )
                with gr.Tab("file"):
                    upload = gr.Image(type="pil", sources=["upload", "clipboard"], show_label=False)
            with gr.Column(scale=3, min_width=360):
                level = gr.Radio(names[::-1], value=names[-1], label="Level")
                options = gr.Gallery(label="The picture with this level from", columns=4, **rows)
                with gr.Row():
                    kept, more = gr.Checkbox(label="Keep this level"), gr.Button("Other draws")
                temperature = gr.Slider(0, 2, 1, step=0.05, label="Temperature of this level", buttons=[])
                reach = {"minimum": -REACH, "maximum": REACH, "step": 0.05, "min_width": 260}
                with gr.Row():
                    sliders = [gr.Slider(buttons=[], visible=False, **reach) for _ in range(SLIDERS)]

        few = [play, picture, told, options]  # a slider that is being moved is not set
        everything = [*few, pair, kept, temperature, *sliders]
        state = [play, draws, level]
        way: dict[str, Any] = {  # one answer at a time
            "concurrency_id": "model",
            "trigger_mode": "always_last",
            "show_progress_on": picture,
        }

        def offered(now: Play, at: int, drawn: Code) -> Any:
            return gr.Gallery(board.offers(now, at, drawn), selected_index=None)  # to be clicked again

        def show(now: Play, drawn: Code, name: str) -> list[Any]:
            """What all outputs become."""
            at = names.index(name)
            return [
                now,
                *board.picture(now),
                offered(now, at, drawn),
                [(shown(source.picture[0]), f"{key}: {source.name}") for key, source in now.sources.items()],
                now.kept[at],
                now.temperatures[at],
                *(gr.Slider(**settings) for settings in board.sliders(now, at)),
            ]

        def on(
            event: Callable[..., Any],
            change: Callable[..., Play],
            values: Sequence[Any] = (),
            outputs: Sequence[Any] = everything,
            **named: str,
        ) -> None:
            """Let an event change the play; ``change`` gets it, the index of the level, and values."""

            def act(now: Play, drawn: Code, name: str, *given: Any) -> list[Any]:
                return show(change(now, names.index(name), *given), drawn, name)[: len(outputs)]

            event(act, [*state, *values], list(outputs), **way, **named)

        def pick(now: Play, drawn: Code, name: str, event: gr.SelectData) -> list[Any]:
            origin, code = playing.offers(now, drawn)[event.index]
            return show(playing.choose(now, names.index(name), origin, code), drawn, name)

        def take(now: Play, drawn: Code, name: str, key: str, event: gr.SelectData) -> list[Any]:
            taken = playing.exchange(now, key, board.test_image(event.index))
            return [*show(taken, drawn, name), gr.Gallery(selected_index=None)]

        def redraw(now: Play, name: str) -> list[Any]:
            drawn = board.draws()
            return [drawn, offered(now, names.index(name), drawn)]

        def filed(now: Play, level: int, key: str, image: Image.Image) -> Play:
            return playing.exchange(now, key, board.read("your file", image))

        def drawn_by_hand(now: Play, level: int, key: str, drawing: dict[str, Any] | None) -> Play:
            ink = drawing and drawing["composite"] and ImageOps.invert(drawing["composite"])  # black on white
            if not ink or not ink.getbbox():
                return now
            centered = playing.centered(ink, *board.shape[1:])
            return playing.exchange(now, key, board.read("drawn by you", centered))

        def move(number: int) -> Callable[..., Play]:
            return lambda now, at, value: playing.move(now, at, board.movers(at)[number]["number"], value)

        options.select(pick, state, everything, **way)
        tests.select(take, [*state, target], [*everything, tests], **way)
        more.click(redraw, [play, level], [draws, options], **way)
        on(blocks.load, lambda now, at: now, api_name="look")
        on(level.input, lambda now, at: now, api_name="level")
        on(anew.click, lambda now, at: playing.draw(now, board.generator), api_name="new_picture")
        on(back.click, lambda now, at: playing.begin(*now.sources.values()), api_name="back")
        on(kept.input, playing.keep, [kept], few, api_name="keep")
        on(temperature.input, playing.warm, [temperature], few, api_name="temperature")
        for number, slider in enumerate(sliders):
            on(slider.input, move(number), [slider], few, api_name=f"move_{number}")
        on(upload.upload, filed, [target, upload], api_name="upload")
        if board.shape[0] == 1:
            on(sketch.change, drawn_by_hand, [target, sketch], api_name="draw")
    return blocks
