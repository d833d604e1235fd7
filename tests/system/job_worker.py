"""A worker's process, with a short lease: `python -m gevent.monkey --module tests.system.job_worker`.

A payload {"poison": true} kills the worker that takes it on. With WALNUT_TEST_CLOCK, a file, the clock is off by the
seconds that stand in it, from the moment they do.
"""

import dataclasses
import os
import signal
import time
from pathlib import Path
from typing import Any

from api import worker_process
from api.jobs import vendors, workers
from api.jobs.kinds import Job, Outcome
from api.jobs.worker import Worker

LEASE = 2.0  # seconds
call = vendors.call.run


def poisoned(job: Job) -> Outcome:
    """Die of the payload, if it is poison."""
    if isinstance(job.payload, dict) and job.payload.get("poison"):
        os.kill(os.getpid(), signal.SIGKILL)
    return call(job)


def shift_clock(file: Path) -> None:
    """Let the time be off as a file says."""
    real, real_ns = time.time, time.time_ns

    def off() -> int:
        return int(file.read_text() or 0) if file.exists() else 0

    clock: Any = time
    clock.time, clock.time_ns = lambda: real() + off(), lambda: real_ns() + off() * 10**9


if __name__ == "__main__":
    workers.LEASE_SECONDS = LEASE
    Worker.run.__globals__["LOOKOUT_SECONDS"] = 0.5
    vendors.call = dataclasses.replace(vendors.call, run=poisoned)
    if file := os.environ.get("WALNUT_TEST_CLOCK"):
        shift_clock(Path(file))
    worker_process.main()
