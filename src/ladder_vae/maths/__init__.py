"""Densities, likelihoods, bounds, measures of quality: tensors in, tensors out."""
