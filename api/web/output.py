"""Turns what a view returns into a response: JSON, its ETag, and 304 for who has it already."""

import hashlib
from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import orjson
from flask import Response, request
from marshmallow import Schema

from api.errors import PreconditionFailed
from api.web.app import NoContent
from api.web.contract import Contract
from api.web.fields import Timestamp, rfc3339
from api.web.guard import PUBLIC
from api.web.lists import Page, Part


class Answer(Response):
    """A response whose headers are final, so that Werkzeug need not look them over: that costs 20 microseconds."""

    def get_wsgi_headers(self, environ: Any) -> Any:
        """Return the headers of a success as they are."""
        return self.headers if self.status_code in (200, 201) else super().get_wsgi_headers(environ)


def wrap(view: Callable[..., Any], contract: Contract) -> Callable[..., Any]:
    """Answer with what the view returns, in the shape that the contract promises."""
    shape = shaper(contract.returns) if contract.returns else None

    @wraps(view)
    def answered(*args: Any, **kwargs: Any) -> Response:
        result = view(*args, **kwargs)
        if isinstance(result, Response):
            return result
        if shape is None:
            return NoContent(status=contract.status, headers={"Cache-Control": "no-store"})
        return respond(result, shape, contract)

    return answered


def shaper(schema: Schema) -> Callable[[Any], dict[str, Any]]:
    """Compile a schema of plain fields into a function from a row to a dict: `schema.dump` in a fiftieth of its time.

    Only times need work on their way out, and a test holds both equal for every schema that a route returns.
    """
    names = list(schema.fields)
    times = [name for name, field in schema.fields.items() if isinstance(field, Timestamp)]

    def shape(row: Any) -> dict[str, Any]:
        found = {name: row[name] for name in names}
        for name in times:
            found[name] = rfc3339(found[name])
        return found

    return shape


def respond(result: Any, shape: Callable[[Any], dict[str, Any]], contract: Contract) -> Response:
    """Return the response of a row or a part of a list."""
    shaped = result.shaped(shape) if isinstance(result, Page | Part) else shape(result)
    body = orjson.dumps(shaped)
    headers = _caching(contract)
    if tag := _etag(shaped, body, contract):
        headers["ETag"] = tag
    if contract.location:
        headers["Location"] = f"{request.path.rstrip('/')}/{shaped['id']}"
    if isinstance(result, Part) and result.next_cursor:
        headers["Link"] = f'<{_address_after(result.next_cursor)}>; rel="next"'
    response = Answer(body, contract.status, headers, content_type="application/json")
    return conditional(response) if contract.has_etag else response


def conditional(response: Response) -> Response:
    """Honour If-None-Match and If-Match of a read (RFC 9110, 13.2.2). Raises PreconditionFailed."""
    environ = request.environ
    if "HTTP_IF_MATCH" in environ and not request.if_match.contains_weak(response.get_etag()[0] or ""):
        raise PreconditionFailed("It is not the one that If-Match names. Ask without it.")
    if "HTTP_IF_NONE_MATCH" in environ and request.if_none_match.contains_weak(response.get_etag()[0] or ""):
        response.status_code = 304  # and so it leaves without its body and what is said about that
    return response


def _caching(contract: Contract) -> dict[str, str]:
    """Return what caches may do: keep no change and nothing of the moment, and check a read before they reuse it."""
    if contract.writes or not contract.storable:
        return {"Cache-Control": "no-store"}
    if contract.allow == PUBLIC:
        return {"Cache-Control": "no-cache"}
    return {"Cache-Control": "private, no-cache", "Vary": "Authorization"}


def _address_after(cursor: str) -> str:
    """Return the address of the part of a list after the one that was asked for."""
    given = parse_qsl(request.environ.get("QUERY_STRING", ""), keep_blank_values=True)
    query = [(name, value) for name, value in given if name != "cursor"]
    return f"{quote(request.path)}?{urlencode([*query, ('cursor', cursor)])}"


def etag(version: int) -> str:
    """Return the ETag of a thing that counts its changes."""
    return f'"{version}"'


def unchanged_since(row: Any) -> None:
    """Honour If-Match and If-None-Match of a change (RFC 9110, 13.1).

    Raises PreconditionFailed if the thing is not as the caller saw it. A proxy that compresses makes our ETag a weak
    one; its version still says the same, so it is compared weakly.
    """
    version = str(row["version"])
    if request.if_match and not request.if_match.contains_weak(version):
        raise PreconditionFailed(f"It has changed: it is at version {version} now. Fetch it again, then repeat.")
    if request.if_none_match.contains_weak(version):
        raise PreconditionFailed("It is there already, as If-None-Match says it must not be. Repeat without it.")


def _etag(shaped: dict[str, Any], body: bytes, contract: Contract) -> str | None:
    if contract.location or contract.conditional or request.view_args:  # the address says which thing it is
        return etag(shaped["version"])
    if not contract.has_etag:
        return None
    return f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
