"""Change of variables between the bridge and a variance-preserving network.

x_t         the bridge's state: a scaled latent plus sigma times unit noise, (B, C, h, w)
alpha_bar   1 / (1 + sigma²), the network's level with the same signal-to-noise ratio
y           sqrt(alpha_bar) x_t = x_t / sqrt(1 + sigma²), what the network is shown
eps_hat     the predicted unit noise, so that x_hat = x_t - sigma eps_hat
v           sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x, what a v-prediction network predicts
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def alpha_bar_of(sigmas: Sequence[float], like: Tensor) -> Tensor:
    """alpha_bar of one sigma, or of one a row, as (1 or B, 1, 1, 1) of `like`'s device; float64, cast when used."""
    sigma = torch.tensor(sigmas, dtype=torch.float64, device=like.device).view(-1, 1, 1, 1)
    return 1 / (1 + sigma**2)


def network_state(x_t: Tensor, alpha_bar: Tensor) -> Tensor:
    """y = sqrt(alpha_bar) x_t."""
    return alpha_bar.sqrt().to(x_t.dtype) * x_t


def eps_from_v(v: Tensor, y: Tensor, alpha_bar: Tensor) -> Tensor:
    """eps_hat = sqrt(alpha_bar) v + sqrt(1 - alpha_bar) y."""
    return alpha_bar.sqrt().to(y.dtype) * v + (1 - alpha_bar).sqrt().to(y.dtype) * y
