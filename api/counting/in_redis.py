"""Counts in Redis, for every process of every host: one call a request, on Redis' clock.

Each script is `take` of a kind of limit in api/rates.py, in Lua. A script runs alone, so nobody comes in between.
"""

import hashlib
from collections.abc import Callable
from typing import Any

from redis.exceptions import NoScriptError

from api.rates import Count, Limit, Taken, Verdict
from api.store import Store

REMEMBERED = 10_000  # callers whose last count this process remembers, for the day that Redis is gone

SPARE = 10_000  # milliseconds that a count is kept for longer than it need be: clocks are not all the same

BEGIN = """
local now, cost, keep = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == '1'
if now == 0 then
    local time = redis.call('TIME')
    now = time[1] * 1000000 + time[2]
end
local level, at, allowed, lasts = 0, 0, false, 0
local kept, most = redis.pcall('GET', KEYS[1]), tonumber(ARGV[4])
if type(kept) == 'string' then
    level, at = string.match(kept, '^(%d+) (%d+)$')
    level, at = tonumber(level or 0), tonumber(at or 0)
    if level > most or at > 9007199254740992 then level, at = 0, 0 end
end
"""
END = """
if allowed and keep then
    local milliseconds = string.format('%.0f', math.ceil(lasts / 1000) + SPARE)
    redis.call('SET', KEYS[1], string.format('%.0f %.0f', level, at), 'PX', milliseconds)
end
return {allowed and 1 or 0, level, at, now}
"""
KINDS = {
    "bucket": """
local unit, drain, full, horizon = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
if at > now + horizon then level, at = 0, now end
level, at = math.max(0, level - math.min(math.max(0, now - at), horizon) * drain), now
if level + cost * unit <= full then
    allowed, level = true, level + cost * unit
end
lasts = level / drain
""",
    "window": """
local quota, period = tonumber(ARGV[5]), tonumber(ARGV[6])
if not (now < at and at <= now + 2 * period) then level, at = 0, now + period end
if level + cost <= quota then
    allowed, level = true, level + cost
end
lasts = at - now
""",
    "backoff": """
local free, slowest, memory = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
if not (now - memory < at and at <= now + slowest) then level, at = 0, 0 end
local delay = 0
if level >= free then delay = math.min(slowest, 1000000 * 2 ^ math.min(level - free, 30)) end
if cost == 0 or now >= at + delay then
    allowed, level = true, level + cost
    if cost > 0 then at = now end
end
lasts = at + memory - now
""",
}


class Script:
    """A script that Redis is sent once, and then only told the name of."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def run(self, redis: Any, key: str, *given: int) -> Any:
        """Run it. A Redis that was started anew is sent it again."""
        try:
            return redis.evalsha(self.sha, 1, key, *given)
        except NoScriptError:
            return redis.eval(self.text, 1, key, *given)


class InRedis:
    """Counts in the Redis of a store. Answers None when Redis does not."""

    def __init__(self, store: Store, clock: Callable[[], int] = int) -> None:
        """Take a clock for tests. One that says 0 means Redis' own."""
        self._store = store
        self._clock = clock
        self._scripts = {
            kind: Script(BEGIN + script + END.replace("SPARE", str(SPARE))) for kind, script in KINDS.items()
        }
        self.seen: dict[str, Count] = {}

    def take(self, key: str, limit: Limit, cost: int = 1, *, keep: bool = True) -> Verdict | None:
        """Count a request and return the verdict. Without `keep` it is only asked."""
        script = self._scripts[limit.kind]
        given = (self._clock(), cost, int(keep), limit.highest(), *limit.numbers)
        found = self._store.ask(lambda redis: script.run(redis, f"walnut:{key}", *given))
        if not (isinstance(found, list) and len(found) == 4 and all(type(number) is int for number in found)):
            return None  # no answer, or none of this script's
        allowed, level, at, now = found
        taken = Taken(bool(allowed), Count(level, at))
        self._remember(key, taken.after)
        return limit.verdict(taken, now, cost)

    def clear(self, key: str) -> None:
        """Forget one caller."""
        self.seen.pop(key, None)
        self._store.ask(lambda redis: redis.delete(f"walnut:{key}"))

    def reset(self) -> None:
        """Forget everybody."""
        self.seen.clear()
        self._store.ask(lambda redis: [redis.delete(key) for key in redis.scan_iter("walnut:limits/*", count=1000)])

    def alive(self) -> bool:
        """Tell whether it can count."""
        return self._store.alive()

    def _remember(self, key: str, count: Count) -> None:
        if len(self.seen) >= REMEMBERED:
            self.seen.clear()
        self.seen[key] = count
