"""The way out when something is wrong: every error leaves as application/problem+json (RFC 9457)."""

import logging
from http import HTTPStatus
from typing import Any

import orjson
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from api import errors
from api.observe import note, request_id
from api.web.versions import asked_path

MEDIA_TYPE = "application/problem+json"
STATUS = {
    errors.Malformed.code: 400,
    errors.SecondFactorRequired.code: 401,
    errors.Unauthenticated.code: 401,  # after the other one: what Flask itself refuses with 401 is called so
    errors.SecondFactorNeeded.code: 403,
    errors.EmailNotConfirmed.code: 403,
    errors.Forbidden.code: 403,  # likewise
    errors.NotFound.code: 404,
    errors.NotAcceptable.code: 406,
    errors.TimedOut.code: 408,
    errors.Conflict.code: 409,
    errors.PreconditionFailed.code: 412,
    errors.TooLarge.code: 413,
    errors.UnsupportedMediaType.code: 415,
    errors.KeyReused.code: 422,
    errors.Invalid.code: 422,  # after the other one: what Flask itself refuses with 422 is called so
    errors.TooManyRequests.code: 429,
    errors.Unavailable.code: 503,
}
CODES = {status: code for code, status in STATUS.items()}
# draft-ietf-httpapi-ratelimit-headers-10, 6.1: a type that clients know from elsewhere too.
QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"
DETAILS = {
    404: "There is nothing at this address. Ids are lower-case UUIDs; /api-docs lists the addresses.",
    405: "This address does not know that method. The header Allow lists those it knows.",
    413: "The request is larger than 1 MiB.",
}

log = logging.getLogger(__name__)


def init_app(app: Flask) -> None:
    """Answer every error of the app with a problem."""
    app.register_error_handler(errors.Refusal, refused)
    app.register_error_handler(HTTPException, aborted)
    app.register_error_handler(Exception, failed)


def refused(error: errors.Refusal) -> Response:
    """Answer what the domain refuses."""
    response = problem(STATUS[error.code], error.code, error.detail, error.fields, **_members(error))
    if error.retry_after:
        response.headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, errors.Unauthenticated):
        response.headers["WWW-Authenticate"] = _challenge(error)
    if isinstance(error, errors.UnsupportedMediaType):
        response.headers["Accept"] = "application/json"  # RFC 9110, 12.5.1: what would have been taken
    return response


def aborted(error: HTTPException) -> Response:
    """Answer what Flask refuses by itself: unknown addresses and methods, bodies too large."""
    status = error.code or 500
    code = CODES.get(status) or HTTPStatus(status).name.lower()
    response = problem(status, code, DETAILS.get(status) or error.description or "")
    for name, value in error.get_headers():
        if name.lower() not in ("content-type", "content-length"):
            response.headers[name] = value
    return response


def failed(error: Exception) -> Response:
    """Answer a bug: say nothing of it to the client, everything to the log."""
    log.error("bug", exc_info=error, extra={"request_id": request_id(), "method": request.method})
    return problem(500, "internal_server_error", "Something went wrong here. The log has it under this request_id.")


def problem(
    status: int, code: str, detail: str, fields: list[tuple[str, str]] | None = None, **members: Any
) -> Response:
    """Return a problem as a response. `fields` are pairs of a JSON pointer and what is wrong there."""
    note(code=code)
    body: dict[str, Any] = {
        "type": f"urn:walnut:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": asked_path(),
        "code": code,
        "request_id": request_id(),
        **members,
    }
    if fields:
        body["errors"] = [{"pointer": pointer, "detail": text} for pointer, text in fields]
    return Response(orjson.dumps(body), status, {"Cache-Control": "no-store"}, content_type=MEDIA_TYPE)


def _members(error: errors.Refusal) -> dict[str, Any]:
    """Return what a kind of problem has beside, or instead of, what all have."""
    if isinstance(error, errors.TooManyRequests):
        return {"type": QUOTA_EXCEEDED, "violated-policies": [error.policy]}
    return {}


def _challenge(error: errors.Unauthenticated) -> str:
    """Say how to sign in: RFC 6750, section 3."""
    if not error.reason:
        return f'{error.scheme} realm="walnut"'
    return f'Bearer realm="walnut", error="{error.reason}", error_description="{error.detail}"'
