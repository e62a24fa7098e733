"""A domain's prompt, in this order: given as a text or file, that of an earlier run, found in the store, or learned.

    found = find_prompt(store, request, identity, earlier)
    prompt = found if isinstance(found, StoredPrompt) else found.learn(backbone)

What a learned prompt depends on is its recipe: model, images, learning settings, seed. The first process to finish
a recipe writes `prompts/<domain>/recipe-<digest>.json`; everybody after it takes that prompt and learns nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

import pyarrow.compute as pc
from PIL import Image

from lsb.errors import (
    AlreadyExistsError,
    DecodingError,
    ImageError,
    NotFoundError,
    SourceError,
    TamperedError,
    UnverifiableError,
)
from lsb.ledger.dataset import Dataset, read_records
from lsb.ledger.layout import (
    dataset_folder,
    is_checkpoint,
    prompt_checkpoint,
    prompt_file,
    prompt_folder,
    prompt_provenance,
    prompt_recipe,
    version_of_records,
)
from lsb.ledger.log.seal import read_proved, seal, unseal
from lsb.ledger.schemas import RECORDS, read_table
from lsb.ledger.transform import ModelIdentity
from lsb.models.prompt import Prompt, from_bytes, load_prompt, to_bytes
from lsb.models.protocol import Backbone
from lsb.pictures.decoder import shared_decoder
from lsb.pictures.ingest import ingest
from lsb.pictures.sources import Source, open_sources
from lsb.progress import NoProgress, Progress
from lsb.prompts.settings import DomainPrompt, LearningConfig, PromptRequest
from lsb.records import Status, digest_of, sha256
from lsb.store.store import Store

if TYPE_CHECKING:
    from lsb.prompts.learning import LearnedPrompt, Look

logger = logging.getLogger(__name__)

RECIPE_SCHEMA = "lsb.recipe/1"
PROMPT_SCHEMA = "lsb.prompt/1"
NEGATIVE = "negative"  # the name under which negative prompts are kept


@dataclass(frozen=True)
class StoredPrompt:
    """Where a domain's prompt lies. `id` is the SHA-256 of the object at `key`; `new` if this call learned it."""

    domain: str
    id: str
    key: str
    new: bool = False


class Recipe(TypedDict):
    """What a learned prompt depends on; its digest names the recipe's file."""

    model: str
    images: str  # version of the data set
    token: str
    initial: str
    vectors: int
    prefix: str
    learning: dict[str, Any]
    seed: str
    dtype: str
    geometry: NotRequired[dict[str, Any]]  # what the pictures are seen in; none of the letterbox


class Provenance(TypedDict):
    """How a prompt came about; but for `origin`, where it was learned."""

    origin: Literal["given", "learned"]
    recipe: NotRequired[Recipe]
    history: NotRequired[list[Look]]
    best_step: NotRequired[int]
    stopped_because: NotRequired[str]
    sigmas: NotRequired[tuple[float, float]]  # between which the noise was
    begun_with: NotRequired[int | None]  # the step until which there were fewer pictures
    imagined: NotRequired[list[str]]  # small pictures that the prompt alone makes of noise, WebP in base64


def find_prompt(
    store: Store,
    request: PromptRequest,
    identity: ModelIdentity,
    earlier: Iterable[StoredPrompt] = (),
    *,
    refit: bool = False,
    reread: bool = False,
    progress: Progress = NoProgress(),
) -> StoredPrompt | UnlearnedPrompt:
    """The prompt of one side, or what is to be learned for it.

    A prompt that was learned, or half learned, before some settings of learning could be said is taken where nothing is
    said of them.

    Args:
        refit: learn with today's defaults whatever was learned with those of before.
        earlier: what runs before learned for the same request, the newest first. The first is taken, whatever the
            images are now; nobody asks for it where the prompt is given.
        reread: read every picture to learn from, whatever is known of it.

    Raises:
        PromptError: the prompt's file is unusable.
        SourceError: the images cannot be listed.
        TamperedError: a stored prompt is not what was written.
    """
    domain, wanted = request.domain, request.wanted
    if wanted.images is None:
        return _keep(store, domain, given_prompt(wanted), {"origin": "given"})
    if (last := next(iter(earlier), None)) is not None:
        _prove(store, last.key)
        return last
    sources = open_sources(wanted.images)
    dataset = ingest(
        sources,
        f"{domain}-learning",
        store,
        read="anew" if reread else "full",
        rules=request.geometry.decoding_rules,
        progress=progress,
    )
    requests = [request, replace(request, learning=request.learning.as_before)]
    unlearned = [
        UnlearnedPrompt(store, one, sources, dataset, _recipe(one, dataset, identity))
        for one in requests[: 1 if refit else 2]
    ]
    for one in unlearned:
        if (found := _follow(store, domain, one.recipe)) is not None:
            return found
    return next((one for one in unlearned if one.checkpoint.begun), unlearned[0])


@dataclass(frozen=True)
class UnlearnedPrompt:
    """A prompt whose recipe nobody has followed yet."""

    store: Store
    request: PromptRequest
    sources: Source
    dataset: Dataset
    recipe: Recipe

    def learn(self, backbone: Backbone, progress: Progress = NoProgress()) -> StoredPrompt:
        """Learn it, unless somebody else has done so first.

        Raises:
            SourceError: no usable images to learn from.
            PromptError, FrozenSettingsError, BridgeError: see `learn_prompt`.
        """
        from lsb.prompts.imagining import imagined  # with these comes torch
        from lsb.prompts.learning import learn_prompt

        store, domain, wanted = self.store, self.request.domain, self.request.wanted
        learning, recipe = self.request.learning, self.recipe
        checkpoint = self.checkpoint
        images = _pictures(store, self.sources, self.dataset, learning.max_images, self.request.geometry.decoding_rules)
        learned = learn_prompt(
            backbone,
            images,
            wanted.token,
            wanted.initial,
            wanted.vectors,
            learning,
            self.request.seed,
            geometry=self.request.geometry,
            against=self.request.against,
            checkpoint=checkpoint,
            progress=progress,
        )
        pictures = imagined(backbone, learned.prompt, self.request.seed)
        provenance: Provenance = {**_provenance(recipe, learned), "imagined": pictures}
        kept = _keep(store, domain, replace(learned.prompt, prefix=wanted.prefix), provenance)
        kept = _claim(store, domain, recipe, replace(kept, new=True))
        for key in checkpoint.keys:
            store.delete(key)
        return kept

    @property
    def checkpoint(self) -> StoredCheckpoint:
        """Where its state is kept while it is learned, and where that of fewer pictures may lie."""
        store, domain = self.store, self.request.domain
        own = prompt_checkpoint(domain, digest_of(self.recipe))
        there = {entry.key for entry in store.list(prompt_folder(domain)) if entry.key != own}
        there = {key for key in there if is_checkpoint(key)}
        smaller = []
        for entry in store.list(dataset_folder(self.dataset.name)) if there else ():
            version = version_of_records(entry.key) or ""
            key = prompt_checkpoint(domain, digest_of({**self.recipe, "images": version}))
            if key in there and _contents(store, entry.key) <= _contents(store, self.dataset.key):
                smaller.append(key)
        return StoredCheckpoint(store, own, smaller)


def provenance_of(store: Store, domain: str, prompt_id: str) -> Mapping[str, Any]:
    """How a prompt came about: `Provenance`; nothing where that is not to be known."""
    key = prompt_provenance(domain, prompt_id)
    try:
        found: Mapping[str, Any] = read_proved(store, key, lambda data: unseal(data, key=key, schema=PROMPT_SCHEMA))
    except (NotFoundError, TamperedError, UnverifiableError):
        return {}
    return found


def learned_by(store: Store, prompt: StoredPrompt) -> Mapping[str, Any]:
    """The settings that a prompt was learned with, by name; nothing where that is not to be known."""
    recipe = provenance_of(store, prompt.domain, prompt.id).get("recipe")
    return LearningConfig.of_trace(recipe["learning"]) if recipe else {}


def read_prompt(store: Store, key: str) -> Prompt:
    """The prompt stored at `key`, whose name holds its digest.

    Raises:
        TamperedError: the bytes are not the ones that were written.
    """
    return from_bytes(_prove(store, key))


def _prove(store: Store, key: str) -> bytes:
    """The bytes of a stored prompt: those that its name holds the digest of. Errors as `read_prompt`."""

    def prove(data: bytes) -> bytes:
        if sha256(data) != key.rsplit("/", 1)[-1].split(".", 1)[0]:
            raise TamperedError(f"{key} is not the prompt that was written: its digest differs", key=key)
        return data

    return read_proved(store, key, prove)


def given_prompt(wanted: DomainPrompt) -> Prompt:
    """The prompt of a text or a file; PromptError if the file is unusable, or names another token than the setting."""
    # A frozen configuration spells out the default, which therefore asks for nothing.
    token = None if wanted.token == DomainPrompt.model_fields["token"].default else wanted.token
    prompt = load_prompt(wanted.file, token=token) if wanted.file else Prompt(template=wanted.text or "")
    return replace(prompt, prefix=wanted.prefix or prompt.prefix)


def keep_negative(store: Store, text: str) -> StoredPrompt:
    """Put a negative prompt into the store; PromptError if the text will not do as a prompt."""
    return _keep(store, NEGATIVE, Prompt(text), {"origin": "given"})


@dataclass(frozen=True)
class StoredCheckpoint:
    """A half-learned prompt's state in the store, so that a killed process loses little.

    Attributes:
        smaller: keys of states that were learned from some of the pictures only, which may be gone on from.
    """

    store: Store
    key: str
    smaller: Sequence[str] = ()

    @property
    def keys(self) -> list[str]:
        return [self.key, *self.smaller]

    @property
    def begun(self) -> bool:
        """Whether there is something to go on from."""
        return any(map(self.store.exists, self.keys))

    def load(self) -> tuple[bytes, bool] | None:
        """The state, and whether it is that of fewer pictures."""
        for key in self.keys:
            with suppress(NotFoundError):
                return self.store.read(key), key != self.key
        return None

    def save(self, state: bytes) -> None:
        self.store.write(self.key, state)


def _contents(store: Store, key: str) -> set[str]:
    rows = read_table(store.read(key), RECORDS, columns=["sha256", "status"])
    found: set[str] = set(rows.filter(pc.equal(rows["status"], Status.OK.value))["sha256"].to_pylist())
    return found


def _recipe(request: PromptRequest, dataset: Dataset, identity: ModelIdentity) -> Recipe:
    recipe: Recipe = {
        "model": identity.digest,
        "images": dataset.version,
        "token": request.wanted.token,
        "initial": request.wanted.initial,
        "vectors": request.wanted.vectors,
        "prefix": request.wanted.prefix,
        "learning": request.learning.trace,
        "seed": request.seed,
        "dtype": request.dtype,
    }
    if (trace := request.geometry.trace) is not None:
        recipe["geometry"] = trace
    return recipe


def _follow(store: Store, domain: str, recipe: Recipe) -> StoredPrompt | None:
    key = prompt_recipe(domain, digest_of(recipe))
    try:
        entry = read_proved(store, key, lambda data: unseal(data, key=key, schema=RECIPE_SCHEMA))
    except NotFoundError:
        return None
    found = StoredPrompt(domain, entry["prompt"], entry["key"])
    _prove(store, found.key)
    return found


def _claim(store: Store, domain: str, recipe: Recipe, kept: StoredPrompt) -> StoredPrompt:
    """First writer wins: whoever was first for this recipe, all use that prompt."""
    document = {"schema": RECIPE_SCHEMA, "recipe": recipe, "prompt": kept.id, "key": kept.key}
    try:
        store.create(prompt_recipe(domain, digest_of(recipe)), seal(document))
    except AlreadyExistsError:
        winner = _follow(store, domain, recipe)
        return winner or kept
    return kept


def _keep(store: Store, domain: str, prompt: Prompt, provenance: Provenance) -> StoredPrompt:
    data = to_bytes(prompt)
    stored = StoredPrompt(domain, sha256(data), prompt_file(domain, sha256(data), learned=prompt.vectors is not None))
    document = {"schema": PROMPT_SCHEMA, "domain": domain, "prompt": stored.id, "text": prompt.text, **provenance}
    for key, content in (
        (stored.key, data),
        (prompt_provenance(domain, stored.id), seal(document)),
    ):
        if not store.exists(key):
            try:
                store.create(key, content)
            except AlreadyExistsError:
                logger.debug("%s was written by somebody else at the same time", key)
    return stored


def _provenance(recipe: Recipe, learned: LearnedPrompt) -> Provenance:
    return {
        "origin": "learned",
        "recipe": recipe,
        "history": learned.history,
        "best_step": learned.best_step,
        "stopped_because": learned.stopped_because,
        "sigmas": learned.sigmas,
        "begun_with": learned.begun_with,
    }


def _pictures(store: Store, sources: Source, dataset: Dataset, limit: int, rules: int) -> Iterator[Image.Image]:
    """The first `limit` usable images by record id, each decoded when it is taken."""
    rows = read_records(store, dataset, columns=["key", "status", "width", "duplicate_of"])
    rows = rows.filter(pc.equal(rows["status"], Status.OK.value))
    decoded = rows.filter(pc.is_valid(rows["width"]))
    if decoded.num_rows < rows.num_rows:
        logger.warning("%d images at %s could not be read or decoded", rows.num_rows - decoded.num_rows, sources.uri)
    usable = decoded.filter(pc.is_null(decoded["duplicate_of"]))["key"][:limit].to_pylist()
    if len(usable) < 2:
        raise SourceError(f"{sources.uri} has {len(usable)} usable images; learning a prompt takes at least 2")
    return (_picture(sources, key, rules) for key in usable)


def _picture(sources: Source, key: str, rules: int) -> Image.Image:
    try:
        return shared_decoder().decode(sources.read(key), rules)[0]
    except (ImageError, DecodingError) as error:
        raise SourceError(f"cannot learn from {key} of {sources.uri}: {error}; mend or remove it") from error
