"""The versions of the API: /api/vN/..., or /api/... and a header that says which. One list of routes serves them all.

The path counts first, then `X-API-Version`, then the media ranges of `Accept`; who says nothing gets version 1. See
docs/decisions/0013-versions.md.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from flask import Flask, request
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header, parse_options_header

from api.errors import Malformed, NotAcceptable, Refusal
from api.settings import Settings
from api.web import headers

VERSIONS = (1, 2)
DEFAULT = 1
KNOWN = ", ".join(map(str, VERSIONS))

VERSION = "walnut.version"  # the version that a request is for, in its WSGI environment
ASKED = "walnut.asked"  # the path as the client wrote it, where it names no version

IN_PATH = {f"v{version}": version for version in VERSIONS}
IN_HEADER = {str(version): version for version in VERSIONS}
NUMBERED = re.compile(r"v\d+")
SAYS = {version: ("X-API-Version", str(version)) for version in VERSIONS}
VARY = ("Vary", "X-API-Version, Accept")

MEDIA_TYPE = re.compile(r"application/(?:json|vnd\.api\+json|vnd\.walnut(?:\.v(\d+))?\+json)")
WILDCARDS = ("*/*", "application/*")


def init_app(app: Flask, _settings: Settings) -> None:
    """Give every request under /api/ its version, before Flask looks for its route."""
    app.wsgi_app = Versions(app)  # type: ignore[method-assign]


def asked_path() -> str:
    """Return the path of the current request as the client wrote it."""
    path: str | None = request.environ.get(ASKED)
    return request.path if path is None else path.encode("latin1").decode(errors="replace")  # PEP 3333


class Versions:
    """WSGI: finds the version of a request, writes it into its path, and says so in the answer."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.wsgi_app: Callable[..., Iterable[bytes]] = app.wsgi_app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        path = environ.get("PATH_INFO", "")
        if path.startswith("/api/"):
            try:
                environ[VERSION] = version = _in_path(path) or _in_headers(environ, path)
            except Refusal as error:
                return self._refused(error, environ, start_response)
            headers.add_to(environ, SAYS[version])
        return self.wsgi_app(environ, start_response)

    def _refused(self, error: Refusal, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer as Flask would if a view had raised this."""
        with self.app.request_context(environ):
            response = self.app.make_response(self.app.handle_user_exception(error))
        return response(environ, start_response)


def _in_path(path: str) -> int | None:
    """Return the version that a path under /api/ names, or None. Raises Malformed if there is no such version."""
    name = path[5:].partition("/")[0]
    if NUMBERED.fullmatch(name) and name not in IN_PATH:
        raise Malformed(f"There is no version {name[1:21]} of this API. The versions are: {KNOWN}.")
    return IN_PATH.get(name)


def _in_headers(environ: dict[str, Any], path: str) -> int:
    """Return the version that the headers name, and write it into the path. Raises Malformed, NotAcceptable."""
    headers.add_to(environ, VARY)
    if given := environ.get("HTTP_X_API_VERSION"):
        if given not in IN_HEADER:
            raise Malformed(f"X-API-Version names no version of this API. The versions are: {KNOWN}.")
        version = IN_HEADER[given]
    else:
        version = _accepted(environ.get("HTTP_ACCEPT", ""))
    environ[ASKED] = path
    environ["PATH_INFO"] = f"/api/v{version}{path[4:]}"
    return version


class Range(NamedTuple):
    """One media range of Accept, as far as it is about us: the version it names, if it does."""

    quality: float
    version: str | None
    specificity: int  # RFC 9110, 12.5.1: of those that name no version, the most specific one counts


@lru_cache(maxsize=256)
def _accepted(accept: str) -> int:
    """Return the version that an Accept header prefers. Raises NotAcceptable if it wants only ones there are not.

    A header that does not speak of versions (a browser's, curl's) gets the first one, as does none at all.
    """
    ranges = list(_ranges(accept))
    named = [range_.version for range_ in ranges if range_.version]
    if not named:
        return DEFAULT
    first_named = [IN_HEADER[name] for name in named if name in IN_HEADER]
    order = dict.fromkeys((*first_named, DEFAULT, *VERSIONS))  # max() keeps the first of equals
    best = max(order, key=lambda version: _quality(ranges, version))
    if _quality(ranges, best) <= 0:
        raise NotAcceptable(f"None of the versions that Accept names is to be had. The versions are: {KNOWN}.")
    return best


def _quality(ranges: list[Range], version: int) -> float:
    """Return how much a version is wanted: by a range that names it, or by the most specific one that names none."""
    if named := [range_.quality for range_ in ranges if range_.version == str(version)]:
        return max(named)
    general = [range_ for range_ in ranges if range_.version is None]
    return max(general, key=lambda range_: range_.specificity).quality if general else 0


def _ranges(accept: str) -> Iterator[Range]:
    """Yield the media ranges that fit what we send."""
    for item, quality in parse_accept_header(accept, MIMEAccept):
        media_type, parameters = parse_options_header(item)
        if media_type in WILDCARDS:
            yield Range(quality, None, WILDCARDS.index(media_type))
        elif found := MEDIA_TYPE.fullmatch(media_type.lower()):
            yield Range(quality, found[1] or parameters.get("version"), len(WILDCARDS))
