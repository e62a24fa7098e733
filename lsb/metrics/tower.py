"""Features of a network whose weights the user gives, see `lsb.metrics.given`.

They take the place of the embedded network's where pictures are compared with a set of others: KID, FID, truth
retrieval, `source_distance`. What is measured of a picture and its translation stays the embedded network's.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor

from lsb.errors import ModelError
from lsb.metrics.features import FeatureExtractor, Features
from lsb.metrics.given import GivenFiles
from lsb.metrics.pixels import unit_pixels
from lsb.models.tower import load_tower
from lsb.redaction import redact

BATCH = 8  # pictures at a time
INCEPTION_SIDE = 299

Network = Callable[[Tensor], Tensor]  # pictures (N, 3, side, side) in [0, 1] to features (N, D)


class GivenFeatures:
    """Two networks as one extractor: `pooled` is the given one's, `maps` the embedded one's.

    Of a tower that was trained with texts (CLIP, SigLIP) the features are its picture embeddings, of another one
    (DINO, ViT) its pooled output. It is given pictures as its `preprocessor_config.json` says. An Inception is given
    (N, 3, 299, 299) uint8, and `return_features=True` if it takes that, and must give (N, D). Pictures are made square
    as for the embedded network. Batches have one fixed shape, and the last is padded: a picture's features do not
    depend on its neighbours.

    Raises:
        ModelError: the files cannot be loaded, or give no vector of a picture.
    """

    def __init__(self, files: GivenFiles, device: str, layout: FeatureExtractor) -> None:
        """`device` of torch; `layout` is the embedded network."""
        self.id, self.digest, self._layout = files.name, files.digest(), layout
        self._side = INCEPTION_SIDE if files.preparation is None else files.preparation.side
        self._network = _inception(files, device) if files.script is not None else _tower(files, device)
        self.dimension = self._pooled([Image.new("RGB", (self._side, self._side), "white")]).shape[1]

    def __call__(self, images: Sequence[Image.Image]) -> Features:
        pooled = self._pooled(images) if images else torch.zeros(0, self.dimension)
        return Features(pooled.numpy(), self._layout(images).maps)

    def _pooled(self, images: Sequence[Image.Image]) -> Tensor:
        found = []
        for start in range(0, len(images), BATCH):
            chunk = images[start : start + BATCH]
            inputs = torch.ones(BATCH, 3, self._side, self._side)
            inputs[: len(chunk)] = unit_pixels(chunk, self._side)
            with torch.inference_mode():
                vectors = self._network(inputs)
            if not isinstance(vectors, Tensor) or vectors.ndim != 2 or len(vectors) != BATCH:
                raise ModelError(f"feature network {self.id} gives no vector of a picture; give a vision tower")
            found.append(vectors[: len(chunk)].float().cpu())
        return torch.cat(found)


def _tower(files: GivenFiles, device: str) -> Network:
    assert files.preparation is not None
    ask = load_tower(files.name, files.path, device)
    given = (files.preparation.mean, files.preparation.deviation)
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in given)
    return lambda pixels: ask(((pixels - mean) / deviation).to(device))


def _inception(files: GivenFiles, device: str) -> Network:
    assert files.script is not None
    try:
        # TorchScript is deprecated, and the published Inception is nothing else.
        with warnings.catch_warnings(category=DeprecationWarning, action="ignore"):
            module = torch.jit.load(io.BytesIO(files.script), map_location=device).eval()
    except RuntimeError as error:
        raise ModelError(f"feature network {files.name} is no TorchScript: {redact(str(error))}") from error
    takes = {argument.name for argument in module.forward.schema.arguments}
    more = {"return_features": True} if "return_features" in takes else {}

    def network(pixels: Tensor) -> Tensor:
        found: Tensor = module((255 * pixels).round().to(torch.uint8).to(device), **more)
        return found

    return network
