"""Every metric on one page: its name, its help, its labels and their known values. docs/operations.md explains them.

    metrics.CACHE_ANSWERS.labels("hit").inc()

Names and units follow Prometheus' conventions, those of HTTP OpenTelemetry's. A label's values are few and known
beforehand: never an id, never what a client may choose. Series of known values exist from the start, at zero, because
the first failure is invisible to `rate()` otherwise.
"""

from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from api import scoreboard  # noqa: F401 (gives every metric made below its kind of number)

disable_created_metrics()  # they do not exist over several processes, so in one neither

REGISTRY = CollectorRegistry()  # of this process; /health/metrics has all of them
TEN_MICROSECONDS_TO_FIVE_SECONDS = (1e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.1, 0.25, 1, 5)

Metric = TypeVar("Metric", Counter, Histogram)


def _counter(name: str, explanation: str, *labels: str) -> Counter:
    return Counter(name, explanation, labels, registry=REGISTRY)


def _gauge(name: str, explanation: str) -> Gauge:
    return Gauge(name, explanation, multiprocess_mode="livesum", registry=REGISTRY)


def _histogram(name: str, explanation: str, *labels: str, buckets: tuple[float, ...]) -> Histogram:
    return Histogram(name, explanation, labels, buckets=buckets, registry=REGISTRY)


def _with(metric: Metric, *known: tuple[str, ...]) -> Metric:
    """Let the series of these label values exist from the start."""
    for given in known:
        metric.labels(*given)
    return metric


# ---- HTTP: https://opentelemetry.io/docs/specs/semconv/http/http-metrics/
REQUEST_SECONDS = _histogram(
    "http_server_request_duration_seconds",
    "Time from the first look at a request until its answer was handed to the server (a stream: until it ended).",
    "http_request_method", "http_route", "http_response_status_code", "api_version",
    buckets=(5e-4, 1e-3, 2.5e-3, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)  # fmt: skip
ACTIVE_REQUESTS = _gauge("http_server_active_requests", "Requests that are being answered now, this one included.")

# ---- the corridor
CACHE_ANSWERS = _with(
    _counter("walnut_cache_answers_total", "Cacheable GETs by what the cache made of them.", "result"),
    ("hit",), ("miss",), ("bypass",),
)  # fmt: skip
CACHE_HITS = CACHE_ANSWERS.labels("hit")
LIMITER_VERDICTS = _with(
    _counter("walnut_limiter_verdicts_total", "Requests that were counted, by limit and verdict.", "limit", "verdict"),
    *[
        (limit, verdict)
        for limit in ("default", "auth", "jobs", "sign-in", "second-factor")
        for verdict in ("allowed", "refused")
    ],
)
IDEMPOTENCY = _with(
    _counter("walnut_idempotency_total", "Writes with an Idempotency-Key by what became of them.", "result"),
    ("stored",), ("replayed",), ("mismatch",),
)  # fmt: skip

# ---- the database
DATABASE_WAIT = _with(
    _histogram(
        "walnut_database_wait_seconds",
        "Time a writer waited: for its turn in its process (turn), for the write lock of the file (begin).",
        "stage",
        buckets=TEN_MICROSECONDS_TO_FIVE_SECONDS,
    ),
    ("turn",), ("begin",),
)  # fmt: skip
TURN_WAIT, BEGIN_WAIT = DATABASE_WAIT.labels("turn"), DATABASE_WAIT.labels("begin")
DATABASE_BUSY = _counter("walnut_database_busy_retries_total", "Times the file was locked and was asked for again.")
COMMIT_SECONDS = _histogram(
    "walnut_database_commit_seconds",
    "Time a COMMIT took until the disk had it.",
    buckets=TEN_MICROSECONDS_TO_FIVE_SECONDS,
)
COMMIT_CHANGES = _histogram(
    "walnut_database_commit_changes", "Changes that shared one COMMIT.", buckets=(1, 2, 4, 8, 16, 32, 64, 128)
)
COMMIT_FAILURES = _counter("walnut_database_commit_failures_total", "Transactions that were undone for everyone in it.")

# ---- jobs
JOB_OUTCOMES = _with(
    _counter("walnut_job_outcomes_total", "Attempts at jobs that have ended, by kind and outcome.", "kind", "outcome"),
    *[(kind, outcome) for kind in ("vendor", "mail", "maintenance", "account_mail")
      for outcome in ("done", "failed", "again", "awaiting", "givenback", "late")],
)  # fmt: skip

# ---- beside the database
REDIS_FAILURES = _counter("walnut_redis_failures_total", "Questions that Redis did not answer in time, or at all.")
REDIS_BREAKER = _gauge("walnut_redis_breaker_open", "Worker processes that leave Redis alone, because it failed them.")
EVENT_LISTENERS = _gauge("walnut_event_listeners", "Connections that listen to events.")
HASHING_QUEUE = _gauge("walnut_password_hashing_queue", "Password hashes under way or waiting for a thread.")
HASHING_REFUSED = _counter("walnut_password_hashing_refused_total", "Hashes refused because too many waited: 503.")

# ---- the process itself
HUB_BLOCKED = _counter(
    "walnut_hub_blocked_seconds_total", "Time in which code kept the event loop from running, in pieces of over 100 ms."
)
LOG_LINES_LOST = _counter("walnut_log_lines_lost_total", "Lines that LOG_DIR did not take. Standard output has them.")
