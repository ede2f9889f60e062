"""Densities, likelihoods, bounds, image quality: tensors in, tensors out. A run may name a likelihood."""

from ladder_vae.maths.likelihoods import Bernoulli
from ladder_vae.maths.logistic_mixture import LogisticMixture

__all__ = ["Bernoulli", "LogisticMixture"]
