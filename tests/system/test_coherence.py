"""Whoever reads after a write was acknowledged sees it: through any replica, whatever Redis does meanwhile.

COHERENCE_ROUNDS=50000 is the long proof (`make coherence`); a round is one write through one replica and two reads
through the other.
"""

import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.system.clients import QUIET, add_task, sign_in
from tests.system.processes import Redis, Walnut, ask

ROUNDS = int(os.environ.get("COHERENCE_ROUNDS", "1200"))
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
        yield [running.enter_context(Walnut(tmp_path / "shared", None, **settings)) for _ in range(2)], redis


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
