"""Passwords: bcrypt in a few threads of its own, so that a hash of 250 ms holds up nobody else.

The queue before those threads is bounded: beyond it a client hears 503 at once instead of waiting for nothing.
"""

import os
import unicodedata
from collections.abc import Callable
from typing import Any, TypeVar

import bcrypt
from flask import Flask, current_app
from gevent.threadpool import ThreadPool
from marshmallow import ValidationError

from api import metrics
from api.errors import Unavailable
from api.settings import Settings

MIN_CHARACTERS = 8  # NIST SP 800-63B, 5.1.1.1
MAX_BYTES = 72  # bcrypt reads no further
# None that fits has more before it is normalised. What has more is not normalised: that takes quadratic time.
MAX_CHARACTERS = 4 * MAX_BYTES
ROUNDS = 12
NONE = "." * 31  # the digest, as bcrypt writes it, of no password that anybody can find: all bits are zero
QUEUE = 32  # hashes under way or waiting: about four seconds of work

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


class Hashing:
    """The threads that hash, and how many hashes are under way or waiting for one of them."""

    def __init__(self) -> None:
        self._pool = ThreadPool(max(1, (os.cpu_count() or 2) // 2))
        self._waiting = 0

    def do(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Return `work(*arguments)`, done in a thread. Raises Unavailable if too many wait already."""
        if self._waiting >= QUEUE:
            metrics.HASHING_REFUSED.inc()
            raise Unavailable(
                "Too many people are signing in at this moment. Try again in a few seconds.", retry_after=5
            )
        self._waiting += 1  # ours, because the pool counts only those that it has taken in
        metrics.HASHING_QUEUE.inc()
        try:
            result: Result = self._pool.apply(work, arguments)
            return result
        finally:
            self._waiting -= 1
            metrics.HASHING_QUEUE.dec()


def _in_thread(work: Callable[..., Result], *arguments: Any) -> Result:
    hashing = current_app.extensions.get("hashing")
    if hashing is None:  # made late, because threads do not survive the fork of a worker
        hashing = current_app.extensions["hashing"] = Hashing()
    result: Result = hashing.do(work, *arguments)
    return result
