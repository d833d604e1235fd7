"""What a route may answer, as its contract implies it: the responses of the OpenAPI document."""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from marshmallow import Schema
from werkzeug.routing import Rule

from api.web import limits, problems
from api.web.contract import Contract
from api.web.guard import PUBLIC, SIGNED_IN
from api.web.lists import envelope, has_cursors

PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance", "code", "request_id"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is wrong, and what to do next."},
        "instance": {"type": "string", "description": "The path that was asked for."},
        "code": {"type": "string", "description": "The same for every problem of its kind."},
        "request_id": {"type": "string", "description": "The server's log has it too."},
        "violated-policies": {"type": "array", "items": {"type": "string"}, "description": "With 429: which limit."},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {
                    "pointer": {"type": "string", "description": "Where it is wrong: a JSON pointer."},
                    "detail": {"type": "string"},
                },
            },
        },
    },
}
HEADERS: dict[str, Any] = {
    "Cache-Status": {"description": "Whether the answer was kept (RFC 9211).", "schema": {"type": "string"}},
    "Deprecation": {"description": "Since when not to use this any more (RFC 9745).", "schema": {"type": "string"}},
    "ETag": {"description": "The version of this answer.", "schema": {"type": "string"}},
    "Idempotency-Replayed": {"description": "The request was carried out before.", "schema": {"const": "true"}},
    "Link": {"description": "The address of the next part, or of what to use instead.", "schema": {"type": "string"}},
    "Location": {"description": "Where the new thing is.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}},
    "Sunset": {"description": "When this will be gone (RFC 8594).", "schema": {"type": "string"}},
    "WWW-Authenticate": {"description": "How to sign in (RFC 6750).", "schema": {"type": "string"}},
    **limits.HEADERS,
}
JSON, EVENT_STREAM = "application/json", "text/event-stream"
REFUSED_WITH = {304: ["ETag"], 401: ["WWW-Authenticate"], 429: ["Retry-After", *limits.HEADERS], 503: ["Retry-After"]}


def responses(rule: Rule, contract: Contract) -> dict[str, Any]:
    """Return every status that a route may answer with, and what comes with it."""
    refused = {str(status): _refusal(status) for status in _refusals(rule, contract)}
    return {str(contract.status): _success(contract)} | refused


def _success(contract: Contract) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": HTTPStatus(contract.status).phrase}
    if contract.returns:
        schema: Any = envelope(contract) if contract.many else contract.returns
        answer["content"] = {EVENT_STREAM: _events(schema)} if contract.streams else {JSON: {"schema": schema}}
    if names := list(_headers(contract)):
        answer["headers"] = {name: HEADERS[name] for name in names}
    return answer


def _events(data: Schema) -> dict[str, Any]:
    """Return the schema of server-sent events: an array of them, as OpenAPI 3.2 (4.14.1) reads a stream."""
    text = {"type": "string"}
    properties = {"event": text, "id": {**text, "description": "Send the last one as `Last-Event-ID`."}, "data": data}
    return {"schema": {"type": "array", "items": {"type": "object", "properties": properties}}}


def _headers(contract: Contract) -> Iterator[str]:
    if contract.has_etag or contract.location or (contract.conditional and contract.returns):
        yield "ETag"
    if contract.location:
        yield "Location"
    if contract.successor or _has_next(contract):
        yield "Link"
    if contract.cache:
        yield "Cache-Status"
    if contract.idempotent:
        yield "Idempotency-Replayed"
    if contract.limit:
        yield from limits.HEADERS
    if contract.deprecated:
        yield "Deprecation"
    if contract.sunset:
        yield "Sunset"


def _has_next(contract: Contract) -> bool:
    """Tell whether an answer is a part of a list that names the next one."""
    if contract.many:
        return has_cursors(contract.version)
    return contract.returns is not None and "next_cursor" in contract.returns.fields


def _refusals(rule: Rule, contract: Contract) -> list[int]:
    """Return the statuses a contract implies, beside its success."""
    found = {503, *contract.problems} | ({429} if contract.limit else set())
    if contract.allow != PUBLIC:
        found |= {401} | ({403} if contract.allow != SIGNED_IN else set())
    if contract.body:
        found |= {400, 408, 413, 415, 422}
    if contract.query or contract.idempotent or (contract.writes and not contract.signed):  # which refuse a query
        found |= {400, 422}
    if rule.arguments:
        found |= {404}
    if contract.conditional:
        found |= {400, 412}
    if contract.has_etag:
        found |= {304}
    return sorted(found)


def _refusal(status: int) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if status != HTTPStatus.NOT_MODIFIED:
        answer["content"] = {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    if names := REFUSED_WITH.get(status):
        answer["headers"] = {name: HEADERS[name] for name in names}
    return answer
