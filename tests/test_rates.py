"""The arithmetic of limits against models that were written apart from it, in fractions of seconds."""

from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api import rates
from api.counting.in_memory import microseconds
from api.rates import EXACT, SECOND, Backoff, Bucket, Count, Window

START = 1_700_000_000 * SECOND  # some day, in microseconds


class Tokens:
    """A token bucket as textbooks have it: tokens come at a steady rate, as many as there is room for."""

    def __init__(self, capacity, rate):
        self.capacity, self.rate = capacity, Fraction(rate)
        self.tokens, self.then = Fraction(capacity), None

    def take(self, now, cost=1):
        moment = Fraction(now, SECOND)
        if self.then is not None:
            self.tokens = min(Fraction(self.capacity), self.tokens + self.rate * (moment - self.then))
        self.then = moment
        allowed = self.tokens >= cost
        if allowed:
            self.tokens -= cost
        wanted = cost if not allowed else 1 if self.tokens < 1 else self.capacity
        reset = ceil((wanted - self.tokens) / self.rate * SECOND)
        return allowed, int(self.tokens), max(0, reset)


class FromTheFirst:
    """A window that the first request opens which is let in."""

    def __init__(self, amount, seconds):
        self.amount, self.period = amount, seconds * SECOND
        self.opened, self.let_in = None, []

    def take(self, now, cost=1):
        if self.opened is None or now >= self.opened + self.period:
            self.opened, self.let_in = None, []
        allowed = len(self.let_in) + cost <= self.amount
        if allowed:
            self.opened = now if self.opened is None else self.opened
            self.let_in += [now] * cost
        ends = self.period + (now if self.opened is None else self.opened)
        return allowed, self.amount - len(self.let_in), ends - now


class Patience:
    """Growing delays: after the fifth failure a second, then twice as long each time."""

    def __init__(self, free, most, memory):
        self.free, self.most, self.memory = free, most, memory
        self.failures = []

    def delay(self):
        beyond = len(self.failures) - self.free
        return 0 if beyond < 0 else min(self.most, 2**beyond)

    def take(self, now, cost=1):
        if self.failures and now - self.failures[-1] >= self.memory * SECOND:
            self.failures = []
        allowed = not self.failures or now >= self.failures[-1] + self.delay() * SECOND
        self.failures += [now] if allowed else []
        waits = self.failures[-1] + self.delay() * SECOND - now
        return allowed, max(0, self.free - len(self.failures)), max(0, waits)


def buckets():
    rate = st.fractions(min_value=Fraction(1, 100), max_value=1000, max_denominator=100)
    return st.builds(
        lambda capacity, rate: (Bucket("bucket", capacity, rate), Tokens(capacity, rate)), st.integers(1, 50), rate
    )


def windows():
    return st.builds(
        lambda amount, seconds: (Window("window", amount, seconds), FromTheFirst(amount, seconds)),
        st.integers(1, 20),
        st.integers(1, 100),
    )


def backoffs():
    return st.builds(
        lambda free, most, memory: (Backoff(free, most, most + memory), Patience(free, most, most + memory)),
        st.integers(1, 6),
        st.integers(1, 60),
        st.integers(1, 900),
    )


def pauses():
    """Return lists of pauses in microseconds: none, some that fill a bucket a little, some that empty it."""
    pause = st.sampled_from([0, 1]) | st.integers(0, SECOND) | st.integers(0, 1000 * SECOND)
    return st.lists(pause, min_size=1, max_size=60)


def kept_in_a_variable(limit):
    count = Count()

    def take(now, cost=1):
        nonlocal count
        taken = limit.take(count, now, cost)
        if taken.allowed:
            count = taken.after
        return tuple(limit.verdict(taken, now, cost))

    return take


@settings(max_examples=300, deadline=None, database=None)
@given(buckets() | windows() | backoffs(), pauses())
def test_every_kind_of_limit_is_its_model(kind, pauses):
    limit, model = kind
    take, now = kept_in_a_variable(limit), START
    for pause in pauses:
        now += pause
        assert take(now) == model.take(now)


@settings(max_examples=200, deadline=None, database=None)
@given(buckets() | windows(), st.lists(st.tuples(st.integers(0, 10 * SECOND), st.integers(1, 9)), max_size=40))
def test_a_request_may_count_for_several(kind, steps):
    limit, model = kind
    take, now = kept_in_a_variable(limit), START
    for pause, cost in steps:
        now += pause
        assert take(now, cost) == model.take(now, cost)


@settings(max_examples=200, deadline=None, database=None)
@given(buckets() | windows() | backoffs(), pauses())
def test_whoever_waits_as_long_as_he_is_told_is_let_in_and_not_sooner(kind, pauses):
    limit, _ = kind
    take, now = kept_in_a_variable(limit), START
    for pause in pauses:
        now += pause
        allowed, _, reset = take(now)
        if not allowed:
            assert reset > 0
            assert not take(now + reset - 1)[0]
            now += reset
            assert take(now)[0]


@settings(max_examples=200, deadline=None, database=None)
@given(buckets() | windows() | backoffs(), pauses())
def test_a_count_that_has_run_out_is_as_good_as_none(kind, pauses):
    """Every storage forgets a count after `lasts`."""
    limit, _ = kind
    count, now = Count(), START
    for pause in pauses:
        now += pause
        taken = limit.take(count, now)
        count = taken.after if taken.allowed else count
    then = now + max(0, limit.lasts(count, now))
    assert limit.verdict(limit.take(count, then), then) == limit.verdict(limit.take(Count(), then), then)


@pytest.mark.parametrize("step", [1, SECOND, 3600 * SECOND, 365 * 86400 * SECOND])
@pytest.mark.parametrize("text", ["token-bucket 10 refill 1/s", "10 per minute"])
def test_a_clock_that_is_set_back_shuts_nobody_out_for_long(text, step):
    limit = rates.parse(text)
    take = kept_in_a_variable(limit)
    for _ in range(20):
        take(START)
    now = START - step
    assert any(take(now + second * SECOND)[0] for second in range(3 * 60 + 1))


def test_a_clock_that_is_set_back_lets_somebody_sign_in():
    take = kept_in_a_variable(Backoff(5, 60, 900))
    for second in range(1000):
        take(START + second * SECOND)
    assert any(take(START - 3600 * SECOND + second * SECOND)[0] for second in range(121))


@pytest.mark.parametrize(
    ("text", "quota", "window"),
    [
        ("token-bucket 100 refill 10/s", 100, 10),
        ("leaky-bucket 50 leak 5/s", 50, 10),
        ("token-bucket 1 refill 100/s", 1, 1),
        ("token-bucket 10 refill 0.5/s", 10, 20),
        ("token-bucket 10 refill 3/s", 10, 4),
        ("token-bucket 1000000 refill 100000/s", 1000000, 10),
        ("100 per 15 minutes", 100, 900),
        ("1/second", 1, 1),
        ("5 per day", 5, 86400),
    ],
)
def test_what_is_written_is_what_is_meant(text, quota, window):
    limit = rates.parse(text)
    assert (limit.text, limit.quota, limit.window) == (text, quota, window)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plenty",
        "token-bucket 0 refill 1/s",
        "token-bucket 1 refill 0/s",
        "token-bucket 1 refill 0.000/s",
        "token-bucket 1 leak 1/s",
        "leaky-bucket 1 refill 1/s",
        "token-bucket 1 refill 1/m",
        "token-bucket -1 refill 1/s",
        "token-bucket 1 refill 1e3/s",
        "0 per minute",
        "1 per 0 minutes",
        "10 per hour; 100 per day",
        " 10 per hour",
        "10 per fortnight",
        "token-bucket 99999999999 refill 1/s",
        "token-bucket 1 refill 0.00000000001/s",
        "token-bucket 1 refill 99999999999999999/s",
        "99999999999999999 per second",
        "1 per 99999999999 years",
    ],
)
def test_nonsense_and_what_could_not_be_counted_exactly_is_refused(text):
    with pytest.raises(ValueError):
        rates.parse(text)


@settings(max_examples=300, deadline=None, database=None)
@given(st.integers(1, 10**12), st.fractions(min_value=Fraction(1, 10**6), max_value=10**9, max_denominator=10**6))
def test_whatever_is_taken_stays_exact_in_lua(capacity, rate):
    try:
        limit = Bucket("", capacity, rate)
    except ValueError:
        return
    assert max(limit.numbers) <= EXACT
    assert limit.full + limit.unit <= EXACT
    assert limit.horizon * limit.drain <= EXACT
    assert limit.horizon + microseconds() <= EXACT
