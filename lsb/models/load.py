"""From what a user writes, a folder, a file, a URI or a hub id, to a backbone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypedDict
from urllib.parse import unquote, urlsplit

from lsb.errors import ModelError, UnsafeWeightsError
from lsb.ledger.transform import ModelIdentity
from lsb.models.canvas import stable_diffusion_canvas
from lsb.models.device import usable_device
from lsb.models.download import download
from lsb.models.facts import Facts, stable_diffusion_facts
from lsb.models.files import PARTS, ModelFiles, check_lora, class_name, of_checkpoint, of_folder
from lsb.models.hub import COMMIT, cached_or_fetched, is_hub_id
from lsb.models.protocol import Backbone, ChannelsLast
from lsb.pictures.geometry import Canvas


class ModelOptions(TypedDict, total=False):
    """What `identify` and `load_backbone` take to find a model's files."""

    revision: str | None
    strict: bool
    loras: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """Models of one kind.

    Attributes:
        files: which files of a folder fix the pixels, checked without reading weights; its errors are ModelErrors.
        load: the backbone of such files on a device, in a dtype.
        canvas: that backbone's, without reading weights.
        parts: patterns of their names in the folder, such as `unet/*.json`: nothing else is fetched from the hub or S3.
        loras: whether LoRA files can be added to it; elsewhere a job that names some is refused.
        packages: what `load` imports beyond what every install of lsb brings.
        facts: what settings must fit to, without reading weights; without it they are looked at when the model is
            loaded.
    """

    files: Callable[[Path], ModelFiles]
    load: Callable[[ModelFiles, str, str], Backbone]
    canvas: Callable[[ModelFiles], Canvas]
    parts: Sequence[str]
    loras: bool = False
    packages: Sequence[str] = ()
    facts: Callable[[ModelFiles], Facts] | None = None


def _stable_diffusion(files: ModelFiles, device: str, dtype: str) -> Backbone:
    from lsb.models.stable_diffusion import load_stable_diffusion  # with it come diffusers and transformers

    return load_stable_diffusion(files, device, dtype)


STABLE_DIFFUSION = Family(
    of_folder,
    _stable_diffusion,
    stable_diffusion_canvas,
    PARTS,
    loras=True,
    packages=("diffusers", "transformers"),
    facts=stable_diffusion_facts,
)
# By `_class_name` in a folder's model_index.json. What is not here is taken for Stable Diffusion, which refuses others.
FAMILIES: dict[str, Family] = {
    "StableDiffusionPipeline": STABLE_DIFFUSION,
}

# What takes long to import of loading a model.
NETWORKS = ("lsb.models.stable_diffusion",)


def load_backbone(
    model: str,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    strict: bool = False,
    loras: Sequence[str] = (),
    channels_last: bool = False,
) -> Backbone:
    """Load a frozen model.

    Args:
        model: a diffusers folder, a `.safetensors` file in the original layout, a `file://` or `s3://` URI of either,
            or a hub id `owner/name`. A copy of what is not on this disk is kept in `HF_HOME`.
        revision: of a hub id: a branch, a tag or, better, a commit.
        device: a torch device; `auto` is CUDA where there is one, else the CPU.
        dtype: of the network: `float32`, `bfloat16` or `float16`.
        strict: demand of a hub id that the revision is a full commit of 40 hex digits.
        loras: `.safetensors` files with LoRA weights, or URIs of such, added in this order at strength 1.
        channels_last: see `lsb.models.protocol.ChannelsLast`.

    Raises:
        UsageError: no such device here.
        UnsafeWeightsError: pickles, remote code, or an unpinned revision with `strict`.
        ModelError: nothing there, or nothing that lsb can load; the message names what was tried.
    """
    place = usable_device(device)  # before anything is fetched
    files = locate(model, revision=revision, strict=strict, loras=loras)
    backbone = _family(files.folder).load(files, place, dtype)
    if backbone.dtype != dtype:
        raise ModelError(f"{model} does not compute in {dtype}, only in {backbone.dtype}; set execution.dtype to that")
    if channels_last:
        if not isinstance(backbone, ChannelsLast):
            raise ModelError(f"{model} is of a kind that has one layout only; leave execution.channels_last out")
        backbone.put_channels_last()
    return backbone


def identify(
    model: str, *, revision: str | None = None, strict: bool = False, loras: Sequence[str] = ()
) -> ModelIdentity:
    """Digests of a model's files, without building the network. Arguments and errors as for `load_backbone`."""
    return locate(model, revision=revision, strict=strict, loras=loras).identity()


def canvas_of(model: str, *, revision: str | None = None, strict: bool = False, loras: Sequence[str] = ()) -> Canvas:
    """Which sizes of pictures a model works on, without building the network. Arguments and errors as for
    `load_backbone`."""
    files = locate(model, revision=revision, strict=strict, loras=loras)
    return _family(files.folder).canvas(files)


def facts_of(
    model: str, *, revision: str | None = None, strict: bool = False, loras: Sequence[str] = ()
) -> Facts | None:
    """What a model's files say of it, without building the network; None of a family that says nothing. Arguments and
    errors as for `load_backbone`."""
    files = locate(model, revision=revision, strict=strict, loras=loras)
    facts = _family(files.folder).facts
    return None if facts is None else facts(files)


def locate(model: str, *, revision: str | None = None, strict: bool = False, loras: Sequence[str] = ()) -> ModelFiles:
    """The model's files on the local disk; a hub id is downloaded if need be. Arguments and errors as for
    `load_backbone`."""
    files = _locate(model, revision, strict)
    family = _family(files.folder)
    for package in family.packages:  # better known now than when the model is loaded
        if find_spec(package) is None:
            raise ModuleNotFoundError(f"{model} needs the package {package}", name=package)
    if loras and not family.loras:
        raise ModelError(f"{model} is of a kind that takes no LoRA files; leave loras out")
    return dataclasses.replace(files, loras=tuple(check_lora(_on_disk(lora)) for lora in loras))


def _locate(model: str, revision: str | None, strict: bool) -> ModelFiles:
    path = _on_disk(model)
    if path.exists():
        if revision is not None:
            raise ModelError(f"{model} is no hub id and has no revisions; leave revision out")
        copied = (path.parent, model.rstrip("/").rpartition("/")[0]) if model.startswith("s3://") else None
        return _checked(path, copied)
    if is_hub_id(model):
        return _from_hub(model, revision, strict)
    raise ModelError(f"no model {model}: there is no such folder or file, and it is no hub id (owner/name)")


def _checked(path: Path, copied: tuple[Path, str] | None) -> ModelFiles:
    """The files of a folder or a checkpoint; of a copy, errors name what was copied and not its place in the cache."""
    try:
        return _family(path).files(path) if path.is_dir() else of_checkpoint(path)
    except ModelError as error:
        if copied is None:
            raise
        place, name = copied
        raise type(error)(error.message.replace(str(place), name), **error.details) from error


def _parts() -> list[str]:
    """Patterns of all files of folders that any family loads."""
    return ["model_index.json", *(part for family in FAMILIES.values() for part in family.parts)]


def _family(folder: Path) -> Family:
    return FAMILIES.get(class_name(folder) or "", STABLE_DIFFUSION)


def _on_disk(uri: str) -> Path:
    """The path that a path or a `file://` URI names; a copy of what an `s3://` URI names."""
    if "://" not in uri:
        return Path(uri)
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        return download(uri, _parts())
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise ModelError(
            f"model {uri} has scheme {parts.scheme}; allowed: a path, file:///path, s3://bucket/path, or owner/name"
        )
    return Path(unquote(parts.path))


def _from_hub(model: str, revision: str | None, strict: bool) -> ModelFiles:
    if strict and not (revision and COMMIT.fullmatch(revision)):
        raise UnsafeWeightsError(
            f"{model} at revision {revision or 'main'} can change; strict needs the full commit of 40 hex digits"
        )
    folder = cached_or_fetched(model, revision, _parts())
    if folder is None:
        raise ModelError(
            f"no model {model} at revision {revision or 'main'}: no such folder here, and the hub gives none "
            "(wrong name, no access, or no network)"
        )
    return dataclasses.replace(_checked(folder, (folder, model)), id=model, revision=folder.name)
