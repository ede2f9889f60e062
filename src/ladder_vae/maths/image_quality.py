"""How well a reconstruction fits its image: mean squared error and SSIM."""

from __future__ import annotations

from torch import Tensor

DEFAULT_WINDOW = 11  # pixels that SSIM's usual Gaussian window covers


def reconstruction_quality(mean: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error and SSIM of each image, ``(B,)`` each.

    Args:
        mean: The decoder's mean, intensities in [0, 1], ``(B, C, H, W)``.
        x: The images that were reconstructed, intensities in [0, 1], ``(B, C, H, W)``.

    SSIM uses its usual Gaussian window. For images smaller than that window it uses a uniform one that fits.
    """
    # imported here, because it takes longer than importing PyTorch
    from torchmetrics.functional.image import structural_similarity_index_measure

    mse = ((mean - x) ** 2).flatten(1).mean(1)
    smallest = min(x.shape[-2:])
    ssim = structural_similarity_index_measure(
        mean,
        x,
        data_range=1.0,
        reduction="none",
        gaussian_kernel=smallest >= DEFAULT_WINDOW,
        kernel_size=smallest if smallest % 2 else max(smallest - 1, 1),  # of the uniform window only
    )
    assert isinstance(ssim, Tensor)
    return mse, ssim.reshape(-1)  # torchmetrics drops the axis of a single image
