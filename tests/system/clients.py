"""Callers of a real server for the reliability tests: an admin, a load that remembers every answer, a reader apart.

with Load(walnut, sign_in(walnut), threads=8) as load:
    ...
assert not set(load.acknowledged) - titles(walnut.instance)
"""

import itertools
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Self

import pysqlite3.dbapi2 as sqlite

from tests.system.conftest import NO_LIMITS
from tests.system.processes import PROJECT, Answer, HttpServer, Walnut, ask

PASSWORD = "correct-horse-battery-staple-42"
ACCOUNT = {"username": "admin", "email": "admin@example.com", "password": PASSWORD}
QUIET: dict[str, Any] = NO_LIMITS | {"WORKERS": 2, "LOG_LEVEL": "warning", "ACCESS_TOKEN_TTL": 86400}

serial = itertools.count()


def sign_in(server: HttpServer) -> dict[str, str]:
    """Return the headers of a signed-in admin: the first account, made if there is none."""
    assert server.request("POST", "/api/v1/auth/register", ACCOUNT | {"role": "admin"}).status in (201, 403, 409)
    login = server.request("POST", "/api/v1/auth/login", {"email": ACCOUNT["email"], "password": PASSWORD})
    assert login.status == 200, login.body
    return {"Authorization": f"Bearer {login.json()['access_token']}"}


def add_task(server: HttpServer, headers: Mapping[str, str], title: str = "a task", **more: Any) -> Answer:
    """Post a task on a connection of its own."""
    return server.request("POST", "/api/v1/tasks", {"title": title} | more, headers)


class Load:
    """Threads that each post tasks, one after another, and remember every answer.

    `acknowledged` holds the titles that were answered with 201, `refused` the other answers, `failed` what was no
    answer at all, `seconds` how long each 201 took.
    """

    def __init__(self, server: HttpServer, headers: Mapping[str, str], threads: int = 8) -> None:
        self.server, self.headers = server, headers
        self.acknowledged: list[str] = []
        self.refused: list[Answer] = []
        self.failed: list[Exception] = []
        self.seconds: list[float] = []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._post) for _ in range(threads)]

    def failures(self) -> Counter[str]:
        """Return what went wrong, and how often."""
        return Counter([*map(repr, self.failed), *(f"{answer.status} {answer.body!r}" for answer in self.refused)])

    def stop(self) -> None:
        """Let each thread finish the request it is in."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def _post(self) -> None:
        connection = self.server.connect()
        try:
            while not self._ended.is_set():
                self._one(connection)
        finally:
            connection.close()

    def _one(self, connection: HTTPConnection) -> None:
        title, started = f"task {next(serial)}", time.monotonic()
        try:
            answer = ask(connection, "POST", "/api/v1/tasks", {"title": title}, self.headers)
        except (OSError, HTTPException) as error:
            connection.close()
            self.failed.append(error)
            self._ended.wait(0.02)
            return
        if answer.status == 201:
            self.seconds.append(time.monotonic() - started)
            self.acknowledged.append(title)
        else:
            self.refused.append(answer)


def percentile(seconds: list[float], share: float) -> float:
    """Return the time that `share` of the requests stayed within."""
    return sorted(seconds)[min(int(len(seconds) * share), len(seconds) - 1)]


@contextmanager
def opened(instance: Path) -> Iterator[Any]:
    """Open the database of a server that has ended."""
    connection = sqlite.connect(str(instance / "walnut.db"), isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def titles(instance: Path) -> set[str]:
    """Return the titles of every task that is in the database of a server that has ended."""
    with opened(instance) as connection:
        return {title for (title,) in connection.execute("SELECT title FROM tasks")}


def assert_sound(instance: Path) -> None:
    """The database has no damage, no task without its index entry, no orphans. For a server that has ended."""
    with opened(instance) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        connection.execute("INSERT INTO tasks_search(tasks_search, rank) VALUES ('integrity-check', 1)")


def assert_nothing_lost(walnut: Walnut, acknowledged: list[str]) -> None:
    """Every acknowledged task is there, once, and the database is sound. For a server that has ended."""
    assert_sound(walnut.instance)
    lost = set(acknowledged) - titles(walnut.instance)
    assert not lost, f"{len(lost)} acknowledged tasks of {len(acknowledged)} are gone: {sorted(lost)[:5]}"


class Reader:
    """A process that reads without pause, apart from the load, so that it measures the server and not the test."""

    def __init__(
        self, server: HttpServer, headers: Mapping[str, str], path: str = "/api/v1/tasks?limit=5", people: int = 2
    ) -> None:
        self._arguments = [str(server.port), path, json.dumps(dict(headers)), str(people)]
        self.reads: list[tuple[float, float, int]] = []  # began (time.monotonic()), seconds, status

    def within(self, begin: float, end: float) -> list[float]:
        """Return how long each read took that began in this time and was answered with 200."""
        return [seconds for began, seconds, status in self.reads if begin <= began <= end and status == 200]

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.system.clients", *self._arguments]
        self._process = subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        assert self._process.stdout.readline() == "reading\n"
        return self

    def __exit__(self, *_error: object) -> None:
        output, _ = self._process.communicate("stop\n", timeout=60)
        self.reads = [(began, seconds, status) for began, seconds, status in json.loads(output)]


def _read(port: str, path: str, headers: str, people: str) -> None:
    """What the reader's process runs: read until a line comes in, then print what was seen."""
    reads: list[tuple[float, float, int]] = []
    ended = threading.Event()

    def read() -> None:
        connection = HTTPConnection("127.0.0.1", int(port), timeout=30)
        while not ended.wait(0.005):
            began, status = time.monotonic(), 0
            with suppress(OSError, HTTPException):
                status = ask(connection, "GET", path, headers=json.loads(headers)).status
            if status == 0:
                connection.close()
            reads.append((began, time.monotonic() - began, status))
        connection.close()

    readers = [threading.Thread(target=read) for _ in range(int(people))]
    for reader in readers:
        reader.start()
    print("reading", flush=True)
    sys.stdin.readline()
    ended.set()
    for reader in readers:
        reader.join()
    print(json.dumps(reads))


if __name__ == "__main__":
    _read(*sys.argv[1:])
