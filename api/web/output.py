"""Turns what a view returns into a response: JSON, its ETag, and 304 for who has it already."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import orjson
from flask import Response, request
from marshmallow import Schema, fields

from api.errors import PreconditionFailed
from api.web.contract import Contract
from api.web.fields import Timestamp, rfc3339


@dataclass(frozen=True)
class Page:
    """One page of a list: rows, the page's number from 1, rows a page, rows in all."""

    items: Iterable[Any]
    page: int
    limit: int
    total: int


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
            return Response(status=contract.status, headers={"Cache-Control": "no-store"})
        return respond(result, shape, contract)

    return answered


def shaper(schema: Schema) -> Callable[[Any], dict[str, Any]]:
    """Compile a schema of plain fields into a function from a row to a dict: `schema.dump` in a fiftieth of its time.

    Only times and lists of rows need work on their way out, and a test holds both equal for every schema that a route
    returns.
    """
    names = list(schema.fields)
    times = [name for name, field in schema.fields.items() if isinstance(field, Timestamp)]
    lists = {
        name: shaper(field.inner.schema)
        for name, field in schema.fields.items()
        if isinstance(field, fields.List) and isinstance(field.inner, fields.Nested)
    }

    def shape(row: Any) -> dict[str, Any]:
        found = {name: row[name] for name in names}
        for name in times:
            found[name] = rfc3339(found[name])
        for name, inner in lists.items():
            found[name] = [inner(row) for row in found[name]]
        return found

    return shape


def respond(result: Any, shape: Callable[[Any], dict[str, Any]], contract: Contract) -> Response:
    """Return the response of a row or a Page. Changes are not to be stored; reads are to be checked before reuse."""
    if isinstance(result, Page):
        shaped: Any = {
            "items": [shape(row) for row in result.items],
            "page": result.page,
            "limit": result.limit,
            "total": result.total,
        }
    else:
        shaped = shape(result)
    body = orjson.dumps(shaped)
    headers = {"Cache-Control": "no-store" if contract.writes else "private, no-cache", "Vary": "Authorization"}
    if tag := _etag(shaped, body, contract):
        headers["ETag"] = tag
    if contract.location:
        headers["Location"] = f"{request.path.rstrip('/')}/{shaped['id']}"
    response = Answer(body, contract.status, headers, content_type="application/json")
    if not contract.writes and "HTTP_IF_NONE_MATCH" in request.environ:
        response.make_conditional(request.environ)
    return response


def etag(version: int) -> str:
    """Return the ETag of a thing that counts its changes."""
    return f'"{version}"'


def unchanged_since(row: Any) -> None:
    """Honour If-Match (RFC 9110, 13.1.1). Raises PreconditionFailed if the thing is not as the caller saw it.

    A proxy that compresses makes our ETag a weak one; its version still says the same, so it is compared weakly.
    """
    if request.if_match and not request.if_match.contains_weak(str(row["version"])):
        raise PreconditionFailed(f"It has changed: it is at version {row['version']} now. Fetch it again, then repeat.")


def _etag(shaped: dict[str, Any], body: bytes, contract: Contract) -> str | None:
    if contract.location or contract.conditional or (request.view_args and "version" in shaped):
        return etag(shaped["version"])  # the address says which thing it is
    if contract.writes:
        return None
    return f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
