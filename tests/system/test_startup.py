"""Starts: one that cannot be good ends at once with one clear line; one that can is the same from anywhere."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pysqlite3.dbapi2 as sqlite
import pytest

from tests.system.clients import QUIET, add_task, assert_sound, opened, sign_in
from tests.system.processes import PROJECT, Walnut, free_port, wait_until

SECRET = "k7Qp2xVn9sLw4tRb8yHc3mJd6fGz1aEu"
QUICK = 10.0  # seconds; on an idle machine it is one


def serve(folder: Path, *words: str, **settings: object) -> "subprocess.CompletedProcess[str]":
    """Run `walnut serve` (or other words), which is expected to end by itself, in an empty environment."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT), "PORT": str(free_port())}
    environment |= {"INSTANCE_PATH": str(folder / "instance")} | {name: str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "api", *(words or ("serve",))]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=QUICK)


def assert_refused(ended: "subprocess.CompletedProcess[str]", *words: str) -> None:
    """It ended with a status that says so, and one line that holds these words."""
    lines = ended.stderr.strip().splitlines()
    assert ended.returncode == 1, ended.stderr
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("Error: ")
    assert not ended.stdout
    for word in words:
        assert word in lines[0]


# ---- Settings that make no sense -------------------------------------------------------------------------------------

NONSENSE = [
    ({"PORT": "0"}, "PORT"),
    ({"PORT": "70000"}, "PORT"),
    ({"PORT": "http"}, "PORT"),
    ({"HOST": "192.0.2.1"}, "192.0.2.1"),
    ({"HOST": "no.such.host.invalid"}, "no.such.host.invalid"),
    ({"WORKERS": "0"}, "WORKERS"),
    ({"WORKERS": "many"}, "WORKERS"),
    ({"APP_ENV": "prod"}, "APP_ENV"),
    ({"LOG_LEVEL": "loud"}, "LOG_LEVEL"),
    ({"REDIS_URL": "http://localhost"}, "REDIS_URL"),
    ({"RATE_LIMIT_DEFAULT": "a lot"}, "RATE_LIMIT_DEFAULT"),
    ({"DATABASE_URL": "postgresql+psycopg://localhost/walnut"}, "DATABASE_URL"),
    ({"DATABASE_URL": "mysql://localhost/walnut"}, "DATABASE_URL"),
    ({"DATABASE_URL": "sqlite://"}, "DATABASE_URL"),
    ({"DATABASE_URL": "sqlite:////no/such/folder/walnut.db"}, "/no/such/folder"),
    ({"JWT_SECRET": "short"}, "JWT_SECRET"),
    ({"JWT_SECRET": "a" * 40}, "JWT_SECRET"),
    ({"JWT_SECRET_FILE": "/no/such/file"}, "JWT_SECRET"),
    ({"APP_ENV": "production"}, "JWT_SECRET"),
    ({"INSTANCE_PATH": "/proc/walnut"}, "INSTANCE_PATH"),
    ({"INSTANCE_PATH": "/proc/walnut", "JWT_SECRET": SECRET}, "/proc/walnut"),
    ({"INSTANCE_PATH": "/dev/null", "JWT_SECRET": SECRET}, "/dev/null"),
]


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[list[Future[subprocess.CompletedProcess[str]]]]":
    """All those starts, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        yield [pool.submit(serve, tmp_path_factory.mktemp("start"), **settings) for settings, _ in NONSENSE]


@pytest.mark.parametrize("number", range(len(NONSENSE)), ids=[f"{settings}" for settings, _ in NONSENSE])
def test_a_setting_that_makes_no_sense_stops_the_start_with_one_line(
    starts: "list[Future[subprocess.CompletedProcess[str]]]", number: int
) -> None:
    ended = starts[number].result()
    assert_refused(ended, NONSENSE[number][1])
    assert SECRET not in ended.stderr


def test_a_port_that_is_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert_refused(serve(tmp_path, PORT=port), str(port), "PORT")


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "instance").write_text("a file")
    assert_refused(serve(tmp_path), "INSTANCE_PATH")
    assert_refused(serve(tmp_path, JWT_SECRET=SECRET), str(tmp_path / "instance"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
@pytest.mark.parametrize("made_before", [False, True])
def test_a_folder_that_is_read_only_is_refused(tmp_path: Path, made_before: bool) -> None:
    folder = tmp_path / "instance"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", folder], check=True)
    try:
        if made_before:
            assert serve(tmp_path, "db", "upgrade", JWT_SECRET=SECRET).returncode == 0
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        assert_refused(serve(tmp_path, JWT_SECRET=SECRET), str(folder))
    finally:
        subprocess.run(["umount", folder], check=True)


# ---- Databases that are not what they should be ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a database with some hundred tasks."""
    folder = tmp_path_factory.mktemp("made")
    assert serve(folder, "db", "upgrade").returncode == 0
    with opened(folder / "instance") as connection:
        connection.executemany(
            "INSERT INTO tasks(id, title, description, status, priority, tags, created_at, updated_at, version) "
            "VALUES (?, 'a task', ?, 'todo', 3, '[]', 1, 1, 1)",
            [(f"id-{number}", "words " * 100) for number in range(500)],
        )
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return (folder / "instance" / "walnut.db").read_bytes()


def of_another_program(path: Path) -> None:
    path.unlink()
    with sqlite.connect(str(path)) as connection:
        connection.execute("CREATE TABLE bookmarks(url)")
    connection.close()


def of_the_future(path: Path) -> None:
    with sqlite.connect(str(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()


def with_a_page_overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2 // 4096 * 4096)
        file.write(os.urandom(4096))


def with_a_garbage_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(os.urandom(100))


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def delete_the_file(path: Path) -> None:
    path.unlink()


def a_folder_in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


BROKEN: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: path.write_bytes(b""), "empty"),
    (lambda path: path.write_text("milk, bread, eggs\n" * 500), "damaged"),
    (of_another_program, "not one of Walnut's"),
    (of_the_future, "newer"),
    (with_a_garbage_header, "damaged"),
    (with_a_page_overwritten, "damaged"),
    (cut_in_half, "damaged"),
    (delete_the_file, "gone"),
    (a_folder_in_its_place, "cannot be opened"),
]
NAMES = ["empty", "text", "another_program", "newer", "header", "page", "half", "gone", "folder"]


@pytest.mark.parametrize(("spoil", "word"), BROKEN, ids=NAMES)
def test_a_database_that_is_not_whole_is_refused_and_left_as_it_is(
    tmp_path: Path, made: bytes, spoil: Callable[[Path], object], word: str
) -> None:
    path = tmp_path / "instance" / "walnut.db"
    path.parent.mkdir()
    path.write_bytes(made)
    assert serve(tmp_path, "db", "upgrade").returncode == 0
    spoil(path)
    found = path.read_bytes() if path.is_file() else None
    assert_refused(serve(tmp_path), word, str(path))
    assert (path.read_bytes() if path.is_file() else None) == found


def test_a_database_without_its_main_file_is_not_taken_for_a_new_one(tmp_path: Path, made: bytes) -> None:
    """Someone copied a folder and forgot the largest file, or deleted the wrong one."""
    folder = tmp_path / "instance"
    folder.mkdir()
    (folder / "walnut.db-wal").write_bytes(made[:8192])
    assert_refused(serve(tmp_path), "gone")


# ---- Starts that are good --------------------------------------------------------------------------------------------


@pytest.fixture
def walnut(tmp_path: Path) -> Iterator[Walnut]:
    """A server on a fresh folder that is not started yet."""
    server = Walnut(tmp_path / "instance", **QUIET)
    yield server
    server.stop()


def test_the_first_start_says_where_everything_is_and_the_next_that_nothing_was_to_do(walnut: Walnut) -> None:
    walnut.start()
    wait_until(lambda: "Ctrl-C ends it" in walnut.tail(), 5, "the banner")
    banner = walnut.tail()
    for path in ("/", "/api-docs", "/health"):
        assert f"http://localhost:{walnut.port}{path}\n" in banner
    assert str(walnut.instance) in banner
    assert "went from nothing to revision" in banner
    assert walnut.terminate() == 0
    walnut.log.unlink()
    walnut.start()
    assert "already" in walnut.tail()


def test_everything_kept_is_the_owners_alone(walnut: Walnut) -> None:
    walnut.instance.mkdir(mode=0o755)
    own = walnut.log = walnut.instance.parent / "output.log"
    with walnut:
        add_task(walnut, sign_in(walnut))
        files = [path for path in walnut.instance.rglob("*") if path.is_file()]
        assert own not in files
        assert {
            f"{path.name} {path.stat().st_mode & 0o777:o}" for path in files if path.stat().st_mode & 0o077
        } == set()
        assert {path.name for path in files} >= {"walnut.db", "walnut.db-wal", "walnut.db-shm", "jwt_secret"}


def test_a_folder_that_walnut_makes_is_the_owners_alone(tmp_path: Path) -> None:
    assert serve(tmp_path, "db", "upgrade").returncode == 0
    assert (tmp_path / "instance").stat().st_mode & 0o777 == 0o700


def test_a_relative_folder_is_below_where_it_was_started_and_all_state_is_in_it(tmp_path: Path) -> None:
    """Also HOME is left alone, and the folder it was started from."""
    home, place = tmp_path / "home", tmp_path / "place"
    home.mkdir()
    server = Walnut(place, HOME=home, INSTANCE_PATH="kept/here", **QUIET)
    server.log = tmp_path / "output.log"
    with server:
        add_task(server, sign_in(server))
        assert (place / "kept" / "here" / "walnut.db").exists()
        assert [path.name for path in place.iterdir()] == ["kept"]
        assert list(home.rglob("*")) == []


def test_three_replicas_that_start_at_once_on_a_fresh_folder_are_one_server(tmp_path: Path) -> None:
    replicas = [Walnut(tmp_path, **QUIET | {"WORKERS": 1}) for _ in range(3)]
    try:
        for replica in replicas:
            replica.launch()
        for replica in replicas:
            replica.wait_ready()
        headers = sign_in(replicas[0])
        for replica in replicas:
            assert add_task(replica, headers, f"of {replica.port}").status == 201
            assert replica.request("GET", "/api/v1/tasks", headers=headers).status == 200
        logs = [replica.log.read_text() for replica in replicas]
        assert sum("went from nothing" in log for log in logs) == 1
        assert sum("already" in log for log in logs) == 2
        assert not [log for log in logs if "ERROR" in log]
    finally:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(Walnut.stop, replicas))
    assert_sound(tmp_path)
    assert [path.name for path in tmp_path.glob("jwt_secret*")] == ["jwt_secret"]


def test_a_first_start_that_was_killed_before_it_wrote_anything_does_not_stop_the_next(tmp_path: Path) -> None:
    """SQLite makes the file first and fills it later. That there never was a database, the missing mark says."""
    (tmp_path / "instance").mkdir()
    (tmp_path / "instance" / "walnut.db").touch()
    upgraded = serve(tmp_path, "db", "upgrade")
    assert upgraded.returncode == 0, upgraded.stderr
    assert_sound(tmp_path / "instance")


def test_a_first_start_that_was_killed_while_it_made_the_database_does_not_stop_the_next(tmp_path: Path) -> None:
    server = Walnut(tmp_path / "instance", **QUIET)
    server.launch()
    wait_until(lambda: (tmp_path / "instance" / "walnut.db").exists(), 10, "a database")
    server.kill()
    upgraded = serve(tmp_path, "db", "upgrade")
    assert upgraded.returncode == 0, upgraded.stderr
    assert_sound(tmp_path / "instance")


def test_the_first_start_in_production_needs_nothing_but_a_secret(tmp_path: Path) -> None:
    server = Walnut(tmp_path / "place", **QUIET | {"APP_ENV": "production", "JWT_SECRET": SECRET})
    server.settings["INSTANCE_PATH"] = str(tmp_path / "new" / "folder")
    with server:
        assert server.request("GET", "/health").json()["status"] == "ok"
    assert not (tmp_path / "new" / "folder" / "jwt_secret").exists()
    assert SECRET not in server.log.read_text()
