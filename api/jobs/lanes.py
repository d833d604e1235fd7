"""Lanes: jobs that wait for one another, and for nobody else. A vendor is one; a kind of job without a vendor is one.

Who may begin, and when, is decided in the transaction that claims: so a limit is exact over all workers. A job that
may not begin yet is not claimed, and nobody waits on it. A lane that fails again and again is left alone for a while.
"""

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import Connection, and_, bindparam, func, insert, literal_column, select, update

from api.jobs import queue
from api.jobs.heads import heads
from api.jobs.kinds import KINDS, lane_of
from api.jobs.queue import BY_PROCESSING, IS_PROCESSING
from api.rates import Count, Limit
from api.statements import Row, Statement
from api.tables import jobs, lanes
from api.vendors import queries as vendors
from api.vendors.pace import pace

MILLISECOND = 1000  # in the microseconds of api/rates.py
AHEAD = 30  # milliseconds: a job is claimed that long before it may begin, so that it begins on time
LATE = 12  # and so long after it at the most: who is later would meet the next one in the same moment
FAILURES = 5  # one after the other, and the lane is closed
SHORTEST, LONGEST = 5_000, 300_000  # milliseconds for which it is
NONE = {"level": 0, "at": 0, "failures": 0, "closed_until": 0}

BUSY = Statement(
    select(jobs.c.lane, func.count().label("n"))
    .with_hint(*BY_PROCESSING)
    .where(and_(IS_PROCESSING, jobs.c.worker_id > literal_column("''")))
    .group_by(jobs.c.lane)
)
STATE = Statement(select(lanes).where(lanes.c.name == bindparam("lane")))
CLOSED = Statement(select(func.count()).select_from(lanes).where(lanes.c.closed_until > bindparam("now")))
OPEN = Statement(insert(lanes))
COUNT = Statement(
    update(lanes).where(lanes.c.name == bindparam("lane")).values(level=bindparam("new_level"), at=bindparam("new_at"))
)
JUDGE = Statement(
    update(lanes)
    .where(lanes.c.name == bindparam("lane"))
    .values(failures=bindparam("new_failures"), closed_until=bindparam("until"))
)


class Begin(NamedTuple):
    """The moment at which a job may begin (milliseconds), and what its lane has used once it is claimed."""

    at: int
    used: Count


class Admission(NamedTuple):
    """How many of a lane may be claimed, when each may begin (None: at once), and when to ask again if not at once."""

    most: int
    begins: list[Begin] | None = None
    again_at: int | None = None
    failures: int = 0  # of its lane, this one counted, if only one may try whether it is well again


class Claims(NamedTuple):
    """What was claimed, each with the moment at which it may begin; and when the next may be claimed, if that is known.

    Times are in milliseconds since 1970.
    """

    jobs: list[tuple[Row, int]]
    again_at: int | None


def busy(conn: Connection, mine: Mapping[str, int]) -> dict[str, int]:
    """Return how many jobs of each lane workers are at. Of `mine`, which were cancelled meanwhile are still called."""
    found = {row["lane"]: row["n"] for row in BUSY.all(conn)}
    return found | {lane: max(n, found.get(lane, 0)) for lane, n in mine.items()}


def claim(conn: Connection, worker_id: str, mine: Mapping[str, int], places: int, now: int) -> Claims:
    """Claim what may begin, the most urgent first, up to `places` in all.

    `mine` is how many jobs of each lane this worker is at: no lane may take more than are left free for others.
    """
    found: list[tuple[Row, int]] = []
    again: list[int] = []
    running = busy(conn, mine)
    for lane, due in heads(conn).items():
        again += [head.run_at for head in due if head.run_at > now]
        free = places - len(found)
        admission = admit(conn, lane, _share(free, mine.get(lane, 0)), running, now)
        rows: list[Row] = []
        for head in due:
            if head.run_at <= now and len(rows) < admission.most:
                rows += queue.claim(conn, worker_id, lane, head.priority, admission.most - len(rows), now)
        found += _begun(conn, lane, rows, admission, now)
        again += [admission.again_at] if admission.again_at else []
    return Claims(found, min(again, default=None))


def may_claim(conn: Connection, mine: Mapping[str, int], places: int, now: int) -> tuple[bool, int | None]:
    """Tell whether `claim` would find something, without a lock, and otherwise when to ask again."""
    again: list[int] = []
    running: dict[str, int] | None = None
    for lane, due in heads(conn).items():
        again += [head.run_at for head in due if head.run_at > now]
        if any(head.run_at <= now for head in due):
            running = busy(conn, mine) if running is None else running
            admission = admit(conn, lane, _share(places, mine.get(lane, 0)), running, now)
            if admission.most > 0:
                return True, None
            again += [admission.again_at] if admission.again_at else []
    return False, min(again, default=None)


def admit(conn: Connection, lane: str, most: int, running: Mapping[str, int], now: int) -> Admission:
    """Decide how many jobs of a lane may be claimed, up to `most`. Times are in milliseconds."""
    if most <= 0 or _is_unknown(lane):  # there may be hundreds of lanes, and the write lock is held
        return Admission(0)
    state = STATE.first(conn, lane=lane) or NONE
    if _is_closed(state, now):
        return Admission(0, again_at=state["closed_until"])
    vendor = vendors.by_name(conn, lane)
    if vendor:
        most = min(most, vendor["concurrency"] - running.get(lane, 0)) if vendor["active"] else 0
    tries = state["failures"] >= FAILURES  # it may be well: one tries, and until that succeeds it is closed for longer
    most = min(most, 1) if tries else most
    if most <= 0:
        return Admission(0)
    limit = pace(vendor["limit"]) if vendor and vendor["limit"] else None
    admission = _paced(state, limit, most, now) if limit else Admission(most)
    return admission._replace(failures=state["failures"] + 1) if tries else admission


def judge(conn: Connection, lane: str, now: int, *, failed: bool) -> int | None:
    """Count a failure of a lane, or forget those there were. Return until when it is closed if that has changed."""
    state = STATE.first(conn, lane=lane)
    if state is None and failed:
        OPEN.run(conn, **NONE | {"name": lane})
    state = state or NONE
    if failed and _is_closed(state, now):
        return None  # those that were under way when it was closed tell nothing new
    return _close(conn, lane, state["failures"] + 1 if failed else 0, now) if failed or state["failures"] else None


def _close(conn: Connection, lane: str, failures: int, now: int) -> int | None:
    """Close a lane after so many failures in a row, the longer the more there were; not after a few."""
    seconds = min(LONGEST, SHORTEST << min(failures - FAILURES, 10)) if failures >= FAILURES else 0
    until = now + seconds if seconds else 0
    JUDGE.run(conn, lane=lane, new_failures=failures, until=until)
    return until or None


def _is_closed(state: Row, now: int) -> bool:
    """Tell whether a lane is left alone. For longer than LONGEST was said by a clock that was wrong."""
    closed: bool = now < state["closed_until"] <= now + LONGEST
    return closed


def _is_unknown(lane: str) -> bool:
    """Tell whether a lane is that of a kind of a newer version: its jobs lose no attempt to who cannot do them."""
    return lane.startswith(lane_of("")) and lane.removeprefix(lane_of("")) not in KINDS


def _share(free: int, mine: int) -> int:
    """Return how many more a lane may have, such that at least as many places stay free for others as it has.

    So each lane that hangs halves what is left (dynamic thresholds: Choudhury and Hahne, 1998).
    """
    return (free - mine + 1) // 2


def _paced(state: Row, limit: Limit, most: int, now: int) -> Admission:
    """Give out the moments at which the next may begin, as far as they lie within AHEAD."""
    count = limit.sane(state["level"], state["at"])
    begins: list[Begin] = []
    moment = now * MILLISECOND
    while len(begins) < most:
        taken = limit.take(count, moment)
        if taken.allowed:
            count = taken.after
            begins.append(Begin(-(-moment // MILLISECOND), count))
            continue
        moment += max(1, limit.verdict(taken, moment).reset)
        if moment > (now + AHEAD) * MILLISECOND:
            return Admission(len(begins), begins, moment // MILLISECOND - AHEAD // 2)
    return Admission(len(begins), begins)


def _begun(conn: Connection, lane: str, rows: list[Row], admission: Admission, now: int) -> list[tuple[Row, int]]:
    """Return the claimed jobs with their moments, and count those that were used."""
    if rows and admission.failures:
        _close(conn, lane, admission.failures, now)
    if admission.begins is None or not rows:
        return [(row, now) for row in rows]
    last = admission.begins[len(rows) - 1].used
    if not COUNT.run(conn, lane=lane, new_level=last.level, new_at=last.at):
        OPEN.run(conn, **NONE | {"name": lane, "level": last.level, "at": last.at})
    return [(row, begin.at) for row, begin in zip(rows, admission.begins, strict=False)]
