"""Does z_1 alone hold the data? The chain of Zhao, Song and Ermon 2017 (arXiv 1702.08396) on trained models.

    python experiments/level_analysis/chain.py <run_dir> ...

From pure noise, and from test images, draw z ~ q(z | x) and x ~ p(x | z_1) in turn. Prints how the chains
move between classes; draws ``chain.png`` into the first run.
"""

import sys
from pathlib import Path

import torch

from ladder_vae import load_run
from ladder_vae.analysis.classifier import trained_classifier
from ladder_vae.data import MNIST
from ladder_vae.drawing import image_grids
from ladder_vae.drawing.image_grids import to_bytes

CHAINS, SHOWN = 2000, 10
STEPS = (1, 3, 10, 30, 100, 200)


@torch.inference_mode()
def walk(model, judge, x):
    """Rows of figures at each of ``STEPS``, and the images that the first chains show there.

    "Classes in use" is the exponential of the entropy of the classes' shares: 10 where all are as frequent.
    """
    rows, shown, first = [], {}, None
    for step in range(1, STEPS[-1] + 1):
        mean = model.likelihood.mean(model.infer(x).params[0])
        x = torch.bernoulli(mean)
        if step in STEPS:
            named = judge.predict(mean)
            first = named if step == 1 else first
            shares = torch.bincount(named, minlength=10) / len(named)
            used = torch.exp(-(shares * shares.clamp(min=1e-9).log()).sum())
            sure = judge.net(mean).softmax(1).max(1).values.mean()
            rows.append((step, (named == first).float().mean(), shares.max(), shares.argmax(), used, sure))
            shown[step] = to_bytes(mean[:SHOWN])
    return rows, shown


def main(paths):
    """Walk from noise and from test images with each model."""
    data = MNIST(val_size=0)
    judge = trained_classifier(data, Path("~/.cache/ladder_vae").expanduser())
    digits = data.observe("test", range(0, 10_000, 10_000 // CHAINS))
    noise = torch.full_like(digits, 0.5)
    for number, path in enumerate(paths):
        torch.manual_seed(0)
        model, pictures = load_run(path).model, {}
        for start, x in (("noise", torch.bernoulli(noise)), ("test images", digits)):
            rows, shown = walk(model, judge, x)
            pictures |= {f"from {start}, step {step}": images for step, images in shown.items()}
            print(f"\n{path}, {CHAINS:,} chains from {start}")
            print("step  same class as at step 1  commonest class  classes in use  certainty of the judge")
            for step, same, share, which, used, sure in rows:
                print(f"{step:4d}  {same:23.1%}  {which:5d}: {share:7.1%}  {used:14.1f}  {sure:22.3f}")
        sample = model.likelihood.mean(model.generate(CHAINS).params)
        sure = judge.net(sample).softmax(1).max(1).values.mean()
        print(f"ancestral samples: certainty of the judge {sure:.3f}")
        pictures["samples of the model"] = to_bytes(sample[:SHOWN])
        if number == 0:
            title = f"{type(model).__name__}: the chain x → z → x → ... at some of its steps"
            image_grids.save_strips(Path(path) / "chain.png", pictures, columns=SHOWN, title=title)
            print(Path(path) / "chain.png")


if __name__ == "__main__":
    main(sys.argv[1:])
