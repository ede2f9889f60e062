"""Images: sources, data sets, batches, warping. A run may name what is exported here."""

from ladder_vae.data.data_sets import KMNIST, MNIST, FashionMNIST, Npz

__all__ = ["KMNIST", "MNIST", "FashionMNIST", "Npz"]
