"""Access tokens: what one says, once its signature is checked. RFC 8725 is the list of what to beware of.

Ours have one form: one algorithm, one header for each key, and a fixed set of claims. What differs in anything is not
one of ours, so that there is nothing in it to be misunderstood. docs/decisions/0020-access-tokens.md

A verified token is remembered until it expires, because checking its signature costs more than the rest of the
corridor. Whether its session still lives is the guard's question, to the database, on every request.
"""

import hmac
import math
import re
import time
from datetime import timedelta
from functools import lru_cache
from typing import Any, NamedTuple, cast

from flask import Flask, current_app, request
from flask_jwt_extended import JWTManager, create_access_token
from jwt import ExpiredSignatureError, PyJWTError, decode, get_unverified_header
from jwt.utils import base64url_decode, base64url_encode

from api.errors import Unauthenticated
from api.settings import Settings
from api.web import api_keys

ISSUER = AUDIENCE = "walnut"
ALGORITHM = "HS256"
KIND = {"iss": ISSUER, "aud": AUDIENCE, "type": "access", "fresh": False}  # what all of them say alike
TYPES = {"iat": int, "exp": int, "fresh": bool} | dict.fromkeys(("iss", "aud", "sub", "sid", "jti", "type"), str)
UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SKEW_SECONDS = 5  # by which the clock of the replica that issued a token may be ahead; `exp` is checked to the second
PARTS = 3
SIGN_IN = "Sign in first (POST /api/v1/auth/login), and send the access token as 'Authorization: Bearer TOKEN'."
MANY = 10_000
SEEN = "walnut.token"  # in the WSGI environment: limits and guard both ask

_ended: set[str] = set()  # sessions that the guard found ended: whoever still shows their tokens is nobody


class Key(NamedTuple):
    """What tokens are signed with, and the name that their headers call it by: it tells nothing of the key."""

    name: str
    secret: str


class Token(NamedTuple):
    """What an access token says, once its signature is checked; or an API key, once it is found.

    `expires_at` is in seconds since 1970.
    """

    user_id: str
    session_id: str  # or the id of the key
    expires_at: float
    is_key: bool = False


def init_app(app: Flask, settings: Settings) -> None:
    """Configure flask-jwt-extended, which issues the tokens, and keep the keys that they may be signed with."""
    app.extensions["token_keys"] = tuple(map(_key, settings.jwt_secrets))
    app.config.update(
        JWT_SECRET_KEY=settings.jwt_secret,
        JWT_ALGORITHM=ALGORITHM,
        JWT_ENCODE_NBF=False,
        JWT_COOKIE_CSRF_PROTECT=False,  # it would add a claim, and no access token of ours is ever in a cookie
        JWT_ACCESS_TOKEN_EXPIRES=timedelta(seconds=settings.access_token_ttl),
        JWT_ENCODE_ISSUER=ISSUER,
        JWT_ENCODE_AUDIENCE=AUDIENCE,
    )
    JWTManager(app)


def access_token(user_id: str, session_id: str) -> str:
    """Return a signed access token for a session (RFC 9068 in all but its media type)."""
    header = {"kid": current_app.extensions["token_keys"][0].name}
    token: str = create_access_token(user_id, additional_claims={"sid": session_id}, additional_headers=header)
    return token


def bearer(otherwise: str = SIGN_IN) -> str:
    """Return the token of the Authorization header. Raises Unauthenticated, saying `otherwise`, if there is none."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not (token := token.strip(" ")):
        raise Unauthenticated(otherwise)
    return token


def presented() -> Token:
    """Return the token that the request carries. Raises Unauthenticated if there is none, or it is not good."""
    if (seen := request.environ.get(SEEN)) is not None:
        return cast(Token, seen)
    shown = bearer()
    if shown.startswith(api_keys.PREFIX):
        token = _found(shown)
    else:
        token = _verified(shown, current_app.extensions["token_keys"], current_app.config["JWT_ACCESS_TOKEN_EXPIRES"])
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
def _verified(token: str, keys: tuple[Key, ...], ttl: timedelta) -> Token:
    """Check a token's form, signature and claims once. The keys are named so that others are another question.

    By PyJWT itself: flask-jwt-extended reads claims before it has checked the signature, and fills in missing ones.
    """
    try:
        claims = decode(
            token, _named_key(token, keys), [ALGORITHM], audience=AUDIENCE, issuer=ISSUER, leeway=SKEW_SECONDS
        )
    except ExpiredSignatureError:
        raise _expired() from None
    except (PyJWTError, ValueError, RecursionError, OverflowError):
        raise _invalid() from None
    if not _are_ours(claims, ttl.total_seconds()):
        raise _invalid()
    return Token(claims["sub"], claims["sid"], float(claims["exp"]))


def _named_key(token: str, keys: tuple[Key, ...]) -> str:
    """Return the key that a token is signed with. Raises ValueError unless it has the header and the writing of ours.

    So no header can name another algorithm or bring a key along (RFC 8725, 3.1 and 3.10), `crit` asks for nothing that
    is not understood (RFC 7515, 4.1.11), and no token can be told in two ways.
    """
    header = get_unverified_header(token)
    ours = {"alg": ALGORITHM, "typ": "JWT", "kid": header.get("kid")}
    parts = token.encode().split(b".")
    canonical = len(parts) == PARTS and all(base64url_encode(base64url_decode(part)) == part for part in parts)
    secret = next((key.secret for key in keys if key.name == header.get("kid")), None)
    if not (canonical and header == ours and secret):
        raise ValueError("not the form of ours")
    return secret


def _are_ours(claims: dict[str, Any], ttl: float) -> bool:
    """Tell whether signed claims are those that we issue, no more and no less, of the kinds that they have."""
    if set(claims) != set(TYPES) or any(claims[name] != value for name, value in KIND.items()):
        return False
    if any(type(claims[name]) is not kind for name, kind in TYPES.items()):
        return False
    ids = all(UUID.fullmatch(claims[name]) for name in ("sub", "sid", "jti"))
    return ids and claims["exp"] - claims["iat"] <= ttl


def _key(secret: str) -> Key:
    return Key(hmac.digest(secret.encode(), b"walnut: name of a key", "sha256")[:8].hex(), secret)


def _expired() -> Unauthenticated:
    return Unauthenticated("The access token has expired. Refresh it, or sign in again.", reason="invalid_token")


def _invalid() -> Unauthenticated:
    return Unauthenticated("The access token is not one of ours. Sign in again.", reason="invalid_token")
