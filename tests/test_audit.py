"""Every change has its entry, an entry its change, and a trail that was tampered with says where."""

import base64
import json
import re
import time
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP
from marshmallow import Schema, fields

from api import audit_trail, create_app, db
from api.audit import queries, verify
from api.audit import routes as audit_routes
from api.auth import accounts, links
from api.secret_box import secret_box
from api.web import SIGNED_IN, Resource
from api.web.contract import Contract
from tests.conftest import PASSWORD, Caller, assert_problem, execute, rows, sign_in, sign_up

NOBODY = "00000000-0000-7000-8000-000000000000"
ACME = {"name": "acme", "url": "http://127.0.0.1:9/", "mode": "sync"}


def entries(app, where="1"):
    """Return the entries as dicts, the oldest first."""
    names = ("seq", "at", "action", "actor_id", "subject_id", "request_id", "address", "change")
    found = rows(app, f"SELECT {', '.join(names)} FROM audit_entries WHERE {where} ORDER BY seq")
    return [dict(zip(names, row, strict=True)) for row in found]


def count(app):
    return rows(app, "SELECT count(*) FROM audit_entries")[0][0]


def change_of(entry):
    found = json.loads(entry["change"])
    return found["before"], found["after"]


# ---- every route that changes something, with a request that does and one that is refused


def account(name):
    return {"username": name, "email": f"{name}@example.com", "password": PASSWORD}


def task(admin):
    return f"/tasks/{admin('POST', '/tasks', {'title': 'before', 'tags': ['a']}).json['id']}"


def factor(app, *, enabled=True):
    """Let root have a second factor, with a secret that is known, and return a body with a code of it."""
    secret, step = b"12345678901234567890", int(time.time()) // 30
    with app.app_context():
        sealed = secret_box().seal(base64.b32encode(secret).decode())
    if not rows(app, "SELECT 1 FROM users WHERE username = 'root' AND totp_secret IS NOT NULL"):
        values = (sealed, 1 if enabled else None)
        execute(app, "UPDATE users SET totp_secret = ?, totp_enabled_at = ? WHERE username = 'root'", *values)
    return {"code": TOTP(secret, 6, SHA1(), 30).generate(step * 30).decode()}


# route: what does it, what is refused, and what the entry says
def submitted(admin):
    return admin("POST", "/jobs", {"vendor_type": "sync", "vendor_payload": {"n": 1}})


def keyed(caller):
    return caller("POST", "/auth/api-keys", {"name": "x", "scopes": ["tasks:read"], "password": PASSWORD})


def cancelled(admin):
    job_id = submitted(admin).json["request_id"]
    assert admin("POST", f"/jobs/{job_id}/cancellation").status_code == 200
    return job_id


def link_of(app, purpose):
    """Return the token of a link to the admin, who is signed in nowhere any more: so its use has one entry."""
    with app.app_context(), db.writing() as conn:
        conn.exec_driver_sql("UPDATE sessions SET ended_at = 1")
        return links.make(conn, accounts.by_email(conn, "root@example.com"), purpose).rpartition("#")[2]


def changed_password(current):
    return {"current_password": current, "new_password": "another horse"}


def somebody(app):
    """Return somebody who is signed in, who signs up on the first call."""
    if not hasattr(app, "eve"):
        app.eve = sign_up(app, "eve")
    return app.eve


CHANGES = {
    ("POST", "/jobs"): (
        lambda app, admin: submitted(admin),
        lambda app, admin: admin("POST", "/jobs", {"vendor_type": "nobody", "vendor_payload": 1}),
        "job.submitted",
    ),
    ("POST", "/jobs/{job_id}/cancellation"): (
        lambda app, admin: admin("POST", f"/jobs/{submitted(admin).json['request_id']}/cancellation"),
        lambda app, admin: admin("POST", f"/jobs/{NOBODY}/cancellation"),
        "job.cancelled",
    ),
    ("POST", "/jobs/{job_id}/retry"): (
        lambda app, admin: admin("POST", f"/jobs/{cancelled(admin)}/retry"),
        lambda app, admin: admin("POST", f"/jobs/{submitted(admin).json['request_id']}/retry"),
        "job.retried",
    ),
    ("POST", "/jobs/retry"): (
        lambda app, admin: admin("POST", "/jobs/retry", {}),
        lambda app, admin: admin("POST", "/jobs/retry", {"vendor_type": "nobody"}),
        "job.retry_all",
    ),
    ("POST", "/auth/register"): (
        lambda app, admin: Caller(app)("POST", "/auth/register", account("eve")),
        lambda app, admin: Caller(app)("POST", "/auth/register", account("root")),
        "user.registered",
    ),
    ("POST", "/auth/login"): (
        lambda app, admin: Caller(app)("POST", "/auth/login", {"email": "root@example.com", "password": PASSWORD}),
        lambda app, admin: Caller(app)("POST", "/auth/login", {"email": "root@example.com", "password": "wrong one"}),
        "session.opened",
    ),
    ("POST", "/auth/logout"): (
        lambda app, admin: admin("POST", "/auth/logout"),
        lambda app, admin: admin("POST", "/auth/logout?all=perhaps"),
        "session.ended",
    ),
    ("PUT", "/auth/logout"): (
        lambda app, admin: admin("PUT", "/auth/logout"),
        lambda app, admin: Caller(app)("PUT", "/auth/logout"),
        "session.ended",
    ),
    ("DELETE", "/auth/sessions/{session_id}"): (
        lambda app, admin: admin("DELETE", f"/auth/sessions/{admin('GET', '/auth/sessions').json['items'][0]['id']}"),
        lambda app, admin: admin("DELETE", f"/auth/sessions/{NOBODY}"),
        "session.ended",
    ),
    ("POST", "/auth/totp"): (
        lambda app, admin: admin("POST", "/auth/totp", {"password": PASSWORD}),
        lambda app, admin: admin("POST", "/auth/totp", {"password": "wrong one"}),
        "user.totp_started",
    ),
    ("PUT", "/auth/totp"): (
        lambda app, admin: admin("PUT", "/auth/totp", factor(app, enabled=False)),
        lambda app, admin: admin("PUT", "/auth/totp", {"code": "123456"}),
        "user.totp_enabled",
    ),
    ("DELETE", "/auth/totp"): (
        lambda app, admin: admin("DELETE", "/auth/totp", factor(app) | {"password": PASSWORD}),
        lambda app, admin: admin("DELETE", "/auth/totp", factor(app) | {"password": "wrong one"}),
        "user.totp_removed",
    ),
    ("POST", "/auth/totp/recovery-codes"): (
        lambda app, admin: admin("POST", "/auth/totp/recovery-codes", factor(app)),
        lambda app, admin: admin("POST", "/auth/totp/recovery-codes", {"code": "123456"}),
        "user.recovery_codes_replaced",
    ),
    ("POST", "/auth/api-keys"): (
        lambda app, admin: keyed(admin),
        lambda app, admin: admin(
            "POST", "/auth/api-keys", {"name": "x", "scopes": ["everything"], "password": PASSWORD}
        ),
        "api_key.created",
    ),
    ("DELETE", "/auth/api-keys/{key_id}"): (
        lambda app, admin: admin("DELETE", f"/auth/api-keys/{keyed(admin).json['id']}"),
        lambda app, admin: admin("DELETE", f"/auth/api-keys/{NOBODY}"),
        "api_key.removed",
    ),
    ("PUT", "/auth/confirmation/{token}"): (
        lambda app, admin: Caller(app)("PUT", f"/auth/confirmation/{link_of(app, links.CONFIRMATION)}"),
        lambda app, admin: Caller(app)("PUT", f"/auth/confirmation/{link_of(app, links.RESET)}"),
        "user.email_confirmed",
    ),
    ("PUT", "/auth/reset-password/{token}"): (
        lambda app, admin: Caller(app)(
            "PUT", f"/auth/reset-password/{link_of(app, links.RESET)}", {"password": "another horse"}
        ),
        lambda app, admin: Caller(app)(
            "PUT", f"/auth/reset-password/{link_of(app, links.RESET)}", {"password": "root1234"}
        ),
        "user.password_reset",
    ),
    ("PUT", "/auth/change-password"): (
        lambda app, admin: admin("PUT", "/auth/change-password", changed_password(PASSWORD)),
        lambda app, admin: admin("PUT", "/auth/change-password", changed_password("wrong one")),
        "user.password_changed",
    ),
    ("POST", "/tasks"): (
        lambda app, admin: admin("POST", "/tasks", {"title": "x"}),
        lambda app, admin: admin("POST", "/tasks", {"title": "x", "assignee_id": NOBODY}),
        "task.created",
    ),
    ("PUT", "/tasks/{task_id}"): (
        lambda app, admin: admin("PUT", task(admin), {"title": "x"}),
        lambda app, admin: admin("PUT", task(admin), {"title": "x"}, If_Match='"9"'),
        "task.replaced",
    ),
    ("PATCH", "/tasks/{task_id}"): (
        lambda app, admin: admin("PATCH", task(admin), {"title": "x"}),
        lambda app, admin: admin("PATCH", task(admin), {"assignee_id": NOBODY}),
        "task.changed",
    ),
    ("DELETE", "/tasks/{task_id}"): (
        lambda app, admin: admin("DELETE", task(admin)),
        lambda app, admin: admin("DELETE", task(admin), If_Match='"9"'),
        "task.removed",
    ),
    ("POST", "/users"): (
        lambda app, admin: admin("POST", "/users", {"username": "eve", "email": "eve@example.com"}),
        lambda app, admin: admin("POST", "/users", {"username": "eve", "email": "root@example.com"}),
        "user.created",
    ),
    ("PATCH", "/users/me"): (
        lambda app, admin: admin("PATCH", "/users/me", {"username": "rooted"}),
        lambda app, admin: admin("PATCH", "/users/me", {"email": "e@example.com", "current_password": "wrong one"}),
        "user.changed",
    ),
    ("DELETE", "/users/me"): (
        lambda app, admin: somebody(app)("DELETE", "/users/me", {"password": PASSWORD}),
        lambda app, admin: admin("DELETE", "/users/me", {"password": PASSWORD}),
        "user.erased",
    ),
    ("PATCH", "/users/{user_id}"): (
        lambda app, admin: admin("PATCH", f"/users/{somebody(app).id}", {"role": "admin"}),
        lambda app, admin: admin("PATCH", f"/users/{admin.id}", {"role": "user"}),
        "user.changed",
    ),
    ("DELETE", "/users/{user_id}"): (
        lambda app, admin: admin("DELETE", f"/users/{somebody(app).id}"),
        lambda app, admin: admin("DELETE", f"/users/{admin.id}"),
        "user.erased",
    ),
    ("POST", "/vendors"): (
        lambda app, admin: admin("POST", "/vendors", ACME),
        lambda app, admin: admin("POST", "/vendors", ACME | {"name": "sync"}),
        "vendor.created",
    ),
    ("PATCH", "/vendors/{name}"): (
        lambda app, admin: admin("PATCH", "/vendors/sync", {"active": False}),
        lambda app, admin: admin("PATCH", "/vendors/sync", {"url": "nowhere"}),
        "vendor.changed",
    ),
    ("DELETE", "/vendors/{name}"): (
        lambda app, admin: admin("DELETE", "/vendors/sync"),
        lambda app, admin: admin("DELETE", "/vendors/sync", If_Match='"9"'),
        "vendor.removed",
    ),
    ("POST", "/vendors/{name}/secret"): (
        lambda app, admin: admin("POST", "/vendors/sync/secret", {}),
        lambda app, admin: admin("POST", "/vendors/sync/secret", {"secret": "x"}),
        "vendor.secret_rotated",
    ),
}


def audited_routes(app):
    for rule in app.url_map.iter_rules():
        contract = getattr(app.view_functions[rule.endpoint], "contract", None)
        if contract and contract.audit and (path := re.sub(r"^/api/v\d+", "", rule.rule)) != rule.rule:
            for method in rule.methods - {"HEAD", "OPTIONS"}:
                yield (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", path)), contract.audit


def test_every_audited_route_is_tried_below(lasting_app):
    assert dict(audited_routes(lasting_app)) == {route: action for route, (_, _, action) in CHANGES.items()}


@pytest.mark.parametrize("route", CHANGES, ids=" ".join)
def test_a_change_has_exactly_one_entry_and_a_refusal_none(app, admin, route):
    change, refusal, action = CHANGES[route]
    refused = refusal(app, admin)
    assert refused.status_code >= 400
    answer = change(app, admin)
    assert answer.status_code < 300, answer.text
    made = entries(app, f"request_id = '{answer.headers['X-Request-ID']}'")
    assert [entry["action"] for entry in made] == [action]
    assert rows(app, "SELECT count(*) FROM audit_entries WHERE request_id = ?", refused.headers["X-Request-ID"]) == [
        (0,)
    ]
    assert made[0]["address"] == (None if route == ("DELETE", "/users/me") else "127.0.0.1")  # who is gone was nowhere
    assert made[0]["actor_id"]
    assert abs(made[0]["at"] - time.time() * 1000) < 5000


@pytest.mark.parametrize("route", [route for route in CHANGES if route[0] != "GET"], ids=" ".join)
def test_an_audit_write_that_fails_takes_the_change_with_it(app, admin, route):
    """Nothing that the request would have changed is there afterwards, in any table."""
    if "{task_id}" in route[1]:
        path = task(admin)
        change = {
            "PUT": lambda: admin("PUT", path, {"title": "x"}),
            "PATCH": lambda: admin("PATCH", path, {"title": "x", "tags": ["b"]}),
            "DELETE": lambda: admin("DELETE", path),
        }[route[0]]
    elif "{job_id}" in route[1]:
        job_id = cancelled(admin) if route[1].endswith("retry") else submitted(admin).json["request_id"]
        change = lambda: admin("POST", route[1].format(job_id=job_id))  # noqa: E731
    elif "{key_id}" in route[1]:
        key_id = keyed(admin).json["id"]
        change = lambda: admin("DELETE", f"/auth/api-keys/{key_id}")  # noqa: E731
    elif "{token}" in route[1]:
        token = link_of(app, links.RESET if "reset" in route[1] else links.CONFIRMATION)
        body = {"password": "another horse"} if "reset" in route[1] else None
        change = lambda: Caller(app)("PUT", route[1].format(token=token), body)  # noqa: E731
    else:
        if "totp" in route[1] and route != ("POST", "/auth/totp"):
            factor(app, enabled=route[0] != "PUT")
        if route[1] in ("/users/me", "/users/{user_id}"):
            somebody(app)
        change = lambda: CHANGES[route][0](app, admin)  # noqa: E731
    tables = (
        *("users", "recovery_codes", "vendors", "jobs", "job_history", "job_counts"),
        "one_time_tokens",
        "sessions",
        "refresh_tokens",
        "api_keys",
        "tasks",
        "task_tags",
        "audit_entries",
        "audit_head",
        "tasks_search",
    )
    before = {name: rows(app, f"SELECT * FROM {name} ORDER BY 1") for name in tables}
    execute(app, "CREATE TRIGGER stop BEFORE INSERT ON audit_entries BEGIN SELECT RAISE(ABORT, 'no'); END")
    assert_problem(change(), 500, "internal_server_error")
    assert {name: rows(app, f"SELECT * FROM {name} ORDER BY 1") for name in tables} == before
    execute(app, "DROP TRIGGER stop")
    assert change().status_code < 300


def test_an_entry_says_what_was_before_and_what_is_after(app, admin):
    made = admin("POST", "/tasks", {"title": "x", "due_at": "2026-01-31T12:00:00Z"}).json
    path = f"/tasks/{made['id']}"
    changed = admin("PATCH", path, {"title": "y"}).json
    replaced = admin("PUT", path, {"title": "z"}).json
    admin("DELETE", path)
    found = entries(app, f"subject_id = '{made['id']}'")
    assert [entry["action"] for entry in found] == ["task.created", "task.changed", "task.replaced", "task.removed"]
    assert [change_of(entry) for entry in found] == [
        (None, made),
        (made, changed),
        (changed, replaced),
        (replaced, None),
    ]
    assert {entry["actor_id"] for entry in found} == {admin.id}


def test_who_registers_or_signs_in_is_the_actor(app, admin):
    eve = sign_up(app, "eve")
    registered, opened = entries(app)[-2:]
    assert (registered["actor_id"], registered["subject_id"]) == (eve.id, eve.id)
    assert (opened["action"], opened["actor_id"]) == ("session.opened", eve.id)
    assert change_of(opened)[1]["user_id"] == eve.id


def test_signing_out_everywhere_has_an_entry_for_each_session(app, user):
    other = sign_in(app, "alice")
    assert user("POST", "/auth/logout?all=true").status_code == 204
    ended = entries(app, "action = 'session.ended'")
    assert len({entry["subject_id"] for entry in ended}) == len(ended) == 2
    for entry in ended:
        before, after = change_of(entry)
        assert before["ended_at"] is None
        assert after["ended_at"]
    assert other("GET", "/users/me").status_code == 401


def test_a_session_that_ends_because_its_token_was_stolen_has_an_entry(app, user):
    anyone = Caller(app)
    first = anyone("POST", "/auth/refresh", {"refresh_token": user.refresh_token}).json["refresh_token"]
    anyone("POST", "/auth/refresh", {"refresh_token": first})
    assert entries(app, "action = 'session.ended'") == []
    assert anyone("POST", "/auth/refresh", {"refresh_token": user.refresh_token}).status_code == 401
    (entry,) = entries(app, "action = 'session.ended'")
    assert "twice" in change_of(entry)[1]["reason"]


def test_no_secret_is_in_the_trail(app, admin, user):
    admin("POST", "/tasks", {"title": "x"})
    user("POST", "/auth/logout")
    text = "\n".join(map(str, rows(app, "SELECT * FROM audit_entries")))
    for secret in (PASSWORD, "$2b$", user.token, user.refresh_token, admin.token):
        assert secret not in text


def test_what_has_secrets_cannot_be_audited_as_it_is():
    class Secret(Schema):
        """A thing with a token."""

        access_token = fields.String()

    class Plain(Schema):
        """A thing without."""

        id = fields.String()

    with pytest.raises(TypeError, match="access_token"):
        Contract(allow=SIGNED_IN, audit="x.y", returns=Secret())
    with pytest.raises(TypeError, match="audited"):
        Contract(allow=SIGNED_IN, audit="x.y")
    Contract(allow=SIGNED_IN, audit="x.y", returns=Secret(), audited=Plain())
    with pytest.raises(TypeError, match="access_token"):
        Resource("room", __name__).post("/x", allow=SIGNED_IN, audit="x.y", returns=Secret())


def test_a_clock_that_is_set_back_does_not_turn_the_order_round(app, admin, monkeypatch):
    admin("POST", "/tasks", {"title": "x"})
    now = db.now()
    monkeypatch.setattr(db, "now", lambda: now - 3_600_000)
    with app.app_context(), db.writing() as conn:
        audit_trail.append(conn, "thing.done", "1")
    times = [entry["at"] for entry in entries(app)]
    assert times == sorted(times)
    assert verdict(app)["intact"]


# ---- only by adding


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM audit_entries WHERE seq = 1",
        "UPDATE audit_entries SET action = 'x.y' WHERE seq = 1",
        "UPDATE audit_entries SET address = '192.0.2.1' WHERE seq = 1",
        "UPDATE audit_entries SET address = NULL WHERE seq = 1",
        "UPDATE audit_entries SET change = '{}', change_salt = NULL WHERE seq = 1",
        "UPDATE audit_entries SET address_digest = x'00', address = NULL, address_salt = NULL WHERE seq = 1",
        "UPDATE audit_entries SET seq = 99 WHERE seq = 1",
        "INSERT OR REPLACE INTO audit_entries SELECT * FROM audit_entries WHERE seq = 1",
        "DELETE FROM audit_head",
        "INSERT INTO audit_head VALUES (2, 0, 0, x'', x'')",
    ],
)
def test_an_entry_is_neither_changed_nor_removed_nor_replaced(app, admin, statement):
    before = rows(app, "SELECT * FROM audit_entries")
    with pytest.raises(Exception, match="audit"):
        execute(app, statement)
    assert rows(app, "SELECT * FROM audit_entries") == before


# ---- reading it


@pytest.fixture
def trail(app, admin, user):
    """Four tasks by the admin, and their entries as GET /audit shows them, the newest first."""
    for number in range(4):
        admin("POST", "/tasks", {"title": f"task {number}"})
    return admin("GET", "/audit?limit=100").json["items"]


def found(admin, query):
    answer = admin("GET", f"/audit?{query}")
    assert answer.status_code == 200, answer.text
    return [entry["seq"] for entry in answer.json["items"]]


def test_the_trail_is_read_newest_first_and_page_by_page(admin, trail):
    assert [entry["seq"] for entry in trail] == list(range(8, 0, -1))
    pages, cursor = [], ""
    while cursor is not None:
        answer = admin("GET", f"/audit?limit=3{cursor and f'&cursor={cursor}'}")
        pages.append([entry["seq"] for entry in answer.json["items"]])
        cursor = answer.json["next_cursor"]
        following = f'</api/v1/audit?limit=3&cursor={cursor}>; rel="next"' if cursor else None
        assert answer.headers.get("Link") == following
    assert pages == [[8, 7, 6], [5, 4, 3], [2, 1]]
    assert admin("GET", "/audit?limit=8").json["next_cursor"] is None


def test_the_filters(app, admin, user, trail):
    of_task = trail[2]["subject_id"]
    assert found(admin, f"actor_id={admin.id}") == [8, 7, 6, 5, 2, 1]
    assert found(admin, f"actor_id={user.id}") == [4, 3]
    assert found(admin, "action=user.registered") == [3, 1]
    assert found(admin, f"subject={of_task}") == [6]
    assert found(admin, f"subject=task:{of_task}") == [6]
    assert found(admin, f"subject=user:{of_task}") == []
    assert found(admin, f"actor_id={admin.id}&action=task.created&limit=2") == [8, 7]
    assert found(admin, f"actor_id={admin.id}&action=task.created&cursor=7") == [6, 5]


def test_the_filters_by_time(app, admin, trail):
    """At `since` or later, before `until`: found by the order of the trail."""
    for seq, at in ((1, 1000), (2, 2000), (3, 2000), (4, 2000), (5, 3000), (6, 4000), (7, 4000), (8, 5000)):
        with tampering(app):
            execute(app, "UPDATE audit_entries SET at = ? WHERE seq = ?", at, seq)
    first = "1970-01-01T00:00:0"
    assert found(admin, f"since={first}4Z") == [8, 7, 6]
    assert found(admin, f"until={first}2Z") == [1]
    assert found(admin, f"since={first}2Z&until={first}4Z") == [5, 4, 3, 2]
    assert found(admin, f"since={first}6Z") == []
    assert found(admin, f"until={first}6Z&limit=2") == [8, 7]
    assert found(admin, f"since={first}2Z&until={first}4Z&cursor=4") == [3, 2]
    assert found(admin, f"since={first}1.001Z&until={first}2.001Z") == [4, 3, 2]


@pytest.mark.parametrize(
    ("query", "pointer"),
    [("action=bogus", "/action"), ("actor_id=me", "/actor_id"),
     ("cursor=x", "/cursor"), ("cursor=-1", "/cursor"), ("limit=0", "/limit"), ("limit=101", "/limit"),
     ("since=yesterday", "/since"), ("subject=a:b:c", "/subject"), ("who=me", "/who"), ("page=2", "/page")],
)  # fmt: skip
def test_a_filter_that_makes_no_sense_is_refused(lasting_admin, query, pointer):
    assert_problem(lasting_admin("GET", f"/audit?{query}"), 422, "invalid", pointer)


@pytest.mark.parametrize("path", ["/audit", "/audit/verify"])
def test_only_admins_read_the_trail(app, admin, user, path):
    assert_problem(user("GET", path), 403, "forbidden")
    assert_problem(Caller(app)("GET", path), 401, "unauthenticated")
    assert admin("GET", path).status_code == 200


def test_a_long_trail_is_read_by_its_indexes(app):
    """No filter walks along all of it: SQLite's own plan says so."""
    for filters, index in (
        (["subject_id", "kind"], "ix_audit_entries_subject_id_seq"),
        (["actor_id"], "ix_audit_entries_actor_id_seq"),
        (["action"], "ix_audit_entries_action_seq"),
        (["since", "until"], "ix_audit_entries_at_seq"),
        ([], "INTEGER PRIMARY KEY"),
    ):
        clause = queries._list(frozenset(filters)).clause
        with app.app_context(), db.reading() as conn:
            compiled = clause.compile(conn)
            values = tuple(compiled.params[name] or 1 for name in compiled.positiontup)
            found = conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}", values)
            plan = " / ".join(row[3] for row in found)
        assert index in plan, plan
        assert "SCAN audit_entries" not in plan, plan
        assert "TEMP B-TREE" not in plan, plan


# ---- the history of a task


def test_a_tasks_history_is_there_also_when_the_task_is_not(admin, user):
    path = task(admin)
    admin("PATCH", path, {"title": "after"})
    admin("DELETE", path)
    answer = user("GET", f"{path}/history")
    assert answer.status_code == 200
    items = answer.json["items"]
    assert [entry["action"] for entry in items] == ["task.removed", "task.changed", "task.created"]
    assert [entry["before"] and entry["before"]["title"] for entry in items] == ["after", "before", None]
    assert set(items[0]) == {"at", "action", "actor_id", "before", "after"}, "where from is for admins"


def test_a_history_page_by_page(admin):
    path = task(admin)
    for number in range(4):
        admin("PATCH", path, {"title": f"{number}"})
    first = admin("GET", f"{path}/history?limit=3").json
    rest = admin("GET", f"{path}/history?limit=3&cursor={first['next_cursor']}").json
    assert [item["after"]["title"] for item in first["items"] + rest["items"]] == ["3", "2", "1", "0", "before"]
    assert rest["next_cursor"] is None


def test_a_history_of_what_never_was_is_not_found(app, admin):
    assert_problem(admin("GET", f"/tasks/{NOBODY}/history"), 404, "not_found")
    path = task(admin)
    assert_problem(Caller(app)("GET", f"{path}/history"), 401, "unauthenticated")
    execute(app, "UPDATE tasks SET id = ?", NOBODY)  # as one from before there was a trail
    assert admin("GET", f"/tasks/{NOBODY}/history").json == {"items": [], "next_cursor": None}


# ---- tampering


class tampering:
    """What whoever can write the database can do: take the triggers away, change something, put them back."""

    def __init__(self, app):
        self.app = app

    def __enter__(self):
        self.kept = rows(self.app, "SELECT sql FROM sqlite_schema WHERE type = 'trigger' AND name LIKE 'audit%'")
        for (name,) in rows(self.app, "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND name LIKE 'audit%'"):
            execute(self.app, f"DROP TRIGGER {name}")

    def __exit__(self, *_error):
        for (sql,) in self.kept:
            execute(self.app, sql)


def verdict(app, *given, **more):
    with app.app_context():
        return verify.verify(*given, **more)


def tampered(app, **more):
    found = verdict(app, **more)
    assert found["intact"] is (found["tampered"] is None)
    return found["tampered"] and found["tampered"]["seq"]


@pytest.fixture
def long(app, admin, monkeypatch):
    """Twelve entries, looked at five at a time."""
    monkeypatch.setattr(verify, "BATCH", 5)
    for number in range(10):
        admin("POST", "/tasks", {"title": f"task {number}"})
    assert count(app) == 12
    assert verdict(app) == verdict(app, 0) == verdict(app, 4) == verdict(app, 12)
    assert verdict(app)["intact"]
    return app


SHIFT = "UPDATE audit_entries SET seq = -seq - 1 WHERE seq >= 7; UPDATE audit_entries SET seq = -seq WHERE seq < 0"
COPY = "INSERT INTO audit_entries SELECT 7, at, action, actor_id, subject_id, request_id, address, address_salt, \
address_digest, change, change_salt, change_digest, hash FROM audit_entries WHERE seq = 6"


@pytest.mark.parametrize(
    ("deed", "first"),
    [
        ("UPDATE audit_entries SET actor_id = 'somebody' WHERE seq = 6", 6),
        ("UPDATE audit_entries SET at = at + 1 WHERE seq IN (9, 6)", 6),
        ("UPDATE audit_entries SET action = 'task.removed' WHERE seq = 1", 1),
        ("UPDATE audit_entries SET action = x'ff' WHERE seq = 5", 5),
        ("UPDATE audit_entries SET action = CAST(x'ff' AS TEXT) WHERE seq = 8", 8),
        ("UPDATE audit_entries SET request_id = 'x' WHERE seq = 12", 12),
        ("UPDATE audit_entries SET address = '192.0.2.1' WHERE seq = 3", 3),
        ("UPDATE audit_entries SET address = NULL WHERE seq = 3", 3),
        ("UPDATE audit_entries SET change = replace(change, 'task 4', 'task 5') WHERE seq = 7", 7),
        ("UPDATE audit_entries SET change = 5 WHERE seq = 7", 7),
        ("UPDATE audit_entries SET change = NULL, change_salt = NULL WHERE seq = 7", 7),
        ("UPDATE audit_entries SET address = NULL, address_salt = NULL WHERE seq = 7", 7),
        ("UPDATE audit_entries SET change = NULL, change_salt = NULL, change_digest = x'00' WHERE seq = 7", 7),
        ("UPDATE audit_entries SET hash = zeroblob(32) WHERE seq = 4", 4),
        ("UPDATE audit_entries SET hash = 'text' WHERE seq = 4", 4),
        ("DELETE FROM audit_entries WHERE seq = 6", 6),
        ("DELETE FROM audit_entries WHERE seq = 1", 1),
        ("DELETE FROM audit_entries WHERE seq IN (9, 10)", 9),
        ("DELETE FROM audit_entries WHERE seq = 6; UPDATE audit_entries SET seq = seq - 1 WHERE seq > 6", 6),
        ("DELETE FROM audit_entries WHERE seq = 12", 12),
        ("DELETE FROM audit_entries WHERE seq > 10", 11),
        ("DELETE FROM audit_entries", 1),
        (f"{SHIFT}; {COPY}", 7),
        ("UPDATE audit_entries SET seq = -3 WHERE seq = 3; UPDATE audit_entries SET seq = 3 WHERE seq = 4;"
         "UPDATE audit_entries SET seq = 4 WHERE seq = -3", 3),
        (COPY.replace("SELECT 7", "SELECT 0"), 0),
        (COPY.replace("SELECT 7", "SELECT -7"), -7),
        (COPY.replace("SELECT 7", "SELECT 13"), 13),
        ("UPDATE audit_head SET seq = 11", 12),
        ("UPDATE audit_head SET signature = zeroblob(32)", 12),
        ("UPDATE audit_head SET hash = zeroblob(32)", 12),
        ("UPDATE audit_head SET at = at + 1", 12),
        ("UPDATE audit_head SET at = 'noon'", 12),
        ("UPDATE audit_head SET seq = 'many'", 12),
        ("UPDATE audit_head SET hash = 'text', signature = 'text'", 12),
        ("UPDATE audit_entries SET change_salt = 'text' WHERE seq = 2", 2),
        ("UPDATE audit_entries SET address_digest = 'text' WHERE seq = 2", 2),
        ("DELETE FROM audit_head", 12),
        ("DELETE FROM audit_entries WHERE seq > 10;"
         "UPDATE audit_head SET seq = 10, hash = (SELECT hash FROM audit_entries WHERE seq = 10)", 10),
        ("DELETE FROM audit_entries; UPDATE audit_head SET seq = 0", 0),
    ],
)  # fmt: skip
def test_the_first_entry_that_was_tampered_with_is_named(long, admin, deed, first):
    with tampering(long):
        for statement in deed.split(";"):
            execute(long, statement)
    assert tampered(long) == first
    answer = admin("GET", "/audit/verify").json
    assert (answer["intact"], answer["complete"], answer["tampered"]["seq"]) == (False, True, first)
    assert answer["tampered"]["reason"]
    assert answer["checked_to"] == max(0, min(first - 1, 12)) or first in (12, 10)


def test_who_has_no_key_cannot_write_the_end_anew(long):
    """Everything after a change hashed anew, as anybody can do it: the end is not what was signed."""
    with tampering(long):
        execute(long, "UPDATE audit_entries SET actor_id = 'somebody' WHERE seq = 6")
        with long.app_context(), db.writing() as conn:
            previous = verify.HASH.first(conn, number=5)["hash"]
            for row in verify.AFTER.all(conn, after=5, batch=100):
                previous = audit_trail.chained(previous, row)
                conn.exec_driver_sql("UPDATE audit_entries SET hash = ? WHERE seq = ?", (previous, row["seq"]))
            conn.exec_driver_sql("UPDATE audit_head SET hash = ?", (previous,))
    found = verdict(long)
    assert found["tampered"] == {"seq": 12, "reason": audit_trail.UNKNOWN_END}


def test_a_later_write_does_not_vouch_for_a_forged_end(long, admin):
    with tampering(long):
        execute(long, "DELETE FROM audit_entries WHERE seq > 10")
        execute(long, "UPDATE audit_head SET seq = 10, hash = (SELECT hash FROM audit_entries WHERE seq = 10)")
    assert admin("POST", "/tasks", {"title": "later"}).status_code == 201
    assert tampered(long) == 11
    assert admin("POST", "/tasks", {"title": "and later"}).status_code == 201
    assert tampered(long) == 12


def test_an_end_that_was_put_back_as_it_once_was_is_found_by_who_noted_a_later_one(long, admin):
    """Its old signature is genuine: nothing inside the database can tell."""
    kept = rows(long, "SELECT seq, at, hash, signature FROM audit_head")[0]
    admin("POST", "/tasks", {"title": "to be hidden"})
    note = verify.Link(13, bytes.fromhex(verdict(long)["head"]))
    assert tampered(long, noted=note) is None
    with tampering(long):
        execute(long, "DELETE FROM audit_entries WHERE seq > 12")
        execute(long, "UPDATE audit_head SET seq = ?, at = ?, hash = ?, signature = ?", *kept)
    assert tampered(long) is None
    assert tampered(long, noted=note) == 13
    admin("POST", "/tasks", {"title": "in its place"})
    assert tampered(long) is None
    assert tampered(long, noted=note) == 13


def test_a_check_goes_on_where_the_last_one_stopped(long, admin, monkeypatch):
    monkeypatch.setattr(audit_routes, "VERIFY_SECONDS", 1e-9)
    first = admin("GET", "/audit/verify").json
    assert (first["intact"], first["complete"], first["checked_to"]) == (True, False, 5)
    monkeypatch.setattr(verify, "time", SimpleNamespace(monotonic=iter(range(100)).__next__, sleep=float))
    monkeypatch.setattr(audit_routes, "VERIFY_SECONDS", 2)
    first = admin("GET", "/audit/verify").json
    assert (first["intact"], first["complete"], first["checked_to"]) == (True, False, 10)
    monkeypatch.undo()
    rest = admin("GET", f"/audit/verify?after={first['checked_to']}").json
    assert (rest["intact"], rest["complete"], rest["checked_to"]) == (True, True, 12)
    with tampering(long):
        execute(long, "UPDATE audit_entries SET at = 1 WHERE seq = 11")
    assert admin("GET", "/audit/verify?after=10").json["tampered"]["seq"] == 11
    assert admin("GET", "/audit/verify?after=99").json["tampered"]["seq"] == 99


def test_a_check_holds_no_snapshot_from_one_batch_to_the_next(long, admin, monkeypatch):
    """What is written while it runs is checked too."""
    walked = verify.Walk.batch

    def write_meanwhile(walk):
        done = walked(walk)
        if walk.reached.seq == 5:
            admin("POST", "/tasks", {"title": "meanwhile"})
        return done

    monkeypatch.setattr(verify.Walk, "batch", write_meanwhile)
    assert verdict(long)["checked_to"] == 13
    snapshots = []
    reading = db.reading
    monkeypatch.setattr(db, "reading", lambda **given: snapshots.append(given) or reading(**given))
    admin("GET", "/audit/verify")
    assert snapshots[0] == {"snapshot": False}, "the guard's is not kept for as long as the check takes"


# ---- forgetting a person


def test_what_is_said_of_a_person_can_be_blanked_and_the_chain_stays(app, admin, user):
    person = user.id
    user.send("POST", "/auth/logout", environ_overrides={"REMOTE_ADDR": "192.0.2.77"})
    admin("POST", "/tasks", {"title": "kept", "assignee_id": person})
    with app.app_context(), db.writing() as conn:
        audit_trail.forget(conn, person)
        audit_trail.append(conn, audit_trail.FORGOTTEN, person, actor_id=person, address="192.0.2.78",
                           before={"email": "alice@example.com"})  # fmt: skip
    text = "\n".join(map(str, rows(app, "SELECT * FROM audit_entries")))
    for word in ("alice", "192.0.2.7"):
        assert word not in text
    assert verdict(app)["intact"]
    assert "root@example.com" in text
    assert admin("GET", f"/audit?subject=user:{person}").json["items"][-1]["after"] is None
    admin("POST", "/tasks", {"title": "later"})
    assert verdict(app)["intact"]


def test_what_is_blanked_without_an_erasure_is_tampering(app, admin, user):
    with app.app_context(), db.writing() as conn:
        audit_trail.forget(conn, user.id)
    assert tampered(app) == 3


def test_an_erasure_excuses_nothing_that_came_after_it(app, admin, user):
    person = user.id
    root = admin.id
    with app.app_context(), db.writing() as conn:
        audit_trail.append(conn, audit_trail.FORGOTTEN, person, actor_id=root, address="192.0.2.1")
        later = audit_trail.append(conn, "user.changed", person, after={"email": "x"})
        audit_trail.forget(conn, person)
    assert tampered(app) == later
    assert entries(app)[4]["address"] == "192.0.2.1", "who erases another one is not forgotten"


def test_equal_values_have_different_digests(app, admin, user):
    digests = rows(app, "SELECT address_digest FROM audit_entries")
    assert len(set(digests)) == len(digests) == 4
    assert rows(app, "SELECT count(DISTINCT address) FROM audit_entries") == [(1,)]


# ---- the key


def test_a_new_jwt_secret_needs_a_seal(make_app, configure, run_in):
    app = make_app()
    sign_up(app, "root", role="admin")
    assert tampered(app) is None
    again = create_app(configure(JWT_SECRET="abcdefghijklmnopqrstuvwxyz0123456789"))
    assert verdict(again)["tampered"]["reason"] == audit_trail.UNKNOWN_END
    run = run_in(again)
    refused = run("audit", "verify")
    assert refused.exit_code == 1
    assert "walnut audit seal" in refused.output
    assert run("audit", "seal").exit_code == 0
    assert entries(again)[-1]["action"] == "audit.sealed"
    assert tampered(again) is None
    sign_in(again, "root")
    assert tampered(again) is None
    again.extensions["database"].close()


@pytest.fixture
def run_in():
    """Return a function that returns a function that runs a command in an app."""
    from click.testing import CliRunner  # noqa: PLC0415
    from flask.cli import ScriptInfo  # noqa: PLC0415

    from api.cli import walnut  # noqa: PLC0415

    return lambda app: (
        lambda *words, **more: CliRunner().invoke(walnut, words, obj=ScriptInfo(create_app=lambda: app), **more)
    )


def test_the_command_says_that_all_is_well_or_names_the_entry(long, run_in):
    run = run_in(long)
    found = run("audit", "verify")
    assert found.exit_code == 0
    assert "All 12 entries" in found.output
    note = found.output.splitlines()[-1]
    assert re.fullmatch("12:[0-9a-f]{64}", note)
    assert run("audit", "verify", "--noted", note).exit_code == 0
    assert "not the entry that was noted" in run("audit", "verify", "--noted", f"7:{'0' * 64}").output
    assert run("audit", "verify", "--noted", "what").exit_code == 2
    with tampering(long):
        execute(long, "DELETE FROM audit_entries WHERE seq = 7")
    broken = run("audit", "verify")
    assert broken.exit_code == 1
    assert "Entry 7: It was removed." in broken.output
    refused = run("audit", "seal")
    assert refused.exit_code == 1
    assert "Entry 7" in refused.output


def test_an_account_that_is_made_at_the_terminal_has_an_entry(app, run_in):
    words = ("user", "create", "bob", "bob@example.com", "--password-stdin")
    assert run_in(app)(*words, input=f"{PASSWORD}\n").exit_code == 0
    (entry,) = entries(app)
    assert (entry["action"], entry["actor_id"], entry["address"]) == ("user.created", None, None)
    assert change_of(entry)[1]["username"] == "bob"
    assert PASSWORD not in entry["change"]
    assert verdict(app)["intact"]


# ---- what an attacker found


def put_back(app, statements):
    """Run statements with the triggers out of the way, as who has the file can."""
    triggers = rows(app, "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'audit%'")
    for name, _ in triggers:
        execute(app, f"DROP TRIGGER {name}")
    for statement in statements:
        execute(app, statement)
    for _, trigger in triggers:
        execute(app, trigger)


def test_a_trail_that_was_emptied_is_no_new_one(app, admin):
    put_back(app, ["DELETE FROM audit_entries",
                   "UPDATE audit_head SET seq = 0, at = 0, hash = zeroblob(32), signature = x''"])  # fmt: skip
    assert tampered(app) is not None
    admin("POST", "/tasks", {"title": "an honest one"})
    assert tampered(app) is not None


def test_a_new_trail_is_in_order(app):
    assert tampered(app) is None


@pytest.mark.parametrize("column", ["action", "actor_id", "subject_id", "request_id"])
def test_bytes_in_the_place_of_a_text_are_found(app, admin, column):
    put_back(app, [f"UPDATE audit_entries SET {column} = CAST({column} AS BLOB) WHERE seq = 2"])
    assert tampered(app) == 2


def test_bytes_whose_hex_is_the_text_are_found_too(app, admin):
    """As Nginx makes request ids: 32 hexadecimal digits."""
    name = "0af7651916cd43dd8448eb211c80319c"
    admin("POST", "/tasks", {"title": "x"}, X_Request_ID=name)
    assert tampered(app) is None
    put_back(app, [f"UPDATE audit_entries SET request_id = x'{name}' WHERE request_id = '{name}'"])
    assert tampered(app) == 3


def test_one_check_at_a_time(admin):
    with audit_routes.ONE_AT_A_TIME:
        assert_problem(admin("GET", "/audit/verify"), 503, "unavailable")
    assert admin("GET", "/audit/verify").json["intact"] is True
