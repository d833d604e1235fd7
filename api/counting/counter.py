"""Puts the counting together: named limits, counted where Redis or this host keeps them.

`limits`, the library below Flask-Limiter, gives the two places to plug in at: a strategy, which counts all our kinds of
limit in one call, and a storage, which asks Redis, then the host's file, then the memory of this process.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from limits import RateLimitItem
from limits.storage import Storage
from limits.strategies import STRATEGIES, RateLimiter
from limits.util import WindowStats

from api.counting.in_memory import InMemory
from api.counting.in_redis import InRedis
from api.counting.in_sqlite import InSQLite
from api.errors import Unavailable
from api.rates import CENTURY, EXACT, SECOND, Limit, Verdict, Window

STRATEGY, SCHEME = "bucket", "walnut"
ANY_NUMBER = EXACT // 2


class Layers(Storage):
    """Redis if there is one; when it does not answer, what the settings say: the host, nobody, or nothing at all."""

    STORAGE_SCHEME = [SCHEME]

    def __init__(
        self,
        uri: str = f"{SCHEME}://",
        wrap_exceptions: bool = False,
        *,
        redis: InRedis | None,
        host: Sequence[InSQLite | InMemory],
        refuse: bool = False,
        **options: Any,
    ) -> None:
        """Without a host nobody counts while Redis is silent: everybody is let in, or nobody if `refuse`."""
        super().__init__(uri, wrap_exceptions, **options)
        self._redis, self._host, self._refuse = redis, host, refuse

    def take(self, key: str, limit: Limit, cost: int = 1, *, keep: bool = True) -> Verdict | None:
        """Count a request and return the verdict, or None if nobody counts. Raises Unavailable if that is to refuse."""
        seen = None
        if self._redis:
            if (verdict := self._redis.take(key, limit, cost, keep=keep)) is not None:
                return verdict
            seen = self._redis.seen.get(key)  # the host goes on from where Redis was when it was last heard of
        for storage in self._host:
            if (verdict := storage.take(key, limit, cost, keep=keep, seen=seen)) is not None:
                return verdict
        if self._refuse:
            raise Unavailable("Requests cannot be counted now, because Redis does not answer. Try again in a moment.")
        return None

    def clear(self, key: str) -> None:
        """Forget one caller, wherever he was counted."""
        for storage in self._all():
            storage.clear(key)

    def reset(self) -> None:
        """Forget everybody."""
        for storage in self._all():
            storage.reset()

    def check(self) -> bool:
        """Tell whether somebody counts."""
        return any(storage.alive() for storage in self._all())

    # What else the library asks of a storage, for strategies of its own.

    @property
    def base_exceptions(self) -> type[Exception]:
        """Return what may be raised."""
        return Unavailable

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Count up in a window of `expiry` seconds, and return how many there are."""
        return self._counted(key, expiry, amount)

    def get(self, key: str) -> int:
        """Return how many there are."""
        return self._counted(key, CENTURY, 0)

    def get_expiry(self, key: str) -> float:
        """Return when the window ends, in seconds since 1970."""
        verdict = self.take(key, Window("", ANY_NUMBER, CENTURY), 0, keep=False)
        return time.time() + (verdict.reset / SECOND if verdict and verdict.remaining < ANY_NUMBER else 0)

    def _counted(self, key: str, seconds: int, amount: int) -> int:
        verdict = self.take(key, Window("", ANY_NUMBER, seconds), amount, keep=bool(amount))
        return ANY_NUMBER - verdict.remaining if verdict else 0

    def _all(self) -> list[InRedis | InSQLite | InMemory]:
        return [*([self._redis] if self._redis else []), *self._host]


class Strategy(RateLimiter):
    """Counts any kind of limit in one call, and gives back all there is to know."""

    storage: Layers

    def take(self, limit: Limit, *identifiers: str, cost: int = 1, keep: bool = True) -> Verdict | None:
        """Count a request of whoever the identifiers say, and return the verdict, or None if nobody counts."""
        return self.storage.take(key_of(limit, *identifiers), limit, cost, keep=keep)

    def hit(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Count a request against a limit of the library's own, and tell whether it is let in."""
        verdict = self.take(_window(item), *identifiers, cost=cost)
        return verdict is None or verdict.allowed

    def test(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Tell whether a request would be let in."""
        verdict = self.take(_window(item), *identifiers, cost=cost, keep=False)
        return verdict is None or verdict.allowed

    def get_window_stats(self, item: RateLimitItem, *identifiers: str) -> WindowStats:
        """Return when the window ends, in seconds since 1970, and how many requests are left in it."""
        verdict = self.take(_window(item), *identifiers, cost=0, keep=False) or Verdict(True, item.amount, 0)
        return WindowStats(time.time() + verdict.reset / SECOND, verdict.remaining)

    def clear(self, item: RateLimitItem, *identifiers: str) -> None:
        """Forget a caller."""
        self.storage.clear(key_of(_window(item), *identifiers))


STRATEGIES[STRATEGY] = Strategy  # type: ignore[assignment]  # it is typed to hold the library's own three only


class Counter:
    """Counts by the names of limits. Needs no Flask: whoever stands in front of it may ask too."""

    def __init__(self, strategy: Strategy, limits: Mapping[str, Limit]) -> None:
        self._strategy = strategy
        self.limits = limits

    def count(self, name: str, who: str) -> Verdict | None:
        """Count a request of `who` against the limit of this name. None: nobody counts, because Redis is silent.

        Raises Unavailable if nobody counts and the settings say to refuse then.
        """
        return self._strategy.take(self.limits[name], name, who)

    def forget(self, name: str, who: str) -> None:
        """Forget what was counted."""
        self._strategy.storage.clear(key_of(self.limits[name], name, who))


def key_of(limit: Limit, *identifiers: str) -> str:
    """Return what a count is kept under. Its limit is in it: whoever changes a limit begins anew."""
    return f"limits/{STRATEGY}/{limit.text}/{'/'.join(identifiers)}"


def _window(item: RateLimitItem) -> Window:
    return Window(f"{item!r}", item.amount, item.get_expiry())
