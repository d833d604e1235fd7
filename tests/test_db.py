import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise

import pytest
from sqlalchemy.exc import DBAPIError

from api import db, group_commit, sqlite
from api.errors import Unavailable
from tests.conftest import ended, start_python

TABLES = """
PRAGMA journal_mode=WAL;
CREATE TABLE notes(id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE pages(
    id INTEGER PRIMARY KEY, note_id INTEGER NOT NULL REFERENCES notes(id) DEFERRABLE INITIALLY DEFERRED
);
"""


@pytest.fixture
def path(tmp_path):
    connection = sqlite.driver.connect(tmp_path / "test.db")
    connection.executescript(TABLES)
    connection.close()
    return tmp_path / "test.db"


@pytest.fixture
def notes(path, monkeypatch):
    """Let `db.reading()` and `db.writing()` be about a database with a table of notes."""
    found = db.Database(f"sqlite:///{path}")
    monkeypatch.setattr(db, "database", lambda: found)
    yield found
    found.close()


@pytest.fixture
def short_of_patience(monkeypatch):
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.2)


@pytest.fixture
def outsider(path):
    """Return a connection as another process would have."""
    connection = sqlite.driver.connect(path, isolation_level=None, timeout=0)
    yield connection
    connection.close()


def write(text):
    with db.writing() as conn:
        conn.exec_driver_sql("INSERT INTO notes(text) VALUES (?)", (text,))


def texts():
    with db.reading() as conn:
        return [text for (text,) in conn.exec_driver_sql("SELECT text FROM notes ORDER BY id")]


def driver():
    with db.writing() as conn:
        return conn.connection.dbapi_connection


class Faulty:
    """The driver's connection, but the named statements fail with a code of SQLite's."""

    def __init__(self, real, statements, code):
        self.real, self.statements, self.code = real, statements, code

    def execute(self, statement, *more):
        if statement in self.statements:
            error = sqlite.driver.OperationalError("injected")
            error.sqlite_errorcode = self.code
            raise error
        return self.real.execute(statement, *more)

    def __getattr__(self, name):
        return getattr(self.real, name)


@contextmanager
def faulty(database, code, *statements):
    """Let statements of the writer fail."""
    real = driver()
    database._writer._driver = Faulty(real, statements, code)
    yield
    database._writer._driver = real


@pytest.fixture
def together(notes, monkeypatch):
    """Return a function that runs writers in one group, and returns what each of them met."""

    driver()  # so that there is a writer

    def run(*writers):
        inside = threading.Semaphore(0)
        everyone = threading.Event()
        lead = group_commit.Writer._lead

        def patient(self, group):
            everyone.wait(5)
            lead(self, group)

        met = [None] * len(writers)

        def one(number, work):
            try:
                with db.writing() as conn:
                    inside.release()
                    work(conn)
            except Exception as error:
                met[number] = error

        monkeypatch.setattr(group_commit.Writer, "_lead", patient)
        threads = [threading.Thread(target=one, args=given, daemon=True) for given in enumerate(writers)]
        for thread in threads:
            thread.start()
            assert inside.acquire(timeout=5)
            time.sleep(0.01)
        everyone.set()
        for thread in threads:
            thread.join(5)
            assert not thread.is_alive()
        monkeypatch.setattr(group_commit.Writer, "_lead", lead)
        return met

    return run


def adds(text):
    return lambda conn: conn.exec_driver_sql("INSERT INTO notes(text) VALUES (?)", (text,))


def fails(conn):
    conn.exec_driver_sql("INSERT INTO notes(text) VALUES ('undone')")
    raise LookupError("mine")


# ---- what a connection is like


@pytest.mark.parametrize(
    ("pragma", "value"),
    [("synchronous", 2), ("foreign_keys", 1), ("mmap_size", 0), ("trusted_schema", 0), ("cell_size_check", 1),
     ("secure_delete", 1), ("busy_timeout", 0), ("journal_mode", "wal")],
)  # fmt: skip
def test_every_connection_is_durable_strict_and_never_waits_in_c(notes, pragma, value):
    for block in (db.reading, db.writing):
        with block() as conn:
            found = conn.exec_driver_sql(f"PRAGMA {pragma}").scalar()
            assert found == value or (found is None and pragma == "mmap_size")


def test_the_library_is_one_without_the_wal_reset_bug():
    assert sqlite.is_safe()
    assert ".".join(map(str, sqlite.driver.sqlite_version_info[:3])) == sqlite.VERSION


@pytest.mark.parametrize(
    ("version", "safe"),
    [((3, 40, 1), False), ((3, 44, 5), False), ((3, 44, 6), True), ((3, 45, 0), False), ((3, 50, 6), False),
     ((3, 50, 7), True), ((3, 51, 0), False), ((3, 51, 2), False), ((3, 51, 3), True), ((3, 52, 0), False),
     ((3, 52, 1), True), ((3, 53, 0), True), ((4, 0, 0), True)],
)  # fmt: skip
def test_which_libraries_are_safe(version, safe):
    assert sqlite.is_safe(version) is safe


def test_ids_sort_by_the_time_they_were_made():
    made = []
    for _ in range(20):
        made.append(db.new_id())
        time.sleep(0.001)
    assert made == sorted(made)
    assert {one[14] for one in made} == {"7"}


def test_now_is_in_milliseconds():
    assert abs(db.now() - time.time() * 1000) < 1000


# ---- reading


def test_a_reader_cannot_write(notes):
    with pytest.raises(Unavailable, match="cannot be written"), db.reading() as conn:
        conn.exec_driver_sql("INSERT INTO notes(text) VALUES ('no')")
    assert texts() == []


def test_a_reader_sees_one_snapshot_whatever_is_committed_meanwhile(notes):
    write("before")
    with db.reading() as conn:
        write("meanwhile")
        assert conn.exec_driver_sql("SELECT text FROM notes").scalars().all() == ["before"]
    assert texts() == ["before", "meanwhile"]


def test_a_snapshot_is_taken_when_the_block_is_entered_not_when_it_first_asks(notes):
    with db.reading() as conn:
        write("later")
        assert conn.exec_driver_sql("SELECT count(*) FROM notes").scalar() == 0


def test_readers_never_see_what_is_not_committed(notes, together):
    seen = []
    together(adds("one"), lambda conn: (adds("two")(conn), seen.append(texts())))
    assert seen == [[]]
    assert sorted(texts()) == ["one", "two"]


def test_a_reader_that_fails_leaves_its_connection_fit_for_the_next(notes):
    with suppress(LookupError), db.reading():
        raise LookupError
    write("new")
    assert texts() == ["new"]


def test_twenty_snapshots_may_be_open_at_once(notes):
    """A pool that runs dry would hold the twenty-first for half a minute and then fail."""
    done = threading.Event()

    def hold_twenty():
        with ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(db.reading())
            done.set()

    thread = threading.Thread(target=hold_twenty, daemon=True)
    thread.start()
    assert done.wait(3)
    thread.join(3)


def test_threads_may_read_at_once(notes):
    write("one")
    faults = []

    def read():
        try:
            for _ in range(300):
                assert texts() == ["one"]
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


# ---- writing


def test_what_is_written_is_there_for_everyone_when_the_block_is_left(notes, outsider):
    write("one")
    assert outsider.execute("SELECT text FROM notes").fetchall() == [("one",)]


def test_a_block_that_raises_undoes_its_change(notes):
    with pytest.raises(LookupError, match="mine"), db.writing() as conn:
        fails(conn)
    assert texts() == []
    write("next")
    assert texts() == ["next"]


def test_a_group_shares_one_commit(notes, together):
    statements = []
    writer = driver()
    writer.set_trace_callback(statements.append)
    assert together(*(adds(str(number)) for number in range(8))) == [None] * 8
    writer.set_trace_callback(None)
    assert len(texts()) == 8
    assert statements.count("BEGIN IMMEDIATE") == statements.count("COMMIT") == 1
    assert sum(statement.startswith("INSERT") for statement in statements) == 8


def test_for_many_threads_each_write_is_durable_before_it_returns(notes, path):
    missing = []

    def one(name):
        mine = sqlite.driver.connect(path)
        for number in range(10):
            write(f"{name} {number}")
            if not mine.execute("SELECT 1 FROM notes WHERE text = ?", (f"{name} {number}",)).fetchone():
                missing.append((name, number))
        mine.close()

    threads = [threading.Thread(target=one, args=(name,)) for name in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert missing == []
    assert len(texts()) == 160


def test_nobody_is_answered_before_the_commit(notes, together):
    """If the commit fails, nobody may have been told that it did not."""
    with faulty(notes, 10, "COMMIT"):
        met = together(adds("one"), adds("two"), adds("three"))
    assert [type(error) for error in met] == [Unavailable] * 3
    assert texts() == []
    write("next")
    assert texts() == ["next"]


def test_a_disk_that_fails_at_everything_keeps_nobody_waiting(notes, together):
    """COMMIT fails, and so does the ROLLBACK after it: who is in the group must hear of it all the same."""
    with faulty(notes, 10, "COMMIT", "ROLLBACK"):
        met = together(adds("one"), adds("two"), adds("three"))
    assert None not in met
    with suppress(Exception):
        write("the first may still find the old transaction")
    write("next")
    assert "one" not in texts()
    assert texts()[-1] == "next"


def test_a_failing_member_undoes_only_its_own_change(notes, together):
    met = together(adds("one"), fails, adds("two"), adds("two"), adds("three"))
    assert [type(error).__name__ for error in met] == [
        "NoneType", "LookupError", "NoneType", "IntegrityError", "NoneType",
    ]  # fmt: skip
    assert texts() == ["one", "two", "three"]


def test_a_leader_that_fails_still_commits_for_the_others(notes, together):
    met = together(fails, adds("one"))
    assert isinstance(met[0], LookupError)
    assert met[1] is None
    assert texts() == ["one"]


def test_a_commit_that_violates_fails_everyone_in_the_group(notes, together):
    """A deferred foreign key is checked by COMMIT, which keeps the transaction open when it refuses."""
    dangling = "INSERT INTO pages(note_id) VALUES (42)"
    met = together(adds("one"), lambda conn: conn.exec_driver_sql(dangling), adds("two"))
    assert None not in met
    assert texts() == []
    write("next")
    assert texts() == ["next"]


def test_a_full_disk_undoes_the_writers_change_and_passes(notes, path):
    full = f"PRAGMA max_page_count={path.stat().st_size // 4096}"
    driver().execute(full)
    with pytest.raises(Unavailable, match="full") as caught:
        write("x" * 100_000)
    assert caught.value.retry_after
    assert texts() == []
    driver().execute("PRAGMA max_page_count=1000000")
    write("next")
    assert texts() == ["next"]


def test_nobody_in_a_group_with_a_full_disk_is_told_what_is_not_so(notes, path, together):
    driver().execute(f"PRAGMA max_page_count={path.stat().st_size // 4096}")
    met = together(adds("small"), adds("x" * 100_000), adds("little"))
    assert isinstance(met[1], Unavailable)
    kept = texts()
    assert kept == [text for text, error in (("small", met[0]), ("little", met[2])) if error is None]
    assert all(error is None or isinstance(error, Unavailable) for error in met)
    driver().execute("PRAGMA max_page_count=1000000")
    write("next")
    assert texts() == [*kept, "next"]


def test_when_a_fault_undoes_the_whole_transaction_every_member_hears_of_it(notes, together):
    """SQLite itself rolls everything back on some faults: https://sqlite.org/lang_transaction.html."""

    def collapse(conn):
        conn.exec_driver_sql("INSERT OR ROLLBACK INTO notes(text) VALUES ('one')")

    met = together(adds("one"), collapse, adds("two"))
    assert met[0] is not None
    assert met[1] is not None
    # Who came after the fault opened a transaction of its own, and what it was told is so.
    assert texts() == (["two"] if met[2] is None else [])
    write("next")
    assert texts()[-1] == "next"


@pytest.mark.parametrize("code", [5, 8, 10, 11, 13, 10 | 4 << 8])
def test_a_fault_of_the_disk_has_a_name_and_a_time_to_come_back(notes, code):
    with faulty(notes, code, "COMMIT"), pytest.raises(Unavailable) as caught:
        write("lost")
    assert caught.value.retry_after >= 1
    assert "injected" not in caught.value.detail
    assert texts() == []


def test_a_bug_is_no_fault_of_the_disk(notes):
    with pytest.raises(DBAPIError), db.writing() as conn:
        conn.exec_driver_sql("INSERT INTO nowhere VALUES (1)")
    with pytest.raises(DBAPIError), db.reading() as conn:
        conn.exec_driver_sql("SELECT * FROM nowhere")
    write("next")


def test_a_lock_that_is_not_to_be_had_is_named_and_the_next_write_works(notes, outsider, short_of_patience):
    outsider.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    with pytest.raises(Unavailable, match="busy") as caught:
        write("never")
    assert 0.15 < time.monotonic() - started < 1
    assert "locked" not in caught.value.detail
    outsider.execute("ROLLBACK")
    write("next")
    assert texts() == ["next"]


def test_who_waits_for_a_writer_of_the_same_process_too_long_is_told_so(notes, short_of_patience):
    met = []

    def late():
        try:
            write("late")
        except Unavailable as error:
            met.append(error.detail)

    with db.writing() as conn:
        thread = threading.Thread(target=late)
        thread.start()
        thread.join(2)
        adds("first")(conn)
    assert met
    assert "busy" in met[0]
    assert texts() == ["first"]


def test_a_writer_waits_for_another_process_and_then_writes(notes, outsider):
    outsider.execute("BEGIN IMMEDIATE")
    thread = threading.Thread(target=write, args=("patient",))
    thread.start()
    time.sleep(0.1)
    assert texts() == []
    outsider.execute("COMMIT")
    thread.join(2)
    assert texts() == ["patient"]


def test_a_database_without_a_file_is_unavailable(tmp_path, monkeypatch):
    database = db.Database(f"sqlite:///{tmp_path}/nowhere/test.db")
    monkeypatch.setattr(db, "database", lambda: database)
    with pytest.raises(Unavailable), db.reading():
        pass
    with pytest.raises((Unavailable, OSError)), db.writing():
        pass


# ---- processes


def test_others_are_seen_waiting_by_other_processes_only_while_they_wait(tmp_path):
    one, two = group_commit.Others(tmp_path / "line"), group_commit.Others(tmp_path / "line")
    try:
        assert not one.are_waiting()
        two.wait_in_line()
        two.wait_in_line()
        assert one.are_waiting()
        two.leave_line()
        two.leave_line()
        assert not one.are_waiting()
    finally:
        one.close()
        two.close()


def test_a_process_gives_way_every_10_ms_while_another_one_waits(notes, path):
    """In 200 ms it pauses for 2 to 4 ms at least ten times, and it does not pause after each commit."""
    other = group_commit.Others(path.with_name("test.db-writers"))
    write("first")
    try:
        other.wait_in_line()
        write("second")
        times = [time.monotonic()]
        while times[-1] - times[0] < 0.2:
            write(f"given way {len(times)}")
            times.append(time.monotonic())
    finally:
        other.close()
    pauses = [after - before for before, after in pairwise(times) if after - before >= 0.002]
    assert len(pauses) >= 8
    assert len(pauses) < len(times) / 2


GREEDY = """
from gevent import monkey
monkey.patch_all()
import pathlib, sys, time, gevent
from api import db
path, name, writers = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
database = db.Database(f"sqlite:///{path}")
db.database = lambda: database
waits = []

def write(writer):
    while time.monotonic() < end:
        began = time.monotonic()
        with db.writing() as conn:
            conn.exec_driver_sql("INSERT INTO notes(text) VALUES (?)", (f"{name} {writer} {began}",))
        waits.append(time.monotonic() - began)
        gevent.sleep(0)

print("ready", flush=True)
while not path.with_name("go").exists():
    time.sleep(0.001)
end = time.monotonic() + 1
gevent.joinall([gevent.spawn(write, writer) for writer in range(writers)], raise_error=True)
database.close()
print(len(waits), max(waits))
"""


def test_a_process_with_many_writers_gives_one_with_a_single_writer_its_turn(notes, path):
    both = [start_python(GREEDY, path, name, writers) for name, writers in (("crowd", 24), ("single", 1))]
    assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
    path.with_name("go").touch()
    (many, _), (few, longest) = (map(float, ended(process).split()) for process in both)
    assert len(texts()) == many + few
    assert few >= 10
    assert longest < 1


# ---- greenlets

GREENLETS = """
from gevent import monkey
monkey.patch_all()
import sys, gevent, greenlet
from api import db, group_commit, sqlite
database = db.Database(f"sqlite:///{sys.argv[1]}")
db.database = lambda: database
with db.writing() as conn:
    driver = conn.connection.dbapi_connection
commits, switches = [], []
driver.set_trace_callback(lambda statement: commits.append(1) if statement == "COMMIT" else None)

def watch(event, args):
    if database._writer._turn.locked() and driver.in_transaction:
        switches.append(event)

def one(name):
    for number in range(5):
        with db.writing() as conn:
            conn.exec_driver_sql("INSERT INTO notes(text) VALUES (?)", (f"{name} {number}",))
            if number == 3 and name % 2:
                conn.exec_driver_sql("DELETE FROM notes WHERE text = ?", (f"{name} 0",))
            found = conn.exec_driver_sql("SELECT count(*) FROM notes WHERE text = ?", (f"{name} {number}",)).scalar()
            assert found == 1
        with db.reading() as conn:
            assert conn.exec_driver_sql("SELECT 1 FROM notes WHERE text = ?", (f"{name} {number}",)).scalar() == 1

greenlet.settrace(watch)
gevent.joinall([gevent.spawn(one, name) for name in range(64)], raise_error=True)
greenlet.settrace(None)
with db.reading() as conn:
    print(conn.exec_driver_sql("SELECT count(*) FROM notes").scalar(), len(commits), len(switches))
"""


def test_64_greenlets_share_few_commits_and_none_gives_way_while_it_holds_the_lock(path):
    written, commits, switches = map(int, ended(start_python(GREENLETS, path)).split())
    assert written == 64 * 5 - 32
    assert commits <= 32
    assert switches == 0


STALL = """
from gevent import monkey
monkey.patch_all()
import sys, time, gevent
from api import db, group_commit, sqlite
database = db.Database(f"sqlite:///{sys.argv[1]}")
db.database = lambda: database
other = sqlite.driver.connect(sys.argv[1], isolation_level=None, timeout=0)
with db.writing():
    pass
other.execute("BEGIN IMMEDIATE")
gaps, last = [], time.monotonic()

def beat():
    global last
    while True:
        now = time.monotonic()
        gaps.append(now - last)
        last = now
        gevent.sleep(0.001)

def write():
    with db.writing() as conn:
        conn.exec_driver_sql("INSERT INTO notes(text) VALUES ('x')")

heart, writer = gevent.spawn(beat), gevent.spawn(write)
gevent.sleep(0.5)
other.execute("COMMIT")
writer.join()
print(max(gaps))
"""


def test_waiting_for_another_process_holds_up_no_other_greenlet(path):
    assert float(ended(start_python(STALL, path))) < 0.1


KILLED = """
from gevent import monkey
monkey.patch_all()
import sys, gevent
from api import db, group_commit, sqlite
database = db.Database(f"sqlite:///{sys.argv[1]}")
db.database = lambda: database

def write(text):
    with db.writing() as conn:
        conn.exec_driver_sql("INSERT INTO notes(text) VALUES (?)", (text,))

write("before")
leader = gevent.spawn(write, "leader")
member = gevent.spawn(write, "member")
gevent.sleep(0)
leader.kill(block=False)
member.join(5)
assert member.ready() and member.exception is None, member
write("after")
with db.reading() as conn:
    print(*conn.exec_driver_sql("SELECT text FROM notes ORDER BY id").scalars())
"""


def test_a_leader_that_is_ended_still_commits_for_its_group(path):
    found = ended(start_python(KILLED, path)).split()
    assert "member" in found
    assert found[-1] == "after"
