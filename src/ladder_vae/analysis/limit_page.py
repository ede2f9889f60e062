"""What a diffusion becomes as its steps grow in number: sentences, tables, pictures, a page."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ladder_vae.analysis.limit import LIMIT, Findings, Settings, diffusion, rows
from ladder_vae.analysis.step_placement import GRID
from ladder_vae.drawing import image_grids, limit_charts
from ladder_vae.drawing.image_grids import to_bytes
from ladder_vae.drawing.pages import Picture, Section, Table, save_pictures, write_html, write_markdown
from ladder_vae.models.diffusion import Diffusion
from ladder_vae.runs.opened import Subject
from ladder_vae.system.files import replacing
from ladder_vae.system.randomness import stream_seed

FOLDER = Path("limit")
PAGE = "limit.html"
SHOWN = 10  # images
PARTS = 32  # of time, in which the rate of the limit is drawn
SAMPLED = (1, 4, 16, 64, 256)  # steps of the samples
FRAMES = 40  # of the animation, there and back
ANIMATED = 8  # images


def write(
    subject: Subject,
    found: Findings,
    others: Mapping[str, tuple[int, float]],
    settings: Settings,
    on_step: Callable[[str], None],
) -> Path:
    """Write ``limit.csv``, pictures, ``limit.md`` and ``limit.html`` into the run directory.

    Args:
        found: All bounds.
        others: Number of levels and ELBO of other runs, by name.

    Returns:
        The HTML page.

    Raises:
        OSError: If the run directory cannot be written.
    """
    directory = subject.run.path / FOLDER
    directory.mkdir(parents=True, exist_ok=True)
    with replacing(directory / "limit.csv") as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows(found)[0])
        writer.writeheader()
        writer.writerows(rows(found))
    on_step("drawing")
    sections, _ = save_pictures(directory, _sections(subject, found, others, settings))
    title = "From a hierarchy to a diffusion"
    write_markdown(subject.run.path / "limit.md", title, sections, FOLDER.as_posix())
    page = subject.run.path / PAGE
    write_html(page, title, sections, directory)
    return page


def headline(found: Findings) -> str:
    """The result in one sentence."""
    limit = found.limit
    most = max(b.kind.steps for b in found.finite)
    best = max((b for b in found.finite if b.kind.steps == most), key=lambda b: b.mean)
    few = max(
        (b for b in found.finite if b.kind.steps <= 10), key=lambda b: (b.kind.steps, b.mean), default=None
    )
    said = (
        f"With infinitely many steps the ELBO is {limit.mean:.2f} ± {limit.error:.2f} nats, "
        f"with {most:,} steps {best.mean:.2f}"
    )
    said += f", and with {few.kind.steps} at best {few.mean:.2f} ({few.kind.name})." if few else "."
    if (per_nat := found.bits_per_nat) is not None:
        each = [f"{-per_nat * b.mean:.3f}" for b in (limit, best, few) if b]
        said += f" In bits per dimension that is {', '.join(each[:-1])} and {each[-1]}."
    return said


def _sections(
    subject: Subject, found: Findings, others: Mapping[str, tuple[int, float]], settings: Settings
) -> list[Section]:
    model = diffusion(subject)
    limit = found.limit
    finite = found.finite
    curves = [
        limit_charts.Curve(
            name,
            [b.kind.steps for b in finite if b.kind.name == name],
            [b.mean for b in finite if b.kind.name == name],
            [float(_stderr(b.elbo - limit.elbo)) for b in finite if b.kind.name == name],
            dashed="placed" in name,
        )
        for name in dict.fromkeys(b.kind.name for b in finite)
    ]
    gaussian = {
        b.kind.steps: (b.times[:-1].numpy(), b.rates[:-1].numpy())
        for b in finite
        if b.kind.transition == "gaussian" and not b.kind.placed and b.kind.steps in (4, 16, 64, 256, 1024)
    }
    density = _density(limit.rates[:-1].numpy(), PARTS)
    idle = float((torch.tensor(density) < 0.01 * density.max()).double().mean())
    own, even = (max(0.0, variance) ** 0.5 for variance in found.variances)
    lowest, highest = model.schedule.lowest.item(), model.schedule.highest().item()
    return [
        Section(
            "What happens as steps are added",
            [
                headline(found),
                "Every level is as large as the image. Inference only adds noise, and of it nothing is "
                "learned but how fast. With more steps each level changes less, the sum of all rates falls "
                "to a limit, and what is left depends on the net that removes the noise alone.",
                _of_idle_time(idle),
                f"The loss of one image at one time has a standard deviation of {own:.0f} nats with the "
                f"schedule of this run; if gamma rose linearly between its ends, it would have {even:.0f}.",
            ],
            pictures=[
                Picture(
                    "bounds.png",
                    "The bound and its distance to the limit",
                    f"{len(limit.elbo):,} {subject.source} images. Up to T = {GRID - 1} every level is "
                    f"measured; of more steps, a sample of {settings.draws} of each image. Bars: the error "
                    "of the distance.",
                    partial(
                        limit_charts.save_bounds_by_steps,
                        curves=curves,
                        limit=limit.mean,
                        others=others,
                        title="A diffusion is the limit of a hierarchy of many levels",
                        bits_per_nat=found.bits_per_nat,
                    ),
                ),
                Picture(
                    "rates.png",
                    "The rate of each level",
                    "Left: with twice as many steps, each level has about half the rate. Right: times T, "
                    f"the rates become one curve. Gamma goes from {lowest:.2f} at t = 0 to {highest:.2f}.",
                    partial(
                        limit_charts.save_rates_over_time,
                        levels=gaussian,
                        density=density,
                        title="How each level's change shrinks (gaussian transition, equal steps)",
                    ),
                ),
            ],
        ),
        Section("In numbers", table=_table(found)),
        Section("What it draws", pictures=[_samples(model, settings), _animation(subject, model, settings)]),
    ]


def _density(rates: np.ndarray, parts: int) -> np.ndarray:
    """Rate per unit of time in at most so many equal parts, from the rates of levels of equal time."""
    parts = min(parts, len(rates))
    whole = np.interp(
        np.linspace(0, 1, parts + 1), np.linspace(0, 1, len(rates) + 1), np.append(0, rates.cumsum())
    )
    return np.diff(whole) * parts


def _of_idle_time(share: float) -> str:
    """What there is to say of a share of time with hardly any rate."""
    if share < 0.05:
        return (
            "The rate is spread over nearly all of the time: hardly any level is near the noise, where "
            "nothing of the image is left."
        )
    return (
        f"In {share:.0%} of the time the rate is below a hundredth of its peak: most of these levels are "
        "near the noise, where nothing of the image is left. They have almost no rate by design."
    )


def _stderr(values: Tensor) -> Tensor:
    return values.std() / len(values) ** 0.5


def _table(found: Findings) -> Table:
    rows = [
        [
            "infinity" if b.kind.steps == LIMIT else f"{b.kind.steps:,}",
            "either" if b.kind.steps == LIMIT else b.kind.transition,
            "placed" if b.kind.placed else "equal",
            f"{b.mean:.2f}",
            f"{b.error:.2f}",
            f"{b.distortion:.3f}",
            f"{float(b.rates[-1]):.3f}",
        ]
        for b in [*found.finite, found.limit]
    ]
    headings = ["T", "transition", "steps", "ELBO", "±", "distortion", "rate of the top level"]
    unit = "Nats per image"
    if (per_nat := found.bits_per_nat) is not None:
        headings.insert(5, "bits per dimension")
        for row, b in zip(rows, [*found.finite, found.limit], strict=True):
            row.insert(5, f"{-per_nat * b.mean:.3f}")
        unit += "; the ELBO in bits per dimension, too"
    return Table(headings, rows, f"{unit}. ± is the standard error over images, with that of draws.")


def _samples(model: Diffusion, settings: Settings) -> Picture:
    kind = "mixture" if model.likelihood.binary else "gaussian"

    def draw(path: Path) -> None:
        rows = {}
        for steps in SAMPLED:
            generator = torch.Generator().manual_seed(stream_seed(settings.seed, "limit samples"))
            walk = model.with_steps(steps, kind)
            drawn = walk.generate(SHOWN, generator=generator, keep_levels=False)
            rows[f"T = {steps}"] = to_bytes(drawn.mean)
        image_grids.save_strips(path, rows, columns=SHOWN, title="Samples by the number of steps")

    return Picture(
        "samples.png",
        "Samples by the number of steps",
        f"Drawn from the top down with the {kind} transition and equal steps. With one step all pixels are "
        "independent of each other.",
        draw,
    )


def _animation(subject: Subject, model: Diffusion, settings: Settings) -> Picture:
    def draw(path: Path) -> None:
        x = subject.data.observe(subject.source, subject.data.sample(subject.source, ANIMATED), 0)
        frames = there_and_back(model, x.to(next(model.parameters()).device), settings.seed)
        limit_charts.save_animation(path, frames, columns=8)

    return Picture(
        "there_and_back.gif",
        "An image becomes noise, and noise becomes an image",
        "First the levels of inference from the image up, then those of generation from the top level of the "
        "same images down. Nothing but noise is left at the top, so that other images come back.",
        draw,
    )


@torch.no_grad()
def there_and_back(model: Diffusion, x: Tensor, seed: int) -> np.ndarray:
    """Frames of images that become noise and of noise that becomes images, uint8 ``(frames, n, H, W)``.

    Args:
        model: In eval mode.
        x: Images as the likelihood prepares them, ``(n, C, H, W)``, on its device.
        seed: Seed of the draws.
    """
    kind = "mixture" if model.likelihood.binary else "gaussian"
    steps = FRAMES // 2
    walk = model.with_steps(steps, kind)
    generator = torch.Generator().manual_seed(seed)
    noise = walk.draw_noise(1, len(x), like=x, generator=generator)
    up = [level.z[0] for level in walk.infer(x, noise=noise).levels]
    down = walk.generate(len(x), hold={steps: up[-1]}, generator=generator)
    frames = [walk.scaled(x), *up, *reversed(down.z), 2 * down.mean - 1]
    frames += [frames[-1]] * (FRAMES // 8)
    return np.stack([to_bytes(((frame + 1) / 2).clamp(0, 1)) for frame in frames])
