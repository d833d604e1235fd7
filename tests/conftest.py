"""Fixtures of the quick tests: an app on a fresh database, and people who call it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.routing import Rule

from api import create_app, db, settings
from api.auth import hashing, mails
from api.cli.db import bring_up

PROJECT = Path(__file__).resolve().parents[1]
PASSWORD = "correct horse"
FIELDS = set(settings.Settings.__dataclass_fields__)
STARTED: "list[subprocess.Popen[str]]" = []
# The audit trail is signed when a database is made, and most tests begin with a copy of one.
SECRET = {"JWT_SECRET": "tests are no secret: 0123456789 abcdefghijklmnopqrstuvwxyz ABCDEFGHIJ"}
# Tests ask more than people do. Those of limits set their own.
NO_LIMITS = {
    "RATE_LIMIT_DEFAULT": "token-bucket 1000000 refill 100000/s",
    "RATE_LIMIT_AUTH": "100000 per 15 minutes",
}


_compile = Rule.compile
_COMPILED: dict[tuple[Any, ...], Rule] = {}


def _compile_once(rule: Rule) -> None:
    """Werkzeug reads each route of each app, and writes and compiles code for it: half of the quick tests' time."""
    known = _COMPILED.setdefault(
        (rule.rule, rule.subdomain, rule.merge_slashes, rule.is_leaf, repr(rule.defaults)), rule
    )
    if known is rule:
        _compile(rule)
        return
    for name in ("_parts", "_trace", "_converters", "arguments"):
        setattr(rule, name, getattr(known, name))
    for name in ("_build", "_build_unknown"):
        setattr(rule, name, getattr(known, name).__func__.__get__(rule))


Rule.compile = _compile_once  # type: ignore[assignment]
# A hash of the tests takes a millisecond, and many to get a core when other tests want it too.
LOWEST, hashing.LOWEST = hashing.LOWEST, 0


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """Undo what a start does to its process: .env fills the environment, the commands choose a umask."""
    environment, umask = dict(os.environ), os.umask(0o022)
    yield
    while STARTED:  # what a test that failed did not wait for
        with STARTED.pop() as process:
            process.kill()
    os.umask(umask)
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., settings.Settings]:
    """Return a function that reads settings as a start in an empty folder would, with the given variables set."""
    monkeypatch.chdir(tmp_path)

    def configured(**variables: str) -> settings.Settings:
        own = {"APP_ENV": "testing", "INSTANCE_PATH": str(tmp_path / "instance")}
        for name, value in (own | variables).items():
            monkeypatch.setenv(name, value)
        return settings.load()

    for field in settings.Settings.__dataclass_fields__:
        monkeypatch.delenv(field.upper(), raising=False)
        monkeypatch.delenv(f"{field.upper()}_FILE", raising=False)
    return configured


@pytest.fixture(scope="session")
def new_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new database, with the mock vendors and nothing else, to be copied: quicker than migrating for each test."""
    folder = tmp_path_factory.mktemp("new")
    bring_up(settings_in(folder))
    return folder / "walnut.db"


@pytest.fixture
def make_app(configure: Callable[..., settings.Settings], new_database: Path) -> Iterator[Callable[..., Flask]]:
    """Return a function that makes an app with the given variables set, on a database of its own."""
    made = []

    def make(**variables: str) -> Flask:
        given = configure(**NO_LIMITS | SECRET | variables)
        copy_database(new_database, given)
        made.append(create_app(given))
        return made[-1]

    yield make
    for app in made:
        app.extensions["database"].close()


@pytest.fixture(scope="session")
def lasting_app(tmp_path_factory: pytest.TempPathFactory, new_database: Path) -> Iterator[Flask]:
    """An app for all the tests whose requests must leave no trace. They say so with `lasting_admin`."""
    given = settings_in(tmp_path_factory.mktemp("lasting"))
    copy_database(new_database, given)
    app = create_app(given)
    yield app
    app.extensions["database"].close()


@pytest.fixture(scope="session")
def _signed_up(lasting_app: Flask) -> "Caller":
    return sign_up(lasting_app, "root", role="admin")


@pytest.fixture
def lasting_admin(lasting_app: Flask, _signed_up: "Caller") -> Iterator["Caller"]:
    """The admin of `lasting_app`; checks that the test stored nothing."""
    yield _signed_up
    assert rows(lasting_app, "SELECT count(*) FROM tasks") == [(0,)]
    assert rows(lasting_app, "SELECT username FROM users") == [("root",)]


def settings_in(folder: Path) -> settings.Settings:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in [name for name in os.environ if name.removesuffix("_FILE").lower() in FIELDS]:
            patch.delenv(name)
        patch.setenv("APP_ENV", "testing")
        patch.setenv("INSTANCE_PATH", str(folder))
        for name, value in (NO_LIMITS | SECRET).items():
            patch.setenv(name, value)
        return settings.load()


def copy_database(database: Path, given: settings.Settings) -> None:
    path = Path(given.database.database or "")
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(database, path)
    path.with_name(f"{path.name}-made").touch()


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that lets time pass, in seconds, for all that is stored."""
    passed, real = [0.0], db.now

    def passes(seconds: float) -> None:
        passed[0] += seconds

    monkeypatch.setattr(db, "now", lambda: real() + int(passed[0] * 1000))
    return passes


TYPES = {429: "https://iana.org/assignments/http-problem-types#quota-exceeded"}


class Caller:
    """Somebody with a client: `caller("POST", "/tasks", {...}, If_Match='"1"')` under /api/v1."""

    def __init__(self, app: Flask, token: str | None = None, refresh_token: str = "") -> None:
        self.client = app.test_client()
        self.token = token
        self.refresh_token = refresh_token

    def __call__(self, method: str, path: str, json: Any = None, **headers: str) -> Any:
        return self.send(method, path, {name.replace("_", "-"): value for name, value in headers.items()}, json=json)

    def send(self, method: str, path: str, headers: dict[str, str] | None = None, **options: Any) -> Any:
        """Send anything: `data=b"..."`, `content_type=`, `environ_overrides=` as Werkzeug's client takes them."""
        own = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return self.client.open(f"/api/v1{path}", method=method, headers=own | (headers or {}), **options)

    @property
    def id(self) -> str:
        return str(self("GET", "/users/me").json["id"])


def sign_in(app: Flask, name: str) -> Caller:
    answer = Caller(app)("POST", "/auth/login", {"email": f"{name}@example.com", "password": PASSWORD})
    assert answer.status_code == 200, answer.text
    return Caller(app, answer.json["access_token"], answer.json["refresh_token"])


def sign_up(app: Flask, name: str, **more: str) -> Caller:
    """Make an account and sign in, without the mail that asks to confirm the address: no test is to meet its job."""
    account = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mails, "ask_to_confirm", lambda *_: None)
        answer = Caller(app)("POST", "/auth/register", account | more)
    assert answer.status_code == 201, answer.text
    return sign_in(app, name)


@pytest.fixture
def anyone(app: Flask) -> Caller:
    return Caller(app)


@pytest.fixture
def admin(app: Flask) -> Caller:
    return sign_up(app, "root", role="admin")


@pytest.fixture
def user(app: Flask, admin: Caller) -> Caller:
    return sign_up(app, "alice")


def assert_problem(answer: Any, status: int, code: str, *pointers: str) -> dict[str, Any]:
    """Check that an answer is a whole problem of this kind about exactly these places, and return it."""
    assert answer.status_code == status, answer.text
    assert answer.content_type == "application/problem+json"
    assert answer.headers["Cache-Control"] == "no-store"
    found: dict[str, Any] = answer.json
    expected = {"type", "title", "status", "detail", "instance", "code", "request_id"}
    assert set(found) - {"errors"} == expected | ({"violated-policies"} if status == 429 else set())
    assert found["status"] == status
    assert found["code"] == code
    assert found["type"] == TYPES.get(status, f"urn:walnut:problem:{code}")
    assert found["instance"] == answer.request.path
    assert found["request_id"] == answer.headers["X-Request-ID"]
    assert len(found["detail"]) > 10
    assert {error["pointer"] for error in found.get("errors", [])} == set(pointers)
    assert all(error["detail"] for error in found.get("errors", []))
    return found


def rows(app: Flask, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """Return what a statement finds, in a snapshot of its own."""
    with app.app_context(), db.reading() as conn:
        return [tuple(row) for row in conn.exec_driver_sql(statement, values)]


def execute(app: Flask, statement: str, *values: Any) -> None:
    """Change the database behind the server's back."""
    with app.app_context(), db.writing() as conn:
        conn.exec_driver_sql(statement, values)


def start_python(script: str, *arguments: object, **variables: str) -> "subprocess.Popen[str]":
    """Start a script in a Python of its own, with this checkout's `api` and the given variables set."""
    command = [sys.executable, "-W", "error", "-c", script, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)} | variables
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    STARTED.append(process)
    return process


def ended(process: "subprocess.Popen[str]", within: float = 30) -> str:
    """Wait for a script that must end well, and return what it printed."""
    try:
        output, faults = process.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"not within {within} s: {process.communicate()}") from None
    assert process.returncode == 0, output + faults
    return output
