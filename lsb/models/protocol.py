"""What every model family offers to the bridge. The core never sees diffusers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from lsb.bridge.schedule import NoiseSchedule
from lsb.ledger.transform import ModelIdentity
from lsb.pictures.geometry import Canvas

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lsb.models.prompt import Prompt


class Backbone(Protocol):
    """A frozen latent diffusion model in variance-exploding terms.

    `x_t` is a scaled latent plus `sigma` times unit Gaussian noise, shape (B, C, h, w) float32. Nothing here turns
    gradients off but `encode` and `decode`, so that vectors can be learned through `embed` and `predict`.
    """

    @property
    def identity(self) -> ModelIdentity: ...

    @property
    def canvas(self) -> Canvas:
        """Which sizes of pictures it works on."""
        ...

    @property
    def sigma_max(self) -> float:
        """The schedule's largest sigma; `predict` refuses a larger one."""
        ...

    @property
    def device(self) -> str:
        """The torch device of weights and results, such as `cpu` or `cuda:0`."""
        ...

    @property
    def dtype(self) -> str:
        """In which the network computes, such as `float32`. The state stays float32."""
        ...

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, h, w) of the latent of a picture of so many pixels, both multiples of the canvas's stride."""
        ...

    def encode(self, images: Tensor, eps: Tensor | None = None) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to scaled latents; the posterior's mode, or its sample with `eps`."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, C, h, w) to images (B, 3, H, W) in [-1, 1], clamped."""
        ...

    def embed(self, prompt: Prompt, vectors: Tensor | None = None) -> Tensor:
        """Condition (1, L, D) of a prompt; `vectors` (V, D) take the places of its own, and get gradients.

        Touches neither tokenizer nor text encoder.

        Raises:
            PromptError: longer than the text encoder reads, or vectors of another width.
        """
        ...

    def table_vectors(self, text: str) -> Tensor:
        """What the text encoder's embedding table holds for the n tokens of `text`: (n, D) float32 on the CPU."""
        ...

    def table_scale(self) -> tuple[float, float]:
        """Of that table: the standard deviation of its numbers, and the median length of its vectors."""
        ...

    def predict(self, x_t: Tensor, sigma: float | Sequence[float], condition: Tensor) -> Tensor:
        """eps_hat (B, C, h, w) in x_t's dtype: the predicted unit noise, so that x_hat = x_t - sigma eps_hat.

        Args:
            x_t: (B, C, h, w).
            sigma: of the batch, or one a row.
            condition: (1, L, D) for all rows, or (B, L, D).

        Raises:
            BridgeError: a sigma above `sigma_max`; it names the largest tau.
        """
        ...


@runtime_checkable
class Timed(Backbone, Protocol):
    """A backbone whose network is told a time, behind which there is a table of noise levels."""

    @property
    def schedule(self) -> NoiseSchedule:
        """The table; `predict` asks at `schedule.network_time(sigma)`."""
        ...

    def predict_at(self, x_t: Tensor, sigmas: Sequence[float], times: Sequence[float], condition: Tensor) -> Tensor:
        """`predict` at network times that are given; sigmas and times of the batch, or one a row."""
        ...


@runtime_checkable
class ChannelsLast(Protocol):
    """A backbone whose networks can keep their numbers in the order in which some devices calculate faster."""

    def put_channels_last(self) -> None:
        """From now on. Results differ in their last bits."""
        ...


@runtime_checkable
class Normalising(Protocol):
    """A backbone whose autoencoder normalises by what it is given: of a picture in tiles, by the whole.

    One without it encodes and decodes each tile by itself.
    """

    @property
    def autoencoder_norms(self) -> Sequence[nn.GroupNorm]:
        """All layers of the autoencoder that do so."""
        ...
