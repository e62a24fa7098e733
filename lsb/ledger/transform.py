"""What fixes an image's pixels, as one structure and its digest: the transform id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

from lsb.bridge.method import Method
from lsb.bridge.methods import METHODS
from lsb.bridge.settings import BridgeSettings
from lsb.errors import BridgeError
from lsb.records import digest_of

# Raised by any change that alters pixels; the golden-image test holds the images of each version.
TRANSFORM_VERSION = 2

Encoder = Literal["png", "webp", "jpeg", "avif", "source"]


@dataclass(frozen=True)
class ModelIdentity:
    """Which weights these are: a name, a revision if there is one, and the digest of every file."""

    id: str
    revision: str | None
    digest: str  # SHA-256 of the canonical JSON of `files`
    files: dict[str, str]  # relative name -> SHA-256


class Transform(TypedDict):
    """Everything that enters an image's pixels. The values are plain JSON."""

    transform_version: int
    method: str | dict[str, Any]  # `lsb`, or another method's name and settings, as in a job
    model: dict[str, str]  # relative name -> SHA-256
    prompts: dict[str, str]  # "source" and "target" -> id; "negative", where there is one
    bridge: NotRequired[dict[str, Any]]  # the settings of `lsb`
    seed: str
    dtype: str
    preprocessing: dict[str, str]
    encoder: Encoder
    geometry: NotRequired[dict[str, Any]]  # what `lsb.pictures.geometry.Geometry.trace` says; none of the letterbox
    output: NotRequired[dict[str, Any]]  # what `lsb.pictures.encoding.OutputSettings.trace` says, if it says anything


def transform_settings(
    identity: ModelIdentity,
    source_prompt_id: str,
    target_prompt_id: str,
    settings: Method,
    seed: str,
    dtype: str,
    output_format: Encoder,
    geometry: Mapping[str, Any] | None = None,
    output: Mapping[str, Any] | None = None,
    negative_prompt_id: str | None = None,
) -> Transform:
    """Everything that enters an image's pixels, and nothing else: no device, batch shape, shard size or threshold.

    The values are plain JSON. Whole numbers are below 2^53; the seed is text.

    Args:
        geometry: what `lsb.pictures.geometry.Geometry.trace` says; None leaves none, and means the letterbox.
        output: what `lsb.pictures.encoding.OutputSettings.trace` says of what is not at its default.
        negative_prompt_id: None leaves none, and means the empty text, should the method ask the negative one.
    """
    own = settings.model_dump(mode="json")
    is_lsb = isinstance(settings, BridgeSettings)
    fit = {"fit": "letterbox"} if geometry is None else {"fit": geometry["fit"], "edge": "mirror"}
    transform: Transform = {
        "transform_version": TRANSFORM_VERSION,
        "method": "lsb" if is_lsb else own,
        "model": dict(sorted(identity.files.items())),
        "prompts": {"source": source_prompt_id, "target": target_prompt_id},
        "seed": seed,
        "dtype": dtype,
        "preprocessing": {**fit, "ground": "white", "resampling": "lanczos", "colour": "srgb"},
        "encoder": output_format,
    }
    if is_lsb:
        transform["bridge"] = own
    if negative_prompt_id is not None:
        transform["prompts"]["negative"] = negative_prompt_id
    if geometry is not None:
        transform["geometry"] = dict(geometry)
    if output is not None:
        transform["output"] = dict(output)
    return transform


def method_settings(transform: Transform) -> tuple[str, dict[str, Any]]:
    """The method's name, and what is written of its settings."""
    method = transform["method"]
    return (method, transform["bridge"]) if isinstance(method, str) else (method["name"], method)


def method_of(transform: Transform) -> Method:
    """The method that makes the images.

    Raises:
        BridgeError: this version of lsb does not know it.
    """
    name, settings = method_settings(transform)
    if name not in METHODS:
        raise BridgeError(f"method {name} is none that this version of lsb knows; use the one that planned the run")
    return METHODS[name].model_validate(settings)


def transform_id(settings: Transform) -> str:
    """SHA-256 of the RFC 8785 canonical JSON, 64 hex digits."""
    return digest_of(settings)
