# ruff: noqa: RUF001 (one test is about letters that look alike)
import fcntl
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from api import create_app, db
from api.auth.names import folded
from api.migrations import upgrade
from api.migrations.upgrade import DatabaseError
from api.sqlite import driver as sqlite
from api.tables import metadata
from tests.conftest import PROJECT

MIGRATIONS = PROJECT / "api" / "migrations"


@pytest.fixture
def given(configure):
    return configure()


@pytest.fixture
def path(given):
    return given.instance_path / "walnut.db"


def raw(path, *statements):
    """Do something to the file that Walnut would not do, and return what the last statement found."""
    connection = sqlite.connect(path, isolation_level=None)
    try:
        for statement in statements:
            found = connection.execute(statement).fetchall()
        return found
    finally:
        connection.close()


def refused_by(action, given):
    with pytest.raises(DatabaseError) as caught:
        action(given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def with_next_migration(tmp_path, monkeypatch):
    """Return a function that adds a migration to those there are."""
    folder, before = tmp_path / "migrations", upgrade.head()
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))

    def config():
        made = Config()
        made.set_main_option("script_location", str(folder))
        made.set_main_option("path_separator", "os")
        return made

    def add(body):
        monkeypatch.setattr(upgrade, "_config", config)
        (folder / "versions" / "9999_next.py").write_text(
            f"from alembic import op\nrevision = '9999'\ndown_revision = {before!r}\n"
            "branch_labels = depends_on = None\n\ndef upgrade():\n"
            "    op.execute('CREATE TABLE novelties(x)')\n"
            f"    {body}\n"
        )

    return add


# ---- the shape


@pytest.mark.filterwarnings("ignore:.*expression-based index")  # the test below compares those too, by name
def test_the_migrated_schema_is_the_one_of_tables_py(app):
    with app.app_context(), db.writing() as conn:
        context = MigrationContext.configure(
            conn,
            opts={
                "compare_type": True,
                "include_name": lambda name, kind, _: kind != "table" or not name.startswith("tasks_search"),
            },
        )
        assert compare_metadata(context, metadata) == []


def test_every_index_and_constraint_has_the_name_that_tables_py_gives_it(app):
    declared = {index.name for table in metadata.tables.values() for index in table.indexes}
    with app.app_context(), db.reading() as conn:
        there = set(
            conn.exec_driver_sql("SELECT name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL").scalars()
        )
    assert {name for name in there if not name.startswith("tasks_search")} == declared


def test_the_migrations_are_one_line_without_branches():
    files = [path.stem for path in sorted((MIGRATIONS / "versions").glob("*.py"))]
    found = [script.revision for script in upgrade._scripts().walk_revisions()]
    assert len(files) == len(found)
    assert upgrade.head() == found[0] == files[-1].partition("_")[0]


# ---- new, current, older, newer


def test_a_new_database_is_made(given, path):
    said = upgrade.upgrade(given)
    assert said == f"The database went from nothing to revision {upgrade.head()}."
    assert raw(path, "PRAGMA journal_mode") == [("wal",)]
    assert raw(path, "PRAGMA application_id") == [(0x574C4E54,)]
    upgrade.check(given)


def test_a_current_database_is_left_as_it_is(given, path):
    upgrade.upgrade(given)
    before = path.read_bytes()
    assert upgrade.upgrade(given) == f"The database is at revision {upgrade.head()} already."
    assert path.read_bytes() == before


def test_an_older_database_is_upgraded_and_keeps_its_rows(given, path, with_next_migration):
    upgrade.upgrade(given)
    raw(path, "CREATE TABLE kept AS SELECT 1 AS x")
    old = upgrade.head()
    with_next_migration("pass")
    assert "Run `walnut db upgrade`" in refused_by(upgrade.check, given)
    assert upgrade.upgrade(given) == f"The database went from {old} to revision 9999."
    assert raw(path, "SELECT x FROM kept") == [(1,)]
    assert raw(path, "SELECT * FROM novelties") == []
    upgrade.check(given)


def test_names_that_look_alike_are_the_same_also_in_an_older_database(given, path, tmp_path, monkeypatch):
    """Of two that clash since then, the second keeps its key; sessions get what they lacked."""
    folder = tmp_path / "before"
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__", "0006_*"))
    made = Config()
    made.set_main_option("script_location", str(folder))
    made.set_main_option("path_separator", "os")
    with monkeypatch.context() as patch:
        patch.setattr(upgrade, "_config", lambda: made)
        upgrade.upgrade(given)
    columns = (
        "id, username, username_key, email, email_key, password_hash, role, active, created_at, updated_at, version"
    )
    people = [("plain", "anna", "anna"), ("twin", "аnnа", "аnnа"), ("other", "Борис", "борис")]
    raw(path, *(
        f"INSERT INTO users({columns})"
        f" VALUES ('{id}', '{name}', '{key}', '{id}@x.org', '{id}@x.org', '', 'user', 1, 1, 1, 1)"
        for id, name, key in people
    ), "INSERT INTO sessions VALUES ('s', 'plain', 5, 9, NULL)")  # fmt: skip
    upgrade.upgrade(given)
    assert raw(path, "SELECT username, username_key FROM users ORDER BY created_at, rowid") == [
        ("anna", "anna"), ("аnnа", "аnnа"), ("Борис", folded("Борис")),
    ]  # fmt: skip
    assert folded("Борис") != "борис"
    assert raw(path, "SELECT absolute_expires_at, last_seen_at FROM sessions") == [(9, 5)]


def test_a_migration_that_fails_leaves_the_old_database(given, path, with_next_migration):
    upgrade.upgrade(given)
    before = raw(path, "SELECT name, sql FROM sqlite_schema ORDER BY name")
    with_next_migration("raise ZeroDivisionError('half way')")
    with pytest.raises(ZeroDivisionError):
        upgrade.upgrade(given)
    assert raw(path, "SELECT name, sql FROM sqlite_schema ORDER BY name") == before
    with_next_migration("pass")
    assert upgrade.upgrade(given).endswith("to revision 9999.")


def test_a_migration_whose_sql_fails_leaves_the_old_database_and_says_why(given, path, with_next_migration):
    upgrade.upgrade(given)
    before = raw(path, "SELECT name FROM sqlite_schema ORDER BY name")
    with_next_migration("op.execute('INSERT INTO nowhere VALUES (1)')")
    with pytest.raises(Exception, match="nowhere"):
        upgrade.upgrade(given)
    assert raw(path, "SELECT name FROM sqlite_schema ORDER BY name") == before


def test_a_first_migration_that_fails_can_be_tried_again(given, with_next_migration):
    with_next_migration("raise ZeroDivisionError")
    with pytest.raises(ZeroDivisionError):
        upgrade.upgrade(given)
    with_next_migration("pass")
    assert upgrade.upgrade(given) == "The database went from nothing to revision 9999."


def test_a_crash_right_after_the_migrations_can_be_mended_by_starting_again(given, monkeypatch):
    """What marks the file as ours must be committed with the tables, or the next start takes it for a stranger's."""

    class Crash:
        def __format__(self, _spec):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(upgrade, "APPLICATION_ID", Crash())
        with pytest.raises(KeyboardInterrupt):
            upgrade.upgrade(given)
    upgrade.upgrade(given)
    upgrade.check(given)


def test_a_database_of_a_newer_version_is_refused(given, path):
    upgrade.upgrade(given)
    raw(path, "UPDATE alembic_version SET version_num = '7777'")
    assert "newer Walnut (revision 7777)" in refused_by(upgrade.upgrade, given)
    assert "7777" in refused_by(upgrade.check, given)


# ---- gone, empty, damaged, foreign


def test_a_missing_database_is_refused_by_the_server(given, path):
    assert "walnut db upgrade" in refused_by(upgrade.check, given)
    assert not path.exists()


def test_a_database_that_is_gone_is_not_silently_a_new_one(given, path):
    upgrade.upgrade(given)
    path.unlink()
    said = refused_by(upgrade.upgrade, given)
    assert "is gone" in said
    assert "walnut.db-made" in said
    assert not path.exists()
    (path.parent / "walnut.db-made").unlink()
    assert upgrade.upgrade(given).startswith("The database went from nothing")


def test_a_log_without_its_database_is_refused(given, path):
    path.with_name("walnut.db-wal").write_bytes(b"x" * 100)
    assert "walnut.db-wal is not" in refused_by(upgrade.upgrade, given)


def test_a_database_that_was_emptied_is_refused_and_stays(given, path):
    upgrade.upgrade(given)
    path.write_bytes(b"")
    assert "is empty" in refused_by(upgrade.upgrade, given)
    refused_by(upgrade.check, given)
    assert path.stat().st_size == 0


def test_an_empty_file_of_a_first_start_that_was_cut_short_is_a_new_database(given, path):
    path.touch()
    refused_by(upgrade.check, given)
    assert upgrade.upgrade(given).startswith("The database went from nothing")


def test_a_file_that_is_no_database_is_refused_and_stays(given, path):
    path.write_bytes(b"Dear diary, " * 1000)
    assert "is damaged" in refused_by(upgrade.upgrade, given)
    assert "is damaged" in refused_by(upgrade.check, given)
    assert path.read_bytes() == b"Dear diary, " * 1000


@pytest.mark.parametrize("name", ["tasks", "ix_tasks_created_at_id", "users"])
def test_a_damaged_database_is_refused(given, path, name):
    """One page of one table is enough, also if nothing that a start reads is on it."""
    upgrade.upgrade(given)
    ((page,),) = raw(path, f"SELECT rootpage FROM sqlite_schema WHERE name = '{name}'")
    content = bytearray(path.read_bytes())
    content[(page - 1) * 4096 : page * 4096] = b"\xff" * 4096
    path.write_bytes(content)
    assert "is damaged" in refused_by(upgrade.upgrade, given)


def test_a_truncated_database_is_refused(given, path):
    upgrade.upgrade(given)
    path.write_bytes(path.read_bytes()[: 4096 * 3])
    assert "is damaged" in refused_by(upgrade.upgrade, given)


def test_somebody_elses_database_is_refused_and_stays(given, path):
    raw(path, "CREATE TABLE recipes(x)")
    assert "not one of Walnut's" in refused_by(upgrade.upgrade, given)
    refused_by(upgrade.check, given)
    assert raw(path, "SELECT name FROM sqlite_schema") == [("recipes",)]
    assert raw(path, "PRAGMA journal_mode") == [("delete",)]


def test_a_folder_that_does_not_exist_is_named(configure, tmp_path):
    given = configure(DATABASE_URL=f"sqlite:///{tmp_path}/nowhere/walnut.db")
    assert "nowhere" in refused_by(upgrade.upgrade, given)


def test_a_fresh_instance_path_is_made_also_when_the_secret_comes_from_outside(configure, tmp_path):
    """Without a secret to keep, nothing has made the folder before the database is."""
    given = configure(JWT_SECRET="0123456789abcdefghijklmnopqrstuvwxyz", APP_ENV="production")
    assert upgrade.upgrade(given).startswith("The database went from nothing")


def test_a_folder_that_may_not_be_written_is_one_clear_line(configure, tmp_path):
    (tmp_path / "file").write_text("")
    given = configure(DATABASE_URL=f"sqlite:///{tmp_path}/file/walnut.db")
    refused_by(upgrade.upgrade, given)


def test_who_comes_second_waits_for_who_upgrades(given):
    given.instance_path.mkdir(exist_ok=True)
    done = []
    with open(given.instance_path / "upgrade.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = threading.Thread(target=lambda: done.append(upgrade.upgrade(given)), daemon=True)
        second.start()
        second.join(0.3)
        assert done == []
    second.join(5)
    assert len(done) == 1


def test_two_processes_may_upgrade_at_once(tmp_path):
    environment = {"APP_ENV": "testing", "INSTANCE_PATH": str(tmp_path), "PYTHONPATH": str(PROJECT), "PATH": ""}
    command = [sys.executable, "-m", "api", "db", "upgrade"]
    both = [
        subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(2)
    ]
    said = sorted(process.communicate(timeout=30)[0].decode() for process in both)
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0].endswith("already.\n")
    assert said[1].startswith("The database went from nothing")


def test_all_that_a_start_keeps_is_in_the_instance_path(given, tmp_path):
    upgrade.upgrade(given)
    app = create_app(given)
    assert app.test_client().get("/health").status_code == 200
    app.extensions["database"].close()
    kept = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*") if path.is_file()}
    assert kept == {"instance"}
    assert Path.cwd() == tmp_path
