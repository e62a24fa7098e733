"""Group normalisation of a picture in tiles, by mean and spread of the whole.

A layer that normalises takes them of what it is given, so that a tile by itself gets colours of its own. Those of the
whole depend on all layers before, which only a picture as a whole goes through one after the other. So a sample does,
a picture of a tile's size made of pieces from all over the whole:

    sample                        ─> mean and spread in each layer, nearly those of the whole
    all tiles, normalised by them ─> mean and spread of the whole, nearly: what the sample lacks
    sample, what it lacks added   ─> the same, more nearly; and so on
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_ROUNDS = 3  # passes over all tiles that only measure; measured in docs/decisions/0008-tiles.md


class Moments(NamedTuple):
    """Of each group of a layer, (groups,) float64 on the CPU."""

    mean: Tensor
    spread: Tensor  # square root of variance and the layer's eps


class Part(NamedTuple):
    """A row of a batch, and what its places count in the whole."""

    row: int
    share: Tensor  # (h w,) float32


Common = Mapping[nn.GroupNorm, Moments]
Parts = Callable[[int], Iterable[Part]]  # by how many places a layer is given


def common_moments(
    norms: Sequence[nn.GroupNorm], parts: Parts, sample: Callable[[], object], whole: Callable[[], object]
) -> Common:
    """What each layer is to normalise all tiles by.

    Args:
        parts: of the batch that `whole` is at.
        sample: gives the network the sample, in a batch of one.
        whole: gives it all tiles.
    """
    lacking: Common = {}
    for _ in range(_ROUNDS):
        own, used = _sampled(norms, lacking, sample)
        measured = _measured(norms, used, parts, whole)
        lacking = {
            norm: Moments((mean - own[norm].mean) / own[norm].spread, spread / own[norm].spread)
            for norm, (mean, spread) in measured.items()
        }
    return _sampled(norms, lacking, sample)[1]


@contextmanager
def normalised_by(common: Common) -> Iterator[None]:
    """Inside, these layers normalise by these moments, whatever they are given."""

    with _in_place_of(common, lambda norm, x: _normalised(norm, x, common[norm])):
        yield


def _sampled(norms: Sequence[nn.GroupNorm], lacking: Common, sample: Callable[[], object]) -> tuple[Common, Common]:
    """The sample's own moments, and those that it was normalised by: with what it lacks."""
    own: dict[nn.GroupNorm, Moments] = {}
    used: dict[nn.GroupNorm, Moments] = {}

    def normalise(norm: nn.GroupNorm, x: Tensor) -> Tensor:
        (places,) = x.flatten(2)
        sums = _Sums()
        sums.add(norm, places, torch.ones(places.shape[1], device=x.device))
        mean, spread = own[norm] = sums.moments(norm)
        shift, factor = lacking.get(norm, (0.0, 1.0))
        used[norm] = Moments(mean + shift * spread, spread * factor)
        return _normalised(norm, x, used[norm])

    with _in_place_of(norms, normalise):
        sample()
    return own, used


def _measured(norms: Sequence[nn.GroupNorm], used: Common, parts: Parts, whole: Callable[[], object]) -> Common:
    """The moments of the whole where all tiles are normalised by `used`."""
    sums: dict[Any, _Sums] = {norm: _Sums() for norm in used}

    def normalise(norm: nn.GroupNorm, x: Tensor) -> Tensor:
        places = x.flatten(2)  # attention has a picture's places in one row
        for row, share in parts(places.shape[2]):
            sums[norm].add(norm, places[row], share)
        return _normalised(norm, x, used[norm])

    with _in_place_of(used, normalise):
        whole()
    return {norm: of_layer.moments(norm) for norm, of_layer in sums.items()}


class _Sums:
    """Mean and mean square of a layer, part by part; in an order that threads do not change."""

    def __init__(self) -> None:
        self._weight: Any = 0.0
        self._mean: Any = 0.0
        self._square: Any = 0.0

    def add(self, norm: nn.GroupNorm, x: Tensor, share: Tensor) -> None:
        """`x` (C, h w), and what its places count (h w,). Group by group: a layer may be as large as all else."""
        weight = share.sum(dtype=torch.float64).cpu()
        found = [_mean_and_square(channels.float(), share, weight) for channels in x.chunk(norm.num_groups)]
        mean, square = (torch.stack(values) for values in zip(*found, strict=True))
        self._weight = self._weight + weight
        self._mean = self._mean + weight * mean
        self._square = self._square + weight * square

    def moments(self, norm: nn.GroupNorm) -> Moments:
        mean = self._mean / self._weight
        variance = (self._square / self._weight - mean**2).clamp_min(0)
        return Moments(mean, (variance + norm.eps).sqrt())


def _mean_and_square(x: Tensor, share: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Of one group's channels (C, h w), both 0-dimensional float64 on the CPU."""

    def mean_of(values: Tensor) -> Tensor:
        return (values * share).sum(1).double().cpu().mean() / weight

    mean = mean_of(x)
    # Around the part's own mean, since in 32 bits little is left of a difference of large squares.
    around = x - mean.to(x.device, torch.float32)
    return mean, mean_of(around.square_()) + mean**2


def _normalised(norm: nn.GroupNorm, x: Tensor, by: Moments) -> Tensor:
    """(B, C, ...) as the layer would have it, but for the moments."""
    each = x.shape[1] // norm.num_groups
    scale = norm.weight.double().cpu() / by.spread.repeat_interleave(each)
    shift = norm.bias.double().cpu() - by.mean.repeat_interleave(each) * scale
    scale, shift = (one.to(x.device, torch.float32)[:, None] for one in (scale, shift))
    return torch.addcmul(shift, x.flatten(2).float(), scale).to(x.dtype).reshape(x.shape)


@contextmanager
def _in_place_of(norms: Iterable[nn.GroupNorm], normalise: Callable[[nn.GroupNorm, Tensor], Tensor]) -> Iterator[None]:
    """Inside, these layers do that instead of what they do; a hook would have both, and twice the memory."""
    replaced = list(norms)
    for norm in replaced:
        vars(norm)["forward"] = partial(normalise, norm)
    try:
        yield
    finally:
        for norm in replaced:
            del vars(norm)["forward"]
