"""Somebody does all that one can do, and erases himself: then he is in no byte that the server keeps.

In the real thing: Gunicorn, a worker, Redis, the outbox, the log files; with a reader in the way, and after kill -9.
"""

import gzip
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.system.clients import PASSWORD, QUIET, opened, sign_in
from tests.system.processes import Redis, Walnut, wait_until

NAME = "Zyxwvutsrq"
# The mails that he gets: to confirm two addresses, of the new one, of the key, to choose another password.
MAILS = 5
NEEDLES = [text.encode(code) for text in (NAME, NAME.lower()) for code in ("utf-8", "utf-16-le")]
CLEAN_WITHIN = 10.0  # seconds; it is one or two where nobody is in the way
# Another process, as SQLite's locks are void for a process that opens the file beside it.
READER = """
import sys
import pysqlite3.dbapi2 as sqlite
conn = sqlite.connect(sys.argv[1], isolation_level=None)
conn.execute("BEGIN")
conn.execute("SELECT count(*) FROM users").fetchone()
print("reading", flush=True)
sys.stdin.readline()
"""


class Whole(Walnut):
    """`walnut serve`, with its worker."""

    def command(self) -> list[str]:
        return [word for word in super().command() if word != "--no-worker"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with Redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, cache: Redis) -> Iterator[Whole]:
    folder = tmp_path_factory.mktemp("walnut")
    logged = {"LOG_DIR": folder / "logs", "LOG_LEVEL": "debug", "REDIS_URL": cache.url}
    with Whole(folder, **(QUIET | logged | {"WORKERS": 1, "REGISTER_ADMIN": "first"})) as running:
        yield running


def left(server: Walnut, cache: Redis) -> list[str]:
    """Return where a name is still to be found: in any file below the server's folder, and in Redis."""
    found = [str(path) for path in server.instance.rglob("*") if path.is_file() and has(path.read_bytes())]
    with redis.Redis(port=cache.port) as client:
        keys = list(client.scan_iter())
        values = [client.get(key) if client.type(key) == b"string" else client.dump(key) for key in keys]
    return found + [
        str(key) for key, value in zip(keys, values, strict=True) if has(key) or has(unpacked(value or b""))
    ]


def unpacked(value: bytes) -> bytes:
    at = value.find(b"\x1f\x8b")
    return value + gzip.decompress(value[at:]) if at >= 0 else value


def has(data: bytes) -> bool:
    return any(needle in data for needle in NEEDLES)


@contextmanager
def reader_in_the_way(server: Walnut) -> Iterator["subprocess.Popen[str]"]:
    path = server.instance / "walnut.db"
    with subprocess.Popen(
        [sys.executable, "-c", READER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        try:
            assert reader.stdout
            assert reader.stdout.readline() == "reading\n"
            yield reader
        finally:
            reader.kill()  # it closes nothing: who closes last would tidy up


def mails(server: Walnut) -> list[Path]:
    return list((server.instance / "outbox").glob("*.eml"))


class Person:
    """Somebody with a rare name."""

    def __init__(self, server: Walnut, admin: dict[str, str], number: int) -> None:
        self.server, self.name, self.address = server, f"{NAME}{number}", f"{NAME}{number}@example.com"
        account = {"username": self.name, "email": self.address, "password": PASSWORD, "role": "admin"}
        made = server.request("POST", "/api/v1/users", account, admin | {"Idempotency-Key": f"made-{number}"})
        assert made.status == 201, made.body
        self.id = made.json()["id"]
        device = {"User-Agent": f"{NAME}'s telephone"}
        self.headers = self.login(device)

    def login(self, device: dict[str, str], password: str = PASSWORD) -> dict[str, str]:
        body = {"email": self.address, "password": password}
        answer = self.server.request("POST", "/api/v1/auth/login", body, device)
        return {"Authorization": f"Bearer {answer.json().get('access_token')}"}

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        own = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.server.request(method, f"/api/v1{path}", body, self.headers | own)

    def live(self) -> None:
        """Leave traces."""
        task = {"title": "a task", "assignee_id": self.id}
        for number in range(5):
            assert self("POST", "/tasks", task, Idempotency_Key=f"task-{number}").status == 201
        for delay in (0, 1):
            payload = {"name": self.name * 2000, "mock": {"delay": delay}}
            job = {"vendor_type": "sync", "vendor_payload": payload, "deduplication_key": f"{self.name}-{delay}"}
            assert self("POST", "/jobs", job, Idempotency_Key=f"job-{delay}").status == 202
        assert self("PATCH", "/users/me", {"username": f"{self.name}-again"}).status == 200
        moved = {"email": f"{self.name}@new.example", "current_password": PASSWORD}
        assert self("PATCH", "/users/me", moved).status == 200
        assert self("GET", f"/tasks?q={NAME}").status == 200
        assert self("GET", f"/users?q={NAME}").json()["total"] >= 1
        key = {"name": f"{self.name}'s script", "scopes": ["tasks:read"], "password": PASSWORD}
        assert self("POST", "/auth/api-keys", key).status == 201
        assert self("PUT", "/auth/forgot-password", {"email": self.address}).status == 202
        assert has(self("GET", "/users/me/export").body)
        self.login({}, "wrong")

    def erase(self) -> None:
        answer = self("DELETE", "/users/me", {"password": PASSWORD})
        assert (answer.status, answer.body) == (204, b"")


def test_no_byte_is_left_of_who_erases_himself(server: Whole, cache: Redis) -> None:
    admin = sign_in(server)
    person = Person(server, admin, 1)
    person.live()
    wait_until(lambda: sum(has(path.read_bytes()) for path in mails(server)) == MAILS, 10, "his mails")
    before = server.request("GET", "/api/v1/tasks", None, admin)
    with reader_in_the_way(server) as reader:
        person.erase()
        assert person("GET", "/users/me").status == 401
        assert person("POST", "/tasks", {"title": "a task"}, Idempotency_Key="task-0").status == 401
        assert any(path.endswith("-wal") for path in left(server, cache)), "the log has it while it is read"
        assert server.request("POST", "/api/v1/tasks", {"title": "others go on"}, admin).status == 201
        reader.communicate("\n", timeout=10)
    wait_until(lambda: not left(server, cache), CLEAN_WITHIN, "no byte of him")
    after = server.request("GET", "/api/v1/tasks", None, admin | {"If-None-Match": before.headers["ETag"]})
    assert after.status == 200
    assert {(task["created_by"] == person.id, task["assignee_id"]) for task in after.json()["items"]} == {(False, None)}
    assert server.request("GET", "/api/v1/audit/verify", None, admin).json()["intact"] is True
    goes_on(server, admin)


def goes_on(server: Whole, admin: dict[str, str]) -> None:
    """The worker, one of whose jobs vanished while it was at it, carries out the next ones."""
    job = {"vendor_type": "sync", "vendor_payload": {"n": 1}}
    made = server.request("POST", "/api/v1/jobs", job, admin).json()["request_id"]
    path = f"/api/v1/jobs/{made}"
    wait_until(lambda: server.request("GET", path, None, admin).json()["status"] == "complete", 10, "the next job")
    assert not [
        line for line in server.log.read_text().splitlines() if '"level": "ERROR"' in line or "Traceback" in line
    ]


def test_no_byte_is_left_after_a_crash_right_after_the_commit(server: Whole, cache: Redis) -> None:
    person = Person(server, sign_in(server), 2)
    with reader_in_the_way(server):
        person.erase()
        server.kill()
    assert left(server, cache)
    server.start()
    wait_until(lambda: not left(server, cache), CLEAN_WITHIN, "no byte of him")
    with opened(server.instance) as conn:
        assert conn.execute("SELECT username FROM users").fetchall() == [("admin",)]
