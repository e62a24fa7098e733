"""Weights that the user gives for the features by which sets of pictures are compared, as files: a vision tower of
transformers, or an Inception in TorchScript. `lsb.metrics.tower` loads them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from lsb.errors import ConfigError, ModelError, UnsafeWeightsError
from lsb.fields import Frozen, ModelLocation
from lsb.records import digest_of, sha256

TORCHSCRIPT = frozenset({".pt", ".ts", ".torchscript"})
_PARTS = ("config.json", "preprocessor_config.json", "*.safetensors")
_HALVES = (0.5, 0.5, 0.5)


class GivenWeights(Frozen):
    """Whose features sets of pictures are compared by."""

    weights: ModelLocation | None = Field(
        default=None,
        description="A vision tower or an Inception. A folder as transformers writes it (CLIP, SigLIP, DINO), with "
        "`.safetensors`; a hub id `owner/name` of one; or an Inception as a TorchScript file. Left out, the embedded "
        "EfficientNet-Lite0, which needs no download.",
    )
    revision: str | None = Field(default=None, description="Of a hub id: its full commit, 40 hex digits.")
    sha256: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{64}$",
        description="Of a TorchScript file: its SHA-256, 64 hex digits. Such a file is code, and not run without.",
    )

    def located(self) -> GivenFiles | None:
        """Its files on this disk, fetched from the hub if need be, and looked at, but not loaded; None of none.

        Raises:
            ConfigError: a TorchScript file without its digest, a hub id without a commit, or one of these where it has
                no meaning.
            UnsafeWeightsError: a TorchScript file with another digest, a folder with pickles alone.
            ModelError: nothing there, or nothing of the kind.
        """
        if self.weights is None:
            return None
        from lsb.models.hub import COMMIT, cached_or_fetched, is_hub_id

        path = Path(self.weights)
        if path.exists() and self.revision is not None:
            raise _refused("revision", f"{self.weights} is no hub id and has no revisions; do without")
        if path.is_file() and path.suffix.lower() in TORCHSCRIPT:
            return GivenFiles(path.name, path, None, _script(path, self.sha256))
        if self.sha256 is not None:
            raise _refused("sha256", f"{self.weights} is no TorchScript file; do without")
        if path.exists():
            return _of_folder(path.name, path)
        if not is_hub_id(self.weights):
            raise ModelError(f"no feature network {self.weights}: there is no such folder or file, and it is no hub id")
        if self.revision is None or not COMMIT.fullmatch(self.revision):
            changes = f"feature network {self.weights} at revision {self.revision or 'main'} can change"
            raise _refused("revision", f"{changes}; give the full commit of 40 hex digits in")
        folder = cached_or_fetched(self.weights, self.revision, _PARTS)
        if folder is None:
            raise ModelError(f"no feature network {self.weights}: no such folder here, and the hub gives none")
        return _of_folder(self.weights, folder)


@dataclass(frozen=True)
class Preparation:
    """Pixels of the squares that a tower was trained with, and mean and deviation of its inputs by channel."""

    side: int
    mean: Sequence[float]
    deviation: Sequence[float]


@dataclass(frozen=True)
class GivenFiles:
    """Weights that were looked at.

    Attributes:
        name: as which they are shown: a hub id, or the name of the folder or file.
        path: the folder, or the TorchScript file.
        preparation: of a tower.
        script: the bytes of a TorchScript file. They are what is loaded: what was looked at, and nothing else.
    """

    name: str
    path: Path
    preparation: Preparation | None
    script: bytes | None = None

    def digest(self) -> str:
        """SHA-256 of the weights; of several files that of their names and digests."""
        if self.script is not None:
            return sha256(self.script)
        from lsb.models.files import file_sha256

        known = {file.name: file_sha256(file) for file in sorted(self.path.glob("*.safetensors"))}
        return next(iter(known.values())) if len(known) == 1 else digest_of(known)


def _refused(setting: str, message: str) -> ConfigError:
    """`message` ends before the setting's name."""
    field = f"evaluate.features.{setting}"
    return ConfigError(f"{message} {field}", field=field)


def _script(file: Path, stated: str | None) -> bytes:
    if stated is None:
        code = f"{file} is TorchScript, which is code"
        raise _refused("sha256", f"{code}; state the SHA-256 of the file that you trust in")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ModelError(f"feature network {file}: {error.strerror}") from error
    if (found := sha256(data)) != stated:
        raise UnsafeWeightsError(f"feature network {file.name} has SHA-256 {found}, not {stated}; it is not loaded")
    return data


def _of_folder(name: str, folder: Path) -> GivenFiles:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{name} is no feature network: no folder with a config.json, as transformers writes it")
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(file.name for file in folder.glob("*.bin"))
        what = f"has only {', '.join(pickles)}, which may run code when it is read" if pickles else "has no weights"
        raise UnsafeWeightsError(f"feature network {name} {what}; give one with .safetensors")
    return GivenFiles(name, folder, _preparation(name, folder))


def _preparation(name: str, folder: Path) -> Preparation:
    config, prepared = _read(name, folder / "config.json"), folder / "preprocessor_config.json"
    wanted = _read(name, prepared) if prepared.exists() else {}
    crop = wanted.get("crop_size") if wanted.get("do_center_crop", True) else None
    size = crop or wanted.get("size") or config.get("vision_config", config).get("image_size")
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge")
    if not isinstance(size, int) or not 1 <= size <= 2048:
        raise ModelError(f"feature network {name} does not say which size its pictures have")
    mean, deviation = (_three(name, wanted, key) for key in ("image_mean", "image_std"))
    if min(deviation) <= 0:
        raise ModelError(f"feature network {name}: image_std must be above 0")
    return Preparation(size, mean, deviation)


def _three(name: str, wanted: dict[str, Any], key: str) -> Sequence[float]:
    """A number for each channel."""
    found: Any = wanted.get(key, _HALVES)
    if not (isinstance(found, list | tuple) and len(found) == 3 and all(isinstance(one, int | float) for one in found)):
        raise ModelError(f"feature network {name}: {key} must be three numbers")
    return found


def _read(name: str, file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"feature network {name}: {file.name} is not readable JSON") from error
    if not isinstance(found, dict):
        raise ModelError(f"feature network {name}: {file.name} holds no settings")
    return found
