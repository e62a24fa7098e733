"""What every model family offers to the bridge. The core never sees diffusers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from lsb.bridge.schedule import NoiseSchedule
from lsb.ledger.transform import ModelIdentity

if TYPE_CHECKING:
    from torch import Tensor

    from lsb.models.prompt import Prompt


class Backbone(Protocol):
    """A frozen latent diffusion model in variance-exploding terms.

    `x_t` is a scaled latent plus `sigma` times unit Gaussian noise, shape (B, C, h, w) float32. Nothing here turns
    gradients off but `encode` and `decode`, so that vectors can be learned through `embed` and `predict`.
    """

    @property
    def identity(self) -> ModelIdentity: ...

    @property
    def image_size(self) -> int:
        """Side of the square images it works on, in pixels."""
        ...

    @property
    def sigma_max(self) -> float:
        """The schedule's largest sigma; `predict` refuses a larger one."""
        ...

    @property
    def schedule(self) -> NoiseSchedule | None:
        """The table behind the network's time; None for a family without one, which knows no preset `published`."""
        ...

    @property
    def device(self) -> str:
        """The torch device of weights and results, such as `cpu` or `cuda:0`."""
        ...

    @property
    def dtype(self) -> str:
        """In which the network computes, such as `float32`. The state stays float32."""
        ...

    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one image's latent."""
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

    def predict(
        self, x_t: Tensor, sigma: float | Sequence[float], condition: Tensor, *, published: bool = False
    ) -> Tensor:
        """eps_hat (B, C, h, w) in x_t's dtype: the predicted unit noise, so that x_hat = x_t - sigma eps_hat.

        Args:
            x_t: (B, C, h, w).
            sigma: of the batch, or one a row.
            condition: (1, L, D) for all rows, or (B, L, D).
            published: the integer time of the published LSB code instead of the fractional one.

        Raises:
            BridgeError: a sigma above `sigma_max`; it names the largest tau.
        """
        ...
