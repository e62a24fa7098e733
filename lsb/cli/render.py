"""What commands print: results on standard output as text or JSON, complaints on standard error.

In text, names of files and other people's words are made visible; JSON has them to the letter, in its own escapes.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsb.logs import json_wanted
from lsb.redaction import visible, without_secrets

if TYPE_CHECKING:
    from flows.translate import JobResult
    from lsb.audit.verdict import Replayed, Verdict
    from lsb.jobs.erase import Erased
    from lsb.jobs.gc import CleanUp
    from lsb.jobs.hearing import LookHeard
    from lsb.jobs.rerun import Chosen
    from lsb.ledger.dataset import Dataset
    from lsb.ledger.run import Run
    from lsb.prompts.finding import StoredPrompt
    from lsb.tuning.tune import Tuned
    from lsb.views.diff import Difference
    from lsb.views.export import Exported
    from lsb.views.holders import Holder
    from lsb.views.listing import ListedRun
    from lsb.views.status import RunStatus

logger = logging.getLogger(__name__)

# What is printed of a thing, by the names under which it is. Nothing but `show` looks into it.
Figures = Mapping[str, object]


def show(figures: Figures, *, as_json: bool, lines: Iterable[str] = ()) -> None:
    """Print names and values, one a line, nested ones on one line; as text `lines` follow."""
    if as_json:
        sys.stdout.write(json.dumps(figures, indent=2, default=str) + "\n")
        return
    names = {name: name.replace("_", " ") for name, value in figures.items() if value is not None}
    width = max(map(len, names.values()), default=0)
    for name, label in names.items():
        _print(f"{label:<{width}}  {_text(figures[name])}")
    for line in lines:
        _print(line)


def show_all(several: Sequence[Figures], *, as_json: bool) -> None:
    """Print several things of a kind: as JSON one list, as text with an empty line between them."""
    if as_json:
        sys.stdout.write(json.dumps(several, indent=2, default=str) + "\n")
        return
    for number, figures in enumerate(several):
        if number:
            _print("")
        show(figures, as_json=False)


def show_runs(runs: Sequence[ListedRun], *, as_json: bool) -> None:
    """Print one line for each run; `*` marks what its job's name stands for."""
    if as_json:
        listed = [{**vars(run), "error": run.error and str(run.error)} for run in runs]
        sys.stdout.write(json.dumps(listed, indent=2) + "\n")
        return
    head = ("", "run", "state", "records", "published", "created", "last commit", "size")
    lines = [head, *(_line(run) for run in runs)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        _print("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def _line(run: ListedRun) -> tuple[str, ...]:
    """The cells of `show_runs`, times to the minute."""
    counted = ", ".join(f"{count} {status}" for status, count in sorted(run.counts.items()) if count)
    times = [(moment or "")[:16].replace("T", " ") for moment in (run.created, run.last_commit)]
    planned = "" if run.planned is None else str(run.planned)
    return ("*" if run.current else "", run.run, run.state, planned, counted, *times, _size(run.bytes))


def _size(count: int) -> str:
    """Bytes as people read them."""
    size, unit = float(count), "B"
    for larger in ("KB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}" if unit != "B" else f"{count} B"


def complain(message: str, level: int = logging.INFO, **about: object) -> None:
    """One line on standard error, in which no secret stands; `about`: what a log in JSON says beside it."""
    if json_wanted():
        logger.log(level, "%s", message, extra=about)
        return
    said = message if level < logging.WARNING else f"lsb: {logging.getLevelName(level).lower()}: {message}"
    sys.stderr.write(visible(without_secrets(said)) + "\n")


def chosen(found: Chosen) -> Figures:
    return {
        "run": found.run,
        "records": found.records,
        "terminal": found.terminal,
        "final": found.final,
        "shards": {shard: list(records) for shard, records in found.shards.items()},
    }


def chosen_lines(found: Chosen) -> Iterator[str]:
    """One line for each record that would run."""
    for shard, records in found.shards.items():
        yield from (f"{record}  {shard}  {found.why[record]}  {found.sources[record]}" for record in records)


def difference(found: Difference) -> Figures:
    return asdict(found)


def difference_lines(found: Difference) -> Iterator[str]:
    """One line for each record that is not the same."""
    yield from (f"+ {key}" for key in found.added)
    yield from (f"- {key}" for key in found.vanished)
    yield from (f"~ {key}  ({', '.join(parts)})" for key, parts in found.changed.items())


def counted(figures: Figures) -> Figures:
    """Numbers in place of lists, for people who are shown the lists below."""
    return {name: len(value) if isinstance(value, (list, tuple, dict)) else value for name, value in figures.items()}


def show_result(result: JobResult, *, as_json: bool) -> None:
    """Print what a job led to; as text, pictures without an output follow, a kind a line."""
    figures = asdict(result)
    lines = () if as_json else figures.pop("problems")
    show(figures, as_json=as_json, lines=lines)


def dataset(found: Dataset) -> Figures:
    return {
        "data_set": found.name,
        "version": found.version,
        "records": found.records,
        "quarantined": found.quarantined,
        "duplicates": found.duplicates,
        "left_out": found.left_out,
        "table": found.key,
    }


def prompts(stored: Sequence[StoredPrompt]) -> Figures:
    return {
        side: {"domain": prompt.domain, "id": prompt.id, "key": prompt.key, "learned_now": prompt.new}
        for side, prompt in zip(("source", "target"), stored, strict=True)
    }


def plan(planned: Run, uri: str) -> Figures:
    return {
        "run": uri,
        "records": planned.plan["records"],
        "shards": planned.plan["shards"],
        "carried": planned.plan.get("carried", 0),
        "parent": planned.parent and planned.parent["run"],
        "data_set": planned.dataset["version"],
        "transform_id": planned.transform_id,
    }


def status(counted: RunStatus, at_work: Sequence[Holder]) -> Figures:
    return {
        "run": counted.run_id,
        "planned": counted.planned,
        "records": counted.records,
        "shards": counted.shards,
        "carried": counted.carried,
        "first_commit": counted.first_commit,
        "last_commit": counted.last_commit,
        "records_per_second": counted.rate,
        "seconds_left": counted.seconds_left,
        "stopped": counted.stopped,
        "at_work": [asdict(one) for one in at_work],
    }


def status_lines(at_work: Sequence[Holder]) -> Iterator[str]:
    """One line for each worker."""
    yield from (f"{_held(one)}, last seen {one.seen:%H:%M:%S}" for one in at_work)


def status_line(counted: RunStatus, at_work: Sequence[Holder]) -> str:
    """All that changes while a run is watched."""
    parts = [
        f"{counted.planned - counted.records['pending']} of {counted.planned} records",
        _text({status: count for status, count in counted.records.items() if count}),
    ]
    if counted.rate and not counted.finished:
        parts += [f"{counted.rate:.3g}/s", f"{counted.seconds_left or 0:.0f} s left"]
    return "; ".join([", ".join(parts), *map(_held, at_work)])


def _held(one: Holder) -> str:
    return f"{one.worker} {'held' if one.silent else 'holds'} {_text(one.shards)}"


def show_line(line: str, figures: Figures, *, as_json: bool) -> None:
    """Print what is watched, as it is now: a line, or as JSON all of it on one line."""
    _print(json.dumps(figures, default=str) if as_json else line)
    sys.stdout.flush()


def verdict(found: Verdict, *, as_json: bool) -> Figures:
    """As text only the number of findings: each is a complaint of its own."""
    orphans = len(found.orphans)
    return {
        "run": found.run_id,
        "verdict": found.word,
        "assurance": found.assurance,
        "snapshot": found.snapshot,
        "checked": found.checked,
        "sample": found.sample,
        "replayed": [asdict(one) for one in found.replayed] if as_json else _replayed(found.replayed),
        "findings": [asdict(finding) for finding in found.findings] if as_json else len(found.findings),
        "erased": list(found.erased) if as_json else f"{len(found.erased)} files" if found.erased else None,
        "orphans": orphans if as_json or not orphans else f"{orphans} files that nothing names; `lsb gc` deletes them",
    }


def clean_up(done: CleanUp, *, older_than: float, dry_run: bool, as_json: bool) -> Figures:
    """A dry run lists every object, JSON always does."""
    if dry_run and not as_json:
        for leftover in done.deleted:
            _print(f"would delete {leftover.key} ({leftover.size} bytes)")
    figures: dict[str, object] = {
        "dry_run": dry_run,
        "older_than": older_than if as_json else f"{older_than:g} hours; what is younger stays",
        "deleted": len(done.deleted),
        "bytes": done.size,
        **done.counts(),
        "runs_left_alone": {run: str(error) for run, error in done.left_alone.items()} or None,
    }
    if dry_run and not as_json:
        figures["would_delete"] = figures.pop("deleted")
    return {**figures, "objects": [asdict(leftover) for leftover in done.deleted]} if as_json else figures


def erased(done: Erased, *, dry_run: bool, as_json: bool) -> Figures:
    """A dry run lists every record and file, JSON always does; counted is what is erased by this call alone."""
    if dry_run and not as_json:
        for record, key in done.records.items():
            _print(f"would erase the image of {key} ({record})")
        for record, key in done.erased_before.items():
            _print(f"erased already: the image of {key} ({record})")
        for key in done.files:
            _print(f"would delete {key}")
    return {
        "dry_run": dry_run,
        "records": done.records if as_json else len(done.records),
        "erased_before": done.erased_before if as_json else len(done.erased_before) or None,
        "without_image": done.without_image,
        "files": list(done.files) if as_json else len(done.files),
        "runs": list(done.runs),
        "not_touched_with_images_of_their_own": list(done.other_runs) if as_json else list(done.other_runs) or None,
        "new_snapshots": done.snapshots if as_json else done.snapshots or None,
    }


def export(done: Exported, destination: Path, *, as_json: bool) -> Figures:
    """As text only the number of what could not be written: each is a complaint of its own."""
    reasons = {key: str(error) for key, error in done.not_written.items()}
    return {
        "written": done.written,
        "unchanged": done.unchanged,
        "without_output": done.without_output,
        "renamed": done.renamed,
        "names": done.names,
        "not_written": reasons if as_json else len(reasons),
        "destination": str(destination),
    }


def tuned(found: Tuned, *, as_json: bool) -> Figures:
    """As text the remarks stand one after another, a sentence each."""
    figures = asdict(found)
    return figures if as_json else {**figures, "remarks": " ".join(found.remarks) or "none"}


def metrics(measured: Mapping[str, Any]) -> Figures:
    """The rows' values, without intervals, and why there are none."""
    rows = {
        row["key"]: {name: cell["value"] for name, cell in row.items() if isinstance(cell, dict) and "value" in cell}
        for row in measured["rows"]
    }
    return {**rows, "unmeasured": measured.get("unmeasured")}


def heard(looks: Sequence[LookHeard]) -> Figures:
    """By look, at which noise the other look's words make the model how much worse, and what to make of it."""
    from lsb.views.prompts_shown import heard_in_words

    return {look.look: heard_in_words(asdict(look)) for look in looks}


def _replayed(results: Sequence[Replayed]) -> str | None:
    """How many of how many were the same to the bit, and which conditions differed."""
    if not results:
        return None
    same = sum(result.same for result in results)
    near = sum(not result.same and result.finding is None for result in results)
    others = sorted({name for result in results for name in result.differing})
    held = f"held to the tolerance, since {', '.join(others)} may differ" if others else "held to the bit"
    return f"{len(results)} outputs, {same} the same to the bit, {near} within the tolerance; {held}"


def _print(line: str) -> None:
    sys.stdout.write(visible(line) + "\n")


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items() if item is not None) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
