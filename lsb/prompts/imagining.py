"""What a prompt has learned, as pictures: what the model makes of noise under it alone, no source picture involved."""

from __future__ import annotations

import base64
import io
import logging
import math

import numpy as np
import torch
from PIL import Image

from lsb.bridge.noise import unit_noise
from lsb.memory import free_memory, is_out_of_memory
from lsb.models.prompt import NULL, Prompt
from lsb.models.protocol import Backbone
from lsb.pictures.images import to_images
from lsb.redaction import redact

logger = logging.getLogger(__name__)

PICTURES, STEPS, GUIDANCE, SIDE = 4, 12, 5.0, 128
_SMALLEST = 0.03  # sigma, after which the last step gives x_hat


@torch.no_grad()
def imagined(backbone: Backbone, prompt: Prompt, seed: str, pictures: int = PICTURES) -> list[str]:
    """Small pictures of the model's own size, WebP in base64; none where the model gives no numbers or has no room.

    Euler steps of dx/dsigma = eps_hat from the schedule's largest sigma, even in sigma^(1/3), with classifier-free
    guidance. `STEPS` × 2 forwards a picture.
    """
    try:
        return [_webp(picture) for picture in _pictures(backbone, prompt, seed, pictures)]
    except (RuntimeError, MemoryError, ValueError) as error:
        if not is_out_of_memory(error) and not isinstance(error, ValueError):
            raise
        free_memory()
        logger.warning("no pictures were made of %s: %s", prompt.text, redact(str(error)))
        return []


def _pictures(backbone: Backbone, prompt: Prompt, seed: str, count: int) -> list[Image.Image]:
    side = backbone.canvas.side
    shape = backbone.latent_shape(side, side)
    sigmas = np.linspace(backbone.sigma_max ** (1 / 3), _SMALLEST ** (1 / 3), STEPS) ** 3
    levels = [min(float(sigma), backbone.sigma_max) for sigma in sigmas]
    conditions = backbone.embed(prompt), backbone.embed(NULL)
    noise = [unit_noise(shape, seed=seed, digest="imagined", purpose="start", step=number) for number in range(count)]
    x = (math.sqrt(1 + levels[0] ** 2) * torch.stack(noise)).to(backbone.device)
    for sigma, following in zip(levels, [*levels[1:], 0.0], strict=True):
        with_prompt, without = (backbone.predict(x, sigma, condition) for condition in conditions)
        x = x + (following - sigma) * (without + GUIDANCE * (with_prompt - without))
    decoded = backbone.decode(x)
    if not bool(torch.isfinite(decoded).all()):
        raise ValueError("the network returned NaN")
    return to_images(decoded)


def _webp(picture: Image.Image) -> str:
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=90)
    return base64.b64encode(buffer.getvalue()).decode()
