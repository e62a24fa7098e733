"""The flow of the copies that benchmarks/workers.py has in a work pool. Only for what Prefect's worker starts."""

from benchmarks.workers import note_by_process
from flows.work import work as work

note_by_process()
