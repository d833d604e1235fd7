"""Two replicas behind Nginx, as Compose and `make stack` run them: real processes, real signals, real sockets."""

import dataclasses
import json
import os
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPException, IncompleteRead

import pytest

from tests.system.processes import Answer, Stack, ask, wait_until

PASSWORD = "correct-horse-battery-staple-42"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
SECURITY_HEADERS = (
    "Content-Security-Policy",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "Referrer-Policy",
    "Cross-Origin-Opener-Policy",
    "Cross-Origin-Resource-Policy",
    "Permissions-Policy",
)
WRITERS = READERS = 4


@pytest.fixture(scope="module", autouse=True)  # before any test ends a replica
def admin(running_stack: Stack) -> dict[str, str]:
    """The headers of a signed-in admin."""
    account = {"username": "admin", "email": "admin@example.com", "password": PASSWORD, "role": "admin"}
    assert running_stack.request("POST", "/api/v1/auth/register", account).status == 201
    login = running_stack.request("POST", "/api/v1/auth/login", {"email": account["email"], "password": PASSWORD})
    return {"Authorization": f"Bearer {login.json()['access_token']}"}


TYPES = {429: "https://iana.org/assignments/http-problem-types#quota-exceeded"}


def assert_problem(answer: Answer, status: int, code: str, instance: str) -> None:
    """What Nginx answers itself looks like what the app answers."""
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem.keys() == {"type", "title", "status", "detail", "instance", "code", "request_id"}
    assert (problem["status"], problem["code"], problem["instance"]) == (status, code, instance)
    assert problem["type"] == TYPES.get(status, f"urn:walnut:problem:{code}")
    assert problem["request_id"] == answer.headers["X-Request-ID"]
    assert answer.headers.get_all("Content-Security-Policy") == [CSP]


def port_of(answer: Answer) -> int:
    """The replica that answered: X-Served-By is host:port/process."""
    found = re.fullmatch(r"[^/]+:(\d+)/\d+", answer.headers["X-Served-By"])
    assert found, answer.headers["X-Served-By"]
    return int(found[1])


# ---- A load, and what became of it -----------------------------------------------------------------------------------


@dataclasses.dataclass
class Load:
    """What a steady load of writers and readers saw."""

    answers: Counter[tuple[str, str]] = dataclasses.field(default_factory=Counter)  # (method, status) -> how many
    acknowledged: set[str] = dataclasses.field(default_factory=set)  # titles of tasks that were answered with 201
    wrong: list[str] = dataclasses.field(default_factory=list)  # what must not happen, in words

    def failed(self, method: str, outcome: str = "") -> int:
        """How many requests of this method failed, or failed in this way."""
        return sum(
            number
            for (its, status), number in self.answers.items()
            if its == method and status[0] != "2" and status.startswith(outcome)
        )

    def note(self, method: str, outcome: Answer | Exception) -> None:
        """Count an outcome. Two failures can be told from a bug: 502 as a problem, and an answer that was cut off."""
        if isinstance(outcome, Answer):
            self.answers[method, str(outcome.status)] += 1
            known = outcome.status in (200, 201) or (outcome.status == 502 and outcome.json()["code"] == "unavailable")
        else:
            known = isinstance(outcome, IncompleteRead)
            self.answers[method, "cut" if known else repr(outcome)] += 1
        if not known:
            self.wrong.append(f"{method}: {outcome!r}")


@contextmanager
def load(stack: Stack, admin: dict[str, str]) -> Iterator[Load]:
    """Write and read, about 30 times a second from each of 8 addresses, for the length of a `with` block."""
    seen, ended = Load(), threading.Event()

    def client(number: int) -> None:
        count = 0
        while not ended.wait(0.03):
            count += 1
            title = f"{time.monotonic_ns()} {number}/{count}"
            method, path = ("POST", "/api/v1/tasks") if number < WRITERS else ("GET", "/api/v1/tasks?limit=5")
            body = {"title": title} if method == "POST" else None
            try:
                answer = stack.request(method, path, body, admin, source=f"127.0.1.{number + 1}")
            except (OSError, HTTPException) as error:
                seen.note(method, error)
                continue
            seen.note(method, answer)
            if answer.status == 201:
                seen.acknowledged.add(title)

    with ThreadPoolExecutor(WRITERS + READERS) as pool:
        clients = [pool.submit(client, number) for number in range(WRITERS + READERS)]
        try:
            yield seen
        finally:
            ended.set()
        for one in clients:
            one.result()
    print(dict(seen.answers))


def titles(stack: Stack, admin: dict[str, str]) -> set[str]:
    """Every task's title, page by page."""
    found: set[str] = set()
    page = total = 1
    while len(found) < total:
        answer = stack.request("GET", f"/api/v1/tasks?limit=100&page={page}", headers=admin).json()
        if not answer["items"]:
            break
        found |= {task["title"] for task in answer["items"]}
        page, total = page + 1, answer["total"]
    return found


# ---- Round robin, addresses, headers ---------------------------------------------------------------------------------


def test_both_replicas_serve(stack: Stack) -> None:
    served = Counter(port_of(stack.request("GET", "/api/v1/health")) for _ in range(20))
    assert served.keys() == {replica.port for replica in stack.replicas}
    assert min(served.values()) >= 5


def test_a_forged_address_is_overwritten(stack: Stack) -> None:
    forged = {"X-Forwarded-For": "203.0.113.7", "X-Real-IP": "203.0.113.7", "Forwarded": "for=203.0.113.7"}
    answer = stack.request("GET", "/api/v1/health", headers=forged | {"X-Request-ID": "forged-1"}, source="127.0.0.5")
    assert answer.headers["X-Request-ID"] == "forged-1"
    logs = [replica.log for replica in stack.replicas]

    def lines() -> list[str]:
        return [line for log in logs for line in log.read_text().splitlines() if '"forged-1"' in line]

    wait_until(lambda: bool(lines()), 5, "the app's log line")
    assert [json.loads(line)["address"] for line in lines()] == ["127.0.0.5"]


@pytest.mark.parametrize("path", ["/api/v1/health", "/static/none"])
def test_request_ids_are_kept_if_harmless(stack: Stack, path: str) -> None:
    assert stack.request("GET", path, headers={"X-Request-ID": "mine.1-2_3"}).headers["X-Request-ID"] == "mine.1-2_3"
    for bad in ("a" * 65, 'x","admin":"', "a b"):
        made = stack.request("GET", path, headers={"X-Request-ID": bad}).headers["X-Request-ID"]
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", made)
        assert made != bad


def test_the_dashboard_comes_from_disk_with_the_headers_of_the_app(stack: Stack) -> None:
    by_nginx, by_app = stack.request("GET", "/"), stack.replicas[0].request("GET", "/")
    assert by_nginx.status == by_app.status == 200
    assert by_nginx.body == by_app.body
    assert by_nginx.headers["Content-Type"].startswith("text/html")
    assert "X-Served-By" not in by_nginx.headers
    for name in SECURITY_HEADERS:
        assert by_nginx.headers.get_all(name) == by_app.headers.get_all(name), name
    assert by_nginx.headers["Content-Security-Policy"] == CSP

    again = stack.request("GET", "/static/index.html", headers={"If-None-Match": by_nginx.headers["ETag"]})
    assert again.status == 304


def test_answers_of_the_app_carry_each_security_header_once(stack: Stack) -> None:
    answer = stack.request("GET", "/api/v1/health")
    for name in SECURITY_HEADERS:
        assert len(answer.headers.get_all(name, [])) == 1, name


def test_over_plain_http_nobody_is_told_that_it_is_for_good(stack: Stack) -> None:
    """RFC 6797, 7.2: Strict-Transport-Security is for TLS, which the stack of the tests does not speak."""
    for path in ("/", "/static/js/main.js", "/nowhere", "/api/v1/health"):
        assert "Strict-Transport-Security" not in stack.request("GET", path).headers


def test_nothing_but_static_comes_from_disk(stack: Stack) -> None:
    for path in (
        "/static/../nginx.conf",
        "/static/%2e%2e/nginx.conf",
        "/static/..%2fnginx.conf",
        "/nginx.conf",
        "/static../nginx.conf",
    ):
        answer = stack.request("GET", path)
        assert answer.status in (400, 404), path
        assert answer.headers["Content-Type"] == "application/problem+json", path


@pytest.mark.parametrize(
    "path",
    ["/health/metrics", "/health/metrics?x=1", "/health//metrics", "/health/%6detrics", "/x/../health/metrics",
     "/health/metrics/", "/api/v1/health/metrics", "/api/health/metrics"],
)  # fmt: skip
def test_metrics_are_not_public(stack: Stack, path: str) -> None:
    answer = stack.request("GET", path)
    assert_problem(answer, 404, "not_found", path.partition("?")[0])
    assert "X-Served-By" not in answer.headers


def test_a_compressed_answer_can_still_be_edited(stack: Stack, admin: dict[str, str]) -> None:
    """gzip makes an ETag weak, and If-Match is strict about weak ones: an edit must not fail for that."""
    task = stack.request("POST", "/api/v1/tasks", {"title": "long", "description": "walnut " * 500}, admin).json()
    path = f"/api/v1/tasks/{task['id']}"
    seen = stack.request("GET", path, headers=admin | {"Accept-Encoding": "gzip"})
    assert seen.headers["Content-Encoding"] == "gzip"
    assert len(seen.body) < 500
    edited = stack.request("PATCH", path, {"title": "edited"}, admin | {"If-Match": seen.headers["ETag"]})
    assert edited.status == 200, edited.body
    late = stack.request("PATCH", path, {"title": "late"}, admin | {"If-Match": seen.headers["ETag"]})
    assert late.status == 412


# ---- Storms, slow clients, large requests ----------------------------------------------------------------------------


def test_a_storm_is_stopped_and_a_polite_client_is_not(stack: Stack) -> None:
    """100 requests a second for each address, and 20 more at once."""

    def storm(number: int) -> list[Answer]:
        connection = stack.nginx.connect(source="127.0.0.9")
        try:
            return [ask(connection, "GET", "/api/v1/health") for _ in range(100)]
        finally:
            connection.close()

    def polite() -> list[int]:
        connection = stack.nginx.connect(source="127.0.0.8")
        answers = []
        try:
            for _ in range(100):  # at most 80 a second
                answers.append(ask(connection, "GET", "/api/v1/health").status)
                time.sleep(1 / 80)
        finally:
            connection.close()
        return answers

    with ThreadPoolExecutor(6) as pool:
        started = time.monotonic()
        quiet = pool.submit(polite)
        storms = [pool.submit(storm, number) for number in range(5)]
        answers = [answer for one in storms for answer in one.result()]
        lasted = time.monotonic() - started
    assert set(quiet.result()) == {200}

    counts = Counter(answer.status for answer in answers)
    assert counts.keys() == {200, 429}
    assert counts[200] <= 1 + 20 + 100 * lasted
    assert counts[200] >= 20
    refused = next(answer for answer in answers if answer.status == 429)
    assert_problem(refused, 429, "rate_limited", "/api/v1/health")
    assert int(refused.headers["Retry-After"]) >= 1

    time.sleep(1)
    assert stack.request("GET", "/api/v1/health", source="127.0.0.9").status == 200


def test_static_files_are_outside_the_limit(stack: Stack) -> None:
    connection = stack.nginx.connect(source="127.0.0.7")
    try:
        assert {ask(connection, "GET", "/static/index.html").status for _ in range(200)} == {200}
    finally:
        connection.close()


def test_slow_clients_are_cut(stack: Stack) -> None:
    """Ten seconds for the whole header, however steadily it drips, and ten between two parts of a body."""
    head = b"POST /api/v1/tasks HTTP/1.1\r\nHost: walnut\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"

    def lasts(first: bytes, drip: bytes) -> float:
        with socket.create_connection(("127.0.0.1", stack.nginx.port)) as slow:
            slow.settimeout(1)
            started = time.monotonic()
            slow.sendall(first)
            while time.monotonic() < started + 30:
                try:
                    if drip:
                        slow.sendall(drip)
                    if not slow.recv(1000).startswith(b"HTTP/1.1 2"):
                        return time.monotonic() - started
                except TimeoutError:
                    continue
                except ConnectionError:
                    return time.monotonic() - started
        return 30

    with ThreadPoolExecutor(2) as pool:
        header = pool.submit(lasts, head, b"X")
        body = pool.submit(lasts, head + b"\r\n{", b"")
        time.sleep(5)
        assert stack.request("GET", "/api/v1/health").status == 200
        assert 8 < header.result() < 14
        assert 8 < body.result() < 14


def test_a_large_body_is_refused(stack: Stack) -> None:
    large = b"x" * (2**20 + 1)
    assert_problem(stack.request("POST", "/api/v1/tasks", large), 413, "too_large", "/api/v1/tasks")

    connection = stack.nginx.connect()
    try:
        connection.request("POST", "/api/v1/tasks", iter([large[: 2**19]] * 3), encode_chunked=True,
                           headers={"Transfer-Encoding": "chunked"})  # fmt: skip
        response = connection.getresponse()
        assert_problem(Answer(response.status, response.msg, response.read()), 413, "too_large", "/api/v1/tasks")
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("path", "headers", "status", "code"),
    [
        ("/" + "a" * 5000, {}, 414, "uri_too_long"),
        ("/api/v1/health", {"X-Long": "a" * 5000}, 431, "headers_too_large"),
    ],
)
def test_large_heads_are_refused(stack: Stack, path: str, headers: dict[str, str], status: int, code: str) -> None:
    answer = stack.request("GET", path, headers=headers)
    assert answer.status == status
    assert answer.json()["code"] == code


# ---- Replicas that end -----------------------------------------------------------------------------------------------


def test_without_a_replica_the_answer_says_so(stack: Stack) -> None:
    for replica in stack.replicas:
        replica.terminate()
    answer = stack.request("GET", "/api/v1/health")
    assert_problem(answer, 502, "unavailable", "/api/v1/health")
    assert int(answer.headers["Retry-After"]) >= 1
    assert stack.request("GET", "/").status == 200, "the dashboard does not need a replica"

    secret = "a-token-from-a-mail"
    assert stack.request("PUT", f"/api/v1/auth/reset-password/{secret}?a={secret}", {}).status == 502
    assert secret not in stack.nginx.log.read_text()
    for line in stack.nginx.log.read_text().splitlines():
        if line.startswith("{"):
            assert {"request_id", "status", "upstream", "path", "method"} <= json.loads(line).keys()


def test_killing_a_replica_loses_no_acknowledged_write(stack: Stack, admin: dict[str, str]) -> None:
    """kill -9 of every process of one replica, under load.

    What was not yet answered is asked of the other replica if it was a read. What cannot be repeated fails: a write on
    its way to the killed replica (502), and an answer of which the head had been passed on (cut). Each client has one
    request under way, so each loses one at most. Every write answered with 201 is there afterwards.
    """
    killed, other = stack.replicas
    with load(stack, admin) as seen:
        time.sleep(2)
        before = len(seen.acknowledged)
        assert len(killed.pids()) >= 3, "walnut serve, Gunicorn, one worker"
        killed.kill()
        time.sleep(2)
    assert seen.wrong == []
    assert seen.failed("GET") == seen.failed("GET", "cut") <= READERS
    assert seen.failed("POST") <= WRITERS
    assert 20 < before < len(seen.acknowledged) - 20, "both replicas wrote, and one went on alone"
    assert port_of(stack.request("GET", "/api/v1/health")) == other.port
    assert seen.acknowledged <= titles(stack, admin)

    killed.start()
    assert killed.request("GET", "/api/v1/tasks?limit=1", headers=admin).json()["total"] >= len(seen.acknowledged)


def test_a_killed_worker_is_replaced(stack: Stack) -> None:
    replica = stack.replicas[0]
    [worker] = replica.worker_pids()
    os.kill(worker, 9)
    wait_until(lambda: replica.worker_pids() not in ([], [worker]) and replica.is_ready(), 20, "a new worker")


def test_a_rolling_restart_under_load(stack: Stack, admin: dict[str, str]) -> None:
    """SIGTERM one replica after the other. The few writes that fail meet a connection that is just being closed."""
    with load(stack, admin) as seen:
        for replica in stack.replicas:
            time.sleep(1)
            assert replica.terminate() == 0
            time.sleep(0.5)
            replica.start()
        time.sleep(1)
    assert seen.wrong == []
    assert seen.failed("GET") == 0
    assert seen.failed("POST") == seen.failed("POST", "502") <= 4, "of several hundred"
    assert len(seen.acknowledged) > 100
    assert seen.acknowledged <= titles(stack, admin)


def test_a_drained_restart_fails_nothing(stack: Stack, admin: dict[str, str]) -> None:
    """Taken out of Nginx first, a replica can be restarted without a single failed request."""
    ports = [replica.port for replica in stack.replicas]
    with load(stack, admin) as seen:
        for replica in stack.replicas:
            time.sleep(0.5)
            stack.nginx.reload([port for port in ports if port != replica.port])
            time.sleep(0.5)
            replica.restart()
            stack.nginx.reload(ports)
        time.sleep(0.5)
    assert seen.wrong == []
    assert seen.failed("GET") == seen.failed("POST") == 0
    assert seen.acknowledged <= titles(stack, admin)
