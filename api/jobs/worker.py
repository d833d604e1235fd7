"""A worker: claims jobs, lets each kind carry its own out in a greenlet, and records what came of them.

Claims and outcomes share transactions, so that a busy worker commits once for many jobs. An idle one looks, without any
lock, when its bell rings, when the next job is due, and once a second.
"""

import logging
from collections import Counter
from contextlib import suppress
from typing import Any

import gevent
import orjson
from flask import Flask
from gevent.event import Event as Flag
from sqlalchemy.exc import DBAPIError

from api import db, metrics, sqlite
from api.errors import Refusal, Unavailable
from api.jobs import kinds, lanes, queue, workers
from api.jobs.bell import Bell, bells
from api.jobs.clock import Clock
from api.jobs.kinds import Again, Done, Failed, GivenBack, Job, Kind, Outcome
from api.statements import Row

LOOK_SECONDS = 1.0  # how long an idle worker waits at the most: the bell is only a hint
LOOKOUT_SECONDS = 5.0  # how often to look whether another worker is gone
GRACE_SECONDS = 20.0  # for the jobs that are under way when it is told to end
BUSY_SECONDS = 0.5  # after a fault of the database, before it is tried again
MAX_RESULT = 1 << 20  # bytes
UNKNOWN_KIND_MS = 30_000  # a job of a newer version: a newer worker will come by

log = logging.getLogger("walnut.jobs")


class Worker:
    """One worker. `run` returns after `stop`."""

    def __init__(self, app: Flask, concurrency: int) -> None:
        self._app = app
        self._concurrency = concurrency
        self._clock = Clock()
        self._ended: list[tuple[Row, Outcome]] = []
        self._running: dict[int, gevent.Greenlet] = {}
        self._mine: Counter[str] = Counter()  # how many of each lane
        self._stir = Flag()  # there is something to do, perhaps
        self._stopping = False
        self._again_at: int | None = None
        self.id = db.new_id()

    def stop(self) -> None:
        """Claim nothing any more, finish what is under way, or give it back."""
        self._stopping = True
        self._stir.set()

    def run(self) -> None:
        """Work until told to stop."""
        with self._app.app_context():
            bell = bells().hang(self.id)
            keepers = [
                gevent.spawn(self._listen, bell),
                gevent.spawn(self._keep, self._beat, workers.LEASE_SECONDS / 3),
            ]
            keepers.append(gevent.spawn(self._keep, self._look_out, LOOKOUT_SECONDS, workers.Lookout(bells().is_dead)))
            try:
                while not self._stopping:
                    self._round()
                    self._wait()
                self._finish()
            finally:
                gevent.killall(keepers)
                bell.close()

    def _round(self) -> None:
        """Record what has ended, and claim what is due."""
        self._stir.clear()
        ended, self._ended = self._ended, []
        places = 0 if self._stopping else self._concurrency - len(self._running)
        try:
            if ended or (places and self._may_claim(places)):
                self._begin(self._exchange(ended, places))
        except (Unavailable, DBAPIError, sqlite.driver.Error) as error:  # busy or full: it is as if nothing was said
            log.warning("the queue cannot be reached", extra={"reason": str(error)})
            self._ended = ended + self._ended
            gevent.sleep(BUSY_SECONDS)
            self._stir.set()

    def _begin(self, claims: lanes.Claims) -> None:
        self._again_at = claims.again_at
        for job, begin_at in claims.jobs:
            self._mine[job["lane"]] += 1
            self._running[job["seq"]] = gevent.spawn(self._carry_out, job, begin_at)
        if claims.jobs:
            self._stir.set()  # there may be more of it

    def _may_claim(self, places: int) -> bool:
        with db.reading() as conn:
            found, self._again_at = lanes.may_claim(conn, self._mine, places, self._clock.now())
        return found

    def _exchange(self, ended: list[tuple[Row, Outcome]], places: int) -> lanes.Claims:
        """Record outcomes and claim new jobs, in one transaction."""
        now = self._clock.now()
        with db.writing() as conn:
            told = [(job, outcome, queue.settle(conn, job, outcome, now)) for job, outcome in ended]
            self._judge(conn, told, now)
            claims = lanes.claim(conn, self.id, self._mine, places, now) if places else lanes.Claims([], self._again_at)
        for job, outcome, kept in told:
            _note(job, outcome, kept=kept)
        return claims

    def _judge(self, conn: Any, told: list[tuple[Row, Outcome, bool]], now: int) -> None:
        for job, outcome, kept in told:
            if kept and isinstance(outcome, Again) and outcome.to_blame:
                lanes.judge(conn, job["lane"], now, failed=True)
        for lane in {job["lane"] for job, outcome, kept in told if kept and not isinstance(outcome, Again | GivenBack)}:
            lanes.judge(conn, lane, now, failed=False)

    def _wait(self) -> None:
        seconds = LOOK_SECONDS
        if self._again_at is not None and len(self._running) < self._concurrency:
            seconds = min(seconds, max(0.001, (self._again_at - self._clock.now()) / 1000))
        self._stir.wait(seconds)
        gevent.sleep(0)  # those who are about to end, end in the same transaction

    def _carry_out(self, job: Row, begin_at: int) -> None:
        outcome: Outcome = GivenBack(why="The worker was told to end.")
        try:
            outcome = self._on_time(job, begin_at)
        except gevent.GreenletExit:
            pass
        finally:
            self._running.pop(job["seq"], None)
            self._mine[job["lane"]] -= 1
            self._ended.append((job, outcome))
            self._stir.set()

    def _on_time(self, job: Row, begin_at: int) -> Outcome:
        """Begin at the moment that the lane's limit has given, or not at all."""
        if (early := begin_at - self._clock.now()) > 0:
            gevent.sleep(early / 1000)
            if self._clock.now() - begin_at > lanes.LATE:
                return GivenBack(why="The worker was too busy to begin on time.")
        known = kinds.KINDS.get(job["kind"])
        if known is None:
            return Again(error=f"This worker does not know the kind {job['kind']}.", after=UNKNOWN_KIND_MS)
        with self._app.app_context():
            return _tried(known, _seen_by_its_kind(job))

    def _finish(self) -> None:
        """Let what is under way end, give back what does not, and go."""
        with suppress(gevent.Timeout), gevent.Timeout(GRACE_SECONDS):
            while self._running or self._ended:
                self._round()
                self._stir.wait(LOOK_SECONDS)
        gevent.killall(list(self._running.values()))
        self._round()
        with suppress(Unavailable), db.writing() as conn:
            workers.leave(conn, self.id)

    def _listen(self, bell: Bell) -> None:
        while True:
            bell.wait()
            self._stir.set()

    def _keep(self, task: Any, seconds: float, *arguments: Any) -> None:
        """Do something again and again. What the database refuses now, it may take the next time."""
        with self._app.app_context():
            while True:
                try:
                    task(*arguments)
                except (Unavailable, DBAPIError, sqlite.driver.Error) as error:
                    log.warning("the queue cannot be reached", extra={"reason": str(error)})
                gevent.sleep(seconds)

    def _beat(self) -> None:
        with db.writing() as conn:
            workers.beat(conn, self.id, self._clock.now())

    def _look_out(self, lookout: workers.Lookout) -> None:
        """Let others have the jobs of workers that are gone."""
        with db.reading() as conn:
            gone = [worker_id for worker_id in lookout.gone(conn) if worker_id != self.id]
            if not gone and not workers.overdue(conn, self._clock.now()):
                return
        rescued = True
        while rescued:
            with db.writing() as conn:
                rescued = bool(workers.rescue(conn, gone, self._clock.now()))
            gevent.sleep(0)
        for worker_id in gone:
            log.warning("a worker is gone", extra={"worker_id": worker_id})
            bells().forget(worker_id)
        self._stir.set()


def _seen_by_its_kind(job: Row) -> Job:
    own = (job[name] for name in ("id", "kind", "lane", "payload", "attempts", "traceparent", "created_at"))
    return Job(*own)


def _tried(known: Kind, job: Job) -> Outcome:
    """Return what a kind makes of a job, within its time. A fault of its own is one that may pass."""
    deadline = gevent.Timeout(known.seconds)
    try:
        with deadline:
            outcome = known.run(job)
    except gevent.Timeout as timeout:
        if timeout is not deadline:
            raise
        return Again(error=f"It took longer than {known.seconds:g} s.", to_blame=True)
    except Refusal as refusal:
        return Again(error=refusal.detail)
    except Exception as error:
        log.exception("a job went wrong", extra={"job_id": job.id, "kind": job.kind})
        return Again(error=f"The kind {job.kind} has a fault ({type(error).__name__}). The log has more.")
    return _storable(outcome)


def _storable(outcome: Outcome) -> Outcome:
    """Return the outcome, or that it failed if its result is nothing that the database can keep."""
    if not isinstance(outcome, Outcome):
        return Failed(error=f"Its kind has a fault: {outcome!r} is no outcome.")
    if not isinstance(outcome, Done):
        return outcome
    try:
        size = len(orjson.dumps(outcome.result))
    except TypeError as error:
        return Failed(events=outcome.events, error=f"Its result is nothing that JSON can say ({error}).")
    if size > MAX_RESULT:
        return Failed(events=outcome.events, error=f"Its result is larger than {MAX_RESULT >> 10} KiB.")
    return outcome


def _note(job: Row, outcome: Outcome, *, kept: bool) -> None:
    """Tell the log and the metrics how an attempt ended."""
    name = type(outcome).__name__.lower() if kept else "late"
    metrics.JOB_OUTCOMES.labels(job["kind"], name).inc()
    if log.isEnabledFor(logging.INFO):
        facts = {"job_id": job["id"], "kind": job["kind"], "lane": job["lane"], "attempt": job["attempts"]}
        trace = {"trace_id": job["traceparent"].split("-")[1]} if job["traceparent"] else {}
        reason = {"reason": outcome.error} if isinstance(outcome, Failed | Again) else {}
        log.info("job", extra=facts | {"outcome": name} | trace | reason)
