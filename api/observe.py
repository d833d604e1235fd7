"""Eyes on every request: its id, who served it, how long it took, and one JSON line in the log.

Works outside Flask, so that whatever answers a request (a view, an error, a static file) is seen the same way. Secrets
never reach the log: neither query strings, nor headers, nor bodies, nor the path of a route that was found.
"""

import logging
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import orjson
from flask import Flask, has_request_context, request
from pythonjsonlogger.orjson import OrjsonFormatter
from uuid_utils import uuid7

from api.settings import Settings

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
FACTS = "walnut.facts"  # what the corridor learns about a request, in its WSGI environment

log = logging.getLogger("walnut.request")

Environ = dict[str, Any]
StartResponse = Callable[..., Any]


def init_app(app: Flask, settings: Settings) -> None:
    """Watch every request of the app."""
    app.wsgi_app = Observed(app.wsgi_app, served_by(settings))  # type: ignore[method-assign]


def served_by(settings: Settings) -> str:
    """Return the name of this process for `X-Served-By`: host:port/process."""
    return f"{socket.gethostname()}:{settings.port}/{os.getpid()}"


def logging_config(level: str) -> dict[str, Any]:
    """Return the `logging.config` of every process: one JSON object a line on standard output."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "json": {
                "()": Lines,
                "fmt": "{levelname}{name}{message}",
                "style": "{",
                "rename_fields": {"levelname": "level", "name": "logger"},
                "timestamp": "time",
            }
        },
        "handlers": {"stdout": {"class": "logging.StreamHandler", "formatter": "json", "stream": sys.stdout}},
        "root": {"level": level.upper(), "handlers": ["stdout"]},
        "loggers": {
            "gunicorn.error": {"level": level.upper(), "propagate": True, "handlers": []},
            "alembic": {"level": "WARNING"},
        },
    }


def note(**facts: Any) -> None:
    """Add facts about the current request to its log line."""
    if has_request_context():
        request.environ.setdefault(FACTS, {}).update(facts)


def request_id() -> str:
    """Return the id of the current request."""
    return str(request.environ.get("walnut.request_id", ""))


class Lines(OrjsonFormatter):
    """Writes records as JSON; the line of a request is a dict already, and need not be looked for in its record."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        line: dict[str, Any] | None = getattr(record, "line", None)
        return super().format(record) if line is None else orjson.dumps(line).decode()


class Observed:
    """WSGI: names the request, times it, and writes its line."""

    def __init__(self, wsgi_app: Callable[[Environ, StartResponse], Iterable[bytes]], name: str) -> None:
        self.wsgi_app = wsgi_app
        self.name = name

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        started = time.perf_counter()
        given = environ.get("HTTP_X_REQUEST_ID", "")
        known = given if REQUEST_ID.fullmatch(given) else str(uuid7())
        environ["walnut.request_id"] = known
        answered = ["000"]

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            answered[0] = status
            return start_response(status, [*headers, ("X-Request-ID", known), ("X-Served-By", self.name)], *more)

        try:
            return self.wsgi_app(environ, start)
        finally:
            if log.isEnabledFor(logging.INFO):
                log.handle(_record(self._line(environ, int(answered[0][:3]), started)))

    def _line(self, environ: Environ, status: int, started: float) -> dict[str, Any]:
        facts = environ.get(FACTS, {})
        if "route" not in facts:
            facts = {"path": environ.get("PATH_INFO", "")[:200], **facts}
        return {
            "time": datetime.now(UTC),
            "level": "INFO",
            "logger": log.name,
            "message": "request",
            "request_id": environ["walnut.request_id"],
            "method": environ["REQUEST_METHOD"],
            "status": status,
            "ms": round((time.perf_counter() - started) * 1000, 2),
            "replica": self.name,
            "address": environ.get("REMOTE_ADDR"),
            **facts,
        }


def _record(line: dict[str, Any]) -> logging.LogRecord:
    own = {"name": log.name, "levelno": logging.INFO, "levelname": "INFO", "msg": "request", "line": line}
    return logging.makeLogRecord(line | own)
