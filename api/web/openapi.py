"""The contracts of every route as one OpenAPI 3.1 document: nothing in it is written twice."""

import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Flask
from werkzeug.routing import Rule

from api.version import __version__
from api.web import problems
from api.web.contract import Contract
from api.web.fields import Timestamp, WholeNumber
from api.web.guard import PUBLIC, SIGNED_IN

PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>")
DESCRIPTION = """Accounts, roles and tasks. One request, one commit: what you are told was done, is on disk.

To try it: **register**, **login**, copy the `access_token`, press **Authorize** and paste it.

Errors are `application/problem+json` (RFC 9457). Request bodies may use camelCase too. Every answer carries
`X-Request-ID`, which is also in the server's log, and `X-Served-By`, the replica and process that made it."""
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
IDEMPOTENCY_KEY = (
    "Makes it safe to repeat the request: choose a new key (a UUID, say) for each new request, and repeat it with the "
    "same key. The repeated one gets the answer of the first, byte for byte, with `Idempotency-Replayed: true`. "
    "The key with another request is refused: 422 `idempotency_key_reused`."
)
KEY = {"type": "string", "pattern": r'^([!#-~][!-~]{0,254}|"([!#-\[\]-~]|\\["\\]){1,255}")$'}  # web/idempotency.py
HEADERS: dict[str, Any] = {
    "ETag": {"description": "The version of this answer.", "schema": {"type": "string"}},
    "Location": {"description": "Where the new thing is.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}},
    "WWW-Authenticate": {"description": "How to sign in (RFC 6750).", "schema": {"type": "string"}},
}


def document(app: Flask, version: int) -> dict[str, Any]:
    """Return the OpenAPI document of one version."""
    plugin = MarshmallowPlugin(schema_name_resolver=lambda schema: type(schema).__name__)
    spec = APISpec(
        title="Walnut API",
        version=__version__,
        openapi_version="3.1.1",
        plugins=[plugin],
        info={"description": DESCRIPTION, "license": {"name": "MIT", "identifier": "MIT"}},
        servers=[{"url": "/"}],
    )
    plugin.map_to_openapi_type(Timestamp, "string", "date-time")  # type: ignore[no-untyped-call]
    plugin.map_to_openapi_type(WholeNumber, "integer", None)  # type: ignore[no-untyped-call]
    spec.components.security_scheme("bearer", {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"})
    spec.components.schema("Problem", PROBLEM)
    for rule, contract, method in routes(app, version):
        path = PARAMETER.sub(r"{\1}", rule.rule)
        spec.path(path=path, operations={method: _operation(app, rule, contract, method)})
    made: dict[str, Any] = spec.to_dict()
    _close(made["components"]["schemas"])
    return made


def routes(app: Flask, version: int) -> Iterator[tuple[Rule, Contract, str]]:
    """Yield each route of a version with its contract, once for each of its methods, in the order of the paths."""
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        contract = getattr(app.view_functions[rule.endpoint], "contract", None)
        if contract and rule.rule.startswith(f"/api/v{version}/"):
            for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
                yield rule, contract, method.lower()


def _operation(app: Flask, rule: Rule, contract: Contract, method: str) -> dict[str, Any]:
    room = rule.endpoint.partition("_v")[0]
    operation: dict[str, Any] = {
        "tags": [room],
        "operationId": _operation_id(rule, method),
        "summary": (app.view_functions[rule.endpoint].__doc__ or "").split("\n")[0].rstrip("."),
        "parameters": [*_path_parameters(rule), *_header_parameters(contract)],
        "responses": {str(contract.status): _success(contract)},
    }
    operation["responses"] |= {str(status): _refusal(status) for status in _refusals(rule, contract)}
    if contract.allow != PUBLIC:
        operation["security"] = [{"bearer": []}]
        operation["description"] = (
            f"For who is {contract.allow}."
            if contract.allow == SIGNED_IN
            else (f"Needs the permission `{contract.allow}`.")
        )
    if contract.query:
        operation["parameters"].append({"in": "query", "schema": contract.query})
    if contract.body:
        required = any(field.required for field in contract.body.fields.values())
        operation["requestBody"] = {"required": required, "content": {"application/json": {"schema": contract.body}}}
    return operation


def _operation_id(rule: Rule, method: str) -> str:
    """Return what generated clients call it: post_auth_login, get_tasks_task_id."""
    path = PARAMETER.sub(r"\1", rule.rule).split("/")[3:]  # without /api/vN
    return "_".join([method, *path]).replace("-", "_")


def _path_parameters(rule: Rule) -> list[dict[str, Any]]:
    kinds = {"uuid": {"type": "string", "format": "uuid"}}
    found = re.findall(r"<(?:(\w+):)?(\w+)>", rule.rule)
    return [
        {"in": "path", "name": name, "required": True, "schema": kinds.get(kind, {"type": "string"})}
        for kind, name in found
    ]


def _header_parameters(contract: Contract) -> Iterator[dict[str, Any]]:
    text = {"schema": {"type": "string"}, "in": "header", "required": False}
    if contract.idempotent:
        yield text | {"name": "Idempotency-Key", "description": IDEMPOTENCY_KEY, "schema": KEY}
    if contract.conditional:
        yield text | {"name": "If-Match", "description": "The ETag you saw last: refused if it has changed since."}
    if not contract.writes and contract.returns:
        yield text | {"name": "If-None-Match", "description": "The ETag you have: 304 if it is still good."}


def _success(contract: Contract) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": HTTPStatus(contract.status).phrase}
    if contract.returns:
        schema: Any = _page(contract) if contract.many else contract.returns
        answer["content"] = {"application/json": {"schema": schema}}
        tagged = not contract.writes or contract.location or contract.conditional
        names = ["ETag"] * tagged + ["Location"] * contract.location
        answer["headers"] = {name: HEADERS[name] for name in names}
    return answer


def _page(contract: Contract) -> dict[str, Any]:
    number = {"type": "integer"}
    return {
        "type": "object",
        "required": ["items", "page", "limit", "total"],
        "properties": {
            "items": {"type": "array", "items": contract.returns},
            "page": number,
            "limit": number,
            "total": {**number, "description": "How many there are on all pages."},
        },
    }


def _refusals(rule: Rule, contract: Contract) -> list[int]:
    """Return the statuses a contract implies, beside its success."""
    found = {503, *contract.problems}
    if contract.allow != PUBLIC:
        found |= {401} | ({403} if contract.allow != SIGNED_IN else set())
    if contract.body:
        found |= {400, 408, 413, 415, 422}
    if contract.query or contract.idempotent:
        found |= {400, 422}
    if rule.arguments:
        found |= {404}
    if contract.conditional:
        found |= {412}
    if contract.returns and not contract.writes:
        found |= {304}
    return sorted(found)


def _refusal(status: int) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if status != HTTPStatus.NOT_MODIFIED:
        answer["content"] = {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    if name := {304: "ETag", 401: "WWW-Authenticate", 503: "Retry-After"}.get(status):
        answer["headers"] = {name: HEADERS[name]}
    return answer


def _close(schemas: dict[str, Any]) -> None:
    """Say what apispec cannot know: bodies take no other fields, answers hold all of theirs, no change has defaults."""
    for name, schema in schemas.items():
        if name.endswith("Out"):
            schema["required"] = list(schema["properties"])
        elif name != "Problem":
            schema["additionalProperties"] = False
        if name.endswith("Change"):
            schema["minProperties"] = 1
            for field in schema["properties"].values():
                field.pop("default", None)
