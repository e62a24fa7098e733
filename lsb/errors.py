"""Every error that lsb raises on purpose.

    LsbError
    ├── UsageError                 exit 2   the request itself is wrong
    │   ├── ConfigError                     a field of the configuration
    │   ├── BridgeError                     tau, t0, NFE or a sigma outside what is allowed
    │   └── FrozenSettingsError             a run exists with other settings
    ├── ResourceError              exit 3   something the job needs cannot be used
    │   ├── SourceError                     a folder or data set of images
    │   ├── ModelError                      model missing, unknown or not loadable
    │   │   └── UnsafeWeightsError          pickles, remote code, unpinned revision
    │   ├── PromptError                     an embedding or a prompt's text
    │   ├── TemporaryFileError              no room for a temporary file
    │   └── StoreError                      the object store
    │       ├── NotFoundError               no object under that key
    │       ├── AlreadyExistsError          a conditional create was refused
    │       └── StoreBusyError              transient: same request again
    ├── BudgetExceededError        exit 4   more records failed, quarantined or vanished, or more spent, than allowed
    ├── UnfinishedError            exit 5   planned records lack rows: run again
    │   └── ShardsFailedError               because of what is wrong with some shards
    ├── StoppedError               exit 130 somebody interrupted what is no run; what was done is kept
    ├── TamperedError              exit 10  something that a log or a snapshot names is missing or differs
    ├── IncompleteError            exit 11  intact, but rows or the snapshot are missing
    ├── UnverifiableError          exit 12  cannot be read, or unknown schema
    ├── TranslationError                    a batch that cannot be translated; becomes rows, never ends a run
    │   ├── OutOfMemoryError                it did not fit
    │   ├── ModelDiedError                  the process with the model ended meanwhile
    │   ├── EncodingError                   the output cannot be written in its format
    │   └── ModelHungError                  it gave no answer in time and was ended
    ├── CannotStartError                    the model's process; `reason` is raised instead
    ├── ReportedError                       any error, as Prefect's pages may show it
    ├── DecodingError                       one image, here and now: no time, no memory; becomes a row, too
    └── ImageError                          one image's fault; becomes a row, never ends a run

A message says what was given, what is allowed and what to do next, in one line. `transient` tells whether
the same call may succeed later; retry conditions read nothing else.
"""

from __future__ import annotations

from typing import Any, ClassVar


class LsbError(Exception):
    """Root of the tree. Keyword arguments become attributes and survive pickling between processes."""

    exit_code: ClassVar[int] = 1
    transient: ClassVar[bool] = False

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def __getattr__(self, name: str) -> Any:
        details = self.__dict__.get("details", {})
        if name in details:
            return details[name]
        raise AttributeError(name)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.details)

    def __str__(self) -> str:
        return self.message


def _rebuild(kind: type[LsbError], message: str, details: dict[str, Any]) -> LsbError:
    return kind(message, **details)


class UsageError(LsbError):
    exit_code = 2


class ConfigError(UsageError):
    """`field` names the place in the configuration, for example `bridge.tau`."""


class BridgeError(UsageError):
    """A number outside the range in which the bridge is defined."""


class FrozenSettingsError(UsageError):
    """`fields` names the settings that differ from the frozen ones."""


class ResourceError(LsbError):
    exit_code = 3


class SourceError(ResourceError):
    pass


class ModelError(ResourceError):
    pass


class UnsafeWeightsError(ModelError):
    pass


class PromptError(ResourceError):
    pass


class TemporaryFileError(ResourceError):
    pass


class StoreError(ResourceError):
    """`key` names the object, if it is one object's fault and not the store's."""

    @property
    def of_object(self) -> bool:
        """Whether other objects may well be usable, now."""
        return bool(self.details.get("key")) and not self.transient


class NotFoundError(StoreError):
    """`key` names the object."""


class AlreadyExistsError(StoreError):
    """`key` names the object that another writer created first."""


class StoreBusyError(StoreError):
    transient = True


class BudgetExceededError(LsbError):
    exit_code = 4


class UnfinishedError(LsbError):
    exit_code = 5


class ShardsFailedError(UnfinishedError):
    """`failures` maps shards to reasons."""


class StoppedError(LsbError):
    exit_code = 130


class TamperedError(LsbError):
    """`key` names the object that is missing, differs or leaves a gap."""

    exit_code = 10


class IncompleteError(LsbError):
    exit_code = 11


class UnverifiableError(LsbError):
    exit_code = 12


class TranslationError(LsbError):
    """`code` and `retryable` are what the row says."""

    code: ClassVar[str] = "translate_error"
    retryable: ClassVar[bool] = True


class OutOfMemoryError(TranslationError):
    code = "out_of_memory"


class ModelDiedError(TranslationError):
    code = "worker_died"
    retryable = False


class EncodingError(TranslationError):
    """An output cannot be written in its format."""

    code = "encode_failed"


class ModelHungError(TranslationError):
    code = "timed_out"


class CannotStartError(LsbError):
    """The model cannot be loaded, which is no image's fault. `reason` is the error to raise instead."""


class ReportedError(LsbError):
    """An error as Prefect may see it. `kind` is the error's own, such as UnfinishedError."""

    def __init__(self, message: str, *, kind: type[BaseException] = LsbError, transient: bool = False) -> None:
        super().__init__(message, kind=kind, transient=transient)
        self.transient = transient  # type: ignore[misc]


class DecodingError(LsbError):
    """`code` is one of the constants in `lsb.pictures.decoder.ERROR_CODES`. Another try may succeed."""


class ImageError(LsbError):
    """`code` is one of the constants in `lsb.pictures.images.ERROR_CODES`."""
