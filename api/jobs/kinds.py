"""The kinds of job by name: who carries one out, and what may come of it.

    @kind("mail", attempts=8)
    def deliver(job: Job) -> Outcome:
        ...
        return Done({"delivered_to": 1})

A kind may wait, call and take its time: it runs outside of any transaction. It may run twice for one job, should its
worker die in the middle, so what it calls is told the job's id. An exception counts as a failure that may pass.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

VENDOR = "vendor"  # the kind of job that people ask for: the others are the server's own business


class Job(NamedTuple):
    """A job as its kind sees it. `attempt` counts from 1; `created_at` is in milliseconds since 1970."""

    id: str
    kind: str
    lane: str
    payload: Any
    attempt: int
    traceparent: str | None
    created_at: int


class Event(NamedTuple):
    """What happened to a job meanwhile, for its history: when, what in one word, and more for people."""

    at: int
    name: str
    detail: str | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of an attempt. `events` are told in the job's history."""

    events: list[Event] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Done(Outcome):
    """It is complete. `result` is whatever JSON can say."""

    result: Any = None


@dataclass(frozen=True, kw_only=True)
class Failed(Outcome):
    """It failed, and would again."""

    error: str


@dataclass(frozen=True, kw_only=True)
class Again(Outcome):
    """It failed, and may succeed later: not before `after` (milliseconds from now), otherwise when the back-off says.

    `to_blame`: its lane failed, not this job. Several such in a row, and the lane is left alone for a while.
    """

    error: str
    after: int | None = None
    to_blame: bool = False


@dataclass(frozen=True, kw_only=True)
class Awaiting(Outcome):
    """The other side has taken it on, and will say how it ended within so many milliseconds."""

    within: int


@dataclass(frozen=True, kw_only=True)
class GivenBack(Outcome):
    """Nothing was done, and it is nobody's fault: the attempt does not count."""

    why: str


@dataclass(frozen=True)
class Kind:
    """A kind of job. `attempts` is how many it gets, `seconds` how long one may take, `audited` whether its end is.

    `forgets`: what such a job was to do is of no use, and nobody else's business, once it is complete.
    """

    name: str
    run: Callable[[Job], Outcome]
    attempts: int
    seconds: float
    audited: bool
    forgets: bool


KINDS: dict[str, Kind] = {}


def kind(
    name: str, *, attempts: int = 5, seconds: float = 60.0, audited: bool = False, forgets: bool = False
) -> Callable[[Callable[[Job], Outcome]], Kind]:
    """Make a kind of the function that carries out its jobs."""
    return lambda run: Kind(name, run, attempts, seconds, audited, forgets)


def register(*kinds: Kind) -> None:
    """Let jobs be of these kinds."""
    KINDS.update({known.name: known for known in kinds})


def lane_of(name: str) -> str:
    """Return the lane of a kind that has only one. No vendor's name begins like that."""
    return f":{name}"
