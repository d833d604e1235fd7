"""One request and its answer, seen from outside: timed, counted, and told in one line of the log."""

import logging
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import quote

import orjson
from gevent import GreenletExit
from prometheus_client import Histogram
from uuid_utils import uuid7

from api import metrics
from api.trace import Trace, trace
from api.watchdog import watchdog

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
ID, TRACE, FACTS = "walnut.request_id", "walnut.trace", "walnut.facts"  # where they are in the WSGI environment
SLOW_SECONDS = 1.0  # a request that takes longer is a warning
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
LONG_PART = re.compile(r"[^/]{32,}")  # a link of a mail, with the wrong method, has no route: its token is no news
WITHOUT_BODY = frozenset({"204", "304"})
BUG = {
    "type": "urn:walnut:problem:internal_server_error",
    "title": "Internal Server Error",
    "status": 500,
    "detail": "Something went wrong here. The log has it under this request_id.",
    "code": "internal_server_error",
}

LEVELS = {logging.INFO: "INFO", logging.WARNING: "WARNING"}

log = logging.getLogger("walnut.request")
COMMON = vars(logging.LogRecord(log.name, logging.INFO, __file__, 0, "request", (), None))

Environ = dict[str, Any]
StartResponse = Callable[..., Any]


class Line(logging.LogRecord):
    """The record of one request. An ordinary record asks for threads and callers, and costs more to make."""

    def __init__(self, level: int, facts: dict[str, Any]) -> None:
        self.__dict__.update(COMMON)
        self.levelno, self.levelname, self.created = level, LEVELS[level], time.time()
        self.__dict__.update(facts)


class Exchange:
    """One request and its answer, seen from outside."""

    __slots__ = ("_blocked", "_environ", "_fixed", "_start_response", "_started", "length", "status")

    def __init__(self, environ: Environ, start_response: StartResponse, name: str) -> None:
        self._started = time.perf_counter()
        watchdog.moved(self._started)
        self._blocked = watchdog.blocked
        metrics.ACTIVE_REQUESTS.inc()
        given = environ.get("HTTP_X_REQUEST_ID")
        known = given if given and REQUEST_ID.fullmatch(given) else str(uuid7())
        environ[ID] = known
        environ[TRACE] = trace(environ.get("HTTP_TRACEPARENT"), environ.get("HTTP_TRACESTATE", ""))
        self._environ, self._start_response = environ, start_response
        self._fixed = [("X-Request-ID", known), ("X-Served-By", name)]
        self.status = ""  # three digits once the answer has begun
        self.length: int | None = None  # bytes of the body; None: only its end will tell

    def start(self, status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
        """Begin the answer: WSGI's start_response."""
        self.status, self.length = status[:3], None
        if self._environ["REQUEST_METHOD"] == "HEAD" or self.status in WITHOUT_BODY:
            self.length = 0
        else:
            for name, value in headers:
                if name == "Content-Length":
                    self.length = int(value)
                    break
        return self._start_response(status, headers + self._fixed, *more)

    def failed(self) -> list[bytes]:
        """Answer a bug outside of Flask as Flask's are: nothing to the client but the id, everything to the log."""
        log.exception("bug", extra=names(self._environ))
        body = orjson.dumps(
            BUG | {"instance": quote(self._environ["PATH_INFO"], encoding="latin1"), "request_id": self._environ[ID]}
        )
        headers = [("Content-Type", "application/problem+json"), ("Content-Length", str(len(body)))]
        again = (sys.exc_info(),) if self.status else ()  # PEP 3333: who begins twice must say why
        self.start("500 Internal Server Error", [*headers, ("Cache-Control", "no-store")], *again)
        return [body]

    def broke_off(self, reason: BaseException) -> None:
        """Say why there is no whole answer, unless the server itself was told to end."""
        if not isinstance(reason, GreenletExit | GeneratorExit | SystemExit | KeyboardInterrupt):
            log.error("broken off", exc_info=reason, extra=names(self._environ))

    def end(self, *, streamed: bool = False) -> None:
        """Count the exchange and write its line."""
        now = time.perf_counter()
        seconds = now - self._started
        watchdog.moved(now)
        metrics.ACTIVE_REQUESTS.dec()
        facts = self._environ.get(FACTS) or {}
        route, version = facts.get("route", ""), _version(self._environ, facts)
        _series(self._environ["REQUEST_METHOD"], route, self.status, version).observe(seconds)
        slow = seconds > SLOW_SECONDS and not streamed
        level = logging.WARNING if slow else logging.INFO
        if log.isEnabledFor(level):
            line = self._line(round(seconds * 1000, 2), version, facts)
            if slow:  # the rest of its time it waited, and the others went on meanwhile
                line |= {"slow": True, "blocked_ms": round((watchdog.blocked - self._blocked) * 1000)}
            log.handle(Line(level, line))

    def _line(self, ms: float, version: str, facts: dict[str, Any]) -> dict[str, Any]:
        environ = self._environ
        found = {
            **names(environ),
            "method": environ["REQUEST_METHOD"],
            "status": int(self.status or 0),
            "ms": ms,
            "bytes": self.length or 0,
            "replica": self._fixed[1][1],
            "address": environ.get("REMOTE_ADDR"),
        }
        if "route" not in facts:
            found["path"] = path_of(environ)
        if version:
            found["version"] = version
        found.update(facts)
        return found


class Stream:
    """An answer whose length nobody knows yet: it is counted when it has ended."""

    def __init__(self, answer: Iterable[bytes], exchange: Exchange) -> None:
        self._answer, self._exchange = answer, exchange
        exchange.length = 0

    def __iter__(self) -> Iterator[bytes]:
        try:
            for part in self._answer:
                self._exchange.length = (self._exchange.length or 0) + len(part)
                yield part
        except BaseException as reason:
            self._exchange.broke_off(reason)
            raise

    def close(self) -> None:
        """End it. The server calls this, whatever happened."""
        try:
            getattr(self._answer, "close", bool)()
        finally:
            self._exchange.end(streamed=True)


def names(environ: Environ) -> dict[str, str]:
    """Return what a line of the log is found by."""
    known: Trace = environ[TRACE]
    return {"request_id": environ[ID], "trace_id": known.trace_id, "span_id": known.span_id}


def path_of(environ: Environ) -> str:
    """Return the beginning of a path for the log: as it stands in a URL, in ASCII, without what may be a token."""
    path = LONG_PART.sub("...", environ.get("PATH_INFO", ""))
    return quote(path[:200].encode("latin1", "replace"))[:200]


def _version(environ: Environ, facts: dict[str, Any]) -> str:
    """Return the version of the API that answered, or nothing. A route that was found is of a known one."""
    if version := facts.get("version"):
        return str(version)
    path = environ.get("PATH_INFO", "")
    return path[6 : path.find("/", 6)] if "route" in facts and path.startswith("/api/v") else ""


_known: dict[tuple[str, str, str, str], Histogram] = {}


def _series(method: str, route: str, status: str, version: str) -> Histogram:
    """Return the histogram of a request's kind. There are few: no method, route or version is a client's to choose."""
    key = (method, route, status, version)
    found = _known.get(key)
    if found is None:
        known = method if method in METHODS else "_OTHER"
        found = metrics.REQUEST_SECONDS.labels(known, route, status, version)
        if known == method:
            _known[key] = found
    return found
