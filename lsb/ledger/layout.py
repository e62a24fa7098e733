"""Where everything lies under a root: every key of the project, as functions.

datasets/<name>/<version>/records.parquet                   and records-<sha256>.parquet, where decoding changed
datasets/<name>/listings/<digest of the source's URI>/      known.parquet, left-out.json, doubts: of the last listing
prompts/<domain>/<prompt id>.safetensors | .prompt.json     the prompt itself, learned or plain text
prompts/<domain>/<prompt id>.json                           how it was learned
runs/<run>/run.json, plan-<sha256>.parquet                  or plan-<sha256>.parts, see lsb/ledger/parts.py
runs/<run>/shards/<shard>/<attempt>/                        images, rows, features
runs/<run>/shards/<shard>/log/<generation>.json
runs/<run>/shards/<shard>/hints/<attempt>.json              what an attempt works on; named by nothing
runs/<run>/leases/<shard>-<n>.json, <shard>-<n>-back.json   who works on a shard, and that it is free again; likewise
runs/<run>/snapshots/<n>/                                   manifest, metrics, attestation, report
runs/<run>/snapshots/log/<n>.json
jobs/<job>/log/<n>.json
.tmp/                                                       what is being built or tried out
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass

from lsb.errors import UsageError

SUFFIX_OF_FORMAT = {"png": ".png", "webp": ".webp", "jpeg": ".jpg", "avif": ".avif"}
FOLDERS = ("runs", "datasets", "prompts", "jobs")
_RUN_ID = re.compile(r"[a-z0-9][a-z0-9-]*-[0-9a-f]{12}")
_SHARD, _ATTEMPT, _NUMBER, _DIGEST = r"[0-9]{5}", r"[0-9a-f]{16}", r"[0-9]{8}", r"[0-9a-f]{64}"
_SUFFIX = "|".join(map(re.escape, SUFFIX_OF_FORMAT.values()))
# Everything that is written before some entry names it, and so may never be named.
_UNNAMED = re.compile(
    rf"runs/{_RUN_ID.pattern}/("
    rf"shards/(?P<shard>{_SHARD})/(?P<attempt>{_ATTEMPT})/"
    rf"([0-9a-f]{{32}}({_SUFFIX})|(rows|features)-[0-9]{{5,}}\.parquet)"
    rf"|snapshots/(?P<snapshot>{_NUMBER})/((manifest\.parquet|metrics\.json|attestation\.json)|report/[a-z]+\.html)"
    rf"|(?P<plan>plan-{_DIGEST}\.(parquet|parts)))"
)
_HINT = re.compile(rf"runs/{_RUN_ID.pattern}/shards/{_SHARD}/hints/{_ATTEMPT}\.json")
_LEASE = re.compile(rf"runs/{_RUN_ID.pattern}/leases/({_SHARD})-({_NUMBER})(-back)?\.json")
_SHARD_LOG = re.compile(rf"runs/{_RUN_ID.pattern}/shards/({_SHARD})/log/{_NUMBER}\.json")
_NUMBERED = re.compile(r"([0-9]{8})\.json")
_OF_A_STORE = re.compile(
    rf"runs/{_RUN_ID.pattern}/(run\.json|shards/{_SHARD}/log/{_NUMBER}\.json|snapshots/log/{_NUMBER}\.json)"
    rf"|datasets/[^/]+/{_DIGEST}/records(-{_DIGEST})?\.parquet"
    rf"|prompts/[^/]+/({_DIGEST}\.(safetensors|prompt\.json|json)|recipe-{_DIGEST}\.(json|checkpoint))"
    rf"|jobs/[^/]+/log/{_NUMBER}\.json"
)


@dataclass(frozen=True)
class Place:
    """Where under its run an object lies that some entry, or `run.json`, may name: one of the three."""

    attempt: tuple[str, str] | None  # shard and attempt
    snapshot: int | None  # folder
    plan: bool


def place_of(key: str) -> Place | None:
    """What a key says; None for log entries, `run.json` and everything that lies outside the layout."""
    match = _UNNAMED.fullmatch(key)
    if match is None:
        return None
    shard, attempt, snapshot = match["shard"], match["attempt"], match["snapshot"]
    return Place(
        attempt=(shard, attempt) if attempt else None,
        snapshot=int(snapshot) if snapshot else None,
        plan=match["plan"] is not None,
    )


def is_page(key: str) -> bool:
    """Whether `key` is that of a snapshot's page."""
    place = place_of(key)
    return place is not None and place.snapshot is not None and key.endswith(".html")


def maker_of(output: str) -> tuple[str, str] | None:
    """The run and the shard that made an output, by its key; None if it is no attempt's file."""
    place, run_id = place_of(output), run_of(output)
    return (run_id, place.attempt[0]) if run_id and place and place.attempt else None


def run_of(key: str) -> str | None:
    """The run under whose folder a key lies."""
    parts = key.split("/")
    return parts[1] if len(parts) > 2 and parts[0] == "runs" and _RUN_ID.fullmatch(parts[1]) else None


def new_attempt() -> str:
    """A fresh random attempt id. None is ever used twice, not even for another try at the same shard."""
    return secrets.token_hex(8)


def makes_a_store(key: str) -> bool:
    """Whether `key` is one that only a store of lsb has: a folder with one of these is one."""
    return _OF_A_STORE.fullmatch(key) is not None or place_of(key) is not None


def dataset_folder(name: str) -> str:
    return f"datasets/{name}"


def dataset_records(name: str, version: str) -> str:
    return f"{dataset_folder(name)}/{version}/records.parquet"


def version_of_records(key: str) -> str | None:
    """The version of a data set by the key of its records; None for other keys."""
    match = re.fullmatch(rf"datasets/[^/]+/({_DIGEST})/records\.parquet", key)
    return match[1] if match else None


def dataset_records_again(name: str, version: str, digest: str) -> str:
    """Other records of the same version: the same bytes, of which another decoding says something else."""
    return f"{dataset_folder(name)}/{version}/records-{digest}.parquet"


def listing_folder(name: str, source: str) -> str:
    """What the last listing of the source at that URI showed. Written over; nothing relies on it but speed."""
    return f"{dataset_folder(name)}/listings/{hashlib.sha256(source.encode(errors='surrogateescape')).hexdigest()}"


def known_file(name: str, source: str) -> str:
    return f"{listing_folder(name, source)}/known.parquet"


def left_out_file(name: str, source: str) -> str:
    return f"{listing_folder(name, source)}/left-out.json"


def doubts_folder(name: str, source: str) -> str:
    return f"{listing_folder(name, source)}/doubts"


def doubt_file(name: str, source: str, record_id: str) -> str:
    """Says that a record's file was not what ingest knew of it."""
    return f"{doubts_folder(name, source)}/{record_id}"


def prompt_file(domain: str, prompt_id: str, *, learned: bool) -> str:
    """The prompt's own bytes, whose SHA-256 is its id."""
    return f"prompts/{domain}/{prompt_id}{'.safetensors' if learned else '.prompt.json'}"


def prompt_provenance(domain: str, prompt_id: str) -> str:
    """How the prompt came about: images, steps, losses."""
    return f"prompts/{domain}/{prompt_id}.json"


def prompt_folder(domain: str) -> str:
    return f"prompts/{domain}"


def prompt_checkpoint(domain: str, digest: str) -> str:
    """The state of a prompt that is being learned by a recipe."""
    return f"prompts/{domain}/recipe-{digest}.checkpoint"


def is_checkpoint(key: str) -> bool:
    """Whether a key is that of such a state."""
    return re.fullmatch(rf"prompts/[^/]+/recipe-{_DIGEST}\.checkpoint", key) is not None


def prompt_recipe(domain: str, digest: str) -> str:
    """Which prompt a recipe of learning led to; the first to finish writes it."""
    return f"prompts/{domain}/recipe-{digest}.json"


def run_folder(run_id: str) -> str:
    return f"runs/{run_id}"


def runs_of_job(job: str) -> str:
    """What the folders of a job's runs begin with, and those of jobs whose names begin with this one and a dash."""
    return f"runs/{job}-"


def job_of(run_id: str) -> str | None:
    """The job's name in a run's id; None if it is none."""
    return run_id.rpartition("-")[0] if _RUN_ID.fullmatch(run_id) else None


def run_file(run_id: str) -> str:
    return f"{run_folder(run_id)}/run.json"


def plan_file(run_id: str, digest: str, *, of_parts: bool = False) -> str:
    return f"{run_folder(run_id)}/plan-{digest}.{'parts' if of_parts else 'parquet'}"


def shard_folder(run_id: str, shard: str) -> str:
    return f"{run_folder(run_id)}/shards/{shard}"


def shard_log(run_id: str, shard: str) -> str:
    return f"{shard_folder(run_id, shard)}/log"


def shard_of_log(key: str) -> str | None:
    """The shard whose log's entry a key is; None for any other key."""
    match = _SHARD_LOG.fullmatch(key)
    return match[1] if match else None


def hints_folder(run_id: str, shard: str) -> str:
    return f"{shard_folder(run_id, shard)}/hints"


def hint_file(run_id: str, shard: str, attempt: str) -> str:
    """Written over before each batch of the attempt."""
    return f"{hints_folder(run_id, shard)}/{attempt}.json"


def is_hint(key: str) -> bool:
    """Whether `key` is some attempt's hint."""
    return _HINT.fullmatch(key) is not None


def leases_folder(run_id: str) -> str:
    return f"{run_folder(run_id)}/leases"


def lease_file(run_id: str, shard: str, number: int, *, back: bool = False) -> str:
    """Says who works on a shard for the `number`th time, from 0; with `back` that this has come to an end."""
    return f"{leases_folder(run_id)}/{shard}-{number:08d}{'-back' if back else ''}.json"


def lease_of(key: str) -> tuple[str, int, bool] | None:
    """Shard, number and whether it is given back, of a lease's key; None for any other key."""
    match = _LEASE.fullmatch(key)
    return (match[1], int(match[2]), match[3] is not None) if match else None


def is_advice(key: str) -> bool:
    """Whether `key` is that of a hint or a lease, on which nobody relies."""
    return is_hint(key) or lease_of(key) is not None


def attempt_folder(run_id: str, shard: str, attempt: str) -> str:
    return f"{shard_folder(run_id, shard)}/{attempt}"


def output_file(run_id: str, shard: str, attempt: str, record_id: str, image_format: str) -> str:
    """`image_format` is a key of `SUFFIX_OF_FORMAT`."""
    return f"{attempt_folder(run_id, shard, attempt)}/{record_id}{SUFFIX_OF_FORMAT[image_format]}"


def rows_file(run_id: str, shard: str, attempt: str, part: int) -> str:
    """An attempt commits in parts; none of its files is written twice."""
    return f"{attempt_folder(run_id, shard, attempt)}/rows-{part:05d}.parquet"


def is_rows_file(name: str) -> bool:
    """Whether a name under a shard's folder is that of a row file."""
    return name.rsplit("/", 1)[-1].startswith("rows-")


def features_file(run_id: str, shard: str, attempt: str, part: int) -> str:
    return f"{attempt_folder(run_id, shard, attempt)}/features-{part:05d}.parquet"


def snapshots_folder(run_id: str) -> str:
    return f"{run_folder(run_id)}/snapshots"


def snapshot_log(run_id: str) -> str:
    return f"{snapshots_folder(run_id)}/log"


def snapshot_folder(run_id: str, number: int) -> str:
    return f"{snapshots_folder(run_id)}/{number:08d}"


def job_log(job: str) -> str:
    return f"jobs/{job}/log"


def numbered(log: str, number: int) -> str:
    """Key of a log's entry: 8 digits from 0."""
    return f"{log}/{number:08d}.json"


def number_of(key: str) -> int | None:
    """The number of a log entry's key, None if the name is not one."""
    match = _NUMBERED.fullmatch(key.rsplit("/", 1)[-1])
    return int(match.group(1)) if match else None


def parse_run_uri(uri: str) -> tuple[str, str]:
    """Root and run id of `<root>/runs/<run>`.

    Raises:
        UsageError: it does not end in `runs/<run>`.
    """
    root, _, run_id = uri.rstrip("/").rpartition("/")
    if (root != "runs" and not root.endswith("/runs")) or not _RUN_ID.fullmatch(run_id):
        raise UsageError(f"{uri!r} is not a run; give <root>/runs/<job>-<12 hex digits>, as `lsb run` prints it")
    return root.removesuffix("runs").rstrip("/") or ("/" if root == "/runs" else "."), run_id
