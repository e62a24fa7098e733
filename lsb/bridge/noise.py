"""The noise of an image: a function of the run's seed and the image's bytes, and of nothing else.

Neither the place in a batch, nor the shard, nor the order of files enters, so an image gets the same noise wherever
and whenever it is translated. Made on the CPU in float32 with numpy's Philox, whose key and counter come from SHA-256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lsb.records import canonical_json


class Noise(Protocol):
    """Unit Gaussian noise for a batch: `noise("start", 0)` has the batch's shape (B, C, h, w).

    Purposes: `vae` (the sample of the encoder's posterior), `start` (where the image enters the bridge) and
    `step` (the increments of the stochastic family, one per step).
    """

    def __call__(self, purpose: str, step: int, /) -> Tensor: ...


def unit_noise(shape: Sequence[int], *, seed: str, digest: str, purpose: str, step: int = 0) -> Tensor:
    """Unit Gaussian noise of one image, float32 on the CPU.

    Args:
        shape: of one image's latent, (C, h, w).
        seed: the run's seed, as text.
        digest: SHA-256 of the source image's bytes, 64 hex digits.
        purpose: what the noise is for; different purposes are independent.
        step: counts noises of one purpose.
    """
    words = np.frombuffer(hashlib.sha256(canonical_json([seed, digest, purpose, step])).digest(), dtype="<u8")
    # The low half of the counter starts at zero: 2^128 blocks lie between any two streams of one key.
    counter = np.array([0, 0, words[2], words[3]], dtype=np.uint64)
    generator = np.random.Generator(np.random.Philox(key=words[:2].astype(np.uint64), counter=counter))
    return torch.from_numpy(generator.standard_normal(tuple(shape), dtype=np.float32))


class BatchNoise:
    """`Noise` of a batch: row i depends on `digests[i]` alone."""

    def __init__(self, shape: Sequence[int], *, seed: str, digests: Sequence[str]) -> None:
        """`shape` is one image's, (C, h, w)."""
        self._shape = tuple(shape)
        self._seed = seed
        self._digests = tuple(digests)

    def __call__(self, purpose: str, step: int, /) -> Tensor:
        """(B, C, h, w) float32 on the CPU."""
        rows = [
            unit_noise(self._shape, seed=self._seed, digest=digest, purpose=purpose, step=step)
            for digest in self._digests
        ]
        return torch.stack(rows)
