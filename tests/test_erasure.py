"""Who erases himself is nowhere any more; what he did is, without him."""

import random
import threading
import time
from pathlib import Path

import pytest

from api import audit_trail, checkpoints, db, housekeeping, sqlite
from api.audit import verify
from api.auth import accounts, links, passwords
from api.jobs import mail, outcomes, queue
from api.jobs.kinds import VENDOR, Done
from api.web import guard
from tests.conftest import (
    PASSWORD,
    Caller,
    assert_problem,
    ended,
    execute,
    rows,
    sign_in,
    sign_up,
    start_python,
)

NAME = "Zyxwvutsrq"
ADDRESS = f"{NAME}@example.com"
NEEDLES = (NAME.encode(), NAME.lower().encode(), NAME.encode("utf-16-le"))


LOOK = """
import sys
for path in sys.argv[2:]:
    if any(bytes.fromhex(needle) in open(path, "rb").read() for needle in sys.argv[1].split(",")):
        print(path)
"""


def files(app):
    path = Path(app.extensions["settings"].database.database)
    beside = (path.with_name(path.name + end) for end in ("-wal", "-shm"))
    return [path, *(one for one in beside if one.exists())]


def left(app):
    """Return the files in which the name is still to be found. Another process looks: our locks would be void."""
    needles = ",".join(needle.hex() for needle in NEEDLES)
    return ended(start_python(LOOK, needles, *files(app))).split()


def tidied(app):
    return checkpoints.tidied(app.extensions["settings"])


def live(app, admin):
    """Return somebody who has left traces wherever a person can."""
    body = {"username": NAME, "email": ADDRESS, "password": PASSWORD}
    made = admin("POST", "/users", body, Idempotency_Key="k").json
    admin("GET", f"/users?q={NAME}")
    person = sign_in(app, NAME)
    admin("PATCH", f"/users/{made['id']}", {"role": "admin"})
    for number in range(3):
        task = {"title": f"task {number}", "assignee_id": made["id"]}
        assert person("POST", "/tasks", task, Idempotency_Key=f"t{number}").status_code == 201
    admin("POST", "/tasks", {"title": "by another", "assignee_id": made["id"]})
    for pad in (10, 20_000):
        job = {"vendor_type": "sync", "vendor_payload": {"name": NAME * pad}, "deduplication_key": f"{NAME}-{pad}"}
        assert person("POST", "/jobs", job, Idempotency_Key=f"j{pad}").status_code == 202
    person("PATCH", "/users/me", {"username": f"{NAME}2"})
    person("PATCH", "/users/me", {"email": f"{NAME}@new.example", "current_password": PASSWORD})
    Caller(app)("POST", "/auth/login", {"email": ADDRESS, "password": "wrong one"})
    device = {"User-Agent": f"{NAME}'s telephone"}
    Caller(app).send("POST", "/auth/login", device, json={"email": ADDRESS, "password": PASSWORD})
    with app.app_context(), db.writing() as conn:
        conn.exec_driver_sql(
            "INSERT INTO api_keys VALUES ('k', ?, ?, 'h', 'walnut_x', '[]', 1, NULL, NULL)", (made["id"], NAME)
        )
        audit_trail.append(conn, "api_key.created", "k", actor_id=made["id"], after={"name": NAME})
        links.make(conn, accounts.get(conn, made["id"]), links.RESET)
        queue.enqueue(conn, "maintenance", {"task": NAME}, owner_id=made["id"])
    return person, made["id"]


def gone(person):
    answer = person("DELETE", "/users/me", {"password": PASSWORD})
    assert answer.status_code == 204, answer.text
    assert answer.data == b""


# ---- what is gone


def test_nothing_is_left_of_who_erases_himself(app, admin):
    person, person_id = live(app, admin)
    assert left(app)
    gone(person)
    tables = [name for (name,) in rows(app, "SELECT name FROM sqlite_schema WHERE type = 'table'")]
    for table in tables:
        text = repr(rows(app, f'SELECT * FROM "{table}"')).lower()
        assert NAME.lower() not in text, table
        assert person_id not in text or table == "audit_entries", table
    assert tidied(app)
    assert left(app) == []
    assert rows(app, "PRAGMA integrity_check") == [("ok",)]


def test_the_trail_stays_whole_and_says_who_was_erased(app, admin):
    person, person_id = live(app, admin)
    gone(person)
    with app.app_context():
        assert verify.verify()["intact"]
    entries = admin("GET", f"/audit?actor_id={person_id}&limit=100").json["items"]
    assert {entry["address"] for entry in entries} == {None}
    erased = admin("GET", "/audit?action=user.erased").json["items"]
    assert [(entry["actor_id"], entry["subject_id"], entry["before"]) for entry in erased] == [
        (person_id, person_id, None)
    ]
    about = admin("GET", f"/audit?subject=user:{person_id}&limit=100").json["items"]
    assert len(about) >= 4
    assert {(entry["before"] and 1, entry["after"] and 1) for entry in about} == {(None, None)}


def test_a_trail_that_was_blanked_for_nobody_is_tampered_with(app, user):
    execute(app, "UPDATE audit_entries SET change = NULL, change_salt = NULL WHERE action = 'session.opened'")
    with app.app_context():
        assert not verify.verify()["intact"]


def test_tasks_stay_without_a_name_and_every_copy_of_them_is_stale(app, admin):
    person, _ = live(app, admin)
    before = {task["id"]: task for task in admin("GET", "/tasks").json["items"]}
    list_tag = admin("GET", "/tasks").headers["ETag"]
    gone(person)
    answer = admin("GET", "/tasks", If_None_Match=list_tag)
    assert answer.status_code == 200
    after = {task["id"]: task for task in answer.json["items"]}
    assert after.keys() == before.keys()
    assert len(after) == 4
    for task_id, task in after.items():
        assert (task["assignee_id"], task["version"]) == (None, before[task_id]["version"] + 1)
        assert task["created_by"] == (admin.id if before[task_id]["created_by"] == admin.id else None)
        assert task["updated_at"] > before[task_id]["updated_at"]
        assert_problem(admin("PATCH", f"/tasks/{task_id}", {"title": "y"}, If_Match='"1"'), 412, "precondition_failed")


def test_an_admin_erases_others_and_forgets_what_he_was_told_of_them(app, admin):
    _, person_id = live(app, admin)
    path = f"/users/{person_id}"
    assert rows(app, "SELECT count(*) FROM idempotency_keys WHERE user_id = ?", admin.id) == [(1,)]
    assert admin("POST", "/tasks", {"title": "kept"}, Idempotency_Key="other").status_code == 201
    assert admin("DELETE", path, If_Match=admin("GET", path).headers["ETag"]).status_code == 204
    assert rows(app, "SELECT count(*) FROM idempotency_keys") == [(1,)]
    assert admin("POST", "/tasks", {"title": "kept"}, Idempotency_Key="other").headers["Idempotency-Replayed"]
    assert_problem(admin("GET", path), 404, "not_found")
    assert_problem(admin("DELETE", path), 404, "not_found")
    (entry,) = admin("GET", "/audit?action=user.erased").json["items"]
    assert (entry["actor_id"], entry["address"], entry["before"]) == (admin.id, "127.0.0.1", None)
    assert tidied(app)
    assert left(app) == []


def test_who_is_gone_cannot_come_back_by_anything_he_had(app, admin):
    person, _ = live(app, admin)
    again = {"vendor_type": "sync", "vendor_payload": {"name": NAME * 10}, "deduplication_key": f"{NAME}-10"}
    gone(person)
    assert_problem(person("POST", "/jobs", again, Idempotency_Key="j10"), 401, "unauthenticated")
    assert_problem(person("DELETE", "/users/me", {"password": PASSWORD}), 401, "unauthenticated")
    refreshed = Caller(app)("POST", "/auth/refresh", {"refresh_token": person.refresh_token})
    assert_problem(refreshed, 401, "unauthenticated")
    login = Caller(app)("POST", "/auth/login", {"email": ADDRESS, "password": PASSWORD})
    assert_problem(login, 401, "unauthenticated")
    sign_up(app, NAME)  # the name is free, and somebody else may have it


def test_who_was_let_in_a_moment_before_is_told_that_he_is_gone(app, admin, user, monkeypatch):
    """A request that passed the guard right before the erasure, and so is not checked again, is no bug."""

    def erased_meanwhile():
        execute(app, "DELETE FROM users WHERE username = 'alice'")
        return unusable()

    unusable = passwords.unusable
    monkeypatch.setattr(passwords, "unusable", erased_meanwhile)
    monkeypatch.setattr(guard, "AT_ONCE_SECONDS", 60)
    execute(app, "UPDATE users SET role = 'admin' WHERE username = 'alice'")
    body = {"username": "eve", "email": "eve@example.com"}
    assert_problem(user("POST", "/users", body, Idempotency_Key="k"), 401, "unauthenticated")
    assert rows(app, "SELECT count(*) FROM users") == [(1,)]


# ---- what it asks for


def test_it_asks_for_the_password(app, user):
    assert_problem(user("DELETE", "/users/me", {"password": "wrong one"}), 403, "forbidden", "/password")
    assert_problem(user("DELETE", "/users/me", {}), 422, "invalid", "/password")
    assert_problem(user("DELETE", "/users/me"), 422, "invalid", "/password")
    for _ in range(4):
        user("DELETE", "/users/me", {"password": "wrong one"})
    assert_problem(user("DELETE", "/users/me", {"password": PASSWORD}), 429, "rate_limited")
    assert user("GET", "/users/me").status_code == 200


def test_an_erasure_that_fails_at_its_end_has_erased_nothing(app, admin):
    person, person_id = live(app, admin)
    put_mail(app, person_id)
    names = ("users", "sessions", "refresh_tokens", "tasks", "jobs", "job_history", "job_counts", "audit_entries")
    names += ("api_keys", "one_time_tokens", "idempotency_keys")
    before = {name: rows(app, f"SELECT * FROM {name} ORDER BY 1") for name in names}
    execute(app, "CREATE TRIGGER stop BEFORE INSERT ON audit_entries BEGIN SELECT RAISE(ABORT, 'no'); END")
    assert person("DELETE", "/users/me", {"password": PASSWORD}).status_code == 500
    assert {name: rows(app, f"SELECT * FROM {name} ORDER BY 1") for name in names} == before
    assert mails_of(app) == 2


# ---- mails and jobs


def outbox_of(app):
    return app.extensions["settings"].instance_path / "outbox"


def put_mail(app, person_id):
    """Put the person's first mail where it goes, and one that belongs to nobody who is there."""
    (job_id,) = rows(app, "SELECT id FROM jobs WHERE kind = 'mail' AND owner_id = ? LIMIT 1", person_id)[0]
    folder = outbox_of(app)
    folder.mkdir(exist_ok=True)
    for name in (f"{job_id}.eml", "019a9f3e-5b1c-7c3a-9d0e-0f6b2a1c4d5e.eml"):
        (folder / name).write_text(f"To: {ADDRESS}\n")
    return job_id


def mails_of(app):
    return len(list(outbox_of(app).iterdir()))


def test_mails_in_the_outbox_go_at_once_and_with_the_sweep_for_certain(app, admin):
    person, person_id = live(app, admin)
    job_id = put_mail(app, person_id)
    kept = rows(app, "SELECT id FROM jobs WHERE owner_id IS NOT ?", person_id)
    gone(person)
    assert [path.name for path in outbox_of(app).iterdir()] == ["019a9f3e-5b1c-7c3a-9d0e-0f6b2a1c4d5e.eml"]
    (outbox_of(app) / f"{job_id}.eml").touch()  # as a worker leaves it that was at it meanwhile
    (outbox_of(app) / f".{job_id}.00ff00ff").touch()
    with app.app_context(), db.writing() as conn:
        other = mail.send(conn, to="b@example.com", subject="x", text="x")["id"]
    (outbox_of(app) / f"{other}.eml").touch()
    (outbox_of(app) / "notes.txt").touch()
    housekeeping._sweep_outbox(app.extensions["settings"], app.extensions["database"])
    assert {path.name for path in outbox_of(app).iterdir()} == {f"{other}.eml", "notes.txt"}
    assert rows(app, "SELECT id FROM jobs") == [*kept, (other,)]


def test_whoever_is_at_a_job_of_his_ends_it_quietly(app, admin):
    person, person_id = live(app, admin)
    with app.app_context():
        with db.writing() as conn:
            (job,) = queue.claim(conn, db.new_id(), "sync", 3, 1, db.now() + 1000)
        gone(person)
        with db.writing() as conn:
            assert outcomes.settle(conn, job, Done(result={"name": NAME}), db.now()) is False
            assert queue.get(conn, job["id"]) is None
    assert rows(app, "SELECT count(*) FROM jobs WHERE kind = ?", VENDOR) == [(0,)]
    assert rows(
        app, "SELECT count(*) FROM job_history h LEFT JOIN jobs j ON j.seq = h.job_seq WHERE j.seq IS NULL"
    ) == [(0,)]
    assert rows(app, "SELECT count(*) FROM job_counts WHERE owner_id = ?", person_id) == [(0,)]
    counted = rows(app, "SELECT coalesce(sum(n), 0) FROM job_counts")
    assert counted == rows(app, "SELECT count(*) FROM jobs")


# ---- bytes


def keeper(app, stop):
    keeping = threading.Thread(target=checkpoints.keep_short, args=(app.extensions["settings"], stop))
    keeping.start()
    return keeping


def wait_for(condition, within=10.0):
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def mark(app):
    path = files(app)[0]
    found = path.with_name(path.name + "-wiped")
    return found.read_text() if found.exists() else None


def test_the_log_is_emptied_when_the_last_reader_has_let_go(app, admin, monkeypatch):
    monkeypatch.setattr(checkpoints, "EVERY_SECONDS", 0.02)
    written = []
    rewrite = checkpoints.rewrite
    monkeypatch.setattr(checkpoints, "rewrite", lambda conn: (written.append(1), rewrite(conn)))
    person, _ = live(app, admin)
    stop = threading.Event()
    keeping = keeper(app, stop)
    try:
        time.sleep(0.1)
        assert mark(app) is None  # nobody was erased yet
        with app.app_context(), db.reading():
            gone(person)
            time.sleep(0.2)
            assert mark(app) is None
            assert str(files(app)[0]) + "-wal" in left(app)
            assert admin("POST", "/tasks", {"title": "others go on"}).status_code == 201
        wait_for(lambda: mark(app) is not None)
    finally:
        stop.set()
        keeping.join(10)
    assert left(app) == []
    assert written == [1]
    assert mark(app) == str(rows(app, "SELECT max(seq) FROM audit_entries WHERE action = 'user.erased'")[0][0])


def test_who_erases_accounts_in_a_row_has_the_database_written_anew_now_and_then_only(app, admin, monkeypatch):
    monkeypatch.setattr(checkpoints, "RESTS", 1e9)
    engine = checkpoints.engine_of(app.extensions["settings"])
    remains = checkpoints.Remains(checkpoints.path_of(engine))
    try:
        with engine.connect() as conn:
            for name, done in (("first", True), ("second", False), ("third", False)):
                gone(sign_up(app, name))
                assert remains.gone(conn) is done
            monkeypatch.setattr(time, "monotonic", lambda: 1e12)
            assert remains.gone(conn)
    finally:
        engine.dispose()
    assert mark(app) == str(rows(app, "SELECT max(seq) FROM audit_entries WHERE action = 'user.erased'")[0][0])


def test_what_a_crash_has_left_is_seen_to_at_the_next_start(app, admin, monkeypatch):
    """There is no list that could be lost: the trail says that somebody was erased."""
    monkeypatch.setattr(checkpoints, "EVERY_SECONDS", 0.02)
    person, _ = live(app, admin)
    gone(person)
    assert left(app)
    stop = threading.Event()
    stop.set()
    checkpoints.keep_short(app.extensions["settings"], stop)
    assert left(app) == []


def test_a_large_database_is_left_to_its_operator(app, admin, monkeypatch, caplog):
    person, _ = live(app, admin)
    gone(person)
    monkeypatch.setattr(checkpoints, "REWRITTEN_BYTES", 0)
    monkeypatch.setattr(checkpoints, "rewrite", lambda conn: pytest.fail("it would hold up writers"))
    assert tidied(app)
    assert "walnut db vacuum" in caplog.text
    assert files(app)[1].stat().st_size == 0


def test_secure_delete_alone_would_leave_copies_in_unused_parts_of_pages(tmp_path):
    """Why the database is written anew: where this fails, SQLite has changed, and it need not be any more."""
    assert copies(tmp_path / "deleted.db") > 0
    assert copies(tmp_path / "rewritten.db", "VACUUM") == 0


def copies(path, *more):
    """Return how many copies of names are left in a database of people who came and went."""
    chance = random.Random(6)
    conn = sqlite.driver.connect(str(path), isolation_level=None)
    for statement in ("PRAGMA secure_delete = ON", "CREATE TABLE people(name UNIQUE)", "BEGIN"):
        conn.execute(statement)
    for number in range(400):
        other = f"{chance.choice('aZz')}{chance.random()}{'x' * chance.randrange(60)}"
        conn.execute("INSERT INTO people VALUES (?)", (other,))
        if number % 50 == 25:
            conn.execute("INSERT INTO people VALUES (?)", (f"{NAME}{number}",))
        if number % 7 == 0:
            somebody = chance.randrange(1, number + 2)
            conn.execute("DELETE FROM people WHERE rowid = ? AND name NOT LIKE ?", (somebody, f"{NAME}%"))
    conn.execute("DELETE FROM people WHERE name LIKE ?", (f"{NAME}%",))
    for statement in ("COMMIT", *more):
        conn.execute(statement)
    conn.close()
    return path.read_bytes().count(NAME.encode())
