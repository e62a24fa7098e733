"""Prompts: how a domain is named to the model, as text or as text with learned vectors.

A learned prompt is kept as safetensors with one key, the token, which diffusers' `load_textual_inversion` reads;
template and prefix are in the file's metadata. Common `learned_embeds.safetensors` files are read the same way.
A plain text is kept as canonical JSON. A prompt's id is the SHA-256 of its file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from lsb.errors import PromptError, StoreError, UnsafeWeightsError
from lsb.models.files import PICKLES
from lsb.records import canonical_json, sha256
from lsb.store.store import open_store

if TYPE_CHECKING:  # a prompt of plain text needs no torch
    from torch import Tensor

SLOT = "{token}"
PUBLISHED_PREFIX = "ugly, blurry, black, low res, unrealistic, "  # of the source's prompt with preset `published`
# All metadata in one value: the order of several is not fixed, and a prompt's id must be.
_METADATA_KEY = "lsb"
_MAX_HEADER = 100_000_000  # the library's own limit


@dataclass(frozen=True, eq=False)
class Prompt:
    """{prefix, template} and, if learned, {token, vectors}.

    Args:
        template: the text; `{token}` in it stands for the token.
        token: the new word, for example `<flat>`; None for plain text.
        vectors: (V, D) float32, what takes the token's place in the text encoder's input; any V >= 1.
        prefix: put before the template as it is.

    Raises:
        PromptError: no token in the template, a token without vectors or the reverse, NaN, Inf or a wrong shape.
    """

    template: str
    token: str | None = None
    vectors: Tensor | None = None
    prefix: str = ""

    def __post_init__(self) -> None:
        if (self.token is None) != (self.vectors is None):
            given, missing = ("token", "vectors") if self.vectors is None else ("vectors", "token")
            raise PromptError(f"prompt {self.template!r} has {given} but no {missing}; give both, or neither")
        if self.token is None or self.vectors is None:
            if SLOT in self.template:
                raise PromptError(f"prompt {self.template!r} has {SLOT} but no token; give token and vectors, or text")
            if not self.text.strip():
                raise PromptError("a prompt of plain text is empty; give some words")
            return
        if not self.token or any(character.isspace() for character in self.token) or SLOT in self.token:
            raise PromptError(f"token {self.token!r} must be one word without spaces, such as <flat>")
        if self.token not in self.text:
            raise PromptError(f"prompt {self.template!r} does not contain its token; write {SLOT} where it belongs")
        object.__setattr__(self, "vectors", _checked(self.vectors, self.token))

    @property
    def text(self) -> str:
        """What is tokenised; the token itself is then replaced by the vectors."""
        return self.prefix + (self.template if self.token is None else self.template.replace(SLOT, self.token))

    @cached_property
    def id(self) -> str:
        """SHA-256 of the prompt's file, 64 hex digits."""
        return sha256(to_bytes(self))

    def __eq__(self, other: object) -> bool:
        return self.id == other.id if isinstance(other, Prompt) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)


class _NullPrompt(Prompt):
    """Names nothing, which a prompt that somebody writes must not."""

    def __post_init__(self) -> None:
        pass


NULL: Prompt = _NullPrompt("")


def to_bytes(prompt: Prompt) -> bytes:
    """A prompt's file: safetensors where there are vectors, else canonical JSON. Equal prompts give equal bytes."""
    words = {"template": prompt.template, "prefix": prompt.prefix}
    if prompt.token is None or prompt.vectors is None:
        return canonical_json(words)
    return with_words({prompt.token: prompt.vectors}, canonical_json(words).decode())


def from_bytes(data: bytes, *, token: str | None = None) -> Prompt:
    """The prompt in a file written by lsb, by diffusers, or by any program that writes `learned_embeds.safetensors`.

    Args:
        data: the file's bytes.
        token: the name to use in place of the file's; needed where the file names none (key `emb_params`).

    Raises:
        PromptError: neither of the two formats, several embeddings, NaN, Inf or a wrong shape.
    """
    if data[8:9] == b"{":
        return _from_safetensors(data, token)
    try:
        words = json.loads(data, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise PromptError("a prompt file must be safetensors or JSON; these bytes are neither") from error
    template, prefix = _words(words)
    return Prompt(template, prefix=prefix)


def with_words(tensors: dict[str, Tensor], words: str) -> bytes:
    """A safetensors file that says something of its own, such as JSON."""
    from safetensors import torch as safetensors_torch

    return safetensors_torch.save(tensors, {_METADATA_KEY: words})


def names_and_words(data: bytes) -> tuple[list[str], str | None]:
    """What the tensors of a safetensors file are called, and what `with_words` made it say; None without that.

    Raises:
        PromptError: the file is damaged, or its header names a key twice.
    """
    header = _header(data)
    words = header.pop("__metadata__", {}).get(_METADATA_KEY)
    if words is not None and not isinstance(words, str):
        raise PromptError("embedding is not valid safetensors: its metadata are no texts")
    return list(header), words


def load_prompt(path: str | Path, *, token: str | None = None) -> Prompt:
    """Read a prompt file at a path or a URI.

    Args:
        path: of the file. Where it names no token, its own name becomes the token: `Bad Hands 5` is `<Bad-Hands-5>`.
        token: the name to use where the file names none.

    Raises:
        UnsafeWeightsError: a pickle.
        PromptError: see `from_bytes`, the file cannot be read, or it names another token or none at all.
    """
    file = PurePosixPath(path)
    if file.suffix.lower() in PICKLES:
        raise UnsafeWeightsError(f"embedding {file.name} is a pickle, which can run code; convert it to safetensors")
    data = _read(str(path))
    try:
        if _nameless(data):
            return from_bytes(data, token=token or _token_of(file.stem))
        prompt = from_bytes(data)
        if token not in (None, prompt.token):
            says = f"names its embedding {prompt.token}" if prompt.token else "holds plain text"
            raise PromptError(f"token is {token}, but the file {says}; leave token out")
        return prompt
    except PromptError as error:
        raise PromptError(f"{path}: {error}", **error.details) from error


def _token_of(name: str) -> str:
    return f"<{'-'.join(name.replace(SLOT, 'token').split())}>"


def _read(place: str) -> bytes:
    try:
        if "://" not in place:
            return Path(place).read_bytes()
        folder, _, name = place.rpartition("/")
        return open_store(folder).read(name)
    except OSError as error:
        raise PromptError(f"cannot read prompt {place}: {error.strerror}; check the path") from error
    except StoreError as error:
        if error.transient:
            raise
        raise PromptError(f"cannot read prompt {place}: {error}") from error


def _checked(vectors: Tensor, token: str) -> Tensor:
    """(V, D) float32 on the CPU, its own memory."""
    import torch

    shape = tuple(vectors.shape)
    if vectors.ndim != 2 or 0 in shape:
        raise PromptError(f"vectors of {token} have shape {shape}; allowed is (V, D), both at least 1")
    if not vectors.is_floating_point():
        raise PromptError(f"vectors of {token} are {vectors.dtype}; allowed are floating-point numbers")
    values = vectors.detach().to("cpu", torch.float32, copy=True).contiguous()
    if not torch.isfinite(values).all():
        raise PromptError(f"vectors of {token} hold NaN or infinity; learn the prompt again or use another file")
    return values


def _from_safetensors(data: bytes, token: str | None) -> Prompt:
    from safetensors import torch as safetensors_torch

    found, words = names_and_words(data)
    template, prefix = _words({"template": SLOT, "prefix": ""} if words is None else _json(words))
    if len(found) != 1:
        names = ", ".join(sorted(found)[:4]) or "none"
        if "clip_g" in found:
            raise PromptError(f"an embedding for SDXL ({names}); use one made for Stable Diffusion 1.x or 2.x")
        raise PromptError(
            f"a prompt file holds one embedding, this one {len(found)} ({names}); give each a file of its own"
        )
    try:
        ((name, tensor),) = safetensors_torch.load(data).items()
    except (SafetensorError, ValueError, KeyError) as error:
        raise PromptError(f"embedding is not valid safetensors: {' '.join(str(error).split())}") from error
    # A single vector is often stored without the first axis.
    vectors = tensor.unsqueeze(0) if tensor.ndim == 1 else tensor
    return Prompt(template, token or name, vectors, prefix)


def _header(data: bytes) -> dict[str, Any]:
    """The JSON header of a safetensors file. The library itself lets a repeated key pass."""
    length = int.from_bytes(data[:8], "little")
    if length > min(len(data) - 8, _MAX_HEADER):
        raise PromptError(f"embedding is cut short: a header of {length} bytes in a file of {len(data)}")
    header = _json(data[8 : 8 + length])
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
        raise PromptError("embedding is not valid safetensors: its header is no mapping")
    return header


def _json(text: bytes | str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise PromptError("embedding is not valid safetensors: its header is not JSON") from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise PromptError("the file names a key twice; a prompt file must name each once")
    return found


def _words(value: Any) -> tuple[str, str]:
    """Template and prefix."""
    allowed = {"template", "prefix"}
    if not isinstance(value, dict) or set(value) != allowed or not all(isinstance(v, str) for v in value.values()):
        raise PromptError("a prompt file must give template and prefix as text, and nothing else")
    return value["template"], value["prefix"]


def _nameless(data: bytes) -> bool:
    return data[8:9] == b"{" and "emb_params" in names_and_words(data)[0]
