"""A job's configuration: frozen models grouped by concern, read once from YAML and passed whole.

    name: flat-to-3d
    store: out/store
    model: path/to/diffusers-folder
    source: {domain: flat, path: images/flat}
    prompts:
      source: {images: images/flat-train, token: "<flat>", initial: flat icon}
      target: {images: images/3d-train, token: "<3d>", initial: 3d icon}

A relative path is relative to the configuration file. Secrets come from the environment, never from here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from lsb.bridge.settings import BridgeSettings
from lsb.errors import BridgeError, ConfigError

_CREDENTIALS = re.compile(r"[A-Za-z0-9+.-]+://[^/]*@")

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceConfig(Frozen):
    """The images to translate."""

    domain: Name
    path: str
    read: Literal["full", "listing"] = "full"


class DomainPrompt(Frozen):
    """How a domain is named to the model: plain `text`, an embedding `file`, or learned from `images`."""

    domain: Name | None = None
    text: str | None = None
    file: str | None = None
    images: str | None = None
    token: str = Field(default="<domain>", pattern=r"^<[a-z0-9-]+>$")
    initial: str = "picture"
    vectors: int = Field(default=1, ge=1, le=16)
    prefix: str = ""

    @model_validator(mode="after")
    def _one_origin(self) -> DomainPrompt:
        if sum(value is not None for value in (self.text, self.file, self.images)) != 1:
            raise ValueError("give exactly one of text, file, images")
        return self


class PromptsConfig(Frozen):
    source: DomainPrompt
    target: DomainPrompt


class LearningConfig(Frozen):
    """Textual inversion: the new token's vectors are trained, nothing else."""

    steps: int = Field(default=500, ge=1)
    batch: int = Field(default=8, ge=1)
    learning_rate: float = Field(default=5e-3, gt=0)
    templates: tuple[str, ...] = ("{token}", "a {token}", "a picture of {token}", "a picture in the style of {token}")
    sigma_min: float = Field(default=0.3, gt=0)
    sigma_max: float = Field(default=4.0, gt=0)
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    validate_every: int = Field(default=50, ge=1)
    patience: int = Field(default=5, ge=1)
    max_images: int = Field(default=1000, ge=2)

    @model_validator(mode="after")
    def _templates_name_the_token(self) -> LearningConfig:
        for template in self.templates:
            if "{token}" not in template:
                raise ValueError(f"template {template!r} lacks {{token}}")
        if not self.templates:
            raise ValueError("at least one template is needed")
        return self


class ExecutionConfig(Frozen):
    """How the work is carried out. Only dtype is part of the transform; another batch may move a value by a level.

    A batch that takes longer than `hang_seconds` counts as hanging.
    """

    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch: int = Field(default=8, ge=1)
    shard_size: int = Field(default=1000, ge=1)
    workers: int = Field(default=1, ge=1)
    commit_seconds: float = Field(default=120, gt=0)
    hang_seconds: float = Field(default=1800, gt=0)


class EvaluateConfig(Frozen):
    """What the translations are compared with. Both are folders laid out like the source."""

    target: str | None = None
    truth: str | None = None
    sample: int = Field(default=10_000, ge=1)


class BudgetConfig(Frozen):
    """What a run may lose: failed records of the usable ones, quarantined records of all."""

    max_failed_fraction: float = Field(default=0.01, ge=0, le=1)
    max_quarantined_fraction: float = Field(default=1.0, ge=0, le=1)


class OutputConfig(Frozen):
    format: Literal["png", "webp", "jpeg"] = "png"


class JobConfig(Frozen):
    """One translation job from end to end."""

    name: Name
    store: str
    model: str
    revision: str | None = None  # of a hub id
    strict: bool = False  # demand that the revision is a full commit
    loras: tuple[str, ...] = ()  # .safetensors files, added to the model's weights in this order
    source: SourceConfig
    prompts: PromptsConfig
    learning: LearningConfig = LearningConfig()
    bridge: BridgeSettings = BridgeSettings()
    seed: str = Field(default="0", pattern=r"^[0-9]{1,20}$")
    execution: ExecutionConfig = ExecutionConfig()
    output: OutputConfig = OutputConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    budget: BudgetConfig = BudgetConfig()

    @property
    def model_options(self) -> dict[str, Any]:
        """What `load_backbone` and `identify` take beside the model."""
        return {"revision": self.revision, "strict": self.strict, "loras": self.loras}


def load_config(path: str | Path) -> JobConfig:
    """Read and validate a job's YAML file.

    Raises:
        ConfigError: no such file, not YAML, or a field outside what is allowed; `field` names it.
    """
    file = Path(path)
    try:
        raw = yaml.safe_load(file.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read configuration {file}: {error.strerror}; check the path", field="") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{file} is not valid YAML: {reason}", field="") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{file} must hold a mapping of settings, got {type(raw).__name__}", field="")
    try:
        config = JobConfig.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ConfigError(f"{file}: {field}: {_reason(first)}{more}", field=field) from error
    except BridgeError as error:
        raise ConfigError(f"{file}: bridge.{error.field}: {error}", field=f"bridge.{error.field}") from error
    if bad := _with_credentials(config.model_dump()):
        raise ConfigError(f"{file}: {bad}: a URI must not hold credentials; they come from the environment", field=bad)
    return _anchored(config, file.resolve().parent)


def _reason(error: ErrorDetails) -> str:
    """What is wrong with a field, and what is allowed there."""
    if error["type"] == "missing":
        return "this setting is missing; it is required"
    if error["type"] == "extra_forbidden":
        model: Any = JobConfig
        for part in error["loc"][:-1]:
            model = model.model_fields[str(part)].annotation
        return f"no such setting; allowed are {', '.join(model.model_fields)}"
    return f"{error['msg']}, got {error['input']!r}"


def _with_credentials(settings: Mapping[str, Any], path: str = "") -> str | None:
    """The first setting that is a URI with a user's name or password, None if there is none."""
    for name, value in settings.items():
        place = f"{path}{name}"
        if isinstance(value, Mapping) and (found := _with_credentials(value, f"{place}.")):
            return found
        for text in value if isinstance(value, tuple | list) else [value]:
            if isinstance(text, str) and _CREDENTIALS.match(text):
                return place
    return None


def _anchored(config: JobConfig, folder: Path) -> JobConfig:
    """Relative paths made absolute against the configuration's folder; URIs and hub ids stay."""

    def path(value: str) -> str:
        return value if "://" in value else os.path.normpath(folder / value)

    def anchor(value: str | None) -> str | None:
        return None if value is None else path(value)

    def anchor_model(value: str) -> str:
        # A hub id (`owner/name`) is told from a path by whether the path exists.
        anchored = Path(os.path.normpath(folder / value))
        return str(anchored) if anchored.exists() or value.startswith((".", "/")) else value

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
