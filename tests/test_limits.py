"""Counting, whoever keeps the counts; who is counted; and what he is told."""

import os
import re
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import flask_limiter
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from limits import parse as library_limit

from api import rates
from api import store as store_module
from api.auth import passwords
from api.counting import in_memory, in_redis, in_sqlite
from api.counting.counter import Counter, Layers, Strategy
from api.counting.in_memory import InMemory, microseconds
from api.counting.in_redis import InRedis
from api.counting.in_sqlite import InSQLite
from api.errors import Unavailable
from api.rates import SECOND
from api.store import Store
from api.web import access_tokens, limits
from tests.conftest import Caller, assert_problem, ended, sign_in, sign_up, start_python
from tests.system.processes import Redis
from tests.test_rates import START, backoffs, buckets, pauses, windows

KINDS = ("memory", "sqlite", "redis")
TEN = rates.parse("token-bucket 10 refill 1/s")


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    with Redis(tmp_path_factory.mktemp("redis")) as running, pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "TIMEOUT_SECONDS", 10.0)  # a busy machine is no fault of a storage
        yield running


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now=START):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture(params=KINDS)
def make(request, tmp_path):
    """Return a function that makes a storage of one kind; without a clock it has a real one."""
    made = []

    def storage(clock=None):
        if request.param == "memory":
            found = InMemory(clock or microseconds)
        elif request.param == "sqlite":
            found = InSQLite(tmp_path / "limits.db", clock or microseconds)
        else:
            found = InRedis(Store(request.getfixturevalue("redis").url), clock or int)
        made.append(found)
        return found

    yield storage
    for found in made:
        found.reset()
        if isinstance(found, InSQLite):
            found.close()


# ---- the contract of every storage


def test_it_lets_in_what_there_is_room_for_and_then_nothing(make):
    clock = Clock()
    storage = make(clock)
    verdicts = [storage.take("limits/x", TEN) for _ in range(12)]
    assert [verdict.allowed for verdict in verdicts] == [True] * 10 + [False] * 2
    assert [verdict.remaining for verdict in verdicts] == [*range(9, -1, -1), 0, 0]
    assert verdicts[0].reset == SECOND
    assert verdicts[-1].reset == SECOND
    clock.now += SECOND - 1
    assert not storage.take("limits/x", TEN).allowed
    clock.now += 1
    assert storage.take("limits/x", TEN).allowed
    assert not storage.take("limits/x", TEN).allowed


def test_callers_are_counted_apart(make):
    storage = make(Clock())
    for _ in range(10):
        storage.take("limits/one", TEN)
    assert not storage.take("limits/one", TEN).allowed
    assert storage.take("limits/other", TEN).remaining == 9


def test_to_ask_is_not_to_count(make):
    storage = make(Clock())
    storage.take("limits/x", TEN)
    for _ in range(3):
        assert storage.take("limits/x", TEN, keep=False) == (True, 8, 2 * SECOND)
        assert storage.take("limits/x", TEN, 0, keep=False) == (True, 9, SECOND)


def test_one_can_be_forgotten_and_so_can_all(make):
    storage = make(Clock())
    for key in ("limits/a", "limits/b", "limits/c"):
        storage.take(key, TEN)
    storage.clear("limits/a")
    assert [storage.take(key, TEN, 0).remaining for key in ("limits/a", "limits/b")] == [10, 9]
    storage.reset()
    assert [storage.take(key, TEN, 0).remaining for key in ("limits/b", "limits/c")] == [10, 10]
    assert storage.alive()


def test_it_has_a_clock_of_its_own(make):
    storage, fast = make(), rates.parse("token-bucket 2 refill 20/s")
    assert [storage.take("limits/x", fast).allowed for _ in range(3)] == [True, True, False]
    time.sleep(0.06)
    assert storage.take("limits/x", fast).allowed
    window = rates.parse("1 per second")
    assert storage.take("limits/y", window).allowed
    refused = storage.take("limits/y", window)
    assert (refused.allowed, refused.remaining) == (False, 0)
    assert 0.9 * SECOND < refused.reset <= SECOND


def test_any_text_is_a_key(make):
    storage = make(Clock())
    for key in ("limits/ü 🥜/x y\n%'\"", "limits/" + "k" * 4000):
        assert [storage.take(key, TEN).remaining for _ in range(2)] == [9, 8]


def test_the_largest_limit_that_is_taken_is_exact(make):
    clock = Clock()
    storage, limit = make(clock), rates.parse("token-bucket 9000000 refill 0.009/s")
    assert limit.full == 9 * 10**15
    assert [storage.take("limits/x", limit, 1).remaining for _ in range(3)] == [8999999, 8999998, 8999997]
    assert storage.take("limits/x", limit, 8999997).remaining == 0
    clock.now += 111_111_111  # a request comes in every 111.111... s
    assert not storage.take("limits/x", limit).allowed
    clock.now += 1
    assert storage.take("limits/x", limit).allowed


@pytest.mark.parametrize("limit", [rates.parse("token-bucket 100 refill 0.001/s"), rates.parse("100 per hour")])
def test_of_many_at_once_exactly_as_many_get_in_as_there_is_room_for(make, limit):
    storages = [make(), make()]
    if isinstance(storages[0], InMemory):
        storages[1] = storages[0]  # it is one process's alone

    def knock(number):
        return storages[number % 2].take("limits/x", limit).allowed

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(knock, range(1000))) == 100


@pytest.mark.parametrize("kinds", [buckets(), windows(), backoffs()], ids=["bucket", "window", "backoff"])
def test_every_storage_is_the_model(make, kinds):
    clock, number = Clock(), iter(range(10**6))
    storage = make(clock)

    @settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(kinds, pauses())
    def check(kind, pauses):
        limit, model = kind
        key = f"limits/{next(number)}"
        for pause in pauses:
            clock.now += pause
            assert tuple(storage.take(key, limit)) == model.take(clock.now)

    check()


@settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    buckets() | windows() | backoffs(),
    st.lists(st.tuples(st.integers(-100 * SECOND, 100 * SECOND), st.integers(1, 5), st.booleans()), max_size=30),
)
def test_all_storages_agree_also_when_the_clock_is_set_back(redis, tmp_path_factory, kind, steps):
    clock = Clock()
    file = InSQLite(tmp_path_factory.mktemp("counts") / "limits.db", clock)
    storages = [InMemory(clock), file, InRedis(Store(redis.url), clock)]
    storages[2].reset()
    for step, cost, keep in steps:
        clock.now += step
        verdicts = {tuple(storage.take("limits/x", kind[0], cost, keep=keep)) for storage in storages}
        assert len(verdicts) == 1
    file.close()


# ---- what only one of them has


def test_memory_forgets_who_has_not_been_seen_for_long(monkeypatch):
    monkeypatch.setattr(in_memory, "MANY", 100)
    clock = Clock()
    storage = InMemory(clock)
    for number in range(1000):
        storage.take(f"limits/{number}", TEN)
        clock.now += SECOND // 10
    assert len(storage._counts) <= 100


def test_the_file_forgets_who_has_not_been_seen_for_long(tmp_path, monkeypatch):
    monkeypatch.setattr(in_sqlite, "SWEEP_EVERY", 10)
    monkeypatch.setattr(in_sqlite, "SWEEP", 20)
    clock = Clock()
    storage = InSQLite(tmp_path / "limits.db", clock)
    for number in range(2000):
        storage.take(f"limits/{number * 7919 % 2000}", TEN)
        clock.now += SECOND // 10
    assert 10 <= storage._driver.execute("SELECT count(*) FROM counts").fetchone()[0] < 100
    storage.close()


def test_redis_forgets_by_itself(redis, monkeypatch):
    monkeypatch.setattr(in_redis, "SPARE", 0)
    storage = InRedis(Store(redis.url))
    storage.take("limits/soon", rates.parse("token-bucket 10 refill 20/s"))
    assert b"limits/soon" in redis_keys(redis)
    time.sleep(0.1)
    assert b"limits/soon" not in redis_keys(redis)


@pytest.mark.parametrize(("text", "seconds"), [("token-bucket 10 refill 0.1/s", 10), ("10 per hour", 3600)])
def test_redis_keeps_a_count_as_long_as_it_means_something(redis, text, seconds):
    InRedis(Store(redis.url)).take("limits/kept", rates.parse(text))
    left = Store(redis.url).ask(lambda client: client.pttl("walnut:limits/kept"))
    assert seconds * 1000 <= left + 2000
    assert left <= seconds * 1000 + in_redis.SPARE


def redis_keys(redis):
    return Store(redis.url).ask(lambda client: b" ".join(client.keys("walnut:*")))


def test_redis_that_forgot_the_scripts_is_told_them_again(redis):
    storage = InRedis(Store(redis.url))
    storage.reset()
    storage.take("limits/x", TEN)
    redis.command_line("SCRIPT", "FLUSH")
    assert storage.take("limits/x", TEN).remaining == 8


def test_a_count_in_redis_that_is_none_is_nobodys_fault_but_no_error(redis):
    store = Store(redis.url)
    store.ask(lambda client: client.set("walnut:limits/odd", "nonsense"))
    assert InRedis(store).take("limits/odd", TEN).remaining == 9
    assert InRedis(store).take("limits/odd", TEN).remaining == 8, "and it was mended"


KINDS = [TEN, rates.parse("10 per hour"), rates.Backoff(5, 60, 900)]
ODD = ["nonsense", "5 1 ", "-1 -1", "9" * 400 + " 1", f"{10**18} {10**15}", "1 " + "9" * 30, None]


@pytest.mark.parametrize("limit", KINDS, ids=lambda limit: limit.kind)
@pytest.mark.parametrize("kept", ODD)
def test_whatever_is_under_a_callers_key_in_redis_he_is_counted_and_redis_stays(redis, limit, kept):
    store, name = Store(redis.url), "walnut:limits/odd"
    store.ask(lambda client: client.delete(name))
    store.ask(lambda client: client.set(name, kept) if kept else client.rpush(name, "a list"))
    storage = InRedis(store)
    left = [storage.take("limits/odd", limit).remaining for _ in range(2)]
    assert left[1] == left[0] - 1
    assert left[0] >= 0
    assert store.alive()


@pytest.mark.parametrize(("level", "at"), [("x", 1), (1, "x"), (b"1", 1), (9e18, 1), (2**62, 1), (-5, 1), (1, -1)])
def test_a_damaged_count_in_the_file_is_none(tmp_path, level, at):
    storage = InSQLite(tmp_path / "limits.db")
    storage.take("limits/odd", TEN)
    storage._driver.execute("UPDATE counts SET level = ?, at = ?", (level, at))
    assert storage.take("limits/odd", TEN).remaining == 9


def test_what_is_in_redis_begins_with_our_name(redis):
    redis.command_line("FLUSHALL")
    InRedis(Store(redis.url)).take("limits/x", TEN)
    assert redis_keys(redis) == b"walnut:limits/x"


def test_the_file_is_its_owners_alone_and_asks_nothing_of_the_disk(tmp_path):
    storage = InSQLite(tmp_path / "limits.db")
    storage.take("limits/x", TEN)
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
    assert storage._driver.execute("PRAGMA synchronous").fetchone() == (0,)
    assert storage._driver.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert storage._driver.execute("PRAGMA busy_timeout").fetchone() == (0,)
    storage.close()


@pytest.mark.parametrize(
    "damage", [b"no database at all, but a text that is long enough" * 100, b"SQLite format 3\0" * 99]
)
def test_a_damaged_file_is_made_anew(tmp_path, damage):
    path = tmp_path / "limits.db"
    path.write_bytes(damage)
    storage = InSQLite(path)
    storage.take("limits/x", TEN)  # finds it damaged
    assert storage.take("limits/x", TEN) is not None
    assert path.read_bytes()[:16] == b"SQLite format 3\0"
    storage.close()


def test_two_processes_that_find_it_damaged_go_on_in_the_same_file(tmp_path, monkeypatch):
    monkeypatch.setattr(in_sqlite, "LOOK_SECONDS", 0.0)
    path = tmp_path / "limits.db"
    path.write_bytes(b"damaged" * 1000)
    storages = [InSQLite(path), InSQLite(path)]
    for storage in storages:
        storage.take("limits/x", TEN)
    for storage in storages * 2:
        storage.take("limits/y", TEN)
    assert [storage.take("limits/y", TEN, 0).remaining for storage in storages] == [6, 6]
    for storage in storages:
        storage.close()


def test_a_file_that_was_deleted_is_found_out(tmp_path, monkeypatch):
    monkeypatch.setattr(in_sqlite, "LOOK_SECONDS", 0.0)
    storages = [InSQLite(tmp_path / "limits.db"), InSQLite(tmp_path / "limits.db")]
    for storage in storages:
        storage.take("limits/x", TEN)
    for path in tmp_path.iterdir():
        path.unlink()
    for storage in storages:
        storage.take("limits/x", TEN)
    assert [storage.take("limits/x", TEN, 0).remaining for storage in storages] == [8, 8]
    for storage in storages:
        storage.close()


def test_a_file_that_cannot_be_had_is_left_alone_for_a_while(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(in_sqlite, "REST_SECONDS", 0.05)
    folder = tmp_path / "not there"
    storage = InSQLite(folder / "limits.db")
    assert [storage.take("limits/x", TEN) for _ in range(5)] == [None] * 5
    assert not storage.alive()
    assert len(caplog.records) == 1, "one line, not one a request"
    folder.mkdir()
    time.sleep(0.06)
    assert storage.take("limits/x", TEN).remaining == 9
    storage.close()


def test_a_lock_that_nobody_gives_back_is_not_waited_for_again_and_again(tmp_path, monkeypatch):
    monkeypatch.setattr(in_sqlite, "PATIENCE_SECONDS", 0.05)
    storage, path = InSQLite(tmp_path / "limits.db"), tmp_path / "limits.db"
    storage.take("limits/x", TEN)
    holder = in_sqlite.sqlite.driver.connect(str(path), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    assert [storage.take("limits/x", TEN) for _ in range(100)] == [None] * 100
    assert time.monotonic() - started < 0.5
    holder.close()
    storage._rests_until = 0.0
    assert storage.take("limits/x", TEN).remaining == 8
    storage.close()


HUB = """
from gevent import monkey
monkey.patch_all()
import sys, time
from pathlib import Path
import gevent
from api import rates
from api.counting.in_sqlite import InSQLite

storage, limit = InSQLite(Path(sys.argv[1])), rates.parse("100 per hour")
storage.take("limits/x", limit)
gaps, ended = [], []

def tick():
    last = time.perf_counter()
    while not ended:
        gevent.sleep(0.001)
        gaps.append(time.perf_counter() - last)
        last += gaps[-1]

ticker = gevent.spawn(tick)
print("ready", flush=True)
sys.stdin.readline()
started = time.perf_counter()
takes = [gevent.spawn(storage.take, "limits/x", limit) for _ in range(20)]
gevent.joinall(takes)
waited = time.perf_counter() - started
ended.append(True)
ticker.join()
print(waited, max(gaps), sum(take.value is not None for take in takes))
"""


def test_waiting_for_another_process_stops_no_other_greenlet(tmp_path):
    """The lock is held for 300 ms by somebody else: a wait in C would stop the hub for as long."""
    path = tmp_path / "limits.db"
    process = start_python(HUB.replace("sys.stdin.readline()", f"open({str(tmp_path / 'go')!r}).read()"), path)
    os.mkfifo(tmp_path / "go")
    assert process.stdout.readline() == "ready\n"
    holder = in_sqlite.sqlite.driver.connect(str(path), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    (tmp_path / "go").write_text("go")
    time.sleep(0.3)
    holder.execute("ROLLBACK")
    holder.close()
    waited, gap, counted = map(float, ended(process).split())
    assert waited > 0.1
    assert counted == 20
    assert gap < 0.1


# ---- who counts when Redis does not


class Silent(Store):
    """A Redis that can be told to be silent."""

    silent = False

    def ask(self, question):
        return None if self.silent else super().ask(question)


@pytest.fixture
def store(redis):
    found = Silent(redis.url)
    InRedis(found).reset()
    return found


def counter(redis, *host, refuse=False, limit=TEN):
    return Counter(Strategy(Layers(redis=redis, host=host, refuse=refuse)), {"x": limit})


def test_the_host_goes_on_where_redis_was(store):
    counting = counter(InRedis(store), InMemory())
    assert [counting.count("x", "me").remaining for _ in range(4)] == [9, 8, 7, 6]
    store.silent = True
    found = [counting.count("x", "me") for _ in range(7)]
    assert sum(verdict.allowed for verdict in found) == 6
    assert counting.count("x", "another").remaining == 9


def test_the_hosts_own_count_is_gone_on_with_when_it_is_the_worse_one(store):
    counting = counter(InRedis(store), InMemory())
    counting.count("x", "me")
    store.silent = True
    for _ in range(5):
        counting.count("x", "me")
    store.silent = False
    assert counting.count("x", "me").remaining == 8, "what Redis knows"
    store.silent = True
    assert counting.count("x", "me").remaining == 3, "what the host knows"


def test_the_memory_of_a_process_helps_out_when_the_file_cannot_be_had(tmp_path):
    counting = counter(None, InSQLite(tmp_path / "not there" / "limits.db"), InMemory())
    assert [counting.count("x", "me").remaining for _ in range(3)] == [9, 8, 7]


def test_without_redis_and_a_host_everybody_is_let_in_or_nobody(store):
    store.silent = True
    assert counter(InRedis(store)).count("x", "me") is None
    with pytest.raises(Unavailable) as refused:
        counter(InRedis(store), refuse=True).count("x", "me")
    assert refused.value.retry_after == 1


def test_what_is_forgotten_is_forgotten_everywhere(store):
    host = InMemory()
    counting = counter(InRedis(store), host)
    for silent in (False, True):
        store.silent = silent
        counting.count("x", "me")
    store.silent = False
    counting.forget("x", "me")
    assert counting.count("x", "me").remaining == 9
    counting.forget("x", "me")
    store.silent = True
    assert counting.count("x", "me").remaining == 9


def test_this_process_remembers_no_more_callers_of_redis_than_it_can_hold(store, monkeypatch):
    monkeypatch.setattr(in_redis, "REMEMBERED", 10)
    storage = InRedis(store)
    for number in range(25):
        storage.take(f"limits/{number}", TEN)
    assert len(storage.seen) == 5


def test_a_limit_that_was_changed_begins_anew():
    strategy = Strategy(Layers(redis=None, host=[InMemory()]))
    for _ in range(10):
        Counter(strategy, {"x": TEN}).count("x", "me")
    assert not Counter(strategy, {"x": TEN}).count("x", "me").allowed
    assert Counter(strategy, {"x": rates.parse("token-bucket 11 refill 1/s")}).count("x", "me").allowed


# ---- what Flask-Limiter and its library ask of a strategy and a storage


@pytest.fixture
def strategy():
    return Strategy(Layers(redis=None, host=[InMemory(Clock(microseconds()))]))


def test_the_librarys_own_limits_are_counted_too(strategy):
    item = library_limit("3 per minute")
    assert strategy.get_window_stats(item, "me").remaining == 3
    assert [strategy.hit(item, "me") for _ in range(4)] == [True, True, True, False]
    assert [strategy.test(item, who) for who in ("me", "another")] == [False, True]
    stats = strategy.get_window_stats(item, "me")
    assert stats.remaining == 0
    assert stats.reset_time == pytest.approx(time.time() + 60, abs=2)
    strategy.clear(item, "me")
    assert strategy.hit(item, "me", cost=3)
    assert not strategy.test(item, "me")


def test_the_librarys_own_strategy_works_on_our_storage(strategy):
    storage = strategy.storage
    assert [storage.incr("key", 60) for _ in range(3)] == [1, 2, 3]
    assert storage.incr("key", 60, 4) == storage.get("key") == 7
    assert storage.get_expiry("key") == pytest.approx(time.time() + 60, abs=2)
    assert storage.get("another") == 0
    assert storage.get_expiry("another") == pytest.approx(time.time(), abs=2)
    assert storage.check()
    storage.clear("key")
    assert storage.get("key") == 0
    storage.incr("key", 60)
    storage.reset()
    assert storage.get("key") == 0


def test_a_limit_of_flask_limiters_own_can_be_put_on_a_function(make_app):
    """What a later route or a command may want: its decorator goes through our storage."""
    app = make_app()
    (limiter,) = app.extensions["limiter"]
    with app.test_request_context("/"):
        for _ in range(2):
            with limiter.limit("2 per minute"):
                pass
        with pytest.raises(flask_limiter.RateLimitExceeded), limiter.limit("2 per minute"):
            pass


def test_flask_limiters_hooks_do_not_run_on_every_request(app):
    hooks = [*app.before_request_funcs.get(None, []), *app.after_request_funcs.get(None, [])]
    assert not [hook for hook in hooks if "limiter" in repr(hook).lower()]


# ---- over HTTP


def policy(answer):
    """Return a caller's RateLimit headers as a dict, after checking that the older ones say the same."""
    name, q, w = re.fullmatch(r'"([\w-]+)";q=(\d+);w=(\d+)', answer.headers["RateLimit-Policy"]).groups()
    same, r, t = re.fullmatch(r'"([\w-]+)";r=(\d+);t=(\d+)', answer.headers["RateLimit"]).groups()
    assert name == same
    assert answer.headers["X-RateLimit-Limit"] == q
    assert answer.headers["X-RateLimit-Remaining"] == r
    assert int(answer.headers["X-RateLimit-Reset"]) == pytest.approx(time.time() + int(t), abs=2)
    return {"name": name, "q": int(q), "w": int(w), "r": int(r), "t": int(t)}


SLOW = "token-bucket 5 refill 0.01/s"


def test_every_answer_says_what_is_left_and_the_last_says_when(make_app):
    app = make_app(RATE_LIMIT_DEFAULT=SLOW)
    admin = sign_up(app, "root", role="admin")
    answers = [admin("GET", "/tasks") for _ in range(7)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
    assert [policy(answer)["r"] for answer in answers] == [4, 3, 2, 1, 0, 0, 0]
    assert policy(answers[0]) == {"name": "default", "q": 5, "w": 500, "r": 4, "t": 100}
    problem = assert_problem(answers[-1], 429, "rate_limited")
    assert problem["violated-policies"] == ["default"]
    assert answers[-1].headers["Retry-After"] == str(policy(answers[-1])["t"])
    assert 98 <= int(answers[-1].headers["Retry-After"]) <= 100
    assert answers[-1].headers["Retry-After"] in problem["detail"]


def test_problems_say_what_is_left_too(make_app):
    app = make_app(RATE_LIMIT_DEFAULT=SLOW)
    admin = sign_up(app, "root", role="admin")
    for method, path, body, status in (
        ("POST", "/tasks", {}, 422),
        ("GET", "/tasks/019a9f3e-5b1c-7c3a-9d0e-0f6b2a1c4d5e", None, 404),
        ("GET", "/tasks?limit=0", None, 422),
    ):
        answer = admin(method, path, body)
        assert answer.status_code == status
        assert policy(answer)["name"] == "default"


def test_all_routes_of_a_limit_share_it_and_other_limits_do_not(make_app):
    app = make_app(RATE_LIMIT_DEFAULT="token-bucket 3 refill 0.01/s")
    admin = sign_up(app, "root", role="admin")
    left = [policy(admin("GET", path))["r"] for path in ("/tasks", "/users/me", "/users/profile")]
    assert left == [2, 1, 0]
    assert admin("POST", "/tasks", {"title": "x"}).status_code == 429
    assert admin("POST", "/auth/login", {"email": "root@example.com", "password": "correct horse"}).status_code == 200


def test_health_the_dashboard_and_swagger_ui_are_not_counted(make_app):
    app = make_app(RATE_LIMIT_DEFAULT="1 per day", RATE_LIMIT_AUTH="1 per day")
    client = app.test_client()
    for path in ("/health", "/api/v1/health/ready", "/", "/static/index.html", "/api-docs", "/api-docs/openapi.json"):
        for _ in range(3):
            answer = client.get(path)
            assert answer.status_code == 200, path
            assert "RateLimit" not in answer.headers
            answer.close()


def test_a_window_is_written_as_flask_limiter_does(make_app):
    app = make_app(RATE_LIMIT_AUTH="3 per 15 minutes")
    answers = [Caller(app)("POST", "/auth/login", {}) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [422, 422, 422, 429]
    assert policy(answers[0]) == {"name": "auth", "q": 3, "w": 900, "r": 2, "t": 900}
    assert 890 < int(answers[-1].headers["Retry-After"]) <= 900


def test_the_document_has_the_429_of_every_route_that_is_counted(lasting_app):
    paths = lasting_app.test_client().get("/api-docs/openapi.json").json["paths"]
    for path, operations in paths.items():
        for operation in operations.values():
            found = operation["responses"].get("429")
            assert (found is None) == path.startswith(("/api/v1/health", "/api/v1/webhooks/")), path
            assert found is None or set(found["headers"]) == {"Retry-After", *limits.HEADERS}


def test_a_refusal_is_as_documented(make_app):
    app = make_app(RATE_LIMIT_AUTH="1 per day")
    answers = [Caller(app)("POST", "/auth/login", {}) for _ in range(2)]
    assert set(limits.HEADERS) | {"Retry-After"} <= set(answers[1].headers.keys())


# ---- who is counted


def test_users_are_counted_apart_behind_one_address_and_one_user_on_all_his_addresses(make_app):
    app = make_app(RATE_LIMIT_DEFAULT=SLOW)
    root = sign_up(app, "root", role="admin")
    alice = sign_up(app, "alice")
    assert [policy(caller("GET", "/tasks"))["r"] for caller in (root, alice, root)] == [4, 4, 3]
    elsewhere = sign_in(app, "root")
    assert policy(elsewhere.send("GET", "/tasks", environ_overrides={"REMOTE_ADDR": "192.0.2.9"}))["r"] == 2


def test_whoever_has_no_valid_token_is_his_address(make_app):
    app = make_app(RATE_LIMIT_DEFAULT=SLOW, ACCESS_TOKEN_TTL="1")
    root = sign_up(app, "root", role="admin")
    root("GET", "/tasks")
    time.sleep(1.1)
    head, body, signature = root.token.split(".")
    tokens = [root.token, f"{head}.{body}.{signature[::-1]}", "x", None]
    answers = [Caller(app, token)("GET", "/tasks") for token in tokens]
    assert [answer.status_code for answer in answers] == [401] * 4
    assert [policy(answer)["r"] for answer in answers] == [4, 3, 2, 1]


def test_the_token_of_a_session_that_has_ended_uses_up_nothing_of_its_users(make_app):
    """Whoever stole one could otherwise shut its owner out until it expires."""
    app = make_app(RATE_LIMIT_DEFAULT="token-bucket 10 refill 0.01/s")
    thief, owner = sign_up(app, "root", role="admin"), sign_in(app, "root")
    thief("POST", "/auth/logout")
    assert [thief("GET", "/tasks").status_code for _ in range(15)].count(429) == 15 - 1 - 10
    assert policy(owner("GET", "/tasks"))["r"] == 10 - 3, "logout, the first one afterwards, this one"


def test_an_account_that_is_opened_again_is_counted_as_its_users_again(make_app):
    app = make_app(RATE_LIMIT_DEFAULT=SLOW)
    root = sign_up(app, "root", role="admin")
    with app.test_request_context(headers={"Authorization": f"Bearer {root.token}"}):
        user = limits.who("default")
        assert user.startswith("user:")
        token = access_tokens.presented()
        access_tokens.remember_ended(token.session_id)
        assert limits.who("default") == "address:unknown"
        access_tokens.remember_alive(token.session_id)
        assert limits.who("default") == user


def test_signing_in_is_counted_by_address_whatever_token_is_sent(make_app):
    app = make_app(RATE_LIMIT_AUTH="5 per hour")
    root = sign_up(app, "root", role="admin")  # register, login
    assert policy(root("POST", "/auth/login", {}))["r"] == 2
    assert policy(Caller(app)("POST", "/auth/login", {}))["r"] == 1


FORGED = [
    {"X-Forwarded-For": "198.51.100.{}"},
    {"X-Forwarded-For": "198.51.100.{}, 203.0.113.9"},
    {"X-Real-IP": "198.51.100.{}"},
    {"Forwarded": "for=198.51.100.{}"},
    {"CF-Connecting-IP": "198.51.100.{}"},
    {"True-Client-IP": "198.51.100.{}"},
    {"X-Client-IP": "198.51.100.{}"},
    {"X-Forwarded-Host": "h{}.example"},
    {"Host": "h{}.example"},
    {"User-Agent": "{}"},
    {"X-Request-ID": "{}"},
    {"Cookie": "session={}"},
]


@pytest.mark.parametrize("forged", FORGED, ids=lambda headers: f"{headers}")
def test_no_header_makes_another_caller_of_somebody(make_app, forged):
    app = make_app(RATE_LIMIT_DEFAULT=SLOW)
    for number in range(7):
        headers = {name: value.format(number) for name, value in forged.items()}
        status = Caller(app).send("GET", "/tasks", headers).status_code
    assert status == 429


def test_behind_proxies_the_address_counts_that_they_saw(make_app):
    app = make_app(RATE_LIMIT_DEFAULT="token-bucket 2 refill 0.01/s", TRUSTED_PROXIES="1")

    def left(forwarded):
        return policy(Caller(app).send("GET", "/tasks", {"X-Forwarded-For": forwarded}))["r"]

    assert [left(f"198.51.100.{number}, 203.0.113.9") for number in range(3)] == [1, 0, 0]
    assert left("203.0.113.10") == 1


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:0db8:0001:0002:ffff::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", "unknown"),
        ("unix:", "unknown"),
        ("192.0.2.1:4711", "192.0.2.1"),
        ("[2001:db8::1]:443", "2001:db8::/64"),
        ("[2001:db8::1", "unknown"),
        ("010.0.0.1", "unknown"),
        ("evil/user:1", "unknown"),
    ],
)
def test_what_counts_as_one_address(address, counted):
    assert limits.network(address) == counted


def test_a_whole_ipv6_network_is_one_caller(make_app):
    app = make_app(RATE_LIMIT_DEFAULT=SLOW)

    def left(address):
        return policy(Caller(app).send("GET", "/tasks", environ_overrides={"REMOTE_ADDR": address}))["r"]

    assert [left(f"2001:db8::{number:x}") for number in range(1, 5)] == [4, 3, 2, 1]
    assert left("2001:db8:0:1::1") == 4


# ---- guessing at passwords


@pytest.fixture
def guess(app, user):
    """Return a function that tries to sign in as alice."""

    def tried(password="wrong password", name="alice", address="192.0.2.1"):
        body = {"email": f"{name}@example.com", "password": password}
        return Caller(app).send("POST", "/auth/login", json=body, environ_overrides={"REMOTE_ADDR": address})

    return tried


def set_clock(app, monkeypatch):
    """Stop the clock of an app's counts, and return it."""
    clock = Clock(microseconds())
    for storage in app.extensions["limits"]._strategy.storage._host:
        monkeypatch.setattr(storage, "_clock", clock)
    return clock


def test_guessing_becomes_slow_without_a_hash_being_made(app, guess, monkeypatch):
    clock = set_clock(app, monkeypatch)
    hashes = []
    monkeypatch.setattr(passwords, "matches", lambda *_: hashes.append(1))
    waits = []
    for _ in range(13):
        answer = guess()
        while answer.status_code == 429:
            made = len(hashes)
            assert guess().status_code == 429
            assert len(hashes) == made
            waits.append(int(answer.headers["Retry-After"]))
            clock.now += waits[-1] * SECOND
            answer = guess()
        assert answer.status_code == 401
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert len(hashes) == 13


def test_a_guess_that_comes_too_early_is_told_so(guess):
    answers = [guess() for _ in range(7)]
    assert [answer.status_code for answer in answers] == [401] * 5 + [429] * 2
    problem = assert_problem(answers[-1], 429, "rate_limited")
    assert problem["violated-policies"] == ["sign-in"]
    assert answers[-1].headers["Retry-After"] == "1"


def test_the_owner_is_not_shut_out_elsewhere_and_here_only_for_a_while(app, guess, monkeypatch):
    clock = set_clock(app, monkeypatch)
    for _ in range(20):
        guess()
        clock.now += 60 * SECOND
    guess()
    assert guess("correct horse").status_code == 429
    assert guess("correct horse", address="192.0.2.2").status_code == 200
    clock.now += 60 * SECOND
    assert guess("correct horse").status_code == 200


def test_a_success_clears_it(guess):
    for _ in range(5):
        guess()
    time.sleep(1.05)
    assert guess("correct horse").status_code == 200
    assert [guess().status_code for _ in range(5)] == [401] * 5
    assert guess().status_code == 429


def test_after_a_quarter_of_an_hour_it_is_forgotten(app, guess, monkeypatch):
    clock = set_clock(app, monkeypatch)
    for _ in range(9):
        guess()
        clock.now += 60 * SECOND
    clock.now += 15 * 60 * SECOND
    assert [guess().status_code for _ in range(6)] == [401] * 5 + [429]


def test_another_account_is_another_count_and_another_spelling_is_not(guess):
    for _ in range(5):
        guess(name="ALICE")
    assert guess().status_code == 429
    assert guess(name="root").status_code == 401


def test_accounts_that_there_are_not_are_guessed_at_as_slowly(guess):
    assert [guess(name="nobody").status_code for _ in range(6)] == [401] * 5 + [429]


def test_a_whole_ipv6_network_guesses_as_one(guess):
    assert [guess(address=f"2001:db8::{number:x}").status_code for number in range(6)] == [401] * 5 + [429]


def test_who_guesses_with_many_threads_gets_no_more_guesses(app, user, guess, monkeypatch):
    set_clock(app, monkeypatch)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: guess().status_code, range(40)))
    assert found.count(401) == 5
    assert found.count(429) == 35


def test_the_counts_name_no_account(app, guess):
    guess()
    (keys,) = [list(storage._counts) for storage in app.extensions["limits"]._strategy.storage._host]
    assert any("sign-in" in key for key in keys)
    assert not any("alice" in key for key in keys)


# ---- where it is kept


def test_outside_of_tests_a_host_has_a_file_and_never_the_database(make_app):
    app = make_app(APP_ENV="development")
    folder = app.extensions["settings"].instance_path
    sign_up(app, "root", role="admin")("GET", "/tasks")
    assert (folder / "limits.db").exists()
    with sqlite3.connect(folder / "limits.db") as conn:
        keys = [key for (key,) in conn.execute("SELECT key FROM counts")]
    conn.close()
    assert {name for name in ("default", "auth", "sign-in") for key in keys if f"/{name}/" in key} == {
        "default",
        "auth",
    }
    for storage in app.extensions["limits"]._strategy.storage._host:
        getattr(storage, "close", bool)()


@pytest.mark.parametrize(("skip", "status"), [("true", 200), ("false", 503), ("", 200)])
def test_without_an_answer_of_redis_it_is_as_the_setting_says(make_app, skip, status):
    app = make_app(REDIS_URL="redis://127.0.0.1:1/0", RATE_LIMIT_SKIP_IF_REDIS_DOWN=skip, RATE_LIMIT_DEFAULT=SLOW)
    with app.test_request_context(environ_base={"REMOTE_ADDR": "192.0.2.1"}):
        user = limits.who("default")
    app.extensions["limits"].forget("default", user)
    answer = Caller(app)("GET", "/tasks")
    assert answer.status_code == (401 if status == 200 else 503)
    assert ("RateLimit" in answer.headers) == (skip == "")
    if status == 503:
        assert_problem(answer, 503, "unavailable")
        assert answer.headers["Retry-After"] == "1"


def test_the_setting_is_about_redis_only(make_app):
    app = make_app(RATE_LIMIT_SKIP_IF_REDIS_DOWN="false", RATE_LIMIT_DEFAULT=SLOW)
    assert policy(Caller(app)("GET", "/tasks"))["r"] == 4


def test_counting_needs_no_flask(app):
    """What stands in front of Flask asks the same counter, here in a thread that knows of no app."""
    counting, found = app.extensions["limits"], []
    thread = threading.Thread(target=lambda: found.append(counting.count("default", "user:1")))
    thread.start()
    thread.join()
    assert found[0].allowed
    assert limits.described("default", counting.limits["default"], found[0])[0][0] == "RateLimit-Policy"
