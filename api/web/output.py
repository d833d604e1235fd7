"""Turns what a view returns into a response: JSON, its ETag, and 304 for who has it already."""

import hashlib
from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import quote, urlencode

import orjson
from flask import Response, g, request
from marshmallow import Schema, fields

from api.web.app import Answer, NoContent
from api.web.conditional import conditional, etag
from api.web.contract import Contract
from api.web.fields import Timestamp, rfc3339
from api.web.guard import PUBLIC
from api.web.lists import Page, Part


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
    """Return the response of a row or a part of a list."""
    shaped = result.shaped(shape) if isinstance(result, Page | Part) else shape(result)
    body = orjson.dumps(shaped)
    headers = _caching(contract)
    if tag := _etag(shaped, body, contract):
        headers["ETag"] = tag
    if contract.location:
        headers["Location"] = f"{request.path.rstrip('/')}/{shaped[contract.location]}"
    if contract.query and (cursor := shaped.get("next_cursor")):
        headers["Link"] = f'<{_address_after(cursor, contract.query)}>; rel="next"'
    response = Answer(body, contract.status, headers, content_type="application/json")
    return conditional(response) if contract.has_etag and not contract.cache else response


def _caching(contract: Contract) -> dict[str, str]:
    """Return what caches may do: keep no change and nothing of the moment, and check a read before they reuse it."""
    if contract.writes or not contract.storable:
        return {"Cache-Control": "no-store"}
    if contract.allow == PUBLIC:
        return {"Cache-Control": "no-cache"}
    vary = "Authorization, Accept-Encoding" if contract.cache else "Authorization"
    return {"Cache-Control": "private, no-cache", "Vary": vary}


def _address_after(cursor: str, asked: Schema) -> str:
    """Return the address of the part of a list after the one that was asked for.

    As the query was understood, not as this client wrote it: the answer may be kept for others.
    """
    query = [(name, value) for name, value in asked.dump(g.query).items() if name != "cursor" and value is not None]
    return f"{quote(request.path.rstrip('/'))}?{urlencode([*query, ('cursor', cursor)])}"


def _etag(shaped: dict[str, Any], body: bytes, contract: Contract) -> str | None:
    if "version" in shaped and (contract.location or contract.conditional or request.view_args):
        return etag(shaped["version"])  # the address says which thing it is
    if not contract.has_etag:
        return None
    return f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
