"""What a job asks that cannot be given, found out before anything is read or written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from lsb.bridge.settings import BridgeSettings
from lsb.config.job import JobConfig
from lsb.errors import BridgeError, ConfigError, PromptError, StoreBusyError
from lsb.models.facts import Facts
from lsb.models.load import canvas_of, facts_of
from lsb.models.prompt import PUBLISHED_PREFIX
from lsb.pictures.geometry import sigma_scale
from lsb.prompts.finding import given_prompt
from lsb.prompts.settings import SIDES, Side
from lsb.store.overlap import is_same

_SLACK = 1e-4  # of the largest sigma, to which it is known without the network


def refuse_beyond_model(config: JobConfig) -> None:
    """Refuse noise that the model's schedule does not reach, prompts that its text encoder does not read to their end,
    and one folder to learn both looks from.

    Raises:
        ConfigError: `field` names the setting.
        ModelError: there is no such model.
    """
    source, target = config.prompts.source.images, config.prompts.target.images
    if source is not None and target is not None and is_same(source, target):
        raise _refused("prompts.target.images", f"{target} is the same folder as prompts.source.images; give another")
    with suppress(StoreBusyError):  # the model cannot be fetched now, which the stages are tried again for
        facts = facts_of(config.model, **config.model_options)
        if facts is not None:
            _refuse_levels(config, facts)
            _refuse_long_prompts(config, facts)


def _refuse_levels(config: JobConfig, facts: Facts) -> None:
    if facts.sigma_max is None:
        return
    method = config.method_settings
    scale = sigma_scale(config.geometry, canvas_of(config.model, **config.model_options))
    try:
        method.refuse_beyond(facts.sigma_max * (1 + _SLACK), scale)
    except BridgeError:
        try:
            method.refuse_beyond(facts.sigma_max, scale)
        except BridgeError as error:
            raise _refused(".".join(error.place), str(error)) from error


def _refuse_long_prompts(config: JobConfig, facts: Facts) -> None:
    for field, texts, vectors in _prompts(config):
        count = facts.tokens(texts, vectors)
        if count > facts.longest:
            raise _refused(
                field,
                f"the prompt has {count} tokens, and the model's text encoder reads at most {facts.longest}; shorten "
                "the text or use fewer vectors",
            )


def _prompts(config: JobConfig) -> Iterator[tuple[str, Sequence[str], int]]:
    """Of each prompt, and of each template of a learned one: its setting, its texts, the vectors between them."""
    for side in SIDES:
        wanted, place = config.prompt_request(side).wanted, f"prompts.{side}"
        if wanted.images is not None:
            used, *others = config.learning.templates
            for text in (_prefix(config, side, wanted.prefix) + used, *others):
                parts = text.split("{token}")
                yield f"{place}.images", parts, wanted.vectors * (len(parts) - 1)
            continue
        with suppress(PromptError):  # which is said where the prompt is looked for
            prompt = given_prompt(wanted)
            prefix = "" if prompt.prefix else _prefix(config, side, "")
            parts = (prefix + prompt.text).split(prompt.token) if prompt.token else [prefix + prompt.text]
            vectors = 0 if prompt.vectors is None else len(prompt.vectors)
            yield f"{place}.{'text' if wanted.text else 'file'}", parts, vectors * (len(parts) - 1)
    if config.prompts.negative:
        yield "prompts.negative", [config.prompts.negative], 0


def _prefix(config: JobConfig, side: Side, own: str) -> str:
    """What stands before a prompt when the network is asked."""
    method = config.method_settings
    is_published = isinstance(method, BridgeSettings) and method.preset == "published"
    return PUBLISHED_PREFIX if side == "source" and is_published and not own else own


def _refused(field: str, message: str) -> ConfigError:
    return ConfigError(f"{field}: {message}", field=field)
