"""In how many bits per dimension do photographs go: by the ELBO of a run, as PNG, and as lossless WebP?

    python experiments/photographs/compression.py <run_dir> [folder]

The run is one on ``data=photographs``. Prints a table of all its photographs; writes ``compression.csv``, and
``compression.png`` of those that test, into the folder (default: beside this script).

The model takes a photograph in tiles that do not overlap. Tiles at the right and the bottom that reach beyond
it are filled up with its mirror image, which the posterior sees; but only the pixels of the photograph are
counted, each once, against the rates of all latents. That is a lower bound on log p(pixels), since p(x | z)
is a product over pixels, and pixels that are not counted are summed over.
"""

import csv
import io
import math
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from ladder_vae import load_run
from ladder_vae.data import Photographs
from ladder_vae.data.photographs import photograph, tiles
from ladder_vae.drawing.image_grids import DPI, save
from ladder_vae.settings import command_line
from ladder_vae.system.errors import UserError
from ladder_vae.system.randomness import stream_seed

HERE = Path(__file__).parent
DRAWS, TILES = 10, 50  # posterior draws of each tile, and tiles that are computed together
CODECS = {"PNG": {"optimize": True}, "WebP": {"lossless": True, "quality": 100, "method": 6}}
MODEL = "model"
COLORS = {MODEL: "tab:blue", "PNG": "tab:orange", "WebP": "tab:green"}


class Sizes(NamedTuple):
    """What a photograph takes, in bits per dimension (pixel and channel).

    Args:
        name: Of the photograph.
        split: ``train``, ``val`` or ``test``.
        bits: Maps ``MODEL`` and each codec to bits per dimension.
        error: Standard error of the model's figure over posterior draws.
        rate: The part of the model's figure that the latents take.
    """

    name: str
    split: str
    bits: dict[str, float]
    error: float
    rate: float

    @property
    def winner(self) -> str:
        """What takes the fewest bits."""
        return min(self.bits, key=self.bits.__getitem__)


def cover(image, size):
    """Cut a photograph into tiles of which each of its pixels lies in one.

    Args:
        image: Bytes ``(H, W, C)``.
        size: Height and width of a tile.

    Returns:
        Tiles ``(N, C, size, size)``, filled up with the mirror image at the right and the bottom, and which
        of their pixels are the photograph's, ``(N, size, size)``.
    """
    beyond = [(0, -side % size) for side in image.shape[:2]]
    filled = np.pad(image, [*beyond, (0, 0)], mode="symmetric")
    own = np.pad(np.ones((*image.shape[:2], 1), bool), [*beyond, (0, 0)])
    return tiles(filled, size), tiles(own, size)[:, 0]


def pixel_log_prob(likelihood, params, x):
    """log p of each pixel with all its channels given z, nats, ``(K, B, H, W)``.

    Args:
        params: The decoder's output, ``(K, B, channels, H, W)``.
        x: Prepared images, ``(B, C, H, W)``.
    """

    def single(images):  # each pixel becomes an image of its own
        return images.movedim(-3, -1).flatten(-4, -2)[..., None, None]

    return likelihood.log_prob(single(params), single(x)).unflatten(-1, (len(x), *x.shape[-2:]))


def nats(run, image, size, draws=DRAWS, seed=0):
    """Minus the ELBO of all pixels of a photograph, and the rate in it, nats, float64 ``(draws,)`` each."""
    cut, own = cover(image, size)
    total, rate = torch.zeros(2, draws, dtype=torch.float64)
    for draw in range(draws):
        for number, (part, counted) in enumerate(zip(cut.split(TILES), own.split(TILES), strict=True)):
            x = run.model.likelihood.prepare(part)
            found = run.encode(x, seed=stream_seed(seed, "photographs", draw, number))
            log_px = pixel_log_prob(run.model.likelihood, found.params, x)
            rates = found.rates().double().sum()
            rate[draw] += rates
            total[draw] += rates - (log_px.double() * counted).sum()
    return total, rate


def file_bits(image, codec):
    """Bits per dimension of the whole file. Raises UserError if reading it gives other pixels."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, codec, **CODECS[codec])
    if not np.array_equal(np.array(Image.open(file).convert("RGB")), image):
        raise UserError(f"Pillow reads other pixels from a {codec} file than it wrote; update Pillow")
    return 8 * file.tell() / image.size


def measure(run):
    """The :class:`Sizes` of each photograph of the run, those that test first."""
    data, found = run.data, []
    for split in ("test", "val", "train"):
        for name in data.names[split]:
            image = np.array(photograph(name))
            total, rate = (part / math.log(2) / image.size for part in nats(run, image, data.size))
            bits = {MODEL: total.mean().item()} | {codec: file_bits(image, codec) for codec in CODECS}
            error = total.std().item() / math.sqrt(len(total))
            found.append(Sizes(name, split, bits, error, rate.mean().item()))
            print(line(found[-1]), flush=True)
    return found


def line(sizes):
    """A row of the table."""
    numbers = "".join(f"{sizes.bits[name]:8.3f}" for name in (MODEL, *CODECS))
    return f"{sizes.name:14}{sizes.split:7}{numbers}{sizes.error:9.4f}{sizes.rate:8.3f}  {sizes.winner}"


def write(found, path):
    """Write the table as a CSV file, bits per dimension."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["photograph", "split", "rows", "columns", MODEL, "error", "rate", *CODECS, "fewest"])
        for sizes in found:
            numbers = [sizes.bits[MODEL], sizes.error, sizes.rate, *(sizes.bits[codec] for codec in CODECS)]
            height, width = photograph(sizes.name).shape[:2]
            place = [sizes.name, sizes.split, height, width]
            rows.writerow([*place, *(f"{number:.4f}" for number in numbers), sizes.winner])


def draw(found, path):
    """Draw each photograph beside its bars; the shortest one is full, the others are pale."""
    figure = Figure(figsize=(7.6, 1.35 * len(found) + 0.9), dpi=DPI, layout="constrained")
    grid = figure.subplots(len(found), 2, squeeze=False, width_ratios=[1, 2.6])
    longest = max(max(sizes.bits.values()) for sizes in found)
    for (left, right), sizes in zip(grid, found, strict=True):
        left.imshow(photograph(sizes.name))
        left.axis("off")
        for place, (name, bits) in enumerate(sizes.bits.items()):
            best = name == sizes.winner
            right.barh(place, bits, color=COLORS[name], alpha=1.0 if best else 0.35)
            label = f"{bits:.2f}  fewest bits" if best else f"{bits:.2f}"
            right.text(bits + 0.01 * longest, place, label, va="center", weight="bold" if best else "normal")
        right.set_yticks(range(len(sizes.bits)), ["model (ELBO)", *CODECS])
        right.invert_yaxis()
        right.set_xlim(0, 1.3 * longest)
        right.set_title(sizes.name, fontsize=10, loc="left")
        right.spines[["top", "right"]].set_visible(False)
    for ax in grid[:-1, 1]:
        ax.set_xticklabels([])
    grid[-1, 1].set_xlabel("bits per dimension (pixel and channel); fewer is better")
    figure.suptitle("Photographs that the model has never seen", fontsize=11)
    save(figure, path)


def main():
    """Measure, write and draw."""
    if len(sys.argv) not in (2, 3):
        raise UserError("name a run directory, and, if you like, the folder to write to")
    folder = Path(sys.argv[2]) if len(sys.argv) == 3 else HERE
    run = load_run(sys.argv[1])
    if not isinstance(run.data, Photographs):
        raise UserError(f"{sys.argv[1]} was not trained on photographs; train with experiment=photographs")
    folder.mkdir(parents=True, exist_ok=True)
    header = "".join(f"{name:>8}" for name in (MODEL, *CODECS))
    print(f"{'photograph':14}{'split':7}{header}{'error':>9}{'rate':>8}  fewest bits")
    found = measure(run)
    write(found, folder / "compression.csv")
    draw([sizes for sizes in found if sizes.split == "test"], folder / "compression.png")
    print(folder / "compression.png")


if __name__ == "__main__":
    command_line.run(main)
