"""Training: build, fit, record, watch. A run may name what is exported here."""

from ladder_vae.training.averaging import ExponentialMovingAverage
from ladder_vae.training.callbacks import EarlyStopping, ProgressBar
from ladder_vae.training.schedules import constant, warmup_cosine
from ladder_vae.training.tensorboard import Pictures, TensorBoard

__all__ = [
    "EarlyStopping",
    "ExponentialMovingAverage",
    "Pictures",
    "ProgressBar",
    "TensorBoard",
    "constant",
    "warmup_cosine",
]
