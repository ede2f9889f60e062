"""How the Gaussian that a net reads from image and stream, and the prior, become the posterior of a level."""

from __future__ import annotations

from collections.abc import Callable

from ladder_vae.maths.gaussian import Gaussian, product

#: Maps the Gaussian that was read and the prior to the posterior.
Merge = Callable[[Gaussian, Gaussian], Gaussian]


def free(e: Gaussian, p: Gaussian) -> Gaussian:
    """The Gaussian that was read: the posterior does not depend on the parameters of the prior."""
    return e


def relative(e: Gaussian, p: Gaussian) -> Gaussian:
    r"""What was read is a deviation from the prior: $\mu_q = \mu_p + \sigma_p \Delta\mu$,
    $\log\sigma_q^2 = \log\sigma_p^2 + \Delta$.

    It follows the residual normal distributions of NVAE (Vahdat and Kautz 2020, arXiv 2007.03898, section
    3.2), where the mean is $\mu_p + \Delta\mu$. In units of $\sigma_p$ the divergence does not depend on the
    prior.
    """
    return Gaussian(p.mean + p.std * e.mean, p.log_var + e.log_var, p.event_dims)


#: By name. ``weighted`` is the precision-weighted product of both, as in a ladder.
MERGES: dict[str, Merge] = {"free": free, "weighted": product, "relative": relative}
