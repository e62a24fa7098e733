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

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer, model_validator
from pydantic_core import ErrorDetails

from lsb.bridge.method import Method
from lsb.bridge.methods import METHODS, name_of
from lsb.bridge.settings import BridgeSettings
from lsb.config.file import Place, SettingsFile, named, read_settings
from lsb.errors import BridgeError, ConfigError
from lsb.fields import Count, Fraction, Frozen, Hours, Location, ModelLocation, Name, Seconds
from lsb.metrics.given import GivenWeights
from lsb.pictures.choice import EXCLUDED, Choice
from lsb.pictures.encoding import OutputSettings
from lsb.pictures.geometry import Geometry
from lsb.prompts.settings import DomainPrompt, LearningConfig, PromptRequest, Side
from lsb.redaction import shortened, without_secrets

if TYPE_CHECKING:
    from lsb.models.load import ModelOptions

_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+(\..*)?")
_LONGEST_SHOWN = 80
_RAY_ADDRESS = re.compile(r"(ray://)?[A-Za-z0-9.-]+:[0-9]{1,5}")


class SourceConfig(Frozen):
    """The images to translate."""

    domain: Name = Field(
        description="What the images show, in a word. Their data set is kept under it, and their prompt unless "
        "`prompts.source.domain` says otherwise."
    )
    path: Location = Field(description="The folder of the images, or an `s3://` URI.")
    read: Literal["full", "listing"] = Field(
        default="full",
        description="What is read when images are taken in. `full`: each file whose size or times are new, or say "
        "nothing. `listing`: only those whose size and time could not show a change; what is wrong with the others is "
        "found when they are translated.",
    )
    exclude: tuple[str, ...] = Field(
        default=EXCLUDED,
        description="Patterns of names that are left out, a folder with all in it. One with a slash is compared with "
        "the whole path below the folder, another with each name on it.",
    )
    links: Literal["within", "all"] = Field(
        default="within",
        description="Which links to folders are followed. `within`: those to folders of the source itself, each folder "
        "by one link at most, beside its own place. `all`: those to other places as well.",
    )

    @property
    def choice(self) -> Choice:
        """What the listing is to show."""
        return Choice(self.exclude, self.links)


class PromptsConfig(Frozen):
    """How the two looks are named to the model."""

    source: DomainPrompt
    target: DomainPrompt
    negative: str = Field(
        default="",
        description="A text such as `blurry`, which some methods lead away from, or invert under. Left out, they take "
        "the empty text. Refused where the method does not ask it.",
    )


class RayConfig(Frozen):
    """The cluster that runner `ray` submits to, and what each copy asks of it."""

    address: str | None = Field(
        default=None,
        description="Of a cluster that is there: `host:port` of its head, or `ray://host:port` of its client's server. "
        "Its token comes from the environment, as Ray has it.",
    )
    num_gpus: float = Field(
        default=1, ge=0, le=1024, description="GPUs that Ray gives each copy; copies share one by a fraction."
    )
    num_cpus: float = Field(
        default=1, ge=0, le=1024, description="CPUs that Ray gives each copy; copies share one by a fraction."
    )


class ExecutionConfig(Frozen):
    """How the work is carried out, and by whom. Of these only `dtype` is part of what fixes the pixels; another
    `batch`, `joint`, `channels_last` or number of `workers`, who share the threads, may move a value by a level.
    """

    device: str = Field(
        default="auto",
        description="A device of torch's, such as `cpu` or `cuda:1`. `auto` is CUDA where there is one, else the CPU.",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="The type of the numbers that the network calculates with."
    )
    batch: Count = Field(default=8, description="Images that are translated at once.")
    joint: bool = Field(
        default=False,
        description="Whether the network is asked under both prompts in one call. That is faster with small batches, "
        "and takes the memory of twice as many images. Each row says so.",
    )
    channels_last: bool = Field(
        default=False,
        description="Whether the networks keep a place's channels side by side in memory. Many accelerators are faster "
        "then. Each row says so.",
    )
    shard_size: Count = Field(default=1000, description="Records in a shard, the part of a run that one worker does.")
    workers: Count = Field(
        default=1,
        description="Workers: threads of one command that translate, each with a process for the model. More than one "
        "pays on several accelerators.",
    )
    commit_seconds: Seconds = Field(
        default=120, description="Seconds after which a worker commits what it has made of its shard."
    )
    hang_seconds: Seconds = Field(
        default=1800,
        description="Seconds after which a batch, of pictures or of tiles, counts as hanging. Well above what one "
        "takes, the first included.",
    )
    runner: Literal["local", "prefect", "ray"] = Field(
        default="local",
        description="Where copies of `lsb work` translate. `local`: on this machine. `prefect`: as flow runs of the "
        "deployment `work` in a work pool. `ray`: on a Ray cluster.",
    )
    parallel: Count = Field(
        default=1,
        description="Workers that share a run, each a copy of `lsb work`. One of runner `local` is the command itself.",
    )
    pool: str | None = Field(default=None, description="Prefect's work pool, of runner `prefect`.")
    queue: str | None = Field(
        default=None, description="A queue of the pool; without one it is that of the deployment `work`."
    )
    ray: RayConfig = RayConfig()
    server_patience: Seconds = Field(
        default=600,
        description="Seconds for which a run waits though no copy of it works and none can be started. Prefect's "
        "server may be away as long; then it ends with 5.",
    )

    @model_validator(mode="after")
    def _check_runner(self) -> Self:
        """Each runner's own settings stand beside it and beside no other."""
        for needed, given, of in (
            ("pool", self.pool is not None, "prefect"),
            ("ray.address", self.ray.address is not None, "ray"),
        ):
            if self.runner == of and not given:
                raise ValueError(f"runner {of} needs execution.{needed}")
        for name in ("pool", "queue"):
            if self.runner != "prefect" and getattr(self, name) is not None:
                raise ValueError(f"execution.{name} is for runner prefect, and the runner is {self.runner}")
        if self.ray.address is not None and not _RAY_ADDRESS.fullmatch(self.ray.address):
            raise ValueError("execution.ray.address is written as host:port or ray://host:port")
        if self.runner != "ray" and self.ray != RayConfig():
            raise ValueError(f"execution.ray is for runner ray, and the runner is {self.runner}")
        return self

    @model_serializer(mode="wrap")
    def _without_default_runner(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What stands at its default is left out, as it was before there was a choice."""
        found: dict[str, Any] = handler(self)
        for name in RUNNER_SETTINGS:
            if getattr(self, name) == type(self).model_fields[name].default:
                found.pop(name, None)
        return found

    @property
    def in_copies(self) -> bool:
        """Whether others than the command itself translate."""
        return self.runner != "local" or self.parallel > 1


RUNNER_SETTINGS = ("runner", "parallel", "pool", "queue", "ray", "server_patience")


class EvaluateConfig(Frozen):
    """What the translations are compared with."""

    measure: bool = Field(
        default=True,
        description="Whether anything is measured, with each picture and at the end. What is published says if not.",
    )
    target: Location | None = Field(
        default=None, description="A folder of pictures of the target look, or an `s3://` URI."
    )
    truth: Location | None = Field(
        default=None,
        description="A folder laid out like the source, or an `s3://` URI. It holds what a perfect translation of each "
        "source would be, under the source's own name with any picture's suffix.",
    )
    sample: Count = Field(default=10_000, description="Images that are compared at most, and as many of the target's.")
    features: GivenWeights = GivenWeights()


class BudgetConfig(Frozen):
    """What a run may lose and cost before it ends with exit code 4."""

    max_failed_fraction: Fraction = Field(
        default=0.01, description="Fraction of the usable records that may have failed."
    )
    max_quarantined_fraction: Fraction = Field(
        default=1.0, description="Fraction of all records that may be quarantined."
    )
    max_vanished_fraction: Fraction = Field(
        default=0.5,
        description="Fraction of the records of the job's last snapshot that the source may lack. Looked at before "
        "anything is read or written.",
    )
    max_device_hours: Hours | None = Field(
        default=None,
        description="Hours for which devices may work on a run, those of all workers added up. Nothing is begun any "
        "more then, and the same command goes on with more of them.",
    )


class LsbMethod(Frozen):
    """Which method translates, and its settings. Part of the transform id. Those of `lsb` stand in `bridge`."""

    name: Literal["lsb"] = Field(
        default="lsb", description=f"Which method translates: {', '.join(f'`{name}`' for name in METHODS)}."
    )


METHOD_CHOICES: dict[str, type[Frozen]] = {
    name: LsbMethod if kind is BridgeSettings else kind for name, kind in METHODS.items()
}
if TYPE_CHECKING:
    MethodChoice = LsbMethod | Method
else:
    MethodChoice = Annotated[Union[tuple(METHOD_CHOICES.values())], Field(discriminator="name")]  # noqa: UP007


class JobConfig(Frozen):
    """One translation job from end to end."""

    name: Name = Field(description="What the job is called. Its runs are named by it.")
    store: Location = Field(
        description="Where data sets, prompts, runs and manifests are kept. A folder, made if missing, or "
        "`s3://bucket/prefix`. It and the folders of pictures must not lie within one another."
    )
    model: ModelLocation = Field(
        description="A diffusers folder, a `.safetensors` file, an `s3://` URI of either, or a hub id `owner/name`. A "
        "file is in the original layout, with configuration and tokenizer in a folder of its name beside it."
    )
    revision: str | None = Field(default=None, description="Of a hub id: a branch, a tag or, better, a commit.")
    strict: bool = Field(default=False, description="Whether `revision` must be a full commit of 40 hex digits.")
    loras: tuple[Location, ...] = Field(
        default=(),
        description="`.safetensors` files with LoRA weights. Added to the model's in this order, at strength 1.",
    )
    source: SourceConfig
    geometry: Geometry = Geometry()
    prompts: PromptsConfig
    learning: LearningConfig = LearningConfig()
    method: MethodChoice = Field(
        default=LsbMethod(), description="Which method translates, by its `name`, and that method's own settings."
    )
    bridge: BridgeSettings = BridgeSettings()
    seed: str = Field(
        default="0",
        pattern=r"^[0-9]{1,20}$",
        coerce_numbers_to_str=True,
        description="Of all randomness: a whole number of at most 20 digits.",
    )
    execution: ExecutionConfig = ExecutionConfig()
    output: OutputSettings = OutputSettings()
    evaluate: EvaluateConfig = EvaluateConfig()
    budget: BudgetConfig = BudgetConfig()

    @model_validator(mode="after")
    def _check_unused(self) -> Self:
        """What no method would use is refused."""
        method = self.method_settings
        if method is not self.bridge and "bridge" in self.model_fields_set:
            raise BridgeError(
                f"bridge holds the settings of method lsb, and the method is {name_of(method)}; leave one of them out",
                field="bridge",
                place=("bridge",),
            )
        if self.prompts.negative and "negative" not in method.asks:
            raise BridgeError(
                f"negative is not used: method {name_of(method)} with these settings does not ask it; leave it out",
                field="negative",
                place=("prompts", "negative"),
            )
        return self

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is written down is read as the same job: `bridge` stands beside no other method."""
        found: dict[str, Any] = handler(self)
        if self.method_settings is not self.bridge:
            del found["bridge"]
        return found

    @property
    def method_settings(self) -> Method:
        """The method that translates, with its settings."""
        return self.bridge if isinstance(self.method, LsbMethod) else self.method

    def prompt_request(self, side: Side) -> PromptRequest:
        """What is asked of one side's prompt."""
        if side == "source":
            wanted, domain = self.prompts.source, self.prompts.source.domain or self.source.domain
        else:
            wanted, domain = self.prompts.target, self.prompts.target.domain or "target"
        other = self.prompts.target if side == "source" else self.prompts.source
        against = other.text or (other.initial if other.images else "")
        geometry = self.geometry.as_seen
        return PromptRequest(domain, wanted, self.learning, self.seed, self.execution.dtype, geometry, against)

    @property
    def says_geometry(self) -> bool:
        """Whether somebody has chosen one, be it the default."""
        return bool(self.geometry.model_fields_set)

    def with_geometry(self, geometry: Geometry) -> JobConfig:
        """The same job with this geometry, where none was chosen."""
        return self if self.says_geometry else self.model_copy(update={"geometry": geometry})

    @property
    def model_options(self) -> ModelOptions:
        """What `load_backbone` and `identify` take beside the model."""
        return {"revision": self.revision, "strict": self.strict, "loras": self.loras}


def load_config(path: str | Path) -> JobConfig:
    """Read and validate a job's YAML file.

    Raises:
        ConfigError: no such file, not YAML, or a field outside what is allowed; `field` names it.
    """
    found = read_settings(Path(path))
    config = job_of(found.values, found.path.resolve().parent, found.at)
    _refuse_octal(found, config)
    return config


def job_of(
    settings: Mapping[str, Any], folder: Path | None = None, at: Callable[[Place], str] | None = None
) -> JobConfig:
    """A job of settings.

    Args:
        settings: names and values, as they stand in a file.
        folder: what relative paths are relative to; without one they are refused. A model may be a hub id.
        at: where the value at a place stands, for messages.

    Raises:
        ConfigError: a field outside what is allowed; `field` names it.
    """
    try:
        return JobConfig.model_validate(settings, context={"folder": folder})
    except ValidationError as error:
        first, *others = error.errors()
        place, reason = _place(first), _reason(first)
        if others:
            reason += f"; wrong as well: {', '.join(named(_place(other)) for other in others)}"
        cause: Exception = error
    except BridgeError as error:
        place, reason, cause = error.place, str(error), error
    where = f"{at(place)}: " if at else ""
    raise ConfigError(f"{where}{named(place)}: {reason}", field=named(place)) from cause


def refuse_relative(config: JobConfig) -> None:
    """For settings that did not come out of a file, such as a deployment's: there is nothing to be relative to.

    Raises:
        ConfigError: a path is relative; `field` names it.
    """
    job_of(config.model_dump())


def _place(error: ErrorDetails) -> Place:
    """Where in a job the field stands. pydantic puts the method's name between `method` and its settings."""
    place = error["loc"]
    if error["type"].startswith("union_tag"):
        return (*place, "name")
    return (place[0], *place[2:]) if place[:1] == ("method",) else place


def _reason(error: ErrorDetails) -> str:
    """What is wrong with a field, and what is allowed there."""
    if error["type"].startswith("union_tag"):
        name = error["ctx"].get("tag")
        near = get_close_matches(str(name), METHOD_CHOICES, n=1)
        said = (
            "this setting is missing" if name is None else f"no such method as {shortened(str(name), _LONGEST_SHOWN)}"
        )
        return said + (f"; did you mean {near[0]}?" if near else "") + f"; allowed are {', '.join(METHOD_CHOICES)}"
    if error["loc"] == ("method",) and isinstance(error["input"], str):
        return "a method is written as {name: ...}, with its settings beside the name"
    if error["type"] == "missing":
        return "this setting is missing; it is required"
    if error["type"] == "extra_forbidden" and error["loc"][:2] == ("method", "lsb"):
        return "no such setting; those of lsb stand in bridge"
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
        fields = getattr(model, "model_fields", None)
        model = METHOD_CHOICES[str(part)] if fields is None else fields[str(part)].annotation
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
