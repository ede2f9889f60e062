"""Training on the importance-weighted bound L_K: its gradient as it stands, or a sharper and dearer one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ladder_vae.maths.bounds import mean_bound
from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.models.inference import Inference


class _PosteriorDensity(nn.Module):
    """log q(z | x) of given latents, as a module, so that its weights can be replaced for one call."""

    def __init__(self, model: Hierarchy) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, latents: Sequence[Tensor]) -> Tensor:
        inference = self.model.infer(x, latents=latents)
        return torch.stack([level.q.log_prob(level.z) for level in inference.levels]).sum(0)


def reparameterized(model: Hierarchy, x: Tensor, noise: Sequence[Tensor]) -> tuple[Inference, Tensor]:
    """Minus L_K of a batch, differentiated as it stands (Burda et al. 2016, arXiv 1509.00519, eq. 14).

    The model should be in eval mode: batch norm over the batch would make each log-weight a function of all
    samples.

    Args:
        x: Binary images ``(B, C, H, W)``.
        noise: Standard-normal noise of each level, ``(K, B, *event)``.

    Returns:
        The draws, and the loss, shape ``()``, nats per image.
    """
    drawn = model.infer(x, noise=noise)
    return drawn, -mean_bound(drawn.log_weights())


def doubly_reparameterized(model: Hierarchy, x: Tensor, noise: Sequence[Tensor]) -> tuple[Inference, Tensor]:
    r""":func:`reparameterized`, whose gradient is the doubly reparameterized one.

    With $w_k = p(x, z_k) / q(z_k | x)$ and $\tilde w_k = w_k / \sum_j w_j$, weights of p get
    $\sum_k \tilde w_k \nabla_\theta \log p_\theta(x, z_k)$, and weights that move the samples get
    $\sum_k \tilde w_k^2 \nabla_{z_k} \log w_k \, \nabla_\phi z_k$: the derivative of log q in its own
    weights, which is zero in the mean and noise otherwise, is left out (Tucker et al. 2018, arXiv
    1810.04152, eq. 8). Weights that serve both get both. Takes a step 1.6 to 2 times as long.
    """
    drawn = model.infer(x, noise=noise)
    log_weights = drawn.log_weights().detach()
    shares = log_weights.softmax(0)  # (K, B)
    # Two different factors for one backward pass: what reaches the samples has been scaled by a share once.
    z = [_with_scaled_gradient(level.z, shares) for level in drawn.levels]
    fixed = {f"model.{name}": value.detach() for name, value in model.named_parameters()}
    log_q = functional_call(_PosteriorDensity(model), fixed, (x, z))
    surrogate = -(shares * (model.log_joint(x, z) - log_q)).sum(0).mean()
    return drawn, surrogate - surrogate.detach() - mean_bound(log_weights)


def _with_scaled_gradient(z: Tensor, factor: Tensor) -> Tensor:
    """z, whose gradient is multiplied by a factor of each draw, ``(K, B)``.

    Compiling loses the gradient of an autograd.Function that returns a view; sums and products it keeps.
    """
    factor = factor.reshape(*factor.shape, *[1] * (z.ndim - factor.ndim))
    return z.detach() + factor * (z - z.detach())


#: Gradients of L_K by name.
GRADIENTS: dict[str, Callable[[Hierarchy, Tensor, Sequence[Tensor]], tuple[Inference, Tensor]]] = {
    "reparameterized": reparameterized,
    "doubly_reparameterized": doubly_reparameterized,
}
