"""The arrangement of NVAE (Vahdat and Kautz 2020, arXiv 2007.03898) for images of any size."""

from __future__ import annotations

from collections.abc import Sequence

from ladder_vae.maths.likelihoods import Likelihood
from ladder_vae.models.convolutional import ConvolutionalVAE
from ladder_vae.models.pyramid import pyramid
from ladder_vae.models.sizes import check_num_layers, image_shape

WIDTH = 32  # features at the image's resolution, as published for MNIST
LATENT_CHANNELS = 20


class NVAE(ConvolutionalVAE):
    """A convolutional hierarchy with the cells, widths and levels that NVAE has on MNIST, and its posterior.

    There are cells alone at the image's resolution and at half of it, then two thirds of the levels at a
    quarter and one third at an eighth, with twice the features at each step. Posteriors are relative to the
    prior. It differs from the published code in this: one cell, not two, follows a level, and the way up has
    one for each level; deviations of posterior means from the prior's are in units of its standard deviation;
    images are not padded to a power of two; the posteriors of a resolution all read the features that its
    cells end with; the stream is added to and not mixed with what a sample writes; the top prior is N(0, I),
    without a learned stream above it; by default features are normalized by pixel, because for averaged
    weights the statistics of batches have to be measured anew (``norm="batch"`` averages them, too, unless
    ``callbacks.averaging.recalibrate_batches`` is set); a posterior's log-variance is bounded as the sum of
    two that are. There are no normalizing flows, as there are none in the published run on MNIST with 15
    levels.

    Args:
        input_shape: Image shape (C, H, W), H and W from 4 to 256.
        num_layers: Number of latent levels L, 1 to 64.
        scale: Factor on all widths; 1 is as published.
        norm: ``layer``, over the features of each pixel; ``batch``, as published; or ``none``.
        likelihood: The distribution p(x | z) of the pixels; None means Bernoulli.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> NVAE((1, 28, 28), num_layers=3).event_shapes
        ((20, 7, 7), (20, 7, 7), (20, 4, 4))
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_layers: int = 15,
        scale: float = 1.0,
        norm: str = "layer",
        likelihood: Likelihood | None = None,
    ) -> None:
        if not 0 < scale <= 16:
            raise ValueError(f"scale={scale:g} must be above 0 and at most 16")
        check_num_layers(num_layers)
        image = image_shape(input_shape)
        resolutions = list(pyramid(image[1], image[2]))[:4]
        upper = min(num_layers // 3, num_layers - 1)
        counts = dict.fromkeys(resolutions, 0)
        counts[resolutions[2]] += num_layers - upper
        counts[resolutions[min(3, len(resolutions) - 1)]] += upper
        kept = [r for r in resolutions if upper or r >= resolutions[2]]
        super().__init__(
            image,
            num_layers,
            levels=[(r, counts[r]) for r in kept],
            widths=[(r, max(1, round(WIDTH * scale * 2**place))) for place, r in enumerate(kept)],
            latent_channels=[(r, LATENT_CHANNELS) for r in kept],
            cell="nvae",
            norm=norm,
            encoder_blocks=None,
            decoder_blocks=3,
            posterior="relative",
            likelihood=likelihood,
        )
