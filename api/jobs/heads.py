"""The heads of the lanes: of each lane and priority the job that has waited longest. This is how a worker looks."""

from typing import NamedTuple

from sqlalchemy import Connection, func, literal_column, select

from api.jobs.queue import BY_PENDING
from api.statements import Statement
from api.tables import jobs

_here, _next = jobs.alias("here"), jobs.alias("following")
_after = (
    select(_next.c.seq)
    .with_hint(_next, *BY_PENDING[1:])
    .where(_next.c.status == literal_column("'pending'"))
    .order_by(_next.c.lane, _next.c.priority, _next.c.run_at, _next.c.seq)
    .limit(1)
)
_first = _after.subquery()
_walk = select(_first.c.seq).cte("heads", recursive=True)
_walk = _walk.union_all(
    select(
        func.coalesce(  # two ranges of the index: a comparison of pairs would be one of its first column
            _after.where(_next.c.lane == _here.c.lane, _next.c.priority > _here.c.priority).scalar_subquery(),
            _after.where(_next.c.lane > _here.c.lane).scalar_subquery(),
        )
    ).select_from(_walk.join(_here, _here.c.seq == _walk.c.seq))
)
# The first of each lane and priority, by a walk that takes one step of the index for each: who has a million jobs
# waiting costs no more than who has one.
HEADS = Statement(
    select(jobs.c.lane, jobs.c.priority, jobs.c.run_at)
    .select_from(_walk.join(jobs, jobs.c.seq == _walk.c.seq))
    .order_by(jobs.c.priority, jobs.c.run_at)
)


class Head(NamedTuple):
    """The job of a lane and a priority that has waited longest. `run_at` is in milliseconds since 1970."""

    lane: str
    priority: int
    run_at: int


def heads(conn: Connection) -> dict[str, list[Head]]:
    """Return the heads of each lane, the most urgent first."""
    found: dict[str, list[Head]] = {}
    for row in HEADS.all(conn):
        found.setdefault(row["lane"], []).append(Head(**row))
    return found
