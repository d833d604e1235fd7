"""Lets pages of the origins in CORS_ORIGINS call from a browser, and nobody else's (https://fetch.spec.whatwg.org).

A layer of its own, because it must reach every answer: those of views, problems, files, and what other layers answer
before Flask. See docs/decisions/0014-cors-and-http.md.
"""

from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask

from api.settings import Settings
from api.web import headers

VARY = ("Vary", "Origin")
EXPOSED = (
    *("Allow", "Cache-Status", "Deprecation", "ETag", "Idempotency-Replayed", "Link", "Location"),
    *("RateLimit", "RateLimit-Policy", "Retry-After", "Sunset", "WWW-Authenticate", "X-API-Version"),
    *("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "X-Request-ID", "X-Served-By"),
)
TAKEN = (
    *("Authorization", "Content-Type", "Idempotency-Key", "If-Match", "If-None-Match", "Last-Event-ID"),
    *("X-API-Version", "X-Request-ID", "traceparent", "tracestate"),
)
METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
MAX_AGE = 7200  # seconds a preflight may be remembered: the most that Chromium does

EXPOSE = ("Access-Control-Expose-Headers", ", ".join(EXPOSED))
PREFLIGHT = [
    ("Access-Control-Allow-Methods", ", ".join(METHODS)),
    ("Access-Control-Allow-Headers", ", ".join(TAKEN)),
    ("Access-Control-Max-Age", str(MAX_AGE)),
]


def init_app(app: Flask, settings: Settings) -> None:
    """Let the origins of the settings in. Without any, nothing is added to any answer."""
    if settings.cors_origins:
        app.wsgi_app = Cors(app.wsgi_app, frozenset(settings.cors_origins))  # type: ignore[method-assign]


class Cors:
    """WSGI: answers preflights, and tells browsers who may read an answer."""

    def __init__(self, wsgi_app: Callable[..., Iterable[bytes]], origins: frozenset[str]) -> None:
        self.wsgi_app = wsgi_app
        self.origins = origins

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request. `Vary` also where no origin was sent: a cache must not give that answer to a page."""
        origin = environ.get("HTTP_ORIGIN", "")
        headers.add_to(environ, VARY)
        if origin not in self.origins:
            return self.wsgi_app(environ, start_response)
        headers.add_to(environ, ("Access-Control-Allow-Origin", origin))
        if environ["REQUEST_METHOD"] == "OPTIONS" and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ:
            start_response("204 No Content", list(PREFLIGHT))
            return []
        headers.add_to(environ, EXPOSE)
        return self.wsgi_app(environ, start_response)
