"""Whose turn it is to have a password hashed."""

import os
import sys
import threading
import time

import pytest

from api.auth import hashing, passwords
from api.auth.hashing import Hashing, Line
from api.errors import Unavailable
from tests.conftest import LOWEST, PASSWORD, assert_problem, sign_up


class Crowd:
    """People who wait in a line of one place that is taken, and in which order they were let in."""

    def __init__(self):
        self.line = Line(1)
        self.order, self.refused = [], []
        self._threads = []
        self._first = self.line.place("first")
        self._first.__enter__()

    def arrives(self, who):
        before = self.waiting() + len(self.refused)
        self._threads.append(threading.Thread(target=self._wait, args=(who,)))
        self._threads[-1].start()
        deadline = time.monotonic() + 5
        while self.waiting() + len(self.refused) == before and time.monotonic() < deadline:
            time.sleep(0.001)

    def waiting(self):
        return sum(map(len, self.line._waiting.values()))

    def goes_in(self):
        self._first.__exit__(None, None, None)
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive()
        return self.order

    def _wait(self, who):
        try:
            with self.line.place(who):
                self.order.append(who)
        except Unavailable:
            self.refused.append(who)


def test_addresses_take_turns():
    crowd = Crowd()
    for who in "aaabac":
        crowd.arrives(who)
    assert crowd.goes_in() == list("abcaaa")
    assert crowd.line._free == 1
    assert crowd.line._waiting == {}


def test_who_comes_from_elsewhere_waits_for_one_of_a_flood_and_not_for_all():
    crowd = Crowd()
    for _ in range(20):
        crowd.arrives("flood")
    crowd.arrives("honest")
    assert crowd.goes_in().index("honest") <= 1
    assert len(crowd.order) == 21


def test_an_address_has_only_so_many_places_to_wait(monkeypatch):
    monkeypatch.setattr(hashing, "EACH", 3)
    crowd = Crowd()
    for who in "aaaaab":
        crowd.arrives(who)
    assert crowd.refused == ["a", "a"]
    assert crowd.goes_in() == list("abaa")


def test_when_all_places_are_taken_the_longest_line_is_cut(monkeypatch):
    monkeypatch.setattr(hashing, "TOTAL", 4)
    crowd = Crowd()
    for who in "aaabc":
        crowd.arrives(who)
    assert crowd.refused == ["a"]
    crowd.arrives("d")
    assert crowd.refused == ["a", "a"]
    crowd.arrives("e")  # nobody has more than one
    assert crowd.refused == ["a", "a", "e"]
    assert crowd.goes_in() == list("abcd")


def test_a_place_comes_back_from_a_hash_that_fails():
    line = Line(1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), line.place("a"):
            1 / 0  # noqa: B018
    assert line._free == 1


@pytest.mark.parametrize("called", [False, True])
def test_who_is_made_to_stop_waiting_keeps_no_place(monkeypatch, called):
    """As when the server ends: before it was his turn, or in the moment it became so."""
    line = Line(1)
    first = line.place("first")
    first.__enter__()

    def stopped(_event, _timeout=None):
        if called:
            first.__exit__(None, None, None)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Event, "wait", stopped)
    with pytest.raises(KeyboardInterrupt), line.place("second"):
        pass
    if not called:
        first.__exit__(None, None, None)
    assert line._free == 1
    assert not any(line._waiting.values())


def test_too_many_at_once_are_refused_instead_of_queued(app, anyone, monkeypatch):
    sign_up(app, "alice")
    monkeypatch.setattr(hashing, "EACH", 0)
    monkeypatch.setattr(app.extensions["hashing"]._line, "_free", 0)
    answer = anyone("POST", "/auth/login", {"email": "alice@example.com", "password": PASSWORD})
    assert_problem(answer, 503, "unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
    with app.app_context(), pytest.raises(Unavailable):
        passwords.matches(PASSWORD, None)


def test_twenty_from_one_address_all_get_their_turn(tmp_path):
    busy, results = Hashing(tmp_path), []
    threads = [threading.Thread(target=lambda: results.append(busy.do("a", time.sleep, 0.002))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert results == [None] * 20


def test_all_processes_of_a_host_together_leave_cores_to_who_answers(tmp_path):
    """Each Hashing stands for a process: a lock on a file does not care whose thread it is."""
    several, under_way, most = [Hashing(tmp_path) for _ in range(3)], [], []

    def work():
        under_way.append(1)
        most.append(len(under_way))
        time.sleep(0.005)
        under_way.pop()

    threads = [threading.Thread(target=one.do, args=("a", work)) for one in several for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(most) == 12
    assert max(most) <= hashing.CORES


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority for each thread")
def test_a_hash_has_the_lowest_priority_and_nobody_else(tmp_path, monkeypatch):
    assert LOWEST == 19
    monkeypatch.setattr(hashing, "LOWEST", LOWEST)
    priority = lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())  # noqa: E731
    before = priority()
    assert Hashing(tmp_path).do("a", priority) == LOWEST
    assert priority() == before
    with_another = []
    thread = threading.Thread(target=lambda: with_another.append(priority()))
    thread.start()
    thread.join()
    assert with_another == [before]


def test_addresses_are_told_apart_as_the_limits_do(app, anyone, monkeypatch):
    seen = []
    monkeypatch.setattr(Hashing, "do", lambda _self, who, work, *arguments: seen.append(who) or work(*arguments))
    for address in ("192.0.2.7", "2001:db8::1", "2001:db8::2"):
        anyone.send(
            "POST",
            "/auth/login",
            json={"email": "nobody@example.com", "password": PASSWORD},
            environ_overrides={"REMOTE_ADDR": address},
        )
    assert seen == ["192.0.2.7", "2001:db8::/64", "2001:db8::/64"]
    with app.app_context():
        passwords.hash_password(PASSWORD)  # a command, from nowhere
    assert seen[-1] == ""
