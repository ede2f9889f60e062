"""Images: sources, data sets, batches, warping. What is named here can be configured."""

from ladder_vae.data.data_sets import KMNIST, MNIST, FashionMNIST, Npz

__all__ = ["KMNIST", "MNIST", "FashionMNIST", "Npz"]
