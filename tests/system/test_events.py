"""Events over real connections: through Nginx, across restarts, to the end, and for many at once.

EVENTS_LISTENERS=1000 measures with more listeners than the 200 of `make test`.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import jwt
import pytest

from api.web import access_tokens
from tests.system.clients import QUIET, add_task, opened, percentile, sign_in
from tests.system.processes import HttpServer, Stack, Walnut, ask, wait_until

pytestmark = pytest.mark.alone

LISTENERS = int(os.environ.get("EVENTS_LISTENERS", "200"))
EACH = 8  # of a user: should they all meet in one process, it takes 20
SECRET = "tests are no secret: 0123456789 abcdefghijklmnopqrstuvwxyz ABCDEFGHIJ"
PATH = "/api/v1/events"


class Ears:
    """One who listens: a thread reads, and `heard` has each event with the moment it came."""

    def __init__(self, server: HttpServer, headers: Mapping[str, str], **more: str) -> None:
        self.connection: HTTPConnection = server.connect(timeout=60)
        own = {name.replace("_", "-"): value for name, value in more.items()}
        self.connection.request("GET", PATH, headers={**headers, **own})
        self.response: HTTPResponse = self.connection.getresponse()
        assert self.response.status == 200, self.response.read()
        self.heard: list[tuple[str, str, float]] = []
        self.last_id = ""
        self.end: str | None = None  # how it ended: "clean", or the error
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        wait_until(lambda: bool(self.last_id or self.end), 5, "the first line")

    def _read(self) -> None:
        try:
            while line := self.response.readline():
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == "id":
                    self.last_id = value
                elif name == "data":
                    data = json.loads(value)
                    self.heard.append((data["type"], data.get("id", ""), time.monotonic()))
            self.end = "clean"
        except Exception as error:
            self.end = repr(error)

    def ids(self) -> list[str]:
        """Return what the events were about."""
        return [subject for _, subject, _ in self.heard]

    def hears(self, *ids: str, within: float = 2) -> None:
        """Wait until exactly these were heard."""
        wait_until(lambda: len(self.heard) >= len(ids) or bool(self.end), within, "events")
        assert self.ids() == list(ids), self.end

    def ends(self, within: float = 5) -> None:
        """Wait for a clean end."""
        wait_until(lambda: self.end is not None, within, "the end")
        assert self.end == "clean"

    def close(self) -> None:
        """Hang up."""
        if self.connection.sock:
            self.connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self.connection.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walnut]:
    with Walnut(tmp_path_factory.mktemp("events"), None, **QUIET | {"JWT_SECRET": SECRET}) as running:
        yield running


@pytest.fixture(scope="module")
def admin(server: Walnut) -> dict[str, str]:
    return sign_in(server)


def task(server: Any, headers: Mapping[str, str]) -> str:
    """Add a task and return its id."""
    answer = add_task(server, headers)
    assert answer.status == 201, answer.body
    return str(answer.json()["id"])


def listeners(server: Walnut) -> int:
    """Return how many listen to a server, as its metrics say."""
    lines = server.request("GET", "/health/metrics").body.decode().splitlines()
    return int(float(next(line.split()[1] for line in lines if line.startswith("walnut_event_listeners "))))


@contextmanager
def all_closed() -> Iterator[ExitStack]:
    """Close whatever was entered, also what was added by a test that failed."""
    with ExitStack() as everything:
        yield everything


# ---- through Nginx


def test_what_one_replica_writes_is_heard_at_the_other_within_a_second(stack: Stack) -> None:
    headers = sign_in(stack.nginx)
    first, second = stack.replicas
    with all_closed() as opened_ones:
        through = [opened_ones.enter_context(closing(Ears(stack.nginx, headers))) for _ in range(4)]
        names = {ears.response.headers["X-Served-By"] for ears in through}
        direct = opened_ones.enter_context(closing(Ears(second, headers)))
        assert len(names) == 2, "both replicas have listeners"
        began = time.monotonic()
        written = [task(first, headers)]
        for ears in [*through, direct]:
            ears.hears(*written)
            assert ears.heard[0][2] - began < 1
        assert "gzip" not in str(through[0].response.headers)


def test_nothing_is_repeated_or_skipped_from_replica_to_replica_and_across_a_restart(stack: Stack) -> None:
    headers = sign_in(stack.nginx)
    first, second = stack.replicas
    ears = Ears(first, headers)
    written = [task(second, headers) for _ in range(3)]
    ears.hears(*written)
    first.terminate()
    ears.ends()
    ears.close()
    written = [task(second, headers) for _ in range(3)]
    with closing(Ears(second, headers, Last_Event_ID=ears.last_id)) as elsewhere:
        elsewhere.hears(*written)
    second.kill()  # no goodbye
    first.start()
    written.append(task(first, headers))
    with closing(Ears(first, headers, Last_Event_ID=ears.last_id)) as again:
        again.hears(*written)
        written.append(task(first, headers))
        again.hears(*written)


# ---- one server


def test_who_signs_out_hears_no_more_at_once(server: Walnut, admin: dict[str, str]) -> None:
    headers = sign_in(server)
    with closing(Ears(server, headers)) as ears, closing(Ears(server, admin)) as other:
        assert server.request("POST", "/api/v1/auth/logout", None, headers).status == 204
        ears.ends(within=1)
        other.hears(task(server, admin))
        assert not ears.heard


def test_who_has_gone_leaves_his_place_at_once(server: Walnut, admin: dict[str, str]) -> None:
    wait_until(lambda: listeners(server) == 0, 2, "nobody")
    for _ in range(45):  # more than there is room for
        Ears(server, admin).close()
    wait_until(lambda: listeners(server) == 0, 2, "nobody")


def test_what_else_is_asked_on_the_connection_is_answered(server: Walnut, admin: dict[str, str]) -> None:
    """Who sends a request after the one for the stream wants that one answered: the stream ends, cleanly."""
    with closing(server.connect()) as connection:
        assert ask(connection, "HEAD", PATH, headers=admin).status == 200
        asked = f"GET {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: {admin['Authorization']}\r\n\r\n"
        connection.sock.sendall(asked.encode())
        heard, asked_again = b"", False
        connection.sock.settimeout(5)
        while heard.count(b"HTTP/1.1 200 ") < 2:  # by hand: http.client may have taken in more than the stream
            heard += connection.sock.recv(4096)
            if b"retry: " in heard and not asked_again:
                connection.sock.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
                asked_again = True
        stream, _, answer = heard.rpartition(b"HTTP/1.1 200 ")
        assert stream.endswith(b"0\r\n\r\n"), "a clean end"
        assert answer


def test_who_does_not_read_is_cut_off_and_holds_up_nobody(server: Walnut, admin: dict[str, str]) -> None:
    many = 40_000
    with Crowd(server, [admin["Authorization"].split()[1]]) as quick, closing(deaf(server, admin)) as slow:
        wait_until(lambda: listeners(server) == 2, 2, "two")
        before = resident(server)
        job_with_a_long_history(server, many)
        assert quick.number_heard(b"event: job.created", many) == many
        wait_until(lambda: listeners(server) == 1, 5, "the slow one gone")
        grown = resident(server) - before
        slow.settimeout(5)
        received = b"".join(iter(lambda: slow.recv(1 << 20), b""))
        assert not received.endswith(b"0\r\n\r\n"), "it was no clean end, so he knows that he missed something"
        assert grown < 16 << 20, f"{grown >> 20} MiB"
        assert "Traceback" not in server.log.read_text()
    print(f"{many} events; one who did not read cost {grown >> 10} KiB at the end")


def deaf(server: Walnut, headers: Mapping[str, str]) -> socket.socket:
    """Return a connection that asks for events and never reads."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", server.port))
    request = f"GET {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: {headers['Authorization']}\r\n\r\n"
    connection.sendall(request.encode())
    return connection


def job_with_a_long_history(server: Walnut, length: int) -> None:
    """Write a job and its history into the database of a running server, in one commit."""
    job = {
        "id": str(uuid.uuid4()),
        "kind": "vendor",
        "lane": "sync",
        "status": "pending",
        "priority": 3,
        "run_at": 2**50,
    }
    job |= {"attempts": 0, "max_attempts": 1, "payload": "{}", "created_at": 0, "updated_at": 0, "version": 1}
    with opened(server.instance) as connection:
        connection.execute("BEGIN IMMEDIATE")
        names = ", ".join(job)
        connection.execute(f"INSERT INTO jobs ({names}) VALUES ({', '.join('?' * len(job))})", list(job.values()))
        connection.execute(
            "INSERT INTO job_history (job_seq, at, event) WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 "
            "FROM n LIMIT ?) SELECT (SELECT max(seq) FROM jobs), 0, 'created' FROM n",
            (length,),
        )
        connection.execute("COMMIT")


def resident(server: Walnut) -> int:
    """Return the bytes of memory that the workers have to themselves."""
    found = 0
    for pid in server.worker_pids():
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        found += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_"))
    return found


def test_many_listen_and_cost_next_to_nothing(server: Walnut, admin: dict[str, str]) -> None:
    """Memory, processor time when idle, and how long it takes until the last one has heard."""
    wait_until(lambda: listeners(server) == 0, 2, "nobody")
    asked(server, admin)
    people = accounts(server, -(-LISTENERS // EACH))
    before, alone = resident(server), asked(server, admin)
    with Crowd(server, [people[number % len(people)] for number in range(LISTENERS)]) as crowd:
        assert listeners(server) == LISTENERS
        each = (resident(server) - before) / LISTENERS
        idle = processor_share(server, 2 if LISTENERS == 200 else 20)
        among = asked(server, admin)
        took = []
        for _ in range(5):
            subject = task(server, admin)
            written = time.monotonic()
            took.append(crowd.all_have_heard(subject) - written)
    print(
        f"{LISTENERS} listeners: {each / 1024:.0f} KiB each, {idle:.2%} of a core idle, all have heard after "
        f"{min(took) * 1000:.0f} to {max(took) * 1000:.0f} ms; other requests {alone * 1000:.2f} ms alone, "
        f"{among * 1000:.2f} ms among them (median)"
    )
    assert each < 64 << 10
    assert idle < 0.05
    assert min(took) < 0.5
    assert among < alone * 2 + 0.002
    wait_until(lambda: listeners(server) == 0, 2, "nobody")


def accounts(server: Walnut, number: int) -> list[str]:
    """Return the tokens of new users, made behind the server's back: to hash their passwords would take long."""
    now = int(time.time())
    tokens = []
    with opened(server.instance) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for _ in range(number):
            person, session = str(uuid.uuid4()), str(uuid.uuid4())
            connection.execute(
                "INSERT INTO users (id, username, username_key, email, email_key, password_hash, role, active, "
                "created_at, updated_at, version) VALUES (?, ?, ?, ?, ?, '', 'user', 1, 0, 0, 1)",
                [person, *[person[:13]] * 2, *[f"{person}@example.com"] * 2],
            )
            connection.execute(
                "INSERT INTO sessions (id, user_id, created_at, expires_at) VALUES (?, ?, 0, ?)",
                (session, person, (now + 3600) * 1000),
            )
            claims = {"iss": "walnut", "aud": "walnut", "sub": person, "sid": session, "jti": session, "iat": now}
            claims |= {"exp": now + 3600, "type": "access", "fresh": False}
            tokens.append(jwt.encode(claims, SECRET, "HS256", {"kid": access_tokens._key(SECRET).name}))
        connection.execute("COMMIT")
    return tokens


class Crowd:
    """Many who listen, read by one thread."""

    def __init__(self, server: Walnut, tokens: list[str]) -> None:
        self._sockets = [self._join(server, token) for token in tokens]

    def _join(self, server: Walnut, token: str) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        connection.sendall(f"GET {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
        return connection

    def __enter__(self) -> "Crowd":
        for connection in self._sockets:
            head = connection.recv(10_000)
            assert head.startswith(b"HTTP/1.1 200 "), head
            while b"retry: " not in head:
                head += connection.recv(10_000)
        return self

    def __exit__(self, *_error: object) -> None:
        for connection in self._sockets:
            connection.close()

    def number_heard(self, what: bytes, wanted: int) -> int:
        """Read until the first has heard something so often, and a moment longer; return how often it was."""
        (first, *_), heard = self._sockets, bytearray()
        with suppress(TimeoutError):
            while more := first.recv(1 << 20):
                heard += more
                first.settimeout(0.3 if heard.count(what) >= wanted else 10)
        return heard.count(what)

    def all_have_heard(self, subject: str) -> float:
        """Wait until each has an event about this, once, and return when the last one had."""
        for connection in self._sockets:
            heard = b""
            while subject.encode() not in heard:
                more = connection.recv(10_000)
                assert more, "it ended"
                heard += more
            assert heard.count(subject.encode()) == 1
        return time.monotonic()


def asked(server: Walnut, headers: Mapping[str, str]) -> float:
    """Return the median time of an ordinary request."""
    took = []
    with closing(server.connect()) as connection:
        for _ in range(200):
            began = time.monotonic()
            assert ask(connection, "GET", "/api/v1/users/me", headers=headers).status == 200
            took.append(time.monotonic() - began)
    return percentile(took, 0.5)


def processor_share(server: Walnut, seconds: float) -> float:
    """Return the share of one core that the workers use."""

    def used() -> float:
        stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in server.worker_pids()]
        return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")

    before = used()
    time.sleep(seconds)
    return (used() - before) / seconds


# ---- the end


def test_listeners_do_not_hold_up_the_end_and_each_sees_a_clean_one(server: Walnut, admin: dict[str, str]) -> None:
    people = accounts(server, 7)
    with all_closed() as everything:
        crowd = [
            everything.enter_context(closing(Ears(server, {"Authorization": f"Bearer {people[number % 7]}"})))
            for number in range(50)
        ]
        slow = everything.enter_context(closing(deaf(server, admin)))
        wait_until(lambda: listeners(server) == 51, 2, "all of them")
        fill(server, slow)
        began = time.monotonic()
        assert server.terminate() == 0
        took = time.monotonic() - began
        for ears in crowd:
            ears.ends(within=1)
    print(f"ended in {took:.1f} s with 50 listeners, and one who does not read")
    assert took < 5, "without anybody it is one or two"
    assert "Traceback" not in server.log.read_text()


def fill(server: Walnut, slow: socket.socket) -> None:
    """Let so much be sent to one who does not read that the connection is full, and less than cuts him off."""
    for _ in range(6):
        job_with_a_long_history(server, 2_500)
        time.sleep(0.1)
    assert listeners(server) == 51
