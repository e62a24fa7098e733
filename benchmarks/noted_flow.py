"""The flow of the copies that benchmarks/workers.py has in a work pool. Only for what Prefect's worker starts."""

import os

from benchmarks.workers import COPIES, note_by_process
from flows.work import work as work

if COPIES in os.environ:  # else it is deployed
    note_by_process()
