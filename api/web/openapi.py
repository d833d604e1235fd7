"""The contracts of every route as one OpenAPI 3.1 document: nothing in it is written twice."""

import re
from collections.abc import Iterator
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Flask
from werkzeug.routing import Rule

from api.version import __version__
from api.web.contract import Contract
from api.web.fields import Timestamp, WholeNumber, YesOrNo
from api.web.guard import IN_PERSON, PUBLIC, SIGNED_IN
from api.web.lists import has_cursors
from api.web.openapi_responses import PROBLEM, responses

PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>")
DESCRIPTION = """Accounts, roles and tasks. One request, one commit: what you are told was done, is on disk.

To try it: **register**, **login**, copy the `access_token`, press **Authorize** and paste it. Programs show an API key
instead (`POST /auth/api-keys`), which may do what it was made for.

Errors are `application/problem+json` (RFC 9457). Request bodies may use camelCase too. Every answer carries
`X-Request-ID`, which is also in the server's log, and `X-Served-By`, the replica and process that made it; where
requests are counted, `RateLimit-Policy` and `RateLimit` say how many are left."""
LISTS = {
    True: 'A list has `next_cursor`, the `cursor` of its next part, and `Link: <...>; rel="next"`.',
    False: "A list has numbered pages and a `total`; the audit trail has cursors in every version.",
}
IDEMPOTENCY_KEY = (
    "Makes it safe to repeat the request: choose a new key (a UUID, say) for each new request, and repeat it with the "
    "same key. The repeated one gets the answer of the first, byte for byte, with `Idempotency-Replayed: true`. "
    "The key with another request is refused: 422 `idempotency_key_reused`. Another request is one that differs in any "
    "byte of its body, its query or its Content-Type; a key counts for one user, one path and one version."
)
KEY = {
    "type": "string",
    "pattern": r'^([!#-+\--~][!-+\--~]{0,254}|"([!#-\[\]-~]|\\["\\]){1,255}")$',
}  # web/idempotency.py

WHO = {SIGNED_IN: "For who is signed in.", IN_PERSON: "For who is signed in, by a session and not by an API key."}
COOKIE = "From a login with `cookie`: HttpOnly, for pages of this server. The next one comes the same way."
SIGNATURE = {  # https://www.standardwebhooks.com; api/vendors/keys.py
    "webhook-id": {"type": "string", "description": "The same each time a message is sent.", "example": "msg_2KWPBgLl"},
    "webhook-timestamp": {"type": "string", "description": "Seconds since 1970.", "example": "1767225600"},
    "webhook-signature": {
        "type": "string",
        "description": "v1, and the base64 of an HMAC.",
        "example": "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=",
    },
}


def document(app: Flask, version: int) -> dict[str, Any]:
    """Return the OpenAPI document of one version."""
    plugin = MarshmallowPlugin(schema_name_resolver=lambda schema: type(schema).__name__)
    spec = APISpec(
        title="Walnut API",
        version=__version__,
        openapi_version="3.1.1",
        plugins=[plugin],
        info={"description": _description(version), "license": {"name": "MIT", "identifier": "MIT"}},
        servers=[{"url": "/"}],
    )
    plugin.map_to_openapi_type(Timestamp, "string", "date-time")  # type: ignore[no-untyped-call]
    plugin.map_to_openapi_type(WholeNumber, "integer", None)  # type: ignore[no-untyped-call]
    plugin.map_to_openapi_type(YesOrNo, "boolean", None)  # type: ignore[no-untyped-call]
    spec.components.security_scheme("bearer", {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"})
    spec.components.schema("Problem", PROBLEM)
    for rule, contract, method in routes(app, version):
        path = PARAMETER.sub(r"{\1}", rule.rule)
        spec.path(path=path, operations={method: _operation(app, rule, contract, method)})
    made: dict[str, Any] = spec.to_dict()
    _close(made["components"]["schemas"])
    return made


def _description(version: int) -> str:
    return f"{DESCRIPTION}\n\nThis is version {version}, under `/api/v{version}`. {LISTS[has_cursors(version)]}"


def routes(app: Flask, version: int) -> Iterator[tuple[Rule, Contract, str]]:
    """Yield each route of a version with its contract, once for each of its methods, in the order of the paths."""
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        contract = getattr(app.view_functions[rule.endpoint], "contract", None)
        if contract and rule.rule.startswith(f"/api/v{version}/"):
            for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
                yield rule, contract, method.lower()


def _operation(app: Flask, rule: Rule, contract: Contract, method: str) -> dict[str, Any]:
    room = rule.endpoint.partition("_v")[0]
    summary, _, more = (app.view_functions[rule.endpoint].__doc__ or "").partition("\n")
    operation: dict[str, Any] = {
        "tags": [room],
        "operationId": _operation_id(rule, method),
        "summary": summary.rstrip("."),
        "parameters": [*_path_parameters(rule), *_header_parameters(contract)],
        "responses": responses(rule, contract),
    }
    if contract.allow != PUBLIC:
        operation["security"] = [{"bearer": []}]
        who = WHO.get(contract.allow, f"Needs the permission `{contract.allow}`.")
        operation["description"] = " ".join([who, *more.split()])
    if contract.deprecated:
        operation["deprecated"] = True
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
    if contract.cookie:
        yield text | {"in": "cookie", "name": contract.cookie, "description": COOKIE}
    if contract.signed:
        for name, schema in SIGNATURE.items():
            yield text | {"name": name, "required": True, "schema": schema}
    if contract.conditional:
        yield text | {"name": "If-Match", "description": "The ETag you saw last: refused if it has changed since."}
    if contract.streams:
        yield text | {"name": "Last-Event-ID", "description": "The last event you got: goes on right after it."}
    if contract.has_etag:
        yield text | {"name": "If-None-Match", "description": "The ETag you have: 304 if it is still good."}


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
