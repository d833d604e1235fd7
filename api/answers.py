"""Kept answers: a bounded copy in the process, and Redis so that replicas share the work.

A key names everything that an answer depends on, the generations of its tables included, so that a stale answer cannot
be found: neither after a lost message, nor in a Redis that comes back with old data. See api/web/cache.py.
"""

import gzip
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

import orjson
from flask import Flask, current_app

from api.settings import Settings
from api.store import Store

LOCAL_BYTES = 32 << 20  # in each process
GZIP_BYTES = 1000  # below, compressing costs more than it saves
WAIT_SECONDS = 1.0  # for another who makes the same answer

Header = tuple[str, str]


class Kept:
    """An answer of status 200: its body, its ETag, and the other headers that do not depend on who asks."""

    __slots__ = ("_gzipped", "body", "etag", "expires", "headers")

    def __init__(self, headers: list[Header], body: bytes, etag: str) -> None:
        self.headers = headers
        self.body = body
        self.etag = etag
        self.expires = 0.0  # time.monotonic()
        self._gzipped = b""

    def gzipped(self) -> bytes:
        """Return the body compressed, which is done once; nothing if that does not pay."""
        if not self._gzipped and len(self.body) >= GZIP_BYTES:
            self._gzipped = gzip.compress(self.body, compresslevel=6, mtime=0)
        return self._gzipped

    def packed(self) -> bytes:
        """Return it as bytes, for Redis."""
        return orjson.dumps([self.etag, self.headers]) + b"\n" + self.body

    @staticmethod
    def unpacked(data: bytes | None) -> "Kept | None":
        """Return what was packed, or None if that is not what the bytes are."""
        head, newline, body = (data or b"").partition(b"\n")
        try:
            etag, headers = orjson.loads(head if newline else b"")
            return Kept([(str(name), str(value)) for name, value in headers], body, str(etag))
        except (ValueError, TypeError):
            return None


def init_app(app: Flask, settings: Settings) -> None:
    """Give the app its kept answers."""
    app.extensions["answers"] = Answers(app.extensions["store"], settings.cache_ttl)


def answers() -> "Answers":
    """Return the kept answers of the current app."""
    found: Answers = current_app.extensions["answers"]
    return found


class Answers:
    """The kept answers of one process, and those of Redis behind them."""

    def __init__(self, store: Store, ttl: int) -> None:
        self._store = store
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
        self._forget(key)
        kept.expires = time.monotonic() + self._ttl * random.uniform(0.9, 1.0)  # noqa: S311 (jitter)
        self._kept[key] = kept
        self._bytes += len(kept.body)
        while self._bytes > LOCAL_BYTES:
            self._forget(next(iter(self._kept)))

    def _shared_or_made(self, key: str, make: Callable[[], Kept]) -> tuple[Kept, bool]:
        shared = Kept.unpacked(self._store.ask(lambda redis: redis.get(key)))
        kept = shared or make()
        self.keep(key, kept)
        if shared is None:
            packed = kept.packed()
            self._store.ask(lambda redis: redis.set(key, packed, ex=self._ttl))
        return kept, shared is not None

    def _forget(self, key: str) -> None:
        if (kept := self._kept.pop(key, None)) is not None:
            self._bytes -= len(kept.body)
