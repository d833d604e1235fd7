"""Conditional requests (RFC 9110, 13). ETags are compared weakly: a proxy that compresses makes ours a weak one, and
what it stands for is still the same.
"""

from collections.abc import Mapping
from typing import Any

from flask import Response, request
from werkzeug.http import parse_etags

from api.errors import Malformed, PreconditionFailed


def etag(version: int) -> str:
    """Return the ETag of a thing that counts its changes."""
    return f'"{version}"'


def has_already(environ: Mapping[str, Any], tag: str) -> bool:
    """Tell whether the client says that it has the answer with this ETag: then 304 will do."""
    return "HTTP_IF_NONE_MATCH" in environ and _names(environ["HTTP_IF_NONE_MATCH"], tag)


def refuse_another(environ: Mapping[str, Any], tag: str) -> None:
    """Raise PreconditionFailed if a read is to have another ETag than this."""
    if "HTTP_IF_MATCH" in environ and not _names(environ["HTTP_IF_MATCH"], tag):
        raise PreconditionFailed("It is not the one that If-Match names. Ask without it.")


def conditional(response: Response) -> Response:
    """Honour If-None-Match and If-Match of a read. Raises PreconditionFailed."""
    tag = response.headers["ETag"]
    refuse_another(request.environ, tag)
    if has_already(request.environ, tag):
        response.status_code = 304  # and so it leaves without its body and what is said about that
    return response


def unchanged_since(row: Any) -> None:
    """Honour If-Match and If-None-Match of a change. Raises PreconditionFailed, or Malformed if there is no ETag."""
    version, environ = row["version"], request.environ
    if "HTTP_IF_MATCH" in environ:
        if not request.if_match:
            raise Malformed("If-Match holds no ETag. Send the one you saw last, with its quotes.")
        if not _names(environ["HTTP_IF_MATCH"], etag(version)):
            raise PreconditionFailed(f"It has changed: it is at version {version} now. Fetch it again, then repeat.")
    if has_already(environ, etag(version)):
        raise PreconditionFailed("It is there already, as If-None-Match says it must not be. Repeat without it.")


def _names(given: str, tag: str) -> bool:
    return bool(parse_etags(given).contains_weak(tag.removeprefix("W/").strip('"')))
