"""Densities, likelihoods, bounds, image quality: tensors in, tensors out. Likelihoods can be configured."""

from ladder_vae.maths.likelihoods import Bernoulli

__all__ = ["Bernoulli"]
