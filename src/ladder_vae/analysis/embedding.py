"""Picture the latents of a level in two dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.manifold import TSNE
from torch import Tensor

from ladder_vae.analysis.readings import Readings
from ladder_vae.analysis.resolutions import places, resolution_name
from ladder_vae.drawing import embeddings
from ladder_vae.drawing.charts import MAX_NAMED
from ladder_vae.drawing.pages import Picture
from ladder_vae.system.naming import z_name
from ladder_vae.system.randomness import stream_seed

ITERATIONS = 500  # of t-SNE; half of the default of scikit-learn


def embedded(
    level: int,
    readings: Readings,
    classes: Tensor | None,
    points: Sequence[int],
    seed: int,
    on_step: Callable[[str], None] = lambda what: None,
) -> Picture:
    """A picture of a level's posterior means and innovations, embedded in two dimensions by t-SNE.

    Args:
        level: Index of the level.
        readings: Latents of N images.
        classes: Classes of these images, ``(N,)``, or None.
        points: Indices of the images to draw, at least 3 of the N.
        seed: Seed of the embedding.
        on_step: Called with a message before the embedding is computed, which is when it is drawn.
    """

    def draw(path: Path) -> None:
        on_step(f"embedding {z_name(level)}")
        features = {"posterior mean": readings.means[level], "innovation": readings.innovations[level]}
        embeddings.save_embedding(
            path,
            {
                label: _in_two_dimensions(of[list(points)].flatten(1).numpy(), seed)
                for label, of in features.items()
            },
            None if classes is None else classes[list(points)].numpy(),
            title=f"{z_name(level)} of {len(points):,} test images in two dimensions",
        )

    file = f"embedding_{z_name(level)}.png"
    named = " Colors are classes; a number stands at the median of one." if classes is not None else ""
    if classes is not None and len(classes[list(points)].unique()) > MAX_NAMED:
        named += f" The {MAX_NAMED} commonest are colored, the others gray."
    above = (
        "at the top, that is the sample itself"
        if level == len(readings.means) - 1
        else "what it adds to what the levels above expect"
    )
    caption = (
        f"t-SNE (van der Maaten and Hinton 2008) of {z_name(level)} for {len(points):,} test images, "
        f"evenly spaced over the split; neighbors stay neighbors, distances mean little.{named} Left, "
        "the posterior mean, without noise. Right, the innovation of one posterior sample, with its "
        f"noise; {above}.{_averaged(readings, level)}"
    )
    return Picture(file, f"Embedding of {z_name(level)}", caption, draw)


def _averaged(readings: Readings, level: int) -> str:
    """What to say of a level of whose units means are embedded; empty if the units are."""
    grid = readings.means[level].shape[1:]
    if grid == readings.unit_rates[level].shape:
        return ""
    return f" Of each channel, both are means over a grid of {resolution_name(places(grid))} places."


def _in_two_dimensions(features: np.ndarray, seed: int) -> np.ndarray:
    perplexity = min(30.0, (len(features) - 1) / 3)
    # t-SNE divides by the spread of PCA's first component, and a level that never moves has no spread.
    init = "pca" if min(features.shape) >= 2 and np.ptp(features, axis=0).max() > 1e-6 else "random"
    tsne = TSNE(
        init=init,
        perplexity=perplexity,
        max_iter=ITERATIONS,
        random_state=stream_seed(seed, "embedding") % 2**32,
        n_jobs=torch.get_num_threads(),
    )
    return tsne.fit_transform(features)
