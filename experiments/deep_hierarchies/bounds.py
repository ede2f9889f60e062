"""Draws ``bounds.png``: L_K of the evaluations in ``bounds.csv`` beside published figures.

python experiments/deep_hierarchies/bounds.py
"""

import csv
import itertools
from pathlib import Path

from matplotlib.figure import Figure

from ladder_vae.drawing.image_grids import DPI, save

HERE = Path(__file__).parent


def main():
    """A curve a model; what has a single figure was published, and is a gray line."""
    figure = Figure(figsize=(7.6, 4.8), dpi=DPI, layout="constrained")
    ax = figure.subplots()
    dashes = itertools.cycle(["--", "-.", ":"])
    with (HERE / "bounds.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            name = row.pop("model")
            points = {int(column.removeprefix("K=")): float(value) for column, value in row.items() if value}
            if len(points) > 1:
                ax.plot(points.keys(), points.values(), marker="o", label=name)
                k, last = max(points.items())
                white = {"facecolor": "white", "edgecolor": "none", "pad": 1}
                ax.annotate(f"{last:.2f}", (k, last), xytext=(8, -3), textcoords="offset points", bbox=white)
            else:
                (value,) = points.values()
                style = next(dashes)
                ax.axhline(value, color="0.4", linestyle=style, linewidth=1, label=f"{name}: {value:.2f}")
    ax.set_xscale("log")
    ax.set_xticks([1, 10, 100, 1000, 5000], ["1 (ELBO)", "10", "100", "1,000", "5,000"])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("samples K")
    ax.set_ylabel("$L_K$, a lower bound on log p(x) (nats)")
    ax.set_title("Bounds on 10,000 test images, dynamic binarization; gray: published", fontsize=10)
    ax.margins(x=0.11, y=0.09)
    ax.grid(alpha=0.3)
    ax.legend(loc="lower right", fontsize=8)
    save(figure, HERE / "bounds.png")


if __name__ == "__main__":
    main()
