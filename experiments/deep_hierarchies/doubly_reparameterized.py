"""The doubly reparameterized gradient of L_K, and how much less noisy it is than the plain one.

python experiments/deep_hierarchies/doubly_reparameterized.py [RUN]   (default: record)

It left the package, for at equal time the plain gradient came further (README.md).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ladder_vae.maths.bounds import mean_bound
from ladder_vae.models.hierarchy import BottomUp, Hierarchy
from ladder_vae.models.inference import Inference
from ladder_vae.runs.opened import load_subject

K, IMAGES, REPETITIONS = 8, 32, 40


class AtLatents(nn.Module):
    """A model asked what its densities say of given latents, as a module whose weights can be replaced."""

    def __init__(self, model: Hierarchy) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, latents: Sequence[Tensor]) -> Inference:
        """Posterior, prior and p(x | z) of latents ``(K, B, *event)``."""
        model, features = self.model, self.model.encode(x)
        below = [features] if isinstance(model, BottomUp) else []
        below += [model.recognize(level, latents[level - 1]) for level in range(1, model.num_layers) if below]

        def pick(level: int, state: Any, p: Any) -> tuple[Tensor, Any]:
            q = below[level] if below else model.rung(level).posterior(features[level], state, p)
            return latents[level], q

        params, levels = model.walk(pick)
        return Inference(levels, params, model.likelihood.log_prob(params, x))


def doubly_reparameterized(model: Hierarchy, x: Tensor, noise: Sequence[Tensor]) -> Tensor:
    r"""Minus L_K, ``()``, with the gradient of Tucker et al. 2018 (arXiv 1810.04152, eq. 8).

    With $w_k = p(x, z_k) / q(z_k | x)$ and $\tilde w_k = w_k / \sum_j w_j$, weights of p get
    $\sum_k \tilde w_k \nabla_\theta \log p_\theta(x, z_k)$, and weights that move the samples get
    $\sum_k \tilde w_k^2 \nabla_{z_k} \log w_k \, \nabla_\phi z_k$: the derivative of log q in its own
    weights, which is zero in the mean and noise otherwise, is left out. Weights that serve both get both.

    Args:
        model: In eval mode.
        x: Images ``(B, C, H, W)``.
        noise: Standard-normal noise of each level, ``(K, B, *event)``.
    """
    drawn = model.infer(x, noise=noise)
    log_weights = drawn.log_weights().detach()
    shares = log_weights.softmax(0)  # (K, B)
    # Two different factors for one backward pass: what reaches the samples has been scaled by a share once.
    z = [_with_scaled_gradient(level.z, shares) for level in drawn.levels]
    asked = AtLatents(model)
    fixed = {name: value.detach() for name, value in asked.named_parameters()}
    log_q = torch.stack([level.q.log_prob(level.z) for level in functional_call(asked, fixed, (x, z)).levels])
    live = asked(x, z)
    log_p = live.log_px + torch.stack([level.p.log_prob(level.z) for level in live.levels]).sum(0)
    surrogate = -(shares * (log_p - log_q.sum(0))).sum(0).mean()
    return surrogate - surrogate.detach() - mean_bound(log_weights)


def _with_scaled_gradient(z: Tensor, factor: Tensor) -> Tensor:
    """z, whose gradient is multiplied by a factor of each draw, ``(K, B)``."""
    factor = factor.reshape(*factor.shape, *[1] * (z.ndim - factor.ndim))
    return z.detach() + factor * (z - z.detach())


def main() -> None:
    """Prints the ratio of variances of the two gradients in the weights of the encoder."""
    subject = load_subject(sys.argv[1] if len(sys.argv) > 1 else "record", "best")
    model, x = subject.run.model.requires_grad_(), subject.data.observe("test", range(IMAGES))
    weights = [p for name, p in model.named_parameters() if name.startswith(("encoder", "evidence", "stem"))]
    torch.manual_seed(0)
    found: dict[str, list[Tensor]] = {"plain": [], "doubly": []}
    for _ in range(REPETITIONS):
        noise = model.draw_noise(K, len(x), like=x)
        for name, loss in (
            ("plain", -mean_bound(model.infer(x, noise=noise).log_weights())),
            ("doubly", doubly_reparameterized(model, x, noise)),
        ):
            grads = torch.autograd.grad(loss, weights, allow_unused=True)
            found[name].append(torch.cat([g.flatten() for g in grads if g is not None]))
    plain, doubly = (torch.stack(values).var(0).sum() for values in found.values())
    print(f"K = {K}: variance of the plain gradient / the doubly reparameterized one = {plain / doubly:.1f}")


if __name__ == "__main__":
    main()
