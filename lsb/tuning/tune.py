"""Settings for a job's own pictures: tried on a few dozen of them, shown side by side, one of them recommended.

Nothing of it is a run: the store keeps a prompt that had to be learned, as the run will want it, and nothing else. What
was tried is kept in a folder beside the job's file, and the next call goes on from there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lsb.bridge.method import Method
from lsb.bridge.methods import METHODS, name_of
from lsb.bridge.settings import BridgeSettings
from lsb.config.job import JobConfig, load_config
from lsb.errors import StoppedError, UsageError
from lsb.jobs.job import check_device, refuse_store_among_pictures
from lsb.jobs.limits import refuse_beyond_model
from lsb.jobs.lineage import prompt_of_job
from lsb.models.load import facts_of, identify
from lsb.models.prompt import Prompt
from lsb.pictures.geometry import sigma_scale
from lsb.progress import NoProgress, Progress
from lsb.prompts.finding import StoredPrompt, read_prompt
from lsb.prompts.settings import SIDES
from lsb.records import digest_of
from lsb.store.store import Store, open_store
from lsb.tuning.alone import alone
from lsb.tuning.job_file import refuse_existing, refuse_unwritable, with_method, write_tuned
from lsb.tuning.sample import read_sample, refuse_untunable
from lsb.tuning.space import Space, grid
from lsb.views.page_html import Command
from lsb.views.sheet import render_sheet

SECONDS = 600.0
FEW = 12  # settings of which the best may well be far from what there is
_FEW_TRIED = "Few settings were tried, {tried} by now; `lsb tune {path}` goes on with the search."
NAMED = 3  # of the pictures that cannot be read
BOOK, SHEET, PREPARED = "tried.jsonl", "sheet.html", "prepared.safetensors"


@dataclass(frozen=True)
class Asked:
    """What is asked of a search.

    Attributes:
        method: its name; None for the job's own.
        seconds: that all of it may take, but for prompts that have to be learned. The job's own settings are tried in
            any case. None for `SECONDS`, or for no bound where `tries` is given.
        tries: settings that are tried at most, beside those that earlier calls have tried.
        settings: values by name, of which all combinations are tried instead.
        write: change the job's own file.
        out: the new file; None for one of the job's name.
        clock: gives the seconds that count.
    """

    method: str | None = None
    seconds: float | None = None
    tries: int | None = None
    settings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    write: bool = False
    out: Path | None = None
    clock: Callable[[], float] = time.monotonic

    @property
    def most_seconds(self) -> float:
        if self.seconds is not None:
            return self.seconds
        return SECONDS if self.tries is None else math.inf

    @property
    def writes(self) -> bool:
        """Whether a job's file is written. Of settings that somebody wants to see, only if asked for."""
        return not self.settings or self.write or self.out is not None


@dataclass(frozen=True)
class Tuned:
    """What came of it. `recommended` has the settings that were tried, and figures are theirs."""

    sheet: str
    tried: int
    given_up: int
    failed: int
    recommended: dict[str, Any] | None
    likeness: float | None
    change: float | None
    kid: float | None
    remarks: Sequence[str]
    job: str | None
    next: str


def tune(path: Path, asked: Asked = Asked(), progress: Progress = NoProgress()) -> Tuned:
    """Try settings on a job's pictures.

    Raises:
        UsageError: what `refuse_untunable` refuses, settings that are outside what is allowed, a file that would be
            written over or cannot be written, or somebody else who tunes the same job, before a picture is read; or
            looks that cannot be told apart, before a prompt is learned.
        ConfigError: the job is written so that found settings could not be put into it.
        StoppedError: somebody interrupted it; says how to go on.
    """
    if asked.seconds is not None and not math.isfinite(asked.seconds):
        raise UsageError(
            f"--seconds is {asked.seconds:g}; give a number of seconds, or --tries alone for no bound of time"
        )
    if asked.settings and asked.tries is not None:
        raise UsageError(f"--tries {asked.tries} is of a search, and with --settings there is none; give one of them")
    if not asked.settings and find_spec("optuna") is None:  # better known now than after minutes
        raise ModuleNotFoundError("a search needs the package optuna", name="optuna")
    config = load_config(path)
    folder = path.with_name(f"{path.stem}.tune")
    out = asked.out or path.with_name(f"{path.stem}.tuned.yaml")
    if asked.writes and not asked.write:
        refuse_existing(out, folder)
    base = _base(config, asked.method)
    tuned_job = with_method(config, base)
    wanted = [*grid(base, asked.settings)] if asked.settings else []
    if asked.writes:
        refuse_unwritable(path, config, base, None if asked.write else out)
    refuse_store_among_pictures(config)
    check_device(config)
    refuse_untunable(tuned_job)
    for values in wanted:
        refuse_beyond_model(with_method(config, base.model_validate(base.model_dump() | values)))
    try:
        with alone(folder):
            return _tune(path, config, tuned_job, asked, wanted, folder, out, progress)
    except KeyboardInterrupt as error:
        raise StoppedError(f"interrupted; what was tried is kept in {folder}, run again to go on") from error


def _tune(
    path: Path,
    config: JobConfig,
    job: JobConfig,
    asked: Asked,
    wanted: Sequence[Mapping[str, Any]],
    folder: Path,
    out: Path,
    progress: Progress,
) -> Tuned:
    # With these come torch and the model's libraries.
    from lsb.jobs.loading import backbone_for, extractor_for
    from lsb.tuning.bench import Bench
    from lsb.tuning.book import Book
    from lsb.tuning.choice import choose
    from lsb.tuning.contact_sheet import sheet_of
    from lsb.tuning.looks import Looks
    from lsb.tuning.search import search, try_all
    from lsb.tuning.times import with_times

    until = asked.clock() + asked.most_seconds
    identity = identify(job.model, **job.model_options)
    sample = read_sample(job, progress)
    backbone, extractor = backbone_for(job), extractor_for(job)
    looks = Looks(job, backbone, extractor, sample, progress, folder / PREPARED)
    learning = asked.clock()
    store = open_store(job.store, create=True)
    stored = [_prompt(store, job, side, progress) for side in SIDES]
    prompts: tuple[Prompt, Prompt] = (read_prompt(store, stored[0].key), read_prompt(store, stored[1].key))
    until += asked.clock() - learning
    bench = Bench(looks, prompts)
    side = backbone.canvas.side
    scale = sigma_scale(job.geometry.as_seen, backbone.canvas)
    space = Space(job.method_settings, backbone.latent_shape(side, side)[-1], backbone.sigma_max / scale)
    own = space.full({})
    book = Book(
        folder / BOOK,
        digest_of(
            {
                "model": identity.digest,
                "prompts": [prompt.id for prompt in stored],
                "negative": job.prompts.negative,
                "method": name_of(space.base),
                "base": {k: v for k, v in space.base.model_dump(mode="json").items() if k not in own},
                "sample": sample.id,
                "seed": job.seed,
                "dtype": job.execution.dtype,
                "geometry": job.geometry.as_seen.trace,
                "extractor": extractor.digest,
            }
        ),
    )
    if wanted:
        try_all(bench, space, wanted, book, progress)
        full = [space.full(values) for values in wanted]
        tried = [one for one in book.tried if one.settings in full]
    else:
        search(bench, space, book, lambda: until - asked.clock(), int(job.seed), progress, asked.tries)
        tried = book.tried
    choice = choose(tried, bench)
    if not wanted and len(tried) < FEW:
        choice = replace(choice, remarks=[*choice.remarks, _FEW_TRIED.format(tried=len(tried), path=path)])
    if sample.unreadable:
        choice = replace(choice, remarks=[*choice.remarks, _unread(sample.unreadable)])
    best = None if choice.best is None else with_times(space.method(choice.best.settings), bench, progress)
    if isinstance(best, BridgeSettings) and best.times is not None:
        choice = replace(choice, remarks=[*choice.remarks, f"The times of its {best.nfe} evaluations are tuned, too."])
    written = None
    if best is not None and asked.writes:
        written = write_tuned(path, config, best, folder, None if asked.write else out)
    given_up = sum(not one.is_complete and not one.failed for one in tried)
    failed = sum(bool(one.failed) for one in tried)
    command = f"lsb run {written} --dry-run" if written else f"lsb tune {path}"
    columns = [one for one in tried if one.is_complete]
    if not wanted:
        columns = [*choice.front, *([choice.beyond] if choice.beyond else [])]
    sheet = sheet_of(
        job,
        bench,
        space,
        columns,
        choice,
        f"{len(tried)} settings tried on {len(sample.sources)} pictures, {given_up} of them given up early"
        f"{f', {failed} failed' if failed else ''}.",
        [Command(command, "With the recommended settings:" if written else "To search on:")],
        progress,
    )
    (folder / SHEET).write_text(render_sheet(sheet), encoding="utf-8")
    figures = None if choice.best is None else choice.best.figures
    return Tuned(
        sheet=str(folder / SHEET),
        tried=len(tried),
        given_up=given_up,
        failed=failed,
        recommended=None if choice.best is None else dict(choice.best.settings),
        likeness=figures.likeness if figures else None,
        change=figures.change if figures else None,
        kid=figures.kid if figures else None,
        remarks=choice.remarks,
        job=None if written is None else str(written),
        next=command,
    )


def _unread(files: Sequence[str]) -> str:
    if len(files) == 1:
        return f"{files[0]} cannot be read, and was left out."
    more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
    return f"{len(files)} pictures cannot be read, and were left out: {', '.join(files[:NAMED])}{more}."


def _base(config: JobConfig, name: str | None) -> Method:
    """The method to tune, with the job's settings where it is the job's own."""
    own = config.method_settings
    if name is None or name == name_of(own):
        base = own
    elif name in METHODS:
        base = METHODS[name]()
    else:
        raise UsageError(f"no such method as {name}; allowed are {', '.join(METHODS)}")
    if isinstance(base, BridgeSettings) and base is not own:
        facts = facts_of(config.model, **config.model_options)
        if facts is not None:
            base = base.model_copy(update={"tau": BridgeSettings.tau_for(facts.latent_side)})
    if isinstance(base, BridgeSettings) and base.grid == "tuned":  # for these settings, not for others
        base = base.model_copy(update={"grid": "uniform", "times": None})
    return base


def _prompt(store: Store, config: JobConfig, side: Any, progress: Progress) -> StoredPrompt:
    """One side's, learned if need be."""
    identity = identify(config.model, **config.model_options)
    found = prompt_of_job(store, config, side, identity, progress=progress)
    if isinstance(found, StoredPrompt):
        return found
    from lsb.jobs.loading import backbone_for

    return found.learn(backbone_for(config), progress)
