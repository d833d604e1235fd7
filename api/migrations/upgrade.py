"""Brings the database to the shape this version needs, once, before any worker starts.

A database is one of: new (no file or an empty one, and none was ever made here), gone (no file or an empty one, but
there was one: refused), damaged (refused), older (upgraded in one transaction), current, or newer than this program
(refused).
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from api import audit_trail, sqlite
from api.settings import Settings

APPLICATION_ID = 0x574C4E54  # "WLNT" in the file's header: https://sqlite.org/pragma.html#pragma_application_id
WAIT = "busy_timeout=5000"  # milliseconds, in C: at a start no greenlet is waiting for this one
AUDITED_SINCE = "0003"  # the revision that makes the audit trail, whose empty end is signed then and never again
CHECK_SECONDS = 2.0  # how long a start may spend looking for damage


class DatabaseError(Exception):
    """The database cannot be served as it is. The message is for the person who starts Walnut."""


def upgrade(settings: Settings) -> str:
    """Make or upgrade the database under a lock, and return what was done, for people.

    Raises DatabaseError with what is wrong and what to do.
    """
    with _locked(settings.instance_path), _opened(settings) as conn:
        before = revision(conn)
        if before == head():
            return f"The database is at revision {before} already."
        _run(conn, lambda config: _step(conn, settings, before, config))
    return f"The database went from {before or 'nothing'} to revision {head()}."


def _step(conn: Connection, settings: Settings, before: str | None, config: Config) -> None:
    command.upgrade(config, "head")
    if (before or "") < AUDITED_SINCE:
        audit_trail.begin(conn, settings)


def check(settings: Settings) -> None:
    """Refuse to serve a database that is not in the shape this version needs. Raises DatabaseError."""
    path = _path(settings)
    if not path.exists():
        raise DatabaseError(f"There is no database at {path}. Make it with `walnut db upgrade`.")
    engine = sqlite.engine(settings.database, WAIT, "query_only=ON")
    try:
        with sqlite.open_connection(engine)[0] as conn:
            found = revision(conn)
    except DBAPIError as error:
        raise _unreadable(path, error) from error
    finally:
        engine.dispose()
    if found != head():
        raise DatabaseError(
            f"The database is at revision {found}, this program needs {head()}. Run `walnut db upgrade`."
        )


def revision(conn: Connection) -> str | None:
    """Return the revision a database is at, or None if it has no tables yet."""
    return MigrationContext.configure(conn).get_current_revision()


def head() -> str:
    """Return the newest revision that this program knows."""
    newest = _scripts().get_current_head()
    if newest is None:
        raise LookupError("There are no migrations beside this program.")
    return newest


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _run(conn: Connection, step: Callable[[Config], None]) -> None:
    """Run Alembic in one transaction, so that a failed upgrade leaves the old database."""
    config = _config()
    config.attributes["connection"] = conn
    conn.exec_driver_sql("PRAGMA journal_mode=WAL")
    conn.exec_driver_sql("BEGIN IMMEDIATE")
    try:
        conn.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")
        step(config)
    except BaseException:
        conn.exec_driver_sql("ROLLBACK")
        raise
    conn.exec_driver_sql("COMMIT")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process of the host in at a time: several replicas may start at once."""
    before = os.umask(0o077)  # the database is its owner's alone
    try:
        with open(folder / "upgrade.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    finally:
        os.umask(before)


@contextmanager
def _opened(settings: Settings) -> Iterator[Connection]:
    path = _path(settings)
    _refuse_what_is_gone(path)
    engine = sqlite.engine(settings.database, WAIT, mode="rwc")
    try:
        with sqlite.open_connection(engine)[0] as conn:
            _refuse_what_is_damaged(conn, path)
            yield conn
        _mark(path).touch()
    except DBAPIError as error:
        raise _unreadable(path, error) from error
    finally:
        engine.dispose()


def _path(settings: Settings) -> Path:
    return Path(str(settings.database.database)).absolute()


def _mark(path: Path) -> Path:
    """Return the file that says: there was a database here."""
    return path.with_name(path.name + "-made")


def _refuse_what_is_gone(path: Path) -> None:
    if not path.parent.is_dir():
        raise DatabaseError(f"The folder {path.parent} does not exist. Make it, or name another in DATABASE_URL.")
    state = "gone" if not path.exists() else "empty" if path.stat().st_size == 0 else ""
    if state and _mark(path).exists():
        raise DatabaseError(
            f"The database {path} is {state}: there was one. Restore a backup, or delete {_mark(path)} to start anew."
        )
    if not path.exists() and path.with_name(path.name + "-wal").exists():
        raise DatabaseError(f"The database {path} is gone, its log {path.name}-wal is not. Restore both from a backup.")


def _refuse_what_is_damaged(conn: Connection, path: Path) -> None:
    application_id = conn.exec_driver_sql("PRAGMA application_id").scalar_one()
    tables = conn.exec_driver_sql("SELECT count(*) FROM sqlite_schema").scalar_one()
    if tables and application_id != APPLICATION_ID:
        raise DatabaseError(f"The database {path} is not one of Walnut's. Name another file in DATABASE_URL.")
    if complaint := _damage(conn):
        raise DatabaseError(f"The database {path} is damaged ({complaint}). Restore a backup.")
    found = revision(conn)
    known = {script.revision for script in _scripts().walk_revisions()}
    if found and found not in known:
        raise DatabaseError(
            f"The database {path} was made by a newer Walnut (revision {found}). "
            "Install that version, or restore a backup."
        )


def _damage(conn: Connection) -> str | None:
    """Look for damage, but not for longer than CHECK_SECONDS: a large file is not read whole at every start."""
    driver = conn.connection.dbapi_connection
    deadline = time.monotonic() + CHECK_SECONDS
    driver.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)  # type: ignore[union-attr]
    try:
        found = str(conn.exec_driver_sql("PRAGMA quick_check(1)").scalar_one())
    except DBAPIError as error:
        if "interrupted" not in str(error):
            raise
        return None
    finally:
        driver.set_progress_handler(None, 0)  # type: ignore[union-attr]
    return None if found == "ok" else found.splitlines()[-1]


def _unreadable(path: Path, error: DBAPIError) -> DatabaseError:
    reason = str(error.orig)
    if "not a database" in reason or "malformed" in reason:
        return DatabaseError(f"The database {path} is damaged ({reason}). Restore a backup.")
    return DatabaseError(f"The database {path} cannot be opened ({reason}). Check who may write {path.parent}.")
