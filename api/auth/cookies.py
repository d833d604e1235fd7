"""The refresh token in a cookie, for browsers: no script can read it, and only the refresh route ever gets it.

A browser sends it by itself, so a request that shows it must come from our own pages: SameSite=Strict keeps other sites
out, and `Sec-Fetch-Site` and `Origin` other hosts of our own site. (RFC 6265bis; OWASP's cheat sheet on CSRF)
"""

from typing import Any
from urllib.parse import urlsplit

from flask import Response, after_this_request, request

from api.errors import Forbidden
from api.web import asked_path

NAME = "walnut_refresh"
OURS: dict[str, Any] = {"httponly": True, "secure": True, "samesite": "Strict"}
ELSEWHERE = "The cookie counts for this server's own pages only. Call from one, or send the refresh token in the body."


def moved_to_cookie(tokens: dict[str, Any], seconds: int) -> dict[str, Any]:
    """Return what a sign-in answers, its refresh token moved into the cookie, to be kept for some seconds.

    An answer that turns out to be a refusal has no cookie.
    """
    token, path = tokens["refresh_token"], _path()

    @after_this_request
    def give(response: Response) -> Response:
        if response.status_code < 300:
            response.set_cookie(NAME, token, max_age=seconds, path=path, **OURS)
        return response

    return tokens | {"refresh_token": None}


def shown() -> str | None:
    """Return the token of the cookie, which goes if it is not good any more; None if there is none.

    Raises Forbidden if another host's page sent it.
    """
    token = request.cookies.get(NAME)
    if not token:
        return None
    if not _is_from_here():
        raise Forbidden(ELSEWHERE)
    clear(401)
    return token


def clear(*statuses: int) -> None:
    """Let the browser forget the cookie, if the answer to this request has one of these statuses."""
    path = _path()

    @after_this_request
    def forget(response: Response) -> Response:
        if response.status_code in statuses:
            response.delete_cookie(NAME, path=path, **OURS)
        return response


def _path() -> str:
    """Return the one path that the browser sends it to: under the prefix that it calls us by, with or without a /vN."""
    return f"{asked_path().partition('/auth/')[0]}/auth/refresh"


def _is_from_here() -> bool:
    """Tell whether the page that sent this request is ours, as far as the browser says. curl says nothing."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None and site != "same-origin":
        return False
    return origin is None or _host(origin) == request.headers.get("Host", "").lower()


def _host(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
