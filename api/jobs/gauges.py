"""How the queue stands, for Prometheus: all replicas of a database say the same."""

from collections.abc import Iterator

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from api import db
from api.jobs import heads, lanes, queries, workers


def gauges() -> Iterator[Metric]:
    """Yield how many jobs there are of each status, and for how long the first of them has been due."""
    with db.reading() as conn:
        counts, first = queries.counts(conn, None), heads.heads(conn)
        there, closed = len(workers.ALL.all(conn)), lanes.CLOSED.value(conn, now=db.now())
    found = GaugeMetricFamily("walnut_jobs", "Jobs by status.", labels=["status"])
    for status, number in counts.items():
        found.add_metric([status], number)
    yield found
    yield GaugeMetricFamily("walnut_job_workers", "Workers that work on jobs, as far as anybody knows.", there)
    yield GaugeMetricFamily("walnut_job_lanes_closed", "Vendors that are left alone because they failed.", closed)
    due = [db.now() - head.run_at for lane in first.values() for head in lane]
    yield GaugeMetricFamily(
        "walnut_job_oldest_due_seconds", "For how long the pending job that waits longest is due.",
        max(0, *due, 0) / 1000,
    )  # fmt: skip
