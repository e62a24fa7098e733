"""A job's configuration: frozen models grouped by concern, read once from YAML and passed whole.

    name: flat-to-3d
    store: out/store
    model: path/to/diffusers-folder
    source: {domain: flat, path: images/flat}
    prompts:
      source: {images: images/flat-train, token: "<flat>", initial: flat icon}
      target: {images: images/3d-train, token: "<3d>", initial: 3d icon}

A relative path is relative to the configuration file, and a leading `~` is a home directory. Secrets come from the
environment, never from here.
"""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from lsb.bridge.settings import BridgeSettings
from lsb.config.file import SettingsFile, named, read_settings
from lsb.errors import BridgeError, ConfigError
from lsb.fields import Count, Frozen, Location, Name, Seconds
from lsb.prompts.settings import DomainPrompt, LearningConfig, PromptRequest, Side
from lsb.redaction import without_secrets

_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+(\..*)?")
_LONGEST_SHOWN = 80


class SourceConfig(Frozen):
    """The images to translate."""

    domain: Name
    path: Location
    read: Literal["full", "listing"] = "full"


class PromptsConfig(Frozen):
    source: DomainPrompt
    target: DomainPrompt


class ExecutionConfig(Frozen):
    """How the work is carried out. Only dtype is part of the transform; another batch may move a value by a level.

    A batch that takes longer than `hang_seconds` counts as hanging.
    """

    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch: Count = 8
    shard_size: Count = 1000
    workers: Count = 1
    commit_seconds: Seconds = 120
    hang_seconds: Seconds = 1800


class EvaluateConfig(Frozen):
    """What the translations are compared with: target and truth are folders laid out like the source.

    With `measure` off nothing is measured, neither with each picture nor at the end; what is published says so.
    """

    measure: bool = True
    target: Location | None = None
    truth: Location | None = None
    sample: Count = 10_000


class BudgetConfig(Frozen):
    """What a run may lose: failed records of the usable ones, quarantined records of all, and, before it is planned, of
    the records that the job's last snapshot had those that are no longer in the source.
    """

    max_failed_fraction: float = Field(default=0.01, ge=0, le=1)
    max_quarantined_fraction: float = Field(default=1.0, ge=0, le=1)
    max_vanished_fraction: float = Field(default=0.5, ge=0, le=1)


class OutputConfig(Frozen):
    format: Literal["png", "webp", "jpeg"] = "png"


class JobConfig(Frozen):
    """One translation job from end to end."""

    name: Name
    store: Location
    model: Location
    revision: str | None = None  # of a hub id
    strict: bool = False  # demand that the revision is a full commit
    loras: tuple[Location, ...] = ()  # .safetensors files, added to the model's weights in this order
    source: SourceConfig
    prompts: PromptsConfig
    learning: LearningConfig = LearningConfig()
    bridge: BridgeSettings = BridgeSettings()
    seed: str = Field(default="0", pattern=r"^[0-9]{1,20}$", coerce_numbers_to_str=True)
    execution: ExecutionConfig = ExecutionConfig()
    output: OutputConfig = OutputConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    budget: BudgetConfig = BudgetConfig()

    def prompt_request(self, side: Side) -> PromptRequest:
        """What is asked of one side's prompt."""
        if side == "source":
            wanted, domain = self.prompts.source, self.prompts.source.domain or self.source.domain
        else:
            wanted, domain = self.prompts.target, self.prompts.target.domain or "target"
        return PromptRequest(domain, wanted, self.learning, self.seed, self.execution.dtype)

    @property
    def model_options(self) -> dict[str, Any]:
        """What `load_backbone` and `identify` take beside the model."""
        return {"revision": self.revision, "strict": self.strict, "loras": self.loras}


def load_config(path: str | Path) -> JobConfig:
    """Read and validate a job's YAML file.

    Raises:
        ConfigError: no such file, not YAML, or a field outside what is allowed; `field` names it.
    """
    found = read_settings(Path(path))
    try:
        config = JobConfig.model_validate(found.values)
    except ValidationError as error:
        first, *others = error.errors()
        field = named(first["loc"])
        more = f"; wrong as well: {', '.join(named(other['loc']) for other in others)}" if others else ""
        raise ConfigError(f"{found.at(first['loc'])}: {field}: {_reason(first)}{more}", field=field) from error
    except BridgeError as error:
        place = ("bridge", error.field)
        raise ConfigError(f"{found.at(place)}: {named(place)}: {error}", field=named(place)) from error
    _refuse_octal(found, config)
    return _anchored(config, found.path.resolve().parent)


def refuse_relative(config: JobConfig) -> None:
    """For settings that did not come out of a file, such as a deployment's: there is nothing to be relative to.

    Raises:
        ConfigError: a path is relative; `field` names it. A model may be a hub id.
    """
    prompts = {side: getattr(config.prompts, side) for side in ("source", "target")}
    places = {
        "store": config.store,
        "source.path": config.source.path,
        **{
            f"prompts.{side}.{name}": getattr(prompt, name)
            for side, prompt in prompts.items()
            for name in ("file", "images")
        },
        "evaluate.target": config.evaluate.target,
        "evaluate.truth": config.evaluate.truth,
        **{named(("loras", number)): lora for number, lora in enumerate(config.loras)},
        "model": config.model if config.model.startswith(".") else None,
    }
    for field, path in places.items():
        if path is not None and "://" not in path and not os.path.isabs(path):
            raise ConfigError(f"{field}: {path} is relative; give an absolute path or a URI", field=field)


def _reason(error: ErrorDetails) -> str:
    """What is wrong with a field, and what is allowed there."""
    if error["type"] == "missing":
        return "this setting is missing; it is required"
    if error["type"] == "extra_forbidden":
        allowed = _settings_at(error["loc"][:-1])
        near = get_close_matches(str(error["loc"][-1]), allowed, n=1)
        return (
            "no such setting" + (f"; did you mean {near[0]}?" if near else "") + f"; allowed are {', '.join(allowed)}"
        )
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    given = error["input"]
    if isinstance(given, dict | list) or given is None:
        return f"{error['msg']}, got {'nothing' if given is None else type(given).__name__}"
    shown = without_secrets(str(given))
    return f"{error['msg']}, got {shown[:_LONGEST_SHOWN]}{'…' if len(shown) > _LONGEST_SHOWN else ''}"


def _settings_at(place: tuple[str | int, ...]) -> list[str]:
    """The names of the settings that may stand at a place."""
    model: Any = JobConfig
    for part in place:
        model = model.model_fields[str(part)].annotation
    return list(model.model_fields)


def _refuse_octal(found: SettingsFile, config: JobConfig) -> None:
    """Numbers that some readers of YAML take for octal ones."""
    for place, text in found.texts():
        value: Any = config
        for part in place:
            value = value[part] if isinstance(part, int) else getattr(value, part)
        if isinstance(value, int | float) and _LEADING_ZERO.fullmatch(text):
            raise ConfigError(
                f"{found.at(place)}: {named(place)}: {text} begins with 0; leave it out", field=named(place)
            )


def _anchored(config: JobConfig, folder: Path) -> JobConfig:
    """Relative paths made absolute against the configuration's folder; URIs and hub ids stay."""

    def path(value: str) -> str:
        return value if "://" in value else os.path.normpath(folder / value)

    def anchor(value: str | None) -> str | None:
        return None if value is None else path(value)

    def anchor_model(value: str) -> str:
        # A hub id (`owner/name`) is told from a path by whether the path exists.
        anchored = Path(os.path.normpath(folder / value))
        return str(anchored) if os.path.exists(anchored) or value.startswith((".", "/")) else value

    def domain(prompt: DomainPrompt) -> DomainPrompt:
        return prompt.model_copy(update={"file": anchor(prompt.file), "images": anchor(prompt.images)})

    update: dict[str, Any] = {
        "store": anchor(config.store),
        "model": anchor_model(config.model),
        "loras": tuple(path(lora) for lora in config.loras),
        "source": config.source.model_copy(update={"path": anchor(config.source.path)}),
        "prompts": PromptsConfig(source=domain(config.prompts.source), target=domain(config.prompts.target)),
        "evaluate": config.evaluate.model_copy(
            update={"target": anchor(config.evaluate.target), "truth": anchor(config.evaluate.truth)}
        ),
    }
    return config.model_copy(update=update)
