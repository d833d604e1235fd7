"""Who works on jobs, and what becomes of the jobs of those who do no longer. Every function takes a connection first.

A worker that dies is known at once, by the lock that the kernel takes from it (api/jobs/bell.py). One that hangs, or
works on another host, is given up when its `beat` stands still for LEASE_SECONDS of the looker's own time: no two
clocks are ever compared, so that one that is wrong does no harm.
"""

import socket
import time
from collections.abc import Callable
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, delete, insert, literal_column, select, update

from api.jobs import outcomes
from api.jobs.kinds import Again
from api.jobs.queue import BY_PROCESSING, IS_PROCESSING
from api.statements import Row, Statement
from api.tables import jobs, workers

LEASE_SECONDS = 30.0
BATCH = 500  # jobs that are rescued in one transaction
DIED = "The worker that was at it died; it may have begun."
SILENT = "No webhook came in time."

JOIN = Statement(insert(workers))
BEAT = Statement(
    update(workers).where(workers.c.id == bindparam("worker")).values(beat=workers.c.beat + 1, seen_at=bindparam("now"))
)
LEAVE = Statement(delete(workers).where(workers.c.id == bindparam("worker")))
ALL = Statement(select(workers))
AT_WORK = Statement(
    select(jobs.c.worker_id)
    .with_hint(*BY_PROCESSING)
    .where(IS_PROCESSING, jobs.c.worker_id > literal_column("''"))
    .group_by(jobs.c.worker_id)
)
LEFT = Statement(
    select(jobs)
    .with_hint(*BY_PROCESSING)
    .where(IS_PROCESSING, jobs.c.worker_id == bindparam("worker"))
    .limit(bindparam("most"))
)
OVERDUE = Statement(
    select(jobs)
    .with_hint(*BY_PROCESSING)
    .where(IS_PROCESSING, jobs.c.worker_id.is_(None), jobs.c.run_at <= bindparam("now"))
    .limit(bindparam("most"))
)


def join(conn: Connection, worker_id: str, now: int) -> None:
    """Enter a worker into the list."""
    JOIN.run(conn, id=worker_id, beat=0, host=socket.gethostname(), started_at=now, seen_at=now)


def beat(conn: Connection, worker_id: str, now: int) -> None:
    """Show that a worker lives, also one that had been given up: it was only held up."""
    if not BEAT.run(conn, worker=worker_id, now=now):
        join(conn, worker_id, now)


def leave(conn: Connection, worker_id: str) -> None:
    """Strike a worker off the list."""
    LEAVE.run(conn, worker=worker_id)


class Seen(NamedTuple):
    """A beat, and when it was seen first, by the looker's own clock (time.monotonic())."""

    beat: int
    at: float


class Lookout:
    """Watches over the other workers, by its own clock."""

    def __init__(self, is_dead: Callable[[str], bool]) -> None:
        self._is_dead = is_dead
        self._seen: dict[str, Seen] = {}

    def gone(self, conn: Connection) -> list[str]:
        """Return the workers that are dead or have been silent for too long, whether they are on the list or not."""
        beats = {row["id"]: row["beat"] for row in ALL.all(conn)}
        beats |= {row["worker_id"]: -1 for row in AT_WORK.all(conn) if row["worker_id"] not in beats}
        now = time.monotonic()
        known, self._seen = self._seen, {}
        for worker_id, beat_now in beats.items():
            before = known.get(worker_id)
            same = before is not None and before.beat == beat_now
            self._seen[worker_id] = before if same and before else Seen(beat_now, now)
        return [
            worker_id
            for worker_id, seen in self._seen.items()
            if now - seen.at > LEASE_SECONDS or self._is_dead(worker_id)
        ]


def overdue(conn: Connection, now: int) -> list[Row]:
    """Return jobs whose webhook has not come in time."""
    return OVERDUE.all(conn, now=now, most=BATCH)


def rescue(conn: Connection, gone: list[str], now: int) -> list[Row]:
    """Let others have the jobs of those who are gone, and of vendors that never called back. Return the jobs.

    That was an attempt: a job that kills whoever takes it on, ends as failed. To be called again while there are some.
    """
    found = [(job, DIED) for worker_id in gone for job in LEFT.all(conn, worker=worker_id, most=BATCH)]
    found += [(job, SILENT) for job in overdue(conn, now)]
    for job, why in found:
        outcomes.settle(conn, job, Again(error=why), now)
    for worker_id in gone:
        if LEFT.first(conn, worker=worker_id, most=1) is None:
            leave(conn, worker_id)
    return [job for job, _ in found]
