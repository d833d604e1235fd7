"""Kept answers: a bounded copy in the process, and Redis so that replicas share the work.

A key names everything that an answer depends on, the generations of its tables included, so that a stale answer cannot
be found: neither after a lost message, nor in a Redis that comes back with old data. See api/web/cache.py.
"""

import gzip
import hashlib
import hmac
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import orjson
from flask import Flask, current_app

from api.settings import Settings
from api.store import Store

LOCAL_BYTES = 32 << 20  # in each process
OVERHEAD = 700  # of an answer beside its bytes: objects, and its places in two dictionaries
GZIP_BYTES = 1000  # below, compressing costs more than it saves
SEAL = 16  # bytes of the digest that an answer in Redis begins with
WAIT_SECONDS = 1.0  # for another who makes the same answer

Header = tuple[str, str]


class Kept:
    """An answer of status 200: its body, its ETag, and the other headers that do not depend on who asks."""

    __slots__ = ("_gzipped", "body", "etag", "expires", "headers")

    def __init__(self, headers: list[Header], body: bytes, etag: str) -> None:
        self.headers = headers
        self.body = memoryview(body).tobytes()  # orjson's bytes hold on to a buffer of 4 KiB
        self.etag = etag
        self.expires = 0.0  # time.monotonic()
        self._gzipped = b""

    def gzipped(self) -> bytes:
        """Return the body compressed, which is done once; nothing if that does not pay."""
        if not self._gzipped and len(self.body) >= GZIP_BYTES:
            self._gzipped = gzip.compress(self.body, compresslevel=6, mtime=0)
        return self._gzipped

    def size(self) -> int:
        """Return about how many bytes of memory it takes."""
        said = sum(len(name) + len(value) + 150 for name, value in self.headers)
        return OVERHEAD + said + len(self.body) * (2 if len(self.body) >= GZIP_BYTES else 1)

    def packed(self) -> bytes:
        """Return it as bytes."""
        return orjson.dumps([self.etag, self.headers]) + b"\n" + self.body

    @staticmethod
    def unpacked(data: bytes) -> "Kept":
        """Return what was packed."""
        head, _, body = data.partition(b"\n")
        etag, headers = orjson.loads(head)
        return Kept([(name, value) for name, value in headers], body, etag)


def init_app(app: Flask, settings: Settings) -> None:
    """Give the app its kept answers."""
    app.extensions["answers"] = Answers(app.extensions["store"], settings.cache_ttl, settings.jwt_secret)


def answers() -> "Answers":
    """Return the kept answers of the current app."""
    found: Answers = current_app.extensions["answers"]
    return found


class Answers:
    """The kept answers of one process, and those of Redis behind them."""

    def __init__(self, store: Store, ttl: int, secret: str) -> None:
        self._store = store
        self._sealing_key = hashlib.sha256(b"walnut: kept answers" + secret.encode()).digest()
        self._ttl = ttl
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._bytes = 0
        self._making: dict[str, threading.Event] = {}

    def here(self, key: str) -> Kept | None:
        """Return the answer that this process has, if it has one."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.expires < time.monotonic():
            self._forget(key)
            return None
        self._kept.move_to_end(key)
        return kept

    def get_or_make(self, key: str, make: Callable[[], Kept]) -> tuple[Kept, bool]:
        """Return an answer and whether it was kept; made by one caller at a time, for the others too."""
        if (making := self._making.get(key)) is not None:
            making.wait(WAIT_SECONDS)
        if (kept := self.here(key)) is not None:
            return kept, True
        self._making[key] = made = threading.Event()
        try:
            return self._shared_or_made(key, make)
        finally:
            self._making.pop(key, None)
            made.set()

    def keep(self, key: str, kept: Kept) -> None:
        """Keep an answer in this process, for its time to live less up to a tenth, so that not all end at once."""
        now = time.monotonic()
        self._forget(key)
        kept.expires = now + self._ttl * random.uniform(0.9, 1.0)  # noqa: S311 (jitter)
        self._kept[key] = kept
        self._bytes += len(key) + kept.size()
        # What nobody asks for any more comes to the front: after a change its key is never heard again.
        while self._kept and (self._bytes > LOCAL_BYTES or next(iter(self._kept.values())).expires < now):
            self._forget(next(iter(self._kept)))

    def _shared_or_made(self, key: str, make: Callable[[], Kept]) -> tuple[Kept, bool]:
        shared = self._opened(key, self._store.ask(lambda redis: redis.get(key)))
        kept = shared or make()
        self.keep(key, kept)
        if shared is None:
            sealed = self._sealed(key, kept.packed())
            self._store.ask(lambda redis: redis.set(key, sealed, ex=self._ttl))
        return kept, shared is not None

    def _forget(self, key: str) -> None:
        if (kept := self._kept.pop(key, None)) is not None:
            self._bytes -= len(key) + kept.size()

    def _sealed(self, key: str, data: bytes) -> bytes:
        """Return bytes behind a digest that only who has JWT_SECRET can make, for this key and no other."""
        return hashlib.blake2b(key.encode() + b"\n" + data, digest_size=SEAL, key=self._sealing_key).digest() + data

    def _opened(self, key: str, sealed: Any) -> Kept | None:
        """Return what was sealed under this key; None for whatever else Redis may say."""
        if not isinstance(sealed, bytes) or not hmac.compare_digest(self._sealed(key, sealed[SEAL:]), sealed):
            return None
        return Kept.unpacked(sealed[SEAL:])
