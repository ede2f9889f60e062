"""What a server's page shows of a play: pictures, a table and sliders, whichever library shows them."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from ladder_vae.explorer import playing
from ladder_vae.explorer.page import gallery, level_facts
from ladder_vae.explorer.playing import Play, Source
from ladder_vae.models.innovations import Code
from ladder_vae.runs.opened import Subject
from ladder_vae.system.naming import z_name
from ladder_vae.system.randomness import stream_seed

DRAWS = 6  # of a level, to choose from
SLIDERS = 24  # of a level, at most
REACH = 4.0  # of a slider, in standard deviations
AVERAGED = 200  # test images that rates are averaged over; a large model takes its time for each
SIDE = 280  # pixels of a picture on the screen, about


class Board:
    """What is shared by all who play: the model, test images, and what is known of levels.

    Args:
        subject: The run and its data; computing happens where the model lies.
        seed: Seed of all draws.
    """

    def __init__(self, subject: Subject, seed: int) -> None:
        self.model, data = subject.run.model, subject.data
        self.shape = data.image_shape
        self.facts = level_facts(self.model, data, seed, AVERAGED)
        self.pictures = gallery(self.model, data)
        self.generator = torch.Generator().manual_seed(stream_seed(seed, "server"))
        self._like = next(self.model.parameters())
        self._noise = self._drawn(1)

    def _drawn(self, n: int) -> list[Tensor]:
        return self.model.draw_noise(1, n, like=self._like, generator=self.generator)

    def draws(self) -> Code:
        """Innovations of each level to choose from, drawn from the prior, ``(DRAWS, *event)``."""
        return [e[0] for e in self._drawn(DRAWS)]

    def read(self, name: str, image: Image.Image) -> Source:
        """Encode an image of any size, which is cut around its center."""
        return self._encoded(name, playing.fitted(image, self.shape))

    def test_image(self, number: int) -> Source:
        """One of the test images that are shown."""
        name, picture = self.pictures[number]
        return self._encoded(name, picture[None])

    def _encoded(self, name: str, picture: Tensor) -> Source:
        """Always with the same noise."""
        return playing.read(self.model, name, picture.to(self._like), self._noise)

    def begin(self) -> Play:
        """The reconstruction of the first test image, with the last one beside it."""
        return playing.begin(self.test_image(0), self.test_image(-1))

    def picture(self, play: Play) -> tuple[Image.Image, str]:
        """The picture that all levels make, and a table of what they tell about it, as HTML."""
        picture = playing.picture(self.model, play)
        told = playing.rates(self.model, picture, self._noise)
        widest = 2.2 * max(fact["rate"] for fact in self.facts)
        rows = []
        for level in reversed(range(len(told))):
            made = [play.origins[level]] + ["kept"] * play.kept[level]
            made += [f"temperature {play.temperatures[level]:g}"] * (play.temperatures[level] != 1)
            rows.append(
                f"<tr><td>{z_name(level)}</td><td>{', '.join(made)}</td><td>{told[level]:.1f}</td><td>"
                f'<meter max="{widest:.3f}" value="{max(0, told[level]):.3f}"></meter></td>'
                f"<td>{self.facts[level]['rate']:.1f}</td></tr>"
            )
        heads = ("level", "from", "nats", "", "a test image has")
        head = "".join(f"<th>{word}</th>" for word in heads)
        return shown(picture[0]), f"<table><tr>{head}</tr>{''.join(rows)}</table>"

    def offers(self, play: Play, level: int, draws: Code) -> list[tuple[Image.Image, str]]:
        """The small pictures of a level, and what each is called."""
        names = [origin for origin, _ in playing.offers(play, draws)]
        pictures = playing.small_pictures(self.model, play, level, draws)
        return list(zip(map(shown, pictures), names, strict=True))

    def movers(self, level: int) -> list[dict[str, Any]]:
        """Number and rate of each unit of a level, or channel, that has a slider."""
        found: list[dict[str, Any]] = self.facts[level]["movers"][:SLIDERS]
        return found

    def sliders(self, play: Play, level: int) -> list[dict[str, Any]]:
        """Settings of each slider at a level; those without a unit that is awake are hidden."""
        kind = "channel" if self.facts[level]["places"] > 1 else "unit"
        of_movers = [
            {
                "visible": True,
                "label": f"{kind} {mover['number']}, {mover['rate']:.2f} nats",
                "value": round(max(-REACH, min(REACH, playing.position(play, level, mover["number"]))), 2),
            }
            for mover in self.movers(level)
        ]
        return of_movers + [{"visible": False}] * (SLIDERS - len(of_movers))


def shown(picture: Tensor) -> Image.Image:
    """A picture ``(C, H, W)`` in [0, 1], magnified so that its pixels are seen."""
    array = picture.mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    return ImageOps.scale(image, max(1, SIDE // max(image.size)), Image.Resampling.NEAREST)
