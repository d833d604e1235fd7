"""How often a caller may knock. The counting is in api/counting; here is who is counted, and what he is told.

Counted is the user of a valid token, otherwise the address: never a header that the client may choose. Behind proxies
that are trusted, ProxyFix has put the client's address into REMOTE_ADDR before anything of ours is asked.
"""

import re
from collections.abc import Callable
from functools import lru_cache, wraps
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from time import time
from typing import Any, cast

from flask import Flask, current_app, request
from flask_limiter import Limiter

from api import metrics, rates
from api.counting.counter import SCHEME, STRATEGY, Counter, Strategy
from api.counting.in_memory import InMemory
from api.counting.in_redis import InRedis
from api.counting.in_sqlite import InSQLite
from api.errors import TooManyRequests
from api.observe import note
from api.rates import SECOND, Backoff, Limit, Verdict
from api.settings import Settings
from api.store import Store
from api.web import headers
from api.web.access_tokens import user_of_token
from api.web.contract import Contract

FILE = "limits.db"
PER_ADDRESS = {"auth"}  # whoever signs in is nobody yet
HEADERS = {  # in the order of `described`, and as the API's document has them
    "RateLimit-Policy": {"description": "The limit: q requests in w seconds.", "schema": {"type": "string"}},
    "RateLimit": {"description": "What is left: r requests, t seconds until more.", "schema": {"type": "string"}},
    "X-RateLimit-Limit": {"description": "As q.", "schema": {"type": "integer"}},
    "X-RateLimit-Remaining": {"description": "As r.", "schema": {"type": "integer"}},
    "X-RateLimit-Reset": {"description": "As t, in seconds since 1970.", "schema": {"type": "integer"}},
}
VERDICT = "walnut.verdict"  # in the WSGI environment, if the edge has counted the request already
WITH_PORT = re.compile(r"^(?:(\d+\.\d+\.\d+\.\d+)|\[([^\]]+)\]):\d+$")  # as some gateways forward an address
SIGN_IN = Backoff(free=5, most=60, memory=15 * 60)
# Of a million codes three are right at any time. At one try in an hour that takes a guesser some decades.
SECOND_FACTOR = Backoff(free=5, most=3600, memory=24 * 3600)
TOO_MANY = {
    "sign-in": "Too many wrong passwords or codes for this account.",
    "second-factor": "Too many wrong codes for this account. If they were not yours, somebody knows its password: "
    "choose another one.",
}


def init_app(app: Flask, settings: Settings) -> None:
    """Give the app its counter, through Flask-Limiter, which carries the storage and the strategy."""
    storages: Any = _storages(settings, app.extensions["store"])
    limiter = Limiter(address, storage_uri=f"{SCHEME}://", storage_options=storages, strategy=STRATEGY)
    app.extensions["limiter"] = {limiter}  # as if its hooks were there: they cost 44 us a request, and ours is one step
    limiter.init_app(app)
    app.extensions["limits"] = Counter(cast(Strategy, limiter.limiter), _named(settings))


def wrap(view: Callable[..., Any], contract: Contract) -> Callable[..., Any]:
    """Count the request against the limit that the contract names."""
    name = contract.limit
    if name is None:
        return view

    @wraps(view)
    def limited(**kwargs: Any) -> Any:
        counted, seen = counter(), request.environ
        if verdict := seen[VERDICT] if VERDICT in seen else count(counted, name, who(name)):
            headers.add(*described(name, counted.limits[name], verdict))
            if not verdict.allowed:
                raise refusal(name, verdict)
        return view(**kwargs)

    return limited


def counter() -> Counter:
    """Return the counter of the current app."""
    found: Counter = current_app.extensions["limits"]
    return found


def count(counted: Counter, name: str, caller: str) -> Verdict | None:
    """Count a request against the limit of this name, and the verdict among the metrics. As Counter.count."""
    verdict = counted.count(name, caller)
    if verdict:
        metrics.LIMITER_VERDICTS.labels(name, "allowed" if verdict.allowed else "refused").inc()
    return verdict


def who(name: str) -> str:
    """Return who is counted for the current request against the limit of this name."""
    user = None if name in PER_ADDRESS else user_of_token()
    return as_user(user) if user else f"address:{address()}"


def as_user(user_id: str) -> str:
    """Return what a user is counted as."""
    return f"user:{user_id}"


def address() -> str:
    """Return the address that the current request comes from, as it is counted."""
    return network(request.environ.get("REMOTE_ADDR") or "")


@lru_cache(maxsize=10_000)
def network(text: str) -> str:
    """Return what counts as one address: an IPv4 address, or the /64 that an IPv6 subscriber has to himself.

    What is no address counts as one, all of it together, so that nobody gains by it.
    """
    found = ip(text)
    if found is None:
        return "unknown"
    if found.version == 4:
        return str(found)
    return str(found.ipv4_mapped or ip_network((found, 64), strict=False))


def ip(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address that REMOTE_ADDR names, or None if what a proxy wrote there is none."""
    try:
        return ip_address(WITH_PORT.sub(r"\1\2", text).partition("%")[0])
    except ValueError:
        return None


def described(name: str, limit: Limit, verdict: Verdict) -> list[tuple[str, str]]:
    """Return the headers that tell a verdict: those of draft-ietf-httpapi-ratelimit-headers-10, and the older ones."""
    seconds = _seconds(verdict.reset)
    values = (
        f'"{name}";q={limit.quota};w={limit.window}',
        f'"{name}";r={verdict.remaining};t={seconds}',
        str(limit.quota),
        str(verdict.remaining),
        str(int(time()) + seconds),
    )
    return list(zip(HEADERS, values, strict=True))


def refusal(name: str, verdict: Verdict, what: str = "Too many requests.") -> TooManyRequests:
    """Return what to raise when a verdict is no."""
    wait = max(1, _seconds(verdict.reset))
    note(limit=name)
    return TooManyRequests(f"{what} Try again in {wait} s.", policy=name, retry_after=wait)


def slow_down(account: str, *, anywhere: bool = False) -> int:
    """Count an attempt to sign in to an account, as failed until `forgive`. Return how many seconds the next waits.

    By account and address together: whoever guesses at an account slows himself down, and not its owner elsewhere.
    `anywhere`: by account alone, for codes of who has shown its password. Raises TooManyRequests if it is too early.
    """
    name, who = _attempts(account, anywhere)
    verdict = count(counter(), name, who)
    if verdict and not verdict.allowed:
        raise refusal(name, verdict, TOO_MANY[name])
    return _seconds(verdict.reset) if verdict else 0


def forgive(account: str, *, anywhere: bool = False) -> None:
    """Forget the failed attempts to sign in to an account from this address, or `anywhere`: one has succeeded."""
    counter().forget(*_attempts(account, anywhere))


def _attempts(account: str, anywhere: bool) -> tuple[str, str]:
    """Return what attempts are counted as and under. Nobody who reads the counts learns which accounts there are."""
    key = current_app.extensions["settings"].jwt_secret.encode()[: blake2b.MAX_KEY_SIZE]
    hidden = blake2b(account.encode(), key=key, digest_size=16).hexdigest()
    return ("second-factor", hidden) if anywhere else ("sign-in", f"{hidden}/{address()}")


def _named(settings: Settings) -> dict[str, Limit]:
    return {
        "default": rates.parse(settings.rate_limit_default),
        "auth": rates.parse(settings.rate_limit_auth),
        "jobs": rates.parse(settings.rate_limit_jobs),
        "sign-in": SIGN_IN,
        "second-factor": SECOND_FACTOR,
    }


def _storages(settings: Settings, store: Store) -> dict[str, Any]:
    """Return who counts: Redis if there is one, and if it is silent whom RATE_LIMIT_SKIP_IF_REDIS_DOWN says."""
    skip = settings.rate_limit_skip_if_redis_down if store.configured else None
    file = [] if settings.app_env == "testing" else [InSQLite(settings.instance_path / FILE)]
    return {
        "redis": InRedis(store) if store.configured else None,
        "host": [*file, InMemory()] if skip is None else [],
        "refuse": skip is False,
    }


def _seconds(microseconds: int) -> int:
    return -(-microseconds // SECOND)
