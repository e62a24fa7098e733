"""The model and the conditions under which a run's records are translated again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from lsb.audit.replay import Bench, PublishedOutput, replay
from lsb.audit.verdict import TAMPERED, UNVERIFIABLE, Finding, Verdict
from lsb.errors import ModelError, SourceError, UnverifiableError
from lsb.ledger.layout import run_file
from lsb.ledger.run import Run, open_run
from lsb.ledger.transform import TRANSFORM_VERSION
from lsb.models.load import ModelOptions, identify, load_backbone
from lsb.pictures.sources import open_sources
from lsb.store.store import Store
from lsb.translation.builder import check_model, run_engine, run_frames
from lsb.translation.execution import Shortcuts, describe

MOST_THREADS = 256  # that a replay starts because a row says so


def add_replay(
    verdict: Verdict,
    store: Store,
    count: int,
    seed: str = "",
    *,
    model: str | None = None,
    loras: Sequence[str] = (),
) -> Verdict:
    """`verdict` with what a replay of `count` outputs found; unchanged if the run is tampered with.

    Args:
        model: where the run's model lies now; by default where it lay when the run was planned.
        loras: its LoRA files in their order; by default likewise.

    Raises:
        ModelError: it is not the model of the run.
    """
    if any(finding.kind == TAMPERED for finding in verdict.findings):
        return verdict
    run = open_run(store, verdict.run_id)
    try:
        sources = open_sources(run.source)
        planned = run.config or {}
        place = model or planned.get("model") or run.model["id"] or ""
        workbench = _Workbench(store, run, place, tuple(loras or planned.get("loras", ())))
        try:
            replayed = replay(store, run, sources, workbench.bench, count, seed)
        finally:
            torch.set_num_threads(workbench.threads)
    except (SourceError, UnverifiableError) as error:
        finding = Finding(UNVERIFIABLE, run_file(run.id), f"the run cannot be replayed: {error.message}")
        return replace(verdict, findings=(*verdict.findings, finding))
    findings = [result.finding for result in replayed if result.finding is not None]
    return replace(verdict, findings=(*verdict.findings, *findings), replayed=tuple(replayed))


def threads_of(row: PublishedOutput, otherwise: int) -> int:
    """With how many threads a row's output was made; `otherwise` if it does not say, or cannot be believed."""
    said = row["threads"]
    return said if said is not None and 1 <= said <= MOST_THREADS else otherwise


@dataclass(frozen=True)
class _Workbench:
    store: Store
    run: Run
    model: str
    loras: tuple[str, ...]
    threads: int = field(default_factory=torch.get_num_threads)  # for rows that do not say how many

    def bench(self, row: PublishedOutput) -> Bench:
        """A translator for the conditions of `row`; on the CPU where its device is not here. Sets torch's threads."""
        torch.set_num_threads(threads_of(row, self.threads))
        recorded = str(row["device"]).split(":", 1)[0]
        device = recorded if recorded == "cuda" and torch.cuda.is_available() else "cpu"
        shortcuts, dtype = Shortcuts.of(row), self.run.transform["dtype"]
        backbone = load_backbone(
            self.model, device=device, dtype=dtype, channels_last=shortcuts.channels_last, **self._options
        )
        engine = run_engine(self.store, self.run, backbone, row["batch"], joint=shortcuts.joint)
        frame = run_frames(self.run, engine.backbone.canvas)
        return Bench(engine, frame, describe(device, dtype, row["batch"], torch.get_num_threads(), shortcuts))

    @cached_property
    def _options(self) -> ModelOptions:
        """What names the run's model; checked once to be it."""
        version = self.run.transform["transform_version"]
        if version != TRANSFORM_VERSION:
            raise UnverifiableError(
                f"it was made by version {version} of the transform, this code has {TRANSFORM_VERSION}"
            )
        named = self.run.model
        # A hub id means the commit that it stood for; a place on disk has no revisions.
        revision = named["revision"] if self.model == named["id"] else None
        options: ModelOptions = {"revision": revision, "loras": self.loras}
        try:
            identity = identify(self.model, **options)
        except ModelError as error:
            raise ModelError(f"{error.message}; give the place of the run's model with --model") from error
        check_model(self.run, identity, "give the right one with --model, and its LoRA files with --lora")
        return options
