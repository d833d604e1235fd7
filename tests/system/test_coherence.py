"""Whoever reads after a write was acknowledged sees it: through any replica, whatever Redis does meanwhile.

COHERENCE_ROUNDS=50000 is the long proof (`make coherence`); a round is one write through one replica and two reads
through the other.
"""

import itertools
import os
import random
import shutil
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.system.clients import PASSWORD, QUIET, add_task, opened, sign_in
from tests.system.processes import Redis, Walnut, ask, together

pytestmark = pytest.mark.alone

ROUNDS = int(os.environ.get("COHERENCE_ROUNDS", "600"))
THREADS = 3


class Rounds:
    """Threads that each change a task of their own through one replica and read it through the other."""

    def __init__(self, replicas: list[Walnut], headers: dict[str, str]) -> None:
        self.replicas, self.headers = replicas, headers
        self.stale: list[str] = []
        self.other: list[str] = []
        self.hits = self.done = 0
        self._left = ROUNDS
        self._lock = threading.Lock()

    def run(self, meanwhile: Callable[[], None] | None = None) -> None:
        """Run all rounds, with something else going on until they end."""
        threads = [threading.Thread(target=self._thread, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        while meanwhile and any(thread.is_alive() for thread in threads):
            meanwhile()
        for thread in threads:
            thread.join()

    def _thread(self, number: int) -> None:
        made = add_task(self.replicas[0], self.headers, tags=[f"thread-{number}"]).json()
        task, listed = f"/api/v1/tasks/{made['id']}", f"/api/v1/tasks?tag=thread-{number}"
        connections = [HTTPConnection("127.0.0.1", replica.port, timeout=30) for replica in self.replicas]
        turn = number
        while self._another():
            turn += 1
            writer, reader = connections[turn % 2], connections[(turn + 1) % 2]
            answer = ask(writer, "PATCH", task, {"title": f"round {turn}"}, self.headers)
            if answer.status != 200:
                self.other.append(f"PATCH {answer.status} {answer.body!r}")
                continue
            for path in (task, listed, task):
                self._read(reader, path, f"round {turn}")
        for connection in connections:
            connection.close()

    def _read(self, reader: HTTPConnection, path: str, expected: str) -> None:
        answer = ask(reader, "GET", path, headers=self.headers)
        if answer.status != 200:
            self.other.append(f"GET {answer.status} {answer.body!r}")
            return
        found = answer.json()
        title = (found["items"][0] if "items" in found else found)["title"]
        self.hits += "hit" in answer.headers["Cache-Status"]
        if title != expected:
            self.stale.append(f"{path}: {title} instead of {expected} ({answer.headers['Cache-Status']})")

    def _another(self) -> bool:
        with self._lock:
            self._left -= 1
            self.done += self._left >= 0
            return self._left >= 0


@pytest.fixture
def replicas(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[list[Walnut], Redis | None]]:
    """Two replicas of one worker, with Redis if the test says so."""
    with ExitStack() as running:
        redis = running.enter_context(Redis(tmp_path / "redis")) if request.param else None
        settings = QUIET | {"WORKERS": 1} | ({"REDIS_URL": redis.url} if redis else {})
        servers = [Walnut(tmp_path / "shared", None, **settings) for _ in range(2)]
        yield running.enter_context(together(servers)), redis


def check(rounds: Rounds) -> None:
    assert rounds.stale == []
    assert rounds.other == []
    assert rounds.done == ROUNDS
    assert rounds.hits > ROUNDS / 50  # it was the cache that was tested


@pytest.mark.parametrize("replicas", [True, False], ids=["with Redis", "without"], indirect=True)
def test_no_answer_is_stale(replicas: tuple[list[Walnut], Redis | None]) -> None:
    rounds = Rounds(replicas[0], sign_in(replicas[0][0]))
    rounds.run()
    check(rounds)


@pytest.mark.parametrize("replicas", [True], ids=["with Redis"], indirect=True)
def test_no_answer_is_stale_whatever_redis_does(replicas: tuple[list[Walnut], Redis]) -> None:
    """It is flushed, stopped for a while, killed, and comes back with an old snapshot."""
    servers, redis = replicas
    rounds = Rounds(servers, sign_in(servers[0]))
    snapshot, old = redis.folder / "dump.rdb", redis.folder / "old.rdb"

    def flush() -> None:
        redis.command_line("FLUSHALL")

    def hang() -> None:
        redis.pause()
        time.sleep(0.3)
        redis.resume()

    def save() -> None:
        redis.command_line("SAVE")
        shutil.copy(snapshot, old)

    def go_back() -> None:
        redis.kill()
        time.sleep(0.2)
        if old.exists():
            shutil.copy(old, snapshot)
        redis.start()

    def fault() -> None:
        random.choice([flush, hang, save, go_back])()
        time.sleep(random.uniform(0.1, 0.5))

    rounds.run(meanwhile=fault)
    check(rounds)


@pytest.mark.parametrize("replicas", [True], ids=["with Redis"], indirect=True)
def test_redis_that_hangs_under_load_delays_few_and_fails_nobody(replicas: tuple[list[Walnut], Redis]) -> None:
    """Each process waits 50 ms for it once, then once a second one request does; all others go on as before."""
    servers, redis = replicas
    headers = sign_in(servers[0])
    task = f"/api/v1/tasks/{add_task(servers[0], headers).json()['id']}"
    seen: list[tuple[float, float, int]] = []  # when, for how many seconds, status
    ended = threading.Event()

    def client(number: int) -> None:
        connection = HTTPConnection("127.0.0.1", servers[number % 2].port, timeout=30)
        for turn in itertools.count():
            if ended.is_set():
                break
            began = time.perf_counter()
            if turn % 10:
                answer = ask(connection, "GET", (task, "/api/v1/tasks")[turn % 2], headers=headers)
            else:
                answer = ask(connection, "PATCH", task, {"title": f"{number} {turn}"}, headers)
            seen.append((began, time.perf_counter() - began, answer.status))
            time.sleep(0.01)  # so that what is measured is not the queue for two cores
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(1.5)
    with redis.paused():
        hung_at = time.perf_counter()
        time.sleep(2.5)
        hung_until = time.perf_counter()
    ended.set()
    for thread in threads:
        thread.join()
    assert {status for _, _, status in seen} == {200}
    usual = statistics.median(took for when, took, _ in seen if when < hung_at)
    meanwhile = [took for when, took, _ in seen if hung_at <= when < hung_until - 0.2]
    assert statistics.median(meanwhile) < usual + 0.005
    slow = [took for took in meanwhile if took > usual + 0.03]
    print(
        f"usual {usual * 1000:.1f} ms; hung: {len(slow)} of {len(meanwhile)} slow, at most {max(meanwhile) * 1000:.0f}"
    )
    assert slow, "somebody asked Redis"
    assert statistics.median(slow) < usual + 0.06
    assert len(slow) < len(meanwhile) / 10


@pytest.mark.parametrize("replicas", [True, False], ids=["with Redis", "without"], indirect=True)
def test_what_somebody_may_changes_on_the_next_request_on_every_replica(
    replicas: tuple[list[Walnut], Redis | None],
) -> None:
    """Also where the answer is kept, for HEAD, and for who has its ETag."""
    servers, _ = replicas
    admin = sign_in(servers[0])
    who = {"username": "bob", "email": "bob@example.com", "password": PASSWORD}
    assert servers[0].request("POST", "/api/v1/auth/register", who).status == 201
    login = servers[0].request("POST", "/api/v1/auth/login", {"email": who["email"], "password": PASSWORD})
    bob = {"Authorization": f"Bearer {login.json()['access_token']}"}
    task = f"/api/v1/tasks/{add_task(servers[0], admin).json()['id']}"

    def asked(method: str, path: str) -> set[int]:
        etag = {"If-None-Match": servers[0].request("GET", path, headers=admin).headers["ETag"]}
        return {server.request(method, path, headers=bob | more).status for server in servers for more in ({}, etag)}

    for path in (task, "/api/v1/tasks", "/api/v2/tasks?limit=5"):
        for method in ("GET", "HEAD"):
            for value, expected in (("active = 0", {401}), ("active = 1", {200, 304}), ("role = 'nobody'", {403}),
                                    ("role = 'user'", {200, 304})):  # fmt: skip
                by_hand(servers[0], f"UPDATE users SET {value} WHERE username = 'bob'")
                assert asked(method, path) == expected, (method, path, value)
    by_hand(servers[0], "UPDATE users SET role = 'admin' WHERE username = 'bob'")
    assert {server.request("POST", "/api/v1/tasks", {"title": "x"}, bob).status for server in servers} == {201}
    by_hand(servers[0], "UPDATE users SET role = 'user' WHERE username = 'bob'")
    assert {server.request("POST", "/api/v1/tasks", {"title": "x"}, bob).status for server in servers} == {403}


def by_hand(server: Walnut, statement: str) -> None:
    with opened(server.instance) as connection:
        connection.execute(statement)
