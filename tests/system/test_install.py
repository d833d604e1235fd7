"""The wheel, installed where nothing else of Walnut is: one command serves all of it."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.clients import add_task, assert_sound, opened, sign_in
from tests.system.processes import PROJECT, Walnut

PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check", "install")


def run(*words: object) -> str:
    """Run a command that must succeed, and return what it printed."""
    done = subprocess.run([str(word) for word in words], cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Installed(Walnut):
    """`walnut serve` from a virtual environment, with every setting but the port left alone."""

    def __init__(self, place: Path, walnut: Path) -> None:
        super().__init__(place)
        self.walnut = walnut
        self.instance = place / "instance"
        self.home = place.parent / "home"
        self.log = place.parent / "output.log"

    def command(self) -> list[str]:
        """Return the command that the wheel brings."""
        return [str(self.walnut), "serve"]

    def environment(self) -> dict[str, str]:
        """Return the settings: none."""
        return {"PORT": str(self.port), "HOME": str(self.home), "PATH": "/usr/bin:/bin"}


@pytest.fixture(scope="module")
def walnut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of a fresh virtual environment that holds the wheel and what the lock file names."""
    folder = tmp_path_factory.mktemp("install")
    environment, python = folder / "environment", folder / "environment" / "bin" / "python"
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder)
    run(sys.executable, "-m", "venv", environment)
    run(python, *PIP, "--require-hashes", "-r", "requirements.lock")
    run(python, *PIP, "--no-deps", *folder.glob("*.whl"))
    return environment / "bin" / "walnut"


@pytest.fixture(scope="module")
def server(walnut: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    place = tmp_path_factory.mktemp("elsewhere")
    (place / "home").mkdir()
    with Installed(place / "empty", walnut) as installed:
        yield installed


def test_what_the_pages_ask_for_is_there(server: Installed) -> None:
    for page in ("/", "/api-docs"):
        answer = server.request("GET", page)
        assert answer.status == 200
        links = re.findall(r'(?:src|href)="(/[^"#]+|[^":#]+)"', answer.body.decode())
        assert links
        for link in links:
            found = server.request("GET", link if link.startswith("/") else f"/{link}")
            assert (link, found.status) == (link, 200)
            assert found.body
    assert server.request("GET", "/api-docs/openapi.json").json()["openapi"].startswith("3.1")
    for module in (PROJECT / "static").rglob("*.*"):
        assert server.request("GET", f"/{module.relative_to(PROJECT)}").body == module.read_bytes()


def test_it_serves(server: Installed) -> None:
    headers = sign_in(server)
    assert add_task(server, headers, "walnuts to crack").status == 201
    found = server.request("GET", "/api/v1/tasks?q=walnut", headers=headers).json()
    assert [task["title"] for task in found["items"]] == ["walnuts to crack"]
    assert server.request("GET", "/health").json()["database"]["safe"] is True


def test_the_other_commands_know_the_same_database(server: Installed, walnut: Path) -> None:
    def command(*words: str, asked: str = "") -> str:
        done = subprocess.run(
            [walnut, *words], cwd=server.folder, env=server.environment(), input=asked, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        return done.stdout

    assert "at revision" in command("db", "check")
    assert "has an account now" in command(
        "user", "create", "eve", "eve@example.com", "--password-stdin", asked="correct horse\n"
    )
    login = {"email": "eve@example.com", "password": "correct horse"}
    assert server.request("POST", "/api/v1/auth/login", login).status == 200


def test_all_it_keeps_is_in_one_folder_where_it_was_started(server: Installed) -> None:
    assert server.restart().request("GET", "/health").status == 200
    assert server.terminate() == 0
    assert [path.name for path in server.folder.iterdir()] == ["instance"]
    assert list(server.home.iterdir()) == []
    assert_sound(server.instance)
    with opened(server.instance) as connection:
        assert connection.execute("SELECT count(*) FROM users").fetchone() == (2,)
