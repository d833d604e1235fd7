"""The queue by itself: python -m gevent.monkey --module bench.queue [--jobs N] [--finished N].

How many jobs that do nothing one worker claims and finishes, durable, with the usual and with more concurrency; the
same among a million that have ended, where lists are asked for too; how soon a job begins after its commit, and what an
idle worker costs; whether memory stays. It is compared to one by one: a transaction for each claim and each outcome.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import orjson

from api import create_app, db, settings
from api.jobs import kinds, lanes, outcomes, queries, queue
from api.jobs.kinds import Done, Job, Outcome, kind
from api.jobs.worker import Worker
from api.migrations import upgrade
from api.ops.health import resident_bytes
from bench import machine

BEGAN: dict[str, float] = {}  # when each timed job began
PAUSE = 0.02  # seconds between two timed jobs


@kind("noop")
def noop(_job: Job) -> Outcome:
    """Do nothing."""
    return Done()


@kind("timed")
def timed(job: Job) -> Outcome:
    """Remember when it began."""
    BEGAN[job.id] = time.time()
    return Done()


class Bench:
    """A queue on a database of its own."""

    def __init__(self, folder: Path) -> None:
        os.environ |= {"APP_ENV": "testing", "INSTANCE_PATH": str(folder), "LOG_LEVEL": "warning"}
        given = settings.load()
        upgrade.upgrade(given)
        self.app = create_app(given)
        kinds.register(noop, timed)

    def enqueue(self, count: int) -> None:
        """Put in jobs that do nothing."""
        with self.app.app_context():
            for start in range(0, count, 5000):
                with db.writing() as conn:
                    for n in range(start, min(count, start + 5000)):
                        queue.enqueue(conn, "noop", {"n": n})

    def emptied(self, count: int, concurrency: int) -> float:
        """Return how many jobs a second a worker claims and finishes."""
        self.enqueue(count)
        worker = Worker(self.app, concurrency)
        began = time.perf_counter()
        gevent.spawn(self._stop_when, worker, lambda: self.pending() == 0)
        worker.run()
        return count / (time.perf_counter() - began)

    def one_by_one(self, count: int) -> float:
        """Return the same if each claim and each outcome has a transaction of its own."""
        self.enqueue(count)
        began = time.perf_counter()
        with self.app.app_context():
            for _ in range(count):
                with db.writing() as conn:
                    ((job, _at),) = lanes.claim(conn, "one", {}, 1, db.now()).jobs
                with db.writing() as conn:
                    outcomes.settle(conn, job, Done(), db.now())
        return count / (time.perf_counter() - began)

    def pending(self) -> int:
        """Return how many have not ended."""
        with self.app.app_context(), db.reading() as conn:
            counts = queries.counts(conn, None)
        return counts["pending"] + counts["processing"]

    def finish(self, count: int) -> None:
        """Put in jobs that have ended long ago, behind the queue's back."""
        columns = "id, kind, lane, owner_id, status, priority, run_at, attempts, max_attempts, payload, created_at, "
        columns += "updated_at, finished_at, version"
        with self.app.app_context():
            for start in range(0, count, 100_000):
                with db.writing() as conn:
                    conn.exec_driver_sql(
                        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
                        f"INSERT INTO jobs({columns}) SELECT 'old' || ? || '-' || i, 'vendor', 'lane' || i % 20, "
                        "NULL, CASE i % 50 WHEN 0 THEN 'failed' ELSE 'complete' END, 3, i, 1, 5, '{}', i, i, i, 2 "
                        "FROM n",
                        (min(100_000, count - start), start),
                    )

    def listed(self) -> float:
        """Return for how many milliseconds a list is read: the newest, and the newest that failed."""

        def ask() -> None:
            for query in ({}, {"status": "failed"}, {"vendor_type": "lane7"}):
                with db.reading() as conn:
                    queries.find(conn, None, {"sort": "-created_at", "limit": 20, "page": 1} | query)

        with self.app.app_context():
            return statistics.median(_seconds(ask) for _ in range(20)) * 1000 / 3

    def _stop_when(self, worker: Worker, condition: Callable[[], bool]) -> None:
        while not condition():
            gevent.sleep(0.02)
        worker.stop()


def latency(folder: Path, count: int) -> dict[str, float]:
    """Return how soon jobs begin after another process heard of their commit (ms), and an idle worker's CPU (%)."""
    bench = Bench(folder)
    worker = Worker(bench.app, 50)
    running = gevent.spawn(worker.run)
    gevent.sleep(1)
    before = _processor()
    gevent.sleep(5)
    idle = (_processor() - before) / 5 * 100
    enqueuer = subprocess.Popen(
        [sys.executable, "-m", "bench.queue", "--enqueue", str(count), "--folder", str(folder)], stdout=subprocess.PIPE
    )
    while enqueuer.poll() is None:
        gevent.sleep(0.005)
    committed: dict[str, float] = orjson.loads(enqueuer.stdout.read() if enqueuer.stdout else b"{}")
    gevent.sleep(1.5)
    worker.stop()
    running.join()
    waited = sorted((BEGAN[job_id] - at) * 1000 for job_id, at in committed.items())
    return {"p50": waited[len(waited) // 2], "p99": waited[int(len(waited) * 0.99)], "idle": idle}


def enqueue_timed(folder: Path, count: int) -> None:
    """Enqueue jobs with pauses, and print when each commit was answered."""
    bench = Bench(folder)
    at = {}
    with bench.app.app_context():
        for _ in range(count):
            with db.writing() as conn:
                job = queue.enqueue(conn, "timed", None)
            at[job["id"]] = time.time()
            time.sleep(PAUSE)
    print(orjson.dumps(at).decode())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--finished", type=int, default=1_000_000)
    parser.add_argument("--enqueue", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.enqueue:
        return enqueue_timed(given.folder, given.enqueue)
    with machine.folder_on_disk() as folder:
        print(machine.description(folder))
        bench = Bench(folder / "throughput")
        bench.emptied(2000, 50)
        alone = bench.one_by_one(3000)
        _say("one by one", f"{alone:,.0f} jobs/s")
        before = resident_bytes()
        for concurrency in (50, 400):
            rate = bench.emptied(given.jobs // 2, concurrency)
            _say(f"one worker, {concurrency} at once", f"{rate:,.0f} jobs/s, {rate / alone:.1f} of one by one")
        grown = (resident_bytes() - before) / given.jobs
        _say(f"memory over {given.jobs:,} jobs", f"{grown:+.0f} bytes a job, {resident_bytes() >> 20} MiB in all")
        _say("list of 20 among these", f"{bench.listed():.2f} ms")
        found = latency(folder / "latency", 500)
        _say("from commit to start, another process", f"p50 {found['p50']:.2f} ms, p99 {found['p99']:.2f} ms")
        _say("an idle worker", f"{found['idle']:.2f} % of a core")
        full = Bench(folder / "full")
        full.finish(given.finished)
        rate = full.emptied(20_000, 50)
        _say(f"among {given.finished:,} that have ended", f"{rate:,.0f} jobs/s, list of 20 {full.listed():.2f} ms")
    return None


def _say(what: str, found: Any) -> None:
    print(f"  {what:40}{found}", flush=True)


def _seconds(action: Callable[[], None]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
