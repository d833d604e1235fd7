"""Access tokens: what one says, once its signature is checked.

A verified token is remembered until it expires, because checking its signature costs more than the rest of the
corridor. Whether its session still lives is the guard's question, to the database, on every request.
"""

import math
import time
from datetime import timedelta
from functools import lru_cache
from typing import Any, NamedTuple, cast

from flask import Flask, current_app, request
from flask_jwt_extended import JWTManager, create_access_token, decode_token
from flask_jwt_extended.exceptions import JWTExtendedException
from jwt import ExpiredSignatureError, PyJWTError

from api.errors import Unauthenticated
from api.settings import Settings
from api.web import api_keys

ISSUER = AUDIENCE = "walnut"
CLAIMS = ("iss", "aud", "sub", "sid", "jti", "iat", "exp")
SIGN_IN = "Sign in first (POST /api/v1/auth/login), and send the access token as 'Authorization: Bearer TOKEN'."
MANY = 10_000
SEEN = "walnut.token"  # in the WSGI environment: limits and guard both ask

_ended: set[str] = set()  # sessions that the guard found ended: whoever still shows their tokens is nobody


class Token(NamedTuple):
    """What an access token says, once its signature is checked; or an API key, once it is found.

    `expires_at` is in seconds since 1970.
    """

    user_id: str
    session_id: str  # or the id of the key
    expires_at: float
    is_key: bool = False


def init_app(app: Flask, settings: Settings) -> None:
    """Configure flask-jwt-extended: one algorithm, every claim required."""
    app.config.update(
        JWT_SECRET_KEY=settings.jwt_secret,
        JWT_ALGORITHM="HS256",
        JWT_ACCESS_TOKEN_EXPIRES=timedelta(seconds=settings.access_token_ttl),
        JWT_ENCODE_ISSUER=ISSUER,
        JWT_DECODE_ISSUER=ISSUER,
        JWT_ENCODE_AUDIENCE=AUDIENCE,
        JWT_DECODE_AUDIENCE=AUDIENCE,
    )
    JWTManager(app)


def access_token(user_id: str, session_id: str) -> str:
    """Return a signed access token for a session (RFC 9068 in all but its media type)."""
    token: str = create_access_token(user_id, additional_claims={"sid": session_id})
    return token


def bearer(otherwise: str = SIGN_IN) -> str:
    """Return the token of the Authorization header. Raises Unauthenticated, saying `otherwise`, if there is none."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated(otherwise)
    return token.strip()


def presented() -> Token:
    """Return the token that the request carries. Raises Unauthenticated if there is none, or it is not good."""
    if (seen := request.environ.get(SEEN)) is not None:
        return cast(Token, seen)
    shown = bearer()
    is_key = shown.startswith(api_keys.PREFIX)
    token = _found(shown) if is_key else _verified(shown, current_app.config["JWT_SECRET_KEY"])
    if token.expires_at <= time.time():
        raise _expired()
    request.environ[SEEN] = token
    return token


def user_of_token() -> str | None:
    """Return whose token the request carries: None if there is none, or it is bad.

    For an access token without a look at the database; an API key is nobody's until it is found there.
    """
    if "HTTP_AUTHORIZATION" not in request.environ:
        return None
    try:
        token = presented()
    except Unauthenticated:
        return None
    return None if token.session_id in _ended else token.user_id


def remember_ended(session_id: str) -> None:
    """Take tokens of this session for nobody's from now on, so that a stolen one cannot use up its user's limits."""
    if len(_ended) >= MANY:
        _ended.clear()
    _ended.add(session_id)


def remember_alive(session_id: str) -> None:
    """Take them for their user's again: an account can be opened anew."""
    if session_id in _ended:
        _ended.discard(session_id)


def _found(key: str) -> Token:
    """Look an API key up. Raises Unauthenticated if there is none, or it is good no longer."""
    row = api_keys.known(key)
    if row is None:
        raise unknown_key()
    until = row["expires_at"]
    return Token(row["user_id"], row["id"], math.inf if until is None else until / 1000, is_key=True)


def unknown_key() -> Unauthenticated:
    """Return what to raise for a key that is none, or none any more: which of these, is not told."""
    detail = "This API key is not known, has expired or was revoked. Sign in and make a new one."
    return Unauthenticated(detail, reason="invalid_token")


@lru_cache(maxsize=MANY)
def _verified(token: str, _key: str) -> Token:
    """Check a token's signature and claims once. The key is named so that another key is another question."""
    try:
        claims: dict[str, Any] = decode_token(token)
    except ExpiredSignatureError:
        raise _expired() from None
    except (JWTExtendedException, PyJWTError, ValueError):
        raise _invalid() from None
    if any(claims.get(name) is None for name in CLAIMS) or claims.get("type") != "access":
        raise _invalid()
    return Token(str(claims["sub"]), str(claims["sid"]), float(claims["exp"]))


def _expired() -> Unauthenticated:
    return Unauthenticated("The access token has expired. Refresh it, or sign in again.", reason="invalid_token")


def _invalid() -> Unauthenticated:
    return Unauthenticated("The access token is not one of ours. Sign in again.", reason="invalid_token")
