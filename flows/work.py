"""A copy of the loop as a flow run, for work pools: runner `prefect` of another flow starts it."""

from __future__ import annotations

from flows.runners.part import Part, do
from flows.watching.run_log import LogProgress
from lsb.config.job import JobConfig
from lsb.logs import log_as_asked
from lsb.observation import Observer, observed_by
from lsb.prompts.settings import Side
from tasks.guarded.flow import observed

FLOW = "work"


@observed(name=FLOW)
def work(
    config: JobConfig, run: str | None = None, side: Side | None = None, refit: bool = False, mark: str | None = None
) -> None:
    """Take part in translating a run, as `lsb work` does, or learn a prompt.

    Args:
        config: the job, with absolute paths or URIs that this worker sees.
        run: id of the run; left out, a prompt is learned.
        side: whose prompt is learned.
        refit: whether it is learned from today's images, whatever runs before have learned.
        mark: by which whoever started this knows it in the store.

    Raises:
        LsbError: as `lsb work`; what it says is told to the user of whoever started this.
    """
    log_as_asked()
    with observed_by(Observer(LogProgress())):
        do(Part(config, run, side, refit, mark))
