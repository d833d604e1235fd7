"""Fixtures of the quick tests: an app on a fresh database, and people who call it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from api import create_app, settings
from api.migrations import upgrade

PASSWORD = "correct horse"


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., settings.Settings]:
    """Return a function that reads settings as a start in an empty folder would, with the given variables set."""
    monkeypatch.chdir(tmp_path)

    def configured(**variables: str) -> settings.Settings:
        for name, value in ({"APP_ENV": "testing", "INSTANCE_PATH": str(tmp_path / "instance")} | variables).items():
            monkeypatch.setenv(name, value)
        return settings.load()

    for field in settings.Settings.__dataclass_fields__:
        monkeypatch.delenv(field.upper(), raising=False)
    return configured


@pytest.fixture
def app(configure: Callable[..., settings.Settings]) -> Iterator[Flask]:
    given = configure()
    upgrade.upgrade(given)
    app = create_app(given)
    yield app
    app.extensions["database"].close()


class Caller:
    """Somebody with a client: `caller("POST", "/tasks", {...}, If_Match='"1"')` under /api/v1."""

    def __init__(self, app: Flask, token: str | None = None) -> None:
        self.client = app.test_client()
        self.token = token

    def __call__(self, method: str, path: str, json: Any = None, **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token:
            named.setdefault("Authorization", f"Bearer {self.token}")
        return self.client.open(f"/api/v1{path}", method=method, json=json, headers=named)


def sign_up(app: Flask, name: str, **more: str) -> Caller:
    anyone = Caller(app)
    account = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
    assert anyone("POST", "/auth/register", account | more).status_code == 201
    tokens = anyone("POST", "/auth/login", {"email": account["email"], "password": PASSWORD})
    return Caller(app, tokens.json["access_token"])


@pytest.fixture
def anyone(app: Flask) -> Caller:
    return Caller(app)


@pytest.fixture
def admin(app: Flask) -> Caller:
    return sign_up(app, "root", role="admin")


@pytest.fixture
def user(app: Flask, admin: Caller) -> Caller:
    return sign_up(app, "alice")
