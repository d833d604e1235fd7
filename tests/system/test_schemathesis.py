"""Schemathesis reads the OpenAPI document and tries to catch the real server at something it does not say.

SCHEMATHESIS_EXAMPLES=500 looks longer (minutes instead of half of one); SCHEMATHESIS_SEED repeats a run.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.conftest import NO_LIMITS
from tests.system.processes import Walnut

EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "4")
SEED = os.environ.get("SCHEMATHESIS_SEED", "")
PASSWORD = "correct horse"
LOGOUT = "/api/v1/auth/logout"
EVENTS = "/api/v1/events"  # an answer without an end: tests/system/test_events.py
LEFT_OUT = ("--exclude-path", LOGOUT, "--exclude-path", EVENTS)
# All checks but one. `positive_data_acceptance` takes for valid whatever fits the schema; what a schema cannot say is
# refused here all the same: NUL in a text, 3.0 for an integer, an assignee who does not exist, an If-Match that is out
# of date.
CHECKS = ("--checks", "all", "--exclude-checks", "positive_data_acceptance")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walnut]:
    """A real server without limits in the way."""
    with Walnut(tmp_path_factory.mktemp("schemathesis"), None, WORKERS=1, LOG_LEVEL="warning", **NO_LIMITS) as running:
        yield running


def token(server: Walnut, name: str, role: str) -> str:
    """Return an access token of an account, made if need be."""
    account = {"username": name, "email": f"{name}@example.com", "password": PASSWORD, "role": role}
    assert server.request("POST", "/api/v1/auth/register", account).status in (201, 403, 409)
    answer = server.request("POST", "/api/v1/auth/login", {"email": account["email"], "password": PASSWORD})
    assert answer.status == 200, answer.body
    return str(answer.json()["access_token"])


@pytest.fixture(scope="module")
def admin(server: Walnut) -> str:
    """The admin's access token. The first account there is, so it is made before any other."""
    return token(server, "root", "admin")


def run(server: Walnut, folder: Path, bearer: str, *more: str, version: int = 1) -> None:
    """Run Schemathesis in a folder of its own, and fail with its report if it caught the server."""
    found = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("schemathesis")), "--no-color", "run"),
            *(f"{server.url}/api-docs/openapi.json?version={version}", "--seed", SEED or "1", "--workers", "1"),
            *(*CHECKS, *(("-H", f"Authorization: Bearer {bearer}") if bearer else ()), *more),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert found.returncode == 0, found.stdout[-8000:] + found.stderr[-2000:]
    log = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    assert not [line for line in log if line["level"] == "ERROR"]


def test_an_admin_catches_it_at_nothing(server: Walnut, admin: str, tmp_path: Path) -> None:
    """Examples, coverage, fuzzing, and chains of requests that lean on one another (make, change, delete, look)."""
    phases = ("--phases", "examples,coverage,fuzzing,stateful", "--max-examples", EXAMPLES)
    run(server, tmp_path, admin, *phases, *LEFT_OUT)


@pytest.mark.parametrize("name", ["alice", ""])
def test_who_may_less_catches_it_at_nothing(server: Walnut, admin: str, tmp_path: Path, name: str) -> None:
    """A user without permissions to write, and nobody at all."""
    bearer = token(server, name, "user") if name else ""
    run(server, tmp_path, bearer, "--phases", "examples,fuzzing", "--max-examples", "3", *LEFT_OUT)


def test_a_logout_ends_what_it_should_and_says_what_it_promised(server: Walnut, admin: str, tmp_path: Path) -> None:
    """By itself, because it makes its own token useless."""
    run(server, tmp_path, token(server, "bob", "user"), "--max-examples", "5", "--include-path", LOGOUT)


def test_version_2_catches_it_at_nothing_either(server: Walnut, admin: str, tmp_path: Path) -> None:
    """Shorter: its rules are those of version 1, only its lists are its own."""
    phases = ("--phases", "examples,coverage,fuzzing,stateful", "--max-examples", "5")
    run(server, tmp_path, admin, *phases, "--include-path-regex", "^/api/v2/(tasks|audit)", version=2)
