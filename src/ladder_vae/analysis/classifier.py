"""The judge of generated images: a small classifier, trained once per data set and kept on disk."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ladder_vae.data.data_sets import ImageData
from ladder_vae.system.errors import UserError, one_line
from ladder_vae.system.files import check_zip, read_bytes, replacing
from ladder_vae.system.randomness import stream_seed

VERSION = 1  # of the network and its training; a classifier kept by another version is not used
EPOCHS, LEAST_STEPS = 4, 300
BATCH = 256
LEARNING_RATE = 2e-3
CHUNK = 1000  # images per forward pass
MOST_BYTES = 1 << 28


@dataclass(frozen=True)
class Classifier:
    """A trained classifier.

    Args:
        net: Maps gray-level images in [0, 1], ``(n, C, H, W)``, to logits ``(n, classes)``; in eval mode.
        classes: Labels in the order of the logits, ``(classes,)``.
        accuracy: Share of the test images that it classifies correctly.
        test_images: Number of images in the test split.
    """

    net: nn.Module
    classes: Tensor
    accuracy: float
    test_images: int

    @torch.inference_mode()
    def predict(self, images: Tensor) -> Tensor:
        """The class of each image, ``(n,)``."""
        net = self.net.to(images.device)
        found = [net(chunk).argmax(1) for chunk in images.split(CHUNK)]
        return self.classes.to(images.device)[torch.cat(found)]


def trained_classifier(
    data: ImageData, directory: Path, announce: Callable[[str], None] = lambda what: None
) -> Classifier | None:
    """The classifier of a data set; the first call trains it on the training split.

    Its inputs are expected values of binarized images, because these look like a decoder's mean. The result
    is None if the images have no classes or only one.

    Args:
        data: The data set.
        directory: Where the classifier is kept, in a file named after the data.
        announce: Called with a message before the classifier is trained.

    Raises:
        UserError: If the directory cannot be written.
    """
    data.setup()
    train, test = data.source.train_labels, data.source.test_labels
    if train is None or test is None:
        return None
    classes = train.unique()
    if len(classes) < 2:
        return None
    labels = hashlib.sha256(train.numpy().tobytes() + test.numpy().tobytes()).hexdigest()
    path = directory / f"classifier_{VERSION}_{data.fingerprint[:12]}_{labels[:12]}.pt"
    kept = _read(path, data.image_shape, classes, len(test))
    if kept is not None:
        return kept
    net = _network(data.image_shape, len(classes))
    _write(path, {})  # fails now, and not after training, if the directory cannot be written
    announce(f"training the classifier that judges images, once, for {path}")
    _train(net, data, torch.searchsorted(classes, train))
    classifier = Classifier(net.eval(), classes, 0.0, len(test))
    right = classifier.predict(data.expected("test")) == test
    classifier = replace(classifier, accuracy=float(right.double().mean()))
    _write(path, {"weights": net.state_dict(), "accuracy": classifier.accuracy})
    return classifier


def _read(
    path: Path, image_shape: tuple[int, int, int], classes: Tensor, test_images: int
) -> Classifier | None:
    net = _network(image_shape, len(classes))
    try:
        content = read_bytes(path, MOST_BYTES)
        check_zip(content, MOST_BYTES)
        kept = torch.load(io.BytesIO(content), weights_only=True)
        net.load_state_dict(kept["weights"])
        return Classifier(net.eval(), classes, float(kept["accuracy"]), test_images)
    except Exception:  # the file is missing or damaged, so the classifier is trained again
        return None


def _write(path: Path, content: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            torch.save(content, part)
    except (OSError, RuntimeError) as error:
        raise UserError(f"classifier_dir={path.parent} cannot be written ({one_line(error)})") from None


def _network(image_shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    """A network of two strided convolutions and one hidden layer."""
    channels, height, width = image_shape
    cells = -(-height // 4) * -(-width // 4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(0, "classifier"))
        return nn.Sequential(
            nn.Conv2d(channels, 16, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * cells, 128),
            nn.ReLU(),
            nn.Linear(128, classes),
        )


def _train(net: nn.Module, data: ImageData, targets: Tensor) -> None:
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
    batches = -(-len(targets) // BATCH)
    epochs = max(EPOCHS, -(-LEAST_STEPS // batches))  # small data sets get more epochs
    steps = epochs * batches
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    generator = torch.Generator().manual_seed(stream_seed(0, "classifier", "order"))
    net.train()
    for _ in range(epochs):
        for index in torch.randperm(len(targets), generator=generator).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(net(data.expected("train", index)), targets[index]).backward()
            optimizer.step()
            schedule.step()
