"""Limits over two replicas of two workers: four processes, real Redis or none, and Redis that dies or hangs."""

import itertools
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.system.clients import sign_in
from tests.system.conftest import NO_LIMITS
from tests.system.processes import Answer, Nginx, Redis, Walnut, ask, together

pytestmark = pytest.mark.alone

HUNDRED = {"window": "100 per 15 minutes", "bucket": "token-bucket 100 refill 0.001/s"}
CONNECTIONS, REQUESTS = 64, 1000
PATH = "/api/v1/users/me"


@contextmanager
def replicas(folder: Path, redis: Redis | None, **settings: object) -> Iterator[list[Walnut]]:
    """Two replicas of two workers that share a folder."""
    given = NO_LIMITS | {"WORKERS": 2, "LOG_LEVEL": "warning"} | ({"REDIS_URL": redis.url} if redis else {}) | settings
    with together([Walnut(folder, None, **given) for _ in range(2)]) as running:
        yield running


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """A Redis that a test may kill."""
    with Redis(tmp_path / "redis") as running:
        yield running


def knock(
    servers: list[Walnut],
    headers: dict[str, str],
    requests: int = REQUESTS,
    after: int = 0,
    then: Callable[[], object] = bool,
) -> list[Answer]:
    """Send so many requests over 64 connections, half of them to each replica, and return all answers.

    Call `then` once there are as many answers as `after`, while the others are under way.
    """
    number_of_answers = itertools.count(1)
    each = requests // CONNECTIONS
    together = threading.Barrier(CONNECTIONS)

    def client(number: int) -> list[Answer]:
        connection = servers[number % len(servers)].connect()
        try:
            together.wait()
            mine = each + (number < requests % CONNECTIONS)
            answers = []
            for _ in range(mine):
                answers.append(ask(connection, "GET", PATH, headers=headers))
                if next(number_of_answers) == after:
                    then()
            return answers
        finally:
            connection.close()

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        answers = [answer for one in pool.map(client, range(CONNECTIONS)) for answer in one]
    assert len(answers) == requests
    return answers


def statuses(answers: list[Answer]) -> Counter[int]:
    """Return how many there are of each status."""
    return Counter(answer.status for answer in answers)


@pytest.mark.parametrize(("where", "limit"), [("redis", HUNDRED["bucket"]), ("host", HUNDRED["window"])])
def test_of_a_thousand_requests_exactly_a_hundred_pass(tmp_path: Path, redis: Redis, where: str, limit: str) -> None:
    with replicas(tmp_path, redis if where == "redis" else None, RATE_LIMIT_DEFAULT=limit) as servers:
        answers = knock(servers, sign_in(servers[0]))
    assert len({answer.headers["X-Served-By"] for answer in answers}) == 4, "all processes took part"
    assert statuses(answers) == {200: 100, 429: 900}
    left = sorted(int(answer.headers["X-RateLimit-Remaining"]) for answer in answers if answer.status == 200)
    assert left == list(range(100)), "each was told another number"


def test_callers_do_not_take_from_each_other(tmp_path: Path, redis: Redis) -> None:
    """Two users and a stranger at once, each with a hundred of his own."""
    with replicas(tmp_path, redis, RATE_LIMIT_DEFAULT=HUNDRED["window"]) as servers:
        admin = sign_in(servers[0])
        account = {"username": "bob", "email": "bob@example.com", "password": "correct-horse-battery-staple-43"}
        assert servers[0].request("POST", "/api/v1/auth/register", account).status == 201
        del account["username"]
        pair = servers[0].request("POST", "/api/v1/auth/login", account).json()
        everybody = [admin, {"Authorization": f"Bearer {pair['access_token']}"}, {}]
        with ThreadPoolExecutor(3) as pool:
            found = [statuses(one) for one in pool.map(lambda headers: knock(servers, headers, 300), everybody)]
    assert found == [{200: 100, 429: 200}, {200: 100, 429: 200}, {401: 100, 429: 200}]


def test_redis_killed_in_the_middle_is_no_error_and_the_host_counts_the_rest(tmp_path: Path, redis: Redis) -> None:
    with replicas(tmp_path, redis, RATE_LIMIT_DEFAULT="token-bucket 500 refill 0.001/s") as servers:
        headers = sign_in(servers[0])
        answers = knock(servers, headers, after=250, then=redis.kill)
        after = knock(servers, headers, 200)
    found = statuses(answers)
    assert found.keys() == {200, 429}
    # The host goes on from the last number that each process heard of: what the others have let in since is not in it.
    # A request that Redis counted and could not answer any more is counted once more.
    assert 500 - CONNECTIONS <= found[200] <= 500 + CONNECTIONS
    assert statuses(after) == {429: 200}, "nobody counts anew"


def test_redis_that_comes_back_counts_again(tmp_path: Path, redis: Redis) -> None:
    with replicas(tmp_path, redis, RATE_LIMIT_DEFAULT="token-bucket 1000 refill 0.001/s") as servers:
        headers = sign_in(servers[0])
        assert statuses(knock(servers, headers, 128)) == {200: 128}
        redis.restart()  # and it has forgotten everything
        time.sleep(1.1)
        for server in servers * 4:
            server.request("GET", PATH, headers=headers)
        left = [int(servers[0].request("GET", PATH, headers=headers).headers["X-RateLimit-Remaining"])]
        left.append(int(servers[1].request("GET", PATH, headers=headers).headers["X-RateLimit-Remaining"]))
    assert left[1] == left[0] - 1, "both count in the same place"
    assert left[0] > 1000 - 128, "and that is Redis, not the host's file"


def test_redis_that_hangs_costs_one_request_50_ms_and_the_others_nothing(tmp_path: Path, redis: Redis) -> None:
    with Walnut(tmp_path, None, **NO_LIMITS, WORKERS=1, LOG_LEVEL="warning", REDIS_URL=redis.url) as server:
        headers, connection = sign_in(server), server.connect()

        def timed() -> float:
            started = time.perf_counter()
            assert ask(connection, "GET", PATH, headers=headers).status == 200
            return time.perf_counter() - started

        usual = statistics.median(timed() for _ in range(200))
        extra = []
        for _ in range(3):
            with redis.paused():
                extra.append(timed() - usual)
                others = [timed() for _ in range(100)]  # they end before somebody asks again, a second later
                assert statistics.median(others) < usual + 0.005
            time.sleep(1.1)
            timed()
        connection.close()
    assert min(extra) > 0.03, "it did ask"
    assert statistics.median(extra) < 0.06, extra


@pytest.mark.parametrize(("skip", "status"), [("true", 200), ("false", 503)])
def test_without_redis_it_is_as_the_setting_says(tmp_path: Path, redis: Redis, skip: str, status: int) -> None:
    limits = {"RATE_LIMIT_DEFAULT": "3 per day", "RATE_LIMIT_SKIP_IF_REDIS_DOWN": skip}
    with replicas(tmp_path, redis, **limits) as servers:
        headers = sign_in(servers[0])
        assert statuses(knock(servers, headers, 64)) == {200: 3, 429: 61}
        redis.kill()
        answers = knock(servers, headers, 64)
        assert statuses(answers) == {status: 64}
        assert {answer.headers["Retry-After"] for answer in answers} == ({"1"} if status == 503 else {None})
        assert servers[0].request("GET", "/health").status == 200, "health is not counted"


def test_what_was_counted_on_the_host_is_counted_after_kill_9_too(tmp_path: Path) -> None:
    with replicas(tmp_path, None, RATE_LIMIT_DEFAULT=HUNDRED["window"]) as servers:
        headers = sign_in(servers[0])
        assert statuses(knock(servers, headers, 70)) == {200: 70}
        for server in servers:
            server.kill()
        for server in servers:
            server.start()
        assert statuses(knock(servers, headers, 200)) == {200: 30, 429: 170}


def test_a_file_of_limits_that_is_damaged_or_deleted_is_no_error(tmp_path: Path) -> None:
    with replicas(tmp_path, None, RATE_LIMIT_DEFAULT="token-bucket 100000 refill 0.001/s") as servers:
        headers = sign_in(servers[0])
        for harm in ("damaged", "deleted"):
            assert statuses(knock(servers, headers, 64)) == {200: 64}
            if harm == "damaged":
                (tmp_path / "limits.db-wal").write_bytes(b"")
                (tmp_path / "limits.db").write_bytes(b"no database " * 1000)
            else:
                for path in tmp_path.glob("limits.db*"):
                    path.unlink()
            assert statuses(knock(servers, headers, 500)) == {200: 500}
            time.sleep(1.1)
        left = [
            int(server.request("GET", PATH, headers=headers).headers["X-RateLimit-Remaining"]) for server in servers * 4
        ]
    assert left == list(range(left[0], left[0] - 8, -1)), "all processes count in one file again"
    assert (tmp_path / "limits.db").read_bytes()[:15] == b"SQLite format 3"


def test_forged_addresses_do_not_help(tmp_path: Path) -> None:
    """Through Nginx, and to a replica that trusts no proxy: whatever a client says, he is where he calls from."""
    with ExitStack() as running:
        limit = {"RATE_LIMIT_DEFAULT": "5 per day", "RATE_LIMIT_AUTH": "5 per day", "WORKERS": 1}
        behind = running.enter_context(Walnut(tmp_path / "behind", None, TRUSTED_PROXIES=1, **limit))
        alone = running.enter_context(Walnut(tmp_path / "alone", None, **limit))
        nginx = running.enter_context(Nginx(tmp_path / "nginx", [behind.port]))
        for server in (nginx, alone):
            for path in ("/api/v1/tasks", "/api/v1/auth/refresh"):
                found = []
                for number in range(8):
                    claimed = f"198.51.100.{number}"
                    forged = {"X-Forwarded-For": f"{claimed}, {claimed}", "X-Real-IP": claimed, "Forwarded": claimed}
                    method = "POST" if path.endswith("refresh") else "GET"
                    found.append(server.request(method, path, None, forged, source="127.0.0.7").status)
                assert found == [401] * 5 + [429] * 3, (server.name, path)
                assert server.request(method, path, source="127.0.0.8").status == 401
