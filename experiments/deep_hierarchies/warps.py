"""What ``data.warp`` does to digits, and what warped digits cost a model that was trained without.

    python experiments/deep_hierarchies/warps.py <run_dir>

Prints the ELBO of 2,000 validation and 2,000 training images at several strengths, with the share of ink that
moved; draws ``warps.png``. The run should have held out validation images.
"""

import sys
from pathlib import Path

import torch

from ladder_vae.data.warping import warp
from ladder_vae.drawing import image_grids
from ladder_vae.runs.opened import load_subject
from ladder_vae.settings import command_line
from ladder_vae.system.errors import UserError

COUNT, SHOWN = 2000, 14
STRENGTHS = (0.03, 0.05, 0.08, 0.12, 0.2)


@torch.inference_mode()
def elbo(model, gray):
    """Nats per image, one draw of pixels and latents each."""
    torch.manual_seed(0)
    pixel = model.likelihood
    x = pixel.prepare(pixel.draw(gray, torch.Generator().manual_seed(0)))
    return torch.cat([model.infer(part).log_weights()[0] for part in x.split(500)]).mean().item()


def main():
    """The table, and the picture."""
    if len(sys.argv) != 2:
        raise UserError("name one run directory")
    path = sys.argv[1]
    subject = load_subject(path, "last")
    if not subject.data.val_size:
        raise UserError(f"{path} held out no validation images; give a run with data.val_size=10000")
    train = subject.data.source.train  # gray levels; those held out for validation are the last
    sets = [train[len(train) - subject.data.val_size :][:COUNT], train[:COUNT]]
    pictures = {"as they are": sets[0][:SHOWN, 0].numpy()}
    print("strength  ink moved  ELBO, validation  ELBO, training  distance")
    for strength in (0.0, *STRENGTHS):
        warped = [
            warp(gray, strength, torch.Generator().manual_seed(0)) if strength else gray for gray in sets
        ]
        moved = (warped[0].float() - sets[0].float()).abs().sum() / sets[0].sum()
        val, fit = (elbo(subject.run.model, gray) for gray in warped)
        print(f"{strength:8.2f}  {moved:9.1%}  {val:16.2f}  {fit:14.2f}  {fit - val:8.2f}")
        if strength:
            pictures[f"data.warp={strength:g}"] = warped[0][:SHOWN, 0].numpy()
    title = "Digits sheared and bent within their bounding boxes"
    image_grids.save_strips(Path(__file__).with_name("warps.png"), pictures, columns=SHOWN, title=title)


if __name__ == "__main__":
    command_line.run(main)
