"""Eyes on every request: its id, its place in a trace, who served it, how long it took; one line in the log.

Works outside Flask, so that whatever answers a request (a view, an error, a static file) is seen the same way. Secrets
never reach the log: neither query strings, nor headers, nor bodies, nor the path of a route that was found.
"""

import os
import socket
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from flask import Flask, has_request_context, request

from api.exchange import FACTS, ID, TRACE, Environ, Exchange, StartResponse, Stream, path_of
from api.settings import Settings
from api.trace import Trace


def init_app(app: Flask, settings: Settings) -> None:
    """Watch every request of the app, whose routes are all there by now."""
    for endpoint, view in app.view_functions.items():
        if not hasattr(view, "contract"):
            app.view_functions[endpoint] = _named(view)
    app.wsgi_app = Observed(app.wsgi_app, served_by(settings))  # type: ignore[method-assign]


def served_by(settings: Settings) -> str:
    """Return the name of this process for `X-Served-By`: host:port/process."""
    return f"{socket.gethostname()}:{settings.port}/{os.getpid()}"


def note(**facts: Any) -> None:
    """Add facts about the current request to its log line."""
    if has_request_context():
        request.environ.setdefault(FACTS, {}).update(facts)


def request_id() -> str:
    """Return the id of the current request."""
    return str(request.environ.get(ID, ""))


def trace_headers() -> dict[str, str]:
    """Return the headers that let whom we call now go on with the current request's trace; none outside of one."""
    found: Trace | None = request.environ.get(TRACE) if has_request_context() else None
    return found.headers() if found else {}


class Observed:
    """WSGI: names the request, times it, counts it, and writes its line."""

    def __init__(self, wsgi_app: Callable[[Environ, StartResponse], Iterable[bytes]], name: str) -> None:
        self.wsgi_app = wsgi_app
        self.name = name

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        exchange = Exchange(environ, start_response, self.name)
        try:
            answer = self.wsgi_app(environ, exchange.start)
        except Exception:  # noqa: BLE001 (from outside Flask's own net, where every error becomes a problem)
            answer = exchange.failed()
        except BaseException as end:
            exchange.broke_off(end)
            exchange.end()
            raise
        if exchange.length is None:
            return Stream(answer, exchange)
        exchange.end()
        return answer


def _named(view: Callable[..., Any]) -> Callable[..., Any]:
    """Let a view without a contract (a page, a file) tell its route, and the path: it holds no secret there."""

    @wraps(view)
    def named(**kwargs: Any) -> Any:
        note(route=request.url_rule and request.url_rule.rule, path=path_of(request.environ))
        return view(**kwargs)

    return named
