import threading
import time
import tracemalloc

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as some

from api import answers as module
from api.answers import Answers, Kept
from api.store import Store

SECRET = "a secret of the tests"


class Remembering:
    """Stands for a store whose Redis is a dict, or does not answer."""

    def __init__(self):
        self.kept, self.down = {}, False

    def ask(self, question):
        return None if self.down else question(self)

    def get(self, key):
        return self.kept.get(key)

    def set(self, key, value, ex):
        self.kept[key] = value
        self.lives = ex


@pytest.fixture
def redis():
    return Remembering()


def kept(body=b"body", etag='"1"'):
    return Kept([("Content-Type", "application/json")], body, etag)


def fails():
    pytest.fail("made again")


@given(some.binary(max_size=200), some.text(max_size=20), some.lists(some.tuples(some.text(), some.text()), max_size=3))
def test_what_is_packed_comes_back(body, etag, headers):
    found = Kept.unpacked(Kept(headers, body, etag).packed())
    assert (found.body, found.etag, found.headers) == (body, etag, headers)


RUBBISH = [None, b"", b"\n", b"[]\n", b"[1,2]\nx", b'["e",[["a"]]]\nx', b"\xff\n", b"x" * 100, 5, True, ["a", "b"],
           "text", b'["e",[["X","a\\r\\nSet-Cookie: b"]]]\nbody']  # fmt: skip


@pytest.mark.parametrize("data", RUBBISH, ids=repr)
def test_a_redis_full_of_rubbish_is_no_redis(redis, data):
    redis.kept["k"] = data
    found, was_kept = Answers(redis, 60, SECRET).get_or_make("k", kept)
    assert (found.body, was_kept) == (b"body", False)


@pytest.mark.parametrize("harm", [
    lambda data: data[:-1], lambda data: data + b"x", lambda data: bytes([data[0] ^ 1]) + data[1:],
    lambda data: data[1:],
])  # fmt: skip
def test_an_answer_in_redis_that_was_changed_is_none(redis, harm):
    Answers(redis, 60, SECRET).get_or_make("k", kept)
    redis.kept["k"] = harm(redis.kept["k"])
    assert Answers(redis, 60, SECRET).get_or_make("k", kept)[1] is False


def test_an_answer_of_another_key_or_of_who_has_not_the_secret_is_none(redis):
    Answers(redis, 60, SECRET).get_or_make("mine", kept)
    redis.kept["yours"] = redis.kept["mine"]
    assert Answers(redis, 60, SECRET).get_or_make("yours", kept)[1] is False
    assert Answers(redis, 60, "another secret").get_or_make("mine", kept)[1] is False


def test_replicas_share_what_one_of_them_made(redis):
    one, two = Answers(redis, 60, SECRET), Answers(redis, 60, SECRET)
    assert one.get_or_make("k", kept)[1] is False
    found, was_kept = two.get_or_make("k", fails)
    assert (found.body, was_kept, redis.lives) == (b"body", True, 60)
    redis.down = True
    assert two.get_or_make("k", fails)[1] is True


def test_without_redis_each_process_keeps_its_own():
    one = Answers(Store(""), 60, SECRET)
    one.get_or_make("k", kept)
    assert one.get_or_make("k", fails)[1] is True


def test_an_answer_lives_for_its_time(redis, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    one = Answers(Store(""), 60, SECRET)
    one.get_or_make("k", kept)
    now[0] += 53
    assert one.here("k")
    now[0] += 8
    assert one.here("k") is None
    assert one._bytes == 0


def test_the_copy_is_bounded_and_what_was_used_last_stays(monkeypatch):
    monkeypatch.setattr(module, "LOCAL_BYTES", 10 * (1 + kept(b"x" * 100).size()) + 1)
    one = Answers(Store(""), 60, SECRET)
    for number in range(10):
        one.keep(str(number), kept(b"x" * 100))
    assert one.here("0")
    one.keep("10", kept(b"x" * 100))
    assert one.here("0")
    assert one.here("1") is None
    assert one._bytes <= module.LOCAL_BYTES
    one.keep("large", kept(b"x" * 20_000))
    assert one._bytes == sum(len(key) + each.size() for key, each in one._kept.items())


def test_what_has_expired_makes_room_though_nobody_asks_for_it(monkeypatch):
    """After a change its key is never heard again."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    one = Answers(Store(""), 60, SECRET)
    for number in range(100):
        one.keep(str(number), kept())
    now[0] += 61
    one.keep("new", kept())
    assert list(one._kept) == ["new"]


def test_what_is_counted_is_what_it_takes():
    """Within a half: orjson's own bytes hold on to 4 KiB each."""
    one = Answers(Store(""), 60, SECRET)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(2000):
        headers = [(f"X-{name}", f"{number} {name}") for name in range(4)]
        one.keep(f"walnut:{number:032}:all:1", Kept(headers, orjson.dumps({"items": [number]}), f'"{number}"'))
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert one._bytes / 2 < taken < one._bytes * 1.5


def test_one_at_a_time_makes_an_answer(redis):
    one, made, go = Answers(redis, 60, SECRET), [], threading.Event()

    def make():
        made.append(1)
        go.wait(5)
        return kept()

    found = []
    threads = [threading.Thread(target=lambda: found.append(one.get_or_make("k", make))) for _ in range(20)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    go.set()
    for thread in threads:
        thread.join(5)
    assert len(made) == 1
    assert sorted(was_kept for _, was_kept in found) == [False] + [True] * 19


def test_who_fails_to_make_it_lets_the_next_one_try(redis):
    one = Answers(redis, 60, SECRET)
    with pytest.raises(ZeroDivisionError):
        one.get_or_make("k", lambda: 1 / 0)
    assert one.get_or_make("k", kept)[1] is False


def test_a_small_answer_is_not_compressed_and_a_large_one_once(monkeypatch):
    assert kept(b"x" * 999).gzipped() == b""
    large = kept(b"x" * 10_000)
    assert large.gzipped() is large.gzipped()
    assert len(large.gzipped()) < 100
