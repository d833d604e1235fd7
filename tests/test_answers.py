import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as some

from api import answers as module
from api.answers import Answers, Kept
from api.store import Store


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


@given(some.binary())
def test_bytes_that_are_none_of_ours_are_nothing(data):
    assert Kept.unpacked(data) is None or b"\n" in data


@pytest.mark.parametrize("data", [None, b"", b"\n", b"[]\n", b"[1,2]\nx", b'["e",[["a"]]]\nx', b"\xff\n", b'{"a":1}\n'])
def test_a_redis_full_of_rubbish_is_no_redis(data):
    assert Kept.unpacked(data) is None


def test_replicas_share_what_one_of_them_made(redis):
    one, two = Answers(redis, 60), Answers(redis, 60)
    assert one.get_or_make("k", kept)[1] is False
    found, was_kept = two.get_or_make("k", fails)
    assert (found.body, was_kept, redis.lives) == (b"body", True, 60)
    redis.down = True
    assert two.get_or_make("k", fails)[1] is True


def test_without_redis_each_process_keeps_its_own():
    one = Answers(Store(""), 60)
    one.get_or_make("k", kept)
    assert one.get_or_make("k", fails)[1] is True


def test_an_answer_lives_for_its_time(redis, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    one = Answers(Store(""), 60)
    one.get_or_make("k", kept)
    now[0] += 53
    assert one.here("k")
    now[0] += 8
    assert one.here("k") is None
    assert one._bytes == 0


def test_the_copy_is_bounded_and_what_was_used_last_stays(monkeypatch):
    monkeypatch.setattr(module, "LOCAL_BYTES", 1000)
    one = Answers(Store(""), 60)
    for number in range(10):
        one.keep(str(number), kept(b"x" * 100))
    assert one.here("0")
    one.keep("10", kept(b"x" * 100))
    assert one.here("0")
    assert one.here("1") is None
    assert one._bytes <= 1000
    one.keep("large", kept(b"x" * 2000))
    assert one._bytes == sum(len(each.body) for each in one._kept.values())


def test_one_at_a_time_makes_an_answer(redis):
    one, made, go = Answers(redis, 60), [], threading.Event()

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
    one = Answers(redis, 60)
    with pytest.raises(ZeroDivisionError):
        one.get_or_make("k", lambda: 1 / 0)
    assert one.get_or_make("k", kept)[1] is False


def test_a_small_answer_is_not_compressed_and_a_large_one_once(monkeypatch):
    assert kept(b"x" * 999).gzipped() == b""
    large = kept(b"x" * 10_000)
    assert large.gzipped() is large.gzipped()
    assert len(large.gzipped()) < 100
