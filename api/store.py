"""Redis, or nothing: an accelerator, never the truth. Never raises, never waits long.

redis-py's defaults wait a minute for a hung server. Here a command has 50 ms and one try; after a failure nobody asks
again for a second, so that a dead Redis costs one request 50 ms and the others nothing.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from flask import Flask, current_app
from redis import Redis, RedisError, exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from api import metrics
from api.settings import Settings

TIMEOUT_SECONDS = 0.05
REST_SECONDS = 1.0

Answer = TypeVar("Answer")


def init_app(app: Flask, settings: Settings) -> None:
    """Give the app its store."""
    app.extensions["store"] = Store(settings.redis_url)


def store() -> "Store":
    """Return the store of the current app."""
    found: Store = current_app.extensions["store"]
    return found


class Store:
    """One Redis with a breaker. Without a URL every question is answered with None."""

    def __init__(self, url: str) -> None:
        self.configured = bool(url)
        self._redis: Any = url and Redis.from_url(
            url,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        self._rests_until = 0.0
        self._asks_again = threading.Lock()  # after a rest one caller tries, the others still do without

    def ask(self, question: Callable[[Any], Answer]) -> Answer | None:
        """Return `question(redis)`, or None when Redis is absent, down or too slow."""
        if not self._redis or time.monotonic() < self._rests_until:
            return None
        if not self._rests_until:
            return self._asked(question)
        if not self._asks_again.acquire(blocking=False):
            return None
        try:
            return self._asked(question)
        finally:
            self._asks_again.release()

    def alive(self) -> bool:
        """Tell whether Redis answers."""
        return bool(self.ask(lambda redis: redis.ping()))

    def _asked(self, question: Callable[[Any], Answer]) -> Answer | None:
        try:
            answer = question(self._redis)
        except (exceptions.ConnectionError, exceptions.TimeoutError):
            self._rests_until = time.monotonic() + REST_SECONDS
            metrics.REDIS_FAILURES.inc()
            metrics.REDIS_BREAKER.set(1)
            return None
        except RedisError:  # it is there, and refuses this one question: a key of another type, no room
            metrics.REDIS_FAILURES.inc()
            return None
        if self._rests_until:
            self._rests_until = 0.0
            metrics.REDIS_BREAKER.set(0)
        return answer
