"""Which files make up a model, whether they are safe to load, and their digests.

    folder/model_index.json
    folder/{unet,vae,text_encoder}/config.json and safetensors, whole or in shards, plain or `fp16`
    folder/tokenizer/*.json, merges.txt
    folder/scheduler/scheduler_config.json

A single `.safetensors` file in the original layout has its configuration and tokenizer in such a folder beside it
(`model/` for `model.safetensors`), without weights.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from lsb.errors import ModelError, UnsafeWeightsError
from lsb.ledger.transform import ModelIdentity
from lsb.pictures.knowledge import GRAIN_SECONDS
from lsb.records import digest_of

PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
COMPONENTS = ("unet", "vae", "text_encoder")
_CONFIGS = {
    "unet": "config.json",
    "vae": "config.json",
    "text_encoder": "config.json",
    "tokenizer": "tokenizer_config.json",
    "scheduler": "scheduler_config.json",
}
_CLASSES = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
# What a folder's model is made of; whatever else lies there is neither copied nor read.
PARTS = (
    *(f"{component}/*.json" for component in _CONFIGS),
    "tokenizer/merges.txt",
    *(
        f"{component}/{stem}{rest}.safetensors"
        for component in COMPONENTS
        for stem in ("diffusion_pytorch_model", "model")
        for rest in ("", ".fp16", "-[0-9]*-of-*", ".fp16-[0-9]*-of-*")
    ),
)
_LIBRARIES = frozenset({"diffusers", "transformers", None})
# Older versions of diffusers put `.fp16` behind the number of a shard.
_WEIGHTS = re.compile(r"(?:diffusion_pytorch_model|model)(\.fp16)?(?:-\d{5}-of-\d{5}(\.fp16)?)?\.safetensors")


@dataclass(frozen=True)
class ModelFiles:
    """A model on the local disk.

    Attributes:
        id: a hub id, or the name of the folder or file; never a path of this machine.
        revision: commit of the hub's repository, 40 hex digits, or None.
        folder: configuration and tokenizer, and the weights unless `checkpoint` has them.
        checkpoint: a single file in the original layout.
        variants: `fp16` for the components of which the folder has only these weights.
        loras: LoRA files, added in this order.
    """

    id: str
    revision: str | None
    folder: Path
    checkpoint: Path | None = None
    variants: Mapping[str, str | None] = field(default_factory=dict)
    loras: tuple[Path, ...] = ()

    def config(self, component: str) -> dict[str, Any]:
        """A component's configuration.

        Raises:
            ModelError: missing or not JSON.
        """
        return _read_json(self.folder / component / _CONFIGS[component])

    def identity(self) -> ModelIdentity:
        """Name and digests. Reads every byte of the weights, once per process unless they change."""
        files = {name: file_sha256(path) for name, path in sorted(self.files().items())}
        return ModelIdentity(self.id, self.revision, digest_of(files), files)

    def files(self) -> dict[str, Path]:
        """Relative name -> path of every file that can change a pixel."""
        found: dict[str, Path] = {}
        for component in _CONFIGS:
            inside = self.folder / component
            for path in (*inside.glob("*.json"), *inside.glob("merges.txt")):
                found[f"{component}/{path.name}"] = path
        if self.checkpoint is not None:
            found[self.checkpoint.name] = self.checkpoint
        else:
            for component in COMPONENTS:
                for path in _weights(self.folder / component)[1]:
                    found[f"{component}/{path.name}"] = path
        for number, path in enumerate(self.loras):
            found[f"lora/{number}/{path.name}"] = path
        return found


def of_folder(folder: Path) -> ModelFiles:
    """A diffusers folder, checked without reading its weights.

    Raises:
        UnsafeWeightsError: pickled weights only, or code of its own.
        ModelError: something is missing, or it is another kind of model.
    """
    _check_configuration(folder)
    variants = {}
    for component in COMPONENTS:
        variant, weights = _weights(folder / component)
        if not weights:
            _refuse_pickles(folder / component)
            raise ModelError(f"{folder / component} has no safetensors weights; a diffusers folder has them there")
        variants[component] = variant
    return ModelFiles(folder.resolve().name, None, folder, variants=variants)


def of_checkpoint(checkpoint: Path) -> ModelFiles:
    """A single file in the original layout, and the folder of its configuration beside it.

    Raises:
        UnsafeWeightsError: not safetensors.
        ModelError: no configuration.
    """
    if checkpoint.suffix.lower() in PICKLES:
        raise UnsafeWeightsError(f"{checkpoint.name} is a pickle, which can run code; give a .safetensors file")
    if checkpoint.suffix.lower() != ".safetensors":
        raise ModelError(f"{checkpoint.name} is no model; give a diffusers folder or a .safetensors file")
    folder = checkpoint.with_suffix("")
    if not folder.is_dir():
        raise ModelError(
            f"{checkpoint.name} needs its configuration: put the diffusers configs and the tokenizer of the model it "
            f"was made from (folders without weights) into {folder}"
        )
    _check_configuration(folder)
    return ModelFiles(checkpoint.name, None, folder, checkpoint=checkpoint)


def class_name(folder: Path) -> str | None:
    """What a folder's model_index.json says that it is; None if there is none, or it says nothing.

    Raises:
        ModelError: the file is damaged.
    """
    index = folder / "model_index.json"
    name = _read_json(index).get("_class_name") if index.is_file() else None
    return name if isinstance(name, str) else None


def check_lora(path: Path) -> Path:
    """A LoRA file that is safe to read.

    Raises:
        UnsafeWeightsError: not safetensors.
        ModelError: no such file.
    """
    if path.suffix.lower() != ".safetensors":
        raise UnsafeWeightsError(f"LoRA {path.name} must be a .safetensors file; a pickle can run code")
    if not path.is_file():
        raise ModelError(f"no LoRA file {path}; check the path")
    return path


def _weights(inside: Path) -> tuple[str | None, list[Path]]:
    """Variant and files that are loaded from a component's folder; plain ones where there are both."""
    found: dict[str | None, list[Path]] = {}
    for path in sorted(inside.glob("*.safetensors")):
        match = _WEIGHTS.fullmatch(path.name)
        if match:
            found.setdefault("fp16" if match[1] or match[2] else None, []).append(path)
    for variant in (None, "fp16"):
        if variant in found:
            return variant, found[variant]
    return None, []


def _refuse_pickles(inside: Path) -> None:
    pickles = sorted(path.name for path in inside.glob("*") if path.suffix.lower() in PICKLES)
    if pickles:
        raise UnsafeWeightsError(
            f"{inside} has only pickled weights ({pickles[0]}), which can run code; convert them to safetensors"
        )


def _check_configuration(folder: Path) -> None:
    missing = [f"{name}/{file}" for name, file in _CONFIGS.items() if not (folder / name / file).is_file()]
    index = folder / "model_index.json"
    if index.is_file():
        _check_index(_read_json(index), folder)
    if missing:
        for component in COMPONENTS:
            _refuse_pickles(folder / component)
        raise ModelError(f"{folder} is no Stable Diffusion folder: it lacks {', '.join(missing)}")
    for component, file in _CONFIGS.items():
        config = _read_json(folder / component / file)
        if "auto_map" in config:
            raise UnsafeWeightsError(f"{folder / component} asks to run its own code (auto_map); lsb never does")
        wanted = _CLASSES.get(component)
        if wanted and config.get("_class_name") != wanted:
            raise ModelError(f"{component} of {folder} is a {config.get('_class_name')}; allowed is {wanted}")


def _check_index(index: dict[str, Any], folder: Path) -> None:
    name = index.get("_class_name")
    entries = {key: value for key, value in index.items() if isinstance(value, list)}
    foreign = [key for key, value in entries.items() if key in _CONFIGS and value[:1] and value[0] not in _LIBRARIES]
    if "_class_name" in entries or foreign:
        raise UnsafeWeightsError(f"{folder} asks to run its own code ({', '.join(foreign) or name}); lsb never does")
    if "text_encoder_2" in index or "transformer" in index or not str(name).startswith("StableDiffusion"):
        raise ModelError(f"{folder} is a {name}; supported are Stable Diffusion 1.x and 2.x")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "not JSON"
        raise ModelError(f"cannot read {path}: {reason}; restore the file") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold a mapping, got {type(value).__name__}; restore the file")
    return value


def file_sha256(path: Path) -> str:
    """The digest of a file, which is read once per process, and again whenever it may be another one."""
    found = path.stat()
    stamp = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    # Right after a change another one may bear the same times.
    settled = max(found.st_mtime, found.st_ctime) < time.time() - GRAIN_SECONDS
    return (_read_sha256 if settled else _read_sha256.__wrapped__)(path, stamp)


@lru_cache(maxsize=1024)
def _read_sha256(path: Path, stamp: tuple[int, ...]) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
