"""What a check of a run found, and what it has looked at so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from lsb.errors import IncompleteError, LsbError, NotFoundError, TamperedError, TemporaryFileError, UnverifiableError
from lsb.ledger import layout
from lsb.ledger.attestation import INTEGRITY_ONLY
from lsb.ledger.log.commit_log import read_checked
from lsb.ledger.log.seal import well_formed
from lsb.store.read_ahead import read_ahead
from lsb.store.store import Store

INTACT, TAMPERED, UNVERIFIABLE, INCOMPLETE = "intact", "tampered", "unverifiable", "incomplete"
REPLAY_DIFFERS = "replay differs"
# By kind of finding, the worst first.
EXIT_CODES = {
    TAMPERED: TamperedError.exit_code,
    REPLAY_DIFFERS: 13,
    UNVERIFIABLE: UnverifiableError.exit_code,
    INCOMPLETE: IncompleteError.exit_code,
}


@dataclass(frozen=True)
class Finding:
    """Something wrong: `kind` is one of those in `EXIT_CODES`, `key` names the object."""

    kind: str
    key: str
    message: str


@dataclass(frozen=True)
class Replayed:
    """One record translated again.

    `basis` is `bit` or `tolerance`; `differing` names the conditions that are not those of its row; `largest` and
    `mean` are differences in levels of 8 bits, None if no pixels were compared.
    """

    record_id: str
    source_key: str
    output_key: str
    basis: str
    differing: tuple[str, ...]
    same: bool  # to the bit
    largest: int | None = None
    mean: float | None = None
    finding: Finding | None = None


@dataclass(frozen=True)
class Verdict:
    """What a check of a run found.

    `checked` counts objects by class; `sample` is None if all images were read; `snapshot` is the digest of the newest
    snapshot's entry, to be kept elsewhere; `assurance` says what stands behind that snapshot.
    """

    run_id: str
    findings: tuple[Finding, ...]
    orphans: tuple[str, ...]
    checked: dict[str, int]
    sample: int | None = None
    snapshot: str | None = None
    assurance: str = INTEGRITY_ONLY
    replayed: tuple[Replayed, ...] = ()
    erased: tuple[str, ...] = ()  # files that were deleted on request, as a log says

    @property
    def word(self) -> str:
        """The kind of finding that gives the exit code; `intact` if there is none."""
        found = {finding.kind for finding in self.findings}
        return next((kind for kind in EXIT_CODES if kind in found), INTACT)

    @property
    def exit_code(self) -> int:
        """0 if all is well; of several the one that comes first in `EXIT_CODES`."""
        return EXIT_CODES.get(self.word, 0)


@dataclass
class Inspection:
    """A check that is under way. Each part of it adds what it found and which keys it saw named."""

    store: Store
    run_id: str
    present: set[str]  # every key under the run
    present_elsewhere: set[str] = field(default_factory=set)  # keys under the runs that carried images come from
    unnamed: set[str] = field(init=False)  # of the run's keys those that nothing has named so far
    named: bool = False  # whether anything has been
    blind: list[str] = field(default_factory=list)  # folders whose log is broken: nobody knows what is named there
    erased: list[str] = field(default_factory=list)  # keys that were erased on request
    findings: dict[tuple[str, str], Finding] = field(default_factory=dict)
    checked: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.unnamed = set(self.present)

    def name(self, keys: Iterable[str]) -> None:
        """Note that something names these keys."""
        self.named = True
        self.unnamed.difference_update(keys)

    def find(self, kind: str, key: str, message: str) -> None:
        """Note a finding. Of several about one object the first stands; what cannot be read is not called changed."""
        if kind == TAMPERED and (UNVERIFIABLE, key) in self.findings:
            return
        self.findings.setdefault((kind, key), Finding(kind, key, message))

    @contextmanager
    def guard(self, key: str) -> Iterator[None]:
        """Errors become findings, values of the wrong kind too; `key` is blamed where the error names none."""
        try:
            with well_formed(key):
                yield
        except TemporaryFileError:  # no object's fault
            raise
        except LsbError as error:
            self.blame(error, key)

    def blame(self, error: LsbError, key: str) -> None:
        """Make a finding of an error about `key`, or about the object that the error names."""
        tampered = isinstance(error, TamperedError | NotFoundError)
        self.find(TAMPERED if tampered else UNVERIFIABLE, error.details.get("key") or key, error.message)

    def named_file(self, key: str, digest: str, kind: str) -> bytes | None:
        """A file's bytes if they are what was written."""
        return next(data for _, data in self.named_files({key: digest}, kind))

    def named_files(self, digests: Mapping[str, str], kind: str) -> Iterator[tuple[str, bytes | None]]:
        """Each file, in order, with its bytes if they are what was written; several are read at a time."""
        self.name(digests)
        with read_ahead(digests, lambda key: read_checked(self.store, key, digests[key])) as answers:
            for key, answer in answers:
                data = None
                with self.guard(key):
                    data = answer()
                    self.checked[kind] += 1
                yield key, data

    @property
    def tampered(self) -> bool:
        return any(finding.kind == TAMPERED for finding in self.findings.values())

    def orphans(self) -> Iterator[str]:
        """Keys under the run that somebody should name and nobody does, in order. Nothing names hints and leases."""
        if self.named:
            for key in sorted(self.unnamed):
                if not key.startswith(tuple(self.blind)) and not layout.is_advice(key):
                    yield key
