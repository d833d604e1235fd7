"""Headers that every answer carries, whoever made it. OWASP ASVS 5, chapter 3.4."""

from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask, request

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
SECURITY = [
    ("Content-Security-Policy", CONTENT_SECURITY_POLICY),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=()"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
]


ADDED = "walnut.headers"  # what the steps of the corridor say beside the answer, in the WSGI environment


def add(*headers: tuple[str, str]) -> None:
    """Let the answer to the current request carry these headers, whoever makes it: a view, a problem or a cache."""
    add_to(request.environ, *headers)


def add_to(environ: dict[str, Any], *headers: tuple[str, str]) -> None:
    """Let the answer to a request that Flask may not see carry these headers."""
    environ.setdefault(ADDED, []).extend(headers)


def init_app(app: Flask) -> None:
    """Add them outside Flask, where one list costs less than eight calls."""
    app.wsgi_app = Headers(app.wsgi_app)  # type: ignore[method-assign]


class Headers:
    """WSGI: adds the security headers."""

    def __init__(self, wsgi_app: Callable[..., Iterable[bytes]]) -> None:
        self.wsgi_app = wsgi_app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            return start_response(status, [*headers, *SECURITY, *environ.get(ADDED, ())], *more)

        return self.wsgi_app(environ, start)
