"""Passwords: which may be chosen, and their hashes by bcrypt, made where they hold up nobody (hashing.py)."""

import unicodedata
from collections.abc import Callable
from typing import Any, TypeVar

import bcrypt
from flask import Flask, current_app, has_request_context
from marshmallow import ValidationError

from api.auth.hashing import Hashing
from api.settings import Settings
from api.web import address

MIN_CHARACTERS = 8  # NIST SP 800-63B, 5.1.1.1
MAX_BYTES = 72  # bcrypt reads no further
# None that fits has more before it is normalised. What has more is not normalised: that takes quadratic time.
MAX_CHARACTERS = 4 * MAX_BYTES
ROUNDS = 12
NONE = "." * 31  # the digest, as bcrypt writes it, of no password that anybody can find: all bits are zero

Result = TypeVar("Result")


def init_app(app: Flask, settings: Settings) -> None:
    """Configure the cost of a hash: the least there is when tests run, which make hundreds of accounts."""
    app.config["BCRYPT_ROUNDS"] = 4 if settings.app_env == "testing" else ROUNDS


def normal(password: str) -> bytes:
    """Return the bytes that are hashed: the same for every way of typing the same characters (NFC)."""
    return unicodedata.normalize("NFC", password).encode()


def not_too_long(password: str) -> None:
    """Refuse what bcrypt would cut off. Raises ValidationError."""
    if len(password) > MAX_CHARACTERS or len(normal(password)) > MAX_BYTES:
        raise ValidationError(f"Has more than {MAX_BYTES} bytes in UTF-8. Choose a shorter one.")


def not_too_short(password: str) -> None:
    """Refuse what is quickly guessed. Raises ValidationError."""
    if len(password) <= MAX_CHARACTERS and len(unicodedata.normalize("NFC", password)) < MIN_CHARACTERS:
        raise ValidationError(f"Has fewer than {MIN_CHARACTERS} characters. Choose a longer one.")


def hash_password(password: str) -> str:
    """Return the hash to keep of a password. Raises Unavailable if too many wait already."""
    return _in_thread(bcrypt.hashpw, normal(password), bcrypt.gensalt(_rounds())).decode()


def unusable() -> str:
    """Return what is kept for who has chosen no password yet: a hash that none has. Quickly made, as slowly tried."""
    return bcrypt.gensalt(_rounds()).decode() + NONE


def is_usable(kept: str) -> bool:
    """Tell whether there is a password at all."""
    return not kept.endswith(NONE)


def matches(password: str, kept: str | None) -> bool:
    """Tell whether a password is the one of the hash. Without a hash: no, after the same time."""
    same = _in_thread(bcrypt.checkpw, normal(password), (kept or unusable()).encode())
    return same and kept is not None


def _rounds() -> int:
    return int(current_app.config["BCRYPT_ROUNDS"])


def _in_thread(work: Callable[..., Result], *arguments: Any) -> Result:
    hashing = current_app.extensions.get("hashing")
    if hashing is None:  # made late, because threads do not survive the fork of a worker
        hashing = current_app.extensions["hashing"] = Hashing(current_app.extensions["settings"].instance_path)
    who = address() if has_request_context() else ""
    result: Result = hashing.do(who, work, *arguments)
    return result
