"""All that is kept about a person, to be taken along."""

import json

import pytest

from api import audit_trail, db
from api.auth import accounts, mails
from api.jobs import queue
from api.users import export
from tests.conftest import Caller, assert_problem, execute, rows, sign_in, sign_up


@pytest.fixture
def few(monkeypatch):
    """Let each part be read in several pieces."""
    for part in export.PARTS.values():
        monkeypatch.setattr(part, "_most", 2)


def taken(person):
    answer = person("GET", "/users/me/export")
    assert answer.status_code == 200, answer.text
    return answer.json


def test_an_export_has_all_that_is_ones_own_and_nothing_else(app, admin, user, few):
    execute(app, "UPDATE users SET role = 'admin' WHERE username = 'alice'")
    own = [user("POST", "/tasks", {"title": f"own {n}", "assignee_id": user.id}).json["id"] for n in range(5)]
    given = [admin("POST", "/tasks", {"title": f"given {n}", "assignee_id": user.id}).json["id"] for n in range(3)]
    orphan = admin("POST", "/tasks", {"title": "nobody's", "assignee_id": user.id}).json["id"]
    execute(app, "UPDATE tasks SET created_by = NULL WHERE id = ?", orphan)
    admin("POST", "/tasks", {"title": "others'"})
    job = {"vendor_type": "sync", "vendor_payload": {"a": 1}, "deduplication_key": "a/b"}
    jobs = [user("POST", "/jobs", job | {"deduplication_key": f"a/{n}"}).json["request_id"] for n in range(3)]
    admin("POST", "/jobs", job)
    execute(
        app,
        "INSERT INTO api_keys VALUES ('k', ?, 'mine', 'HASH', 'walnut_x', '[\"tasks:read\"]', 1, NULL, NULL)",
        user.id,
    )
    admin.send("PATCH", f"/users/{user.id}", json={"username": "alba"}, environ_overrides={"REMOTE_ADDR": "192.0.2.99"})
    other = sign_in(app, "alice")
    found = taken(user)
    assert found["account"] == user("GET", "/users/me").json
    assert [task["id"] for task in found["tasks_created"]] == own
    assert [task["id"] for task in found["tasks_assigned"]] == [*given, orphan]
    assert found["tasks_created"][0] == user("GET", f"/tasks/{own[0]}").json
    vendor_jobs = [one for one in found["jobs"] if one["kind"] == "vendor"]
    assert [one["request_id"] for one in vendor_jobs] == jobs
    assert (vendor_jobs[0]["vendor_payload"], vendor_jobs[0]["deduplication_key"]) == ({"a": 1}, "a/0")
    assert [event["event"] for event in vendor_jobs[0]["timeline"]] == ["created"]
    assert [key["name"] for key in found["api_keys"]] == ["mine"]
    assert len(found["sessions"]) == 2
    assert {entry["actor_id"] for entry in found["deeds"]} == {user.id}
    assert (
        len(found["deeds"]) == rows(app, "SELECT count(*) FROM audit_entries WHERE actor_id = ?", user.id)[0][0] >= 10
    )
    (change,) = found["changes"]
    assert (change["action"], change["actor_id"], change["address"]) == ("user.changed", admin.id, None)
    text = json.dumps(found)
    for secret in ("HASH", "$2b$", "password", "192.0.2.99", "sealed", user.token, other.refresh_token):
        assert secret not in text, secret


def test_an_export_is_a_file_that_nothing_keeps(user):
    answer = user("GET", "/users/me/export")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="walnut-export.json"'
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.content_type == "application/json"
    assert answer.json.keys() >= {"exported_at", "account", *export.PARTS}


def test_an_export_is_for_who_is_there_in_person(app):
    assert_problem(Caller(app)("GET", "/users/me/export"), 401, "unauthenticated")


def test_no_snapshot_is_held_while_an_export_is_sent_and_one_at_a_time_is_enough(app, user, few):
    with app.app_context(), db.writing() as conn:
        for _ in range(20):
            queue.enqueue(conn, "maintenance", {}, owner_id=rows_id(conn))
    database = app.extensions["database"]
    answer = user.client.get(
        "/api/v1/users/me/export", headers={"Authorization": f"Bearer {user.token}"}, buffered=False
    )
    pieces = iter(answer.response)
    for _ in range(12):
        next(pieces)
        assert all(not reader.driver.in_transaction for reader in database._idle)
    assert_problem(user("GET", "/users/me/export"), 429, "rate_limited")
    answer.close()
    assert taken(user)


def rows_id(conn):
    return conn.exec_driver_sql("SELECT id FROM users WHERE username = 'alice'").scalar()


def test_who_asks_for_the_head_only_may_ask_again(user):
    answer = user("HEAD", "/users/me/export")
    assert (answer.status_code, answer.data) == (200, b"")
    answer.close()  # as a server does
    assert taken(user)


@pytest.mark.parametrize(
    "end",
    ["DELETE FROM users WHERE username = 'eve'", "UPDATE sessions SET ended_at = 1", "UPDATE users SET active = 0"],
)
def test_an_export_ends_soon_after_its_session(app, admin, end, few):
    person = sign_up(app, "eve")
    answer = person.client.get(
        "/api/v1/users/me/export", headers={"Authorization": f"Bearer {person.token}"}, buffered=False
    )
    pieces = iter(answer.response)
    first = next(pieces)
    assert first
    execute(app, end)
    next(pieces)  # it has begun
    with pytest.raises(ConnectionResetError):
        next(pieces)
    answer.close()
    assert person.client.application.extensions["exports"] == set()


def test_an_export_has_nothing_of_others(app, admin, user):
    """Neither what others are called, nor where somebody was who asked for a link, nor our files and servers."""
    eve = admin("POST", "/users", {"username": "eve", "email": "eve@example.com"}).json["id"]
    admin("PATCH", f"/users/{eve}", {"username": "eva"})
    admin("PATCH", "/users/me", {"username": "radix"})
    with app.app_context(), db.writing() as conn:
        mails.tell(conn, accounts.get(conn, admin.id), "Hello", "You.")
        asked = {"username": "radix", "requested_from": "192.0.2.9"}
        audit_trail.append(conn, "user.reset_requested", admin.id, after=asked)  # credentials/requests.py
        conn.exec_driver_sql(
            "INSERT INTO job_history (job_seq, at, event, detail) SELECT seq, 1, 'tried', 'mx.internal' FROM jobs"
        )
    file = """{"file": "/srv/outbox/x.eml"}"""
    execute(app, "UPDATE jobs SET status = 'complete', error = 'mx.internal:25', result = ? WHERE kind = 'mail'", file)
    found = taken(admin)
    about_eve = [entry for entry in found["deeds"] if entry["subject_id"] == eve]
    assert [entry["action"] for entry in about_eve] == ["user.created", "user.changed"]
    assert all(entry["before"] is None and entry["after"] is None for entry in about_eve)
    (own,) = [entry for entry in found["deeds"] if entry["action"] == "user.changed" and entry not in about_eve]
    assert (own["before"]["username"], own["after"]["username"]) == ("root", "radix")
    (asking,) = found["changes"]
    assert (asking["action"], asking["after"]) == ("user.reset_requested", {"username": "radix"})
    sent = [job for job in found["jobs"] if job["kind"] == "mail"]
    assert sent
    assert all(job["status"] == "complete" and job["result"] is None for job in sent)
    text = json.dumps(found)
    for secret in ("eve@example.com", '"eva"', "192.0.2.9", "outbox", "mx.internal"):
        assert secret not in text, secret
