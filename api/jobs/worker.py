"""A worker: claims jobs, lets each kind carry its own out in a greenlet, and records what came of them.

Claims and outcomes share transactions, so that a busy worker commits once for many jobs. An idle one looks, without any
lock, when its bell rings, when the next job is due, and once a second.
"""

import logging
from collections import Counter
from contextlib import suppress
from typing import Any

import gevent
from flask import Flask
from gevent.event import Event as Flag
from sqlalchemy.exc import DBAPIError

from api import db, sqlite
from api.errors import Unavailable
from api.jobs import attempts, lanes, outcomes, queue, workers
from api.jobs.bell import Bell, bells
from api.jobs.clock import Clock
from api.jobs.kinds import Again, Event, Failed, GivenBack, Outcome
from api.statements import Row

LOOK_SECONDS = 1.0  # how long an idle worker waits at the most: the bell is only a hint
LOOKOUT_SECONDS = 5.0  # how often to look whether another worker is gone
GRACE_SECONDS = 20.0  # for the jobs that are under way when it is told to end
BUSY_SECONDS = 0.5  # after a fault of the database, before it is tried again

UNRECORDED = Failed(error="What came of it could not be recorded. The log has more.")

log = logging.getLogger("walnut.jobs")


class Worker:
    """One worker. `run` returns after `stop`."""

    def __init__(self, app: Flask, concurrency: int) -> None:
        self._app = app
        self._concurrency = concurrency
        self._clock = Clock()
        self._ended: list[tuple[Row, Outcome]] = []
        self._running: set[gevent.Greenlet] = set()
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
        except Unavailable as error:  # busy or full: it is as if nothing was said
            log.warning("the queue cannot be reached", extra={"reason": str(error)})
            self._ended = ended + self._ended
            gevent.sleep(BUSY_SECONDS)
            self._stir.set()
        except Exception:
            log.exception("outcomes cannot be recorded")
            self._record_each(ended)

    def _record_each(self, ended: list[tuple[Row, Outcome]]) -> None:
        """Record outcomes one by one, so that one which the database will never take stops no other."""
        for job, outcome in ended:
            try:
                self._exchange([(job, outcome)], 0)
            except Unavailable:
                self._ended.append((job, outcome))
            except Exception:
                log.exception("an outcome cannot be recorded", extra={"job_id": job["id"]})
                if outcome != UNRECORDED:
                    self._ended.append((job, UNRECORDED))
        gevent.sleep(BUSY_SECONDS)
        self._stir.set()

    def _begin(self, claims: lanes.Claims) -> None:
        self._again_at = claims.again_at
        for job, begin_at in claims.jobs:
            self._mine[job["lane"]] += 1
            self._running.add(gevent.spawn(self._carry_out, job, begin_at))
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
            told = [(job, outcome, outcomes.settle(conn, job, outcome, now)) for job, outcome in ended]
            self._judge(conn, told, now)
            for job, outcome, kept in told:
                if not kept and queue.get(conn, job["id"]):
                    outcomes.tell(conn, job, Event(now, "late", attempts.too_late(job, outcome)))
            claims = lanes.claim(conn, self.id, self._mine, places, now) if places else lanes.Claims([], self._again_at)
        for job, outcome, kept in told:
            attempts.note(job, outcome, kept=kept)
        return claims

    def _judge(self, conn: Any, told: list[tuple[Row, Outcome, bool]], now: int) -> None:
        for job, outcome, kept in told:
            if kept and isinstance(outcome, Again) and outcome.to_blame:
                until = lanes.judge(conn, job["lane"], now, failed=True)
                if until:
                    log.warning("a lane is closed", extra={"lane": job["lane"], "seconds": (until - now) / 1000})
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
            self._running.discard(gevent.getcurrent())
            self._mine[job["lane"]] -= 1
            self._ended.append((job, outcome))
            self._stir.set()

    def _on_time(self, job: Row, begin_at: int) -> Outcome:
        """Begin at the moment that the lane's limit has given, or not at all."""
        if (early := begin_at - self._clock.now()) > 0:
            gevent.sleep(early / 1000)
            if self._clock.now() - begin_at > lanes.LATE:
                return GivenBack(why="The worker was too busy to begin on time.")
        with self._app.app_context():
            return attempts.carried_out(job)

    def _finish(self) -> None:
        """Let what is under way end, give back what does not, and go."""
        with suppress(gevent.Timeout), gevent.Timeout(GRACE_SECONDS):
            while self._running or self._ended:
                self._round()
                self._stir.wait(LOOK_SECONDS)
        gevent.killall(list(self._running))
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
                except Exception:
                    log.exception("a keeper of the worker went wrong")  # without it others would take its jobs
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
            if bells().is_dead(worker_id):  # one that only stood still needs its bell again
                bells().forget(worker_id)
        self._stir.set()
