"""Images: sources, data sets, batches, warping. A run may name what is exported here."""

from ladder_vae.data.downloaded import CIFAR10, KMNIST, SVHN, FashionMNIST
from ladder_vae.data.folder import Folder
from ladder_vae.data.mnist import MNIST
from ladder_vae.data.npz import Npz
from ladder_vae.data.omniglot import Omniglot
from ladder_vae.data.photographs import Photographs

__all__ = ["CIFAR10", "KMNIST", "MNIST", "SVHN", "FashionMNIST", "Folder", "Npz", "Omniglot", "Photographs"]
