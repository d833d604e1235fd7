import socket
import threading
import time

import pytest
from redis import ConnectionError as NoConnection

from api import store as module
from api.store import Store, store


@pytest.fixture
def hung():
    """Return the URL of a server that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"


@pytest.fixture
def answering():
    """Return the URL of a server that answers each command with +PONG."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        ended = threading.Event()

        def serve():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=talk, args=(connection,), daemon=True).start()

        def talk(connection):
            with connection:
                while not ended.is_set():
                    try:
                        given = connection.recv(4096)
                    except OSError:
                        return
                    if not given:
                        return
                    for _ in range(given.count(b"*")):
                        connection.sendall(b"+PONG\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0?protocol=2"
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)


def test_without_a_url_there_is_none_and_nothing_is_asked():
    absent = Store("")
    assert not absent.configured
    assert absent.ask(lambda _: pytest.fail("asked")) is None
    assert not absent.alive()


def test_a_redis_that_is_not_there_is_none_and_raises_nothing():
    down = Store("redis://127.0.0.1:1/0")
    assert down.configured
    assert down.ask(lambda redis: redis.get("x")) is None
    assert not down.alive()


def test_a_redis_that_hangs_costs_one_question_its_50_ms(hung):
    asked = Store(hung)
    started = time.monotonic()
    assert asked.ask(lambda redis: redis.get("x")) is None
    assert time.monotonic() - started < 0.5
    started = time.monotonic()
    for _ in range(100):
        assert asked.ask(lambda redis: redis.get("x")) is None
    assert time.monotonic() - started < 0.05


def test_a_redis_that_is_there_answers(answering):
    asked = Store(answering)
    assert asked.alive()
    assert asked.ask(lambda _: 42) == 42


class Counted:
    """A question that fails as often as it is told to, and knows how often it was asked."""

    def __init__(self, failures):
        self.failures, self.asked = failures, 0

    def __call__(self, _redis):
        self.asked += 1
        if self.asked <= self.failures:
            raise NoConnection
        return "answer"


def test_after_a_failure_nobody_asks_for_a_while_and_then_one_does(monkeypatch):
    monkeypatch.setattr(module, "REST_SECONDS", 0.05)
    asked, question = Store("redis://127.0.0.1:1/0"), Counted(failures=2)
    assert asked.ask(question) is None
    assert asked.ask(question) is None
    assert question.asked == 1
    time.sleep(0.06)
    assert asked.ask(question) is None
    assert asked.ask(question) is None
    assert question.asked == 2
    time.sleep(0.06)
    assert [asked.ask(question) for _ in range(3)] == ["answer"] * 3


def test_after_a_rest_one_asks_and_the_others_do_not_wait_for_it(monkeypatch):
    monkeypatch.setattr(module, "REST_SECONDS", 0.01)
    asked = Store("redis://127.0.0.1:1/0")
    asked.ask(Counted(failures=1))
    time.sleep(0.02)
    entered, leave = threading.Event(), threading.Event()

    def slow(_redis):
        entered.set()
        leave.wait(5)
        return "slow"

    found = []
    thread = threading.Thread(target=lambda: found.append(asked.ask(slow)))
    thread.start()
    assert entered.wait(5)
    other = Counted(failures=0)
    assert asked.ask(other) is None
    assert other.asked == 0
    leave.set()
    thread.join()
    assert found == ["slow"]
    assert asked.ask(other) == "answer"


def test_a_bug_in_a_question_is_a_bug_and_no_outage():
    asked = Store("redis://127.0.0.1:1/0")
    with pytest.raises(ZeroDivisionError):
        asked.ask(lambda _: 1 / 0)
    assert asked.ask(lambda _: "still asked") == "still asked"


def test_the_app_has_one(app):
    with app.app_context():
        assert store() is app.extensions["store"]
        assert not store().configured
