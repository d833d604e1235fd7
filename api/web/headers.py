"""Headers that every answer carries, whoever made it. OWASP ASVS 5, chapter 3.4."""

from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask, request

from api.settings import Settings

Header = tuple[str, str]

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
# RFC 6797, 7.2: only over a secure transport. Not outside production, or a browser would never again speak plain HTTP
# with any server of the developer's own machine.
STRICT_TRANSPORT = ("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
NO_STORE = ("Cache-Control", "no-store")

ADDED = "walnut.headers"  # what the steps of the corridor say beside the answer, in the WSGI environment
LISTS = ("Vary", "Link")  # what several of them may add to: it leaves as one header


def add(*headers: Header) -> None:
    """Let the answer to the current request carry these headers, whoever makes it: a view, a problem or a cache."""
    add_to(request.environ, *headers)


def add_to(environ: dict[str, Any], *headers: Header) -> None:
    """Do the same from outside of Flask."""
    environ.setdefault(ADDED, []).extend(headers)


def init_app(app: Flask, settings: Settings) -> None:
    """Add them outside Flask, where one list costs less than eight calls."""
    app.wsgi_app = Headers(app.wsgi_app, settings.production)  # type: ignore[method-assign]


class Headers:
    """WSGI: adds the security headers, and what was added on the way."""

    def __init__(self, wsgi_app: Callable[..., Iterable[bytes]], production: bool) -> None:
        self.wsgi_app = wsgi_app
        self.production = production

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""

        def start(status: str, headers: list[Header], *more: Any) -> Any:
            found = [*headers, *SECURITY, *environ.get(ADDED, ())]
            if self.production and environ["wsgi.url_scheme"] == "https":
                found.append(STRICT_TRANSPORT)
            return start_response(status, complete(found), *more)

        return self.wsgi_app(environ, start)


def complete(headers: list[Header]) -> list[Header]:
    """Return the headers with each name once. What nobody said may be stored, may not (RFC 9111, 4.2.2 would)."""
    names = [name for name, _ in headers]
    if "Cache-Control" not in names:
        headers.append(NO_STORE)
    for name in LISTS:
        if names.count(name) > 1:
            together = ", ".join(value for other, value in headers if other == name)
            headers = [*((other, value) for other, value in headers if other != name), (name, together)]
    return headers
