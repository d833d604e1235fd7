"""API keys: shown once, good for what they were made for and their owner may, until the moment they are not."""

import hashlib
import json
import re
import time
from datetime import UTC, datetime, timedelta

import gevent
import pytest

from api import db, group_commit
from api.api_keys import queries, schemas
from api.errors import Unavailable
from api.jobs.mail import KIND
from api.secret_box import secret_box
from api.web import SCOPES, guard, limits
from api.web import api_keys as corridor
from tests.conftest import PASSWORD, Caller, assert_problem, execute, rows, sign_in, sign_up

NOBODY = "019a9f3e-5b1c-7c3a-9d0e-0f6b2a1c4d5e"
INVALID = 'Bearer realm="walnut", error="invalid_token"'
PATH = "/auth/api-keys"


@pytest.fixture(autouse=True)
def nothing_left_behind(request, monkeypatch):
    """What is kept beside the requests is kept before the app is gone."""
    monkeypatch.setattr(corridor, "_noted", type(corridor._noted)())
    if {"app", "make_app"} & set(request.fixturenames):
        request.getfixturevalue("make_app")
    yield
    gevent.sleep(0)


def make(caller, *scopes, **more):
    answer = caller("POST", PATH, {"name": "report", "scopes": list(scopes), "password": PASSWORD} | more)
    assert answer.status_code == 201, answer.text
    return answer.json


def bearer(caller, key):
    """Return somebody who shows a key, to the same app."""
    return Caller(caller.client.application, key)


def shows(caller, *scopes, **more):
    return bearer(caller, make(caller, *scopes, **more)["key"])


def later(**time):
    return (datetime.now(UTC) + timedelta(**time)).isoformat()


def refused(caller, method="GET", path="/users/me"):
    answer = caller(method, path)
    assert_problem(answer, 401, "unauthenticated")
    assert answer.headers["WWW-Authenticate"].startswith(INVALID)
    assert "API key" in answer.json["detail"]


# ---- to make, list and revoke one


def test_a_key_is_shown_once_and_kept_as_a_hash(app, user):
    made = make(user, "tasks:read", "jobs:submit")
    assert re.fullmatch(r"walnut_[A-Za-z0-9_-]{43}", made["key"])  # 256 bits
    assert made["hint"] == made["key"][:12]
    assert made["scopes"] == ["jobs:submit", "tasks:read"]
    assert (made["name"], made["expires_at"], made["last_used_at"]) == ("report", None, None)
    assert rows(app, "SELECT hash FROM api_keys") == [(hashlib.sha256(made["key"].encode()).hexdigest(),)]
    (listed,) = user("GET", PATH).json["items"]
    assert listed == {name: value for name, value in made.items() if name != "key"}


def test_the_key_is_nowhere_in_the_database(app, user):
    secret = make(user, "tasks:read")["key"].removeprefix("walnut_")
    gevent.sleep(0)
    tables = [name for (name,) in rows(app, "SELECT name FROM sqlite_schema WHERE type = 'table'")]
    dump = "\n".join(str(rows(app, f"SELECT * FROM {name}")) for name in tables)
    assert secret[:5] in dump, "the hint"
    assert secret not in dump
    assert secret[8:] not in dump


def test_no_two_keys_are_alike(user):
    assert len({make(user, "tasks:read")["key"] for _ in range(5)}) == 5


def test_the_answer_with_the_key_is_stored_nowhere(app, user):
    body = {"name": "x", "scopes": ["tasks:read"], "password": PASSWORD}
    first, second = (user("POST", PATH, body, Idempotency_Key="same") for _ in range(2))
    assert first.headers["Cache-Control"] == "no-store"
    assert first.json["key"] != second.json["key"]
    assert rows(app, "SELECT count(*) FROM idempotency_keys") == [(0,)]


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, ["/name", "/scopes"]),
        ({"name": "", "scopes": ["tasks:read"]}, ["/name"]),
        ({"name": " ", "scopes": ["tasks:read"]}, ["/name"]),
        ({"name": "x" * 101, "scopes": ["tasks:read"]}, ["/name"]),
        ({"name": "a\nb", "scopes": ["tasks:read"]}, ["/name"]),
        ({"name": "a\u202eb", "scopes": ["tasks:read"]}, ["/name"]),
        ({"name": "\u3164", "scopes": ["tasks:read"]}, ["/name"]),
        ({"name": 7, "scopes": ["tasks:read"]}, ["/name"]),
        ({"name": "x", "scopes": []}, ["/scopes"]),
        ({"name": "x", "scopes": "tasks:read"}, ["/scopes"]),
        ({"name": "x", "scopes": ["tasks:read"] * 101}, ["/scopes"]),
        ({"name": "x", "scopes": ["tasks:read", "tasks:reed"]}, ["/scopes/1"]),
        ({"name": "x", "scopes": ["tasks:read", None]}, ["/scopes/1"]),
        ({"name": "x", "scopes": [guard.SIGNED_IN]}, ["/scopes/0"]),
        ({"name": "x", "scopes": [guard.IN_PERSON]}, ["/scopes/0"]),
        ({"name": "x", "scopes": [guard.PUBLIC]}, ["/scopes/0"]),
        ({"name": "x", "scopes": ["*"]}, ["/scopes/0"]),
        ({"name": "x", "scopes": ["tasks:read", "users:manage", "audit:read"]}, ["/scopes/1", "/scopes/2"]),
        ({"name": "x", "scopes": ["tasks:read"], "expires_at": "2020-01-31T12:00:00Z"}, ["/expires_at"]),
        ({"name": "x", "scopes": ["tasks:read"], "expiresAt": "tomorrow"}, ["/expiresAt"]),
        ({"name": "x", "scopes": ["tasks:read"], "user_id": NOBODY}, ["/user_id"]),
        ({"name": "x", "scopes": ["tasks:read"], "key": "walnut_x"}, ["/key"]),
    ],
)
def test_what_no_key_can_be_made_of_is_refused_by_name(app, user, body, pointers):
    assert_problem(user("POST", PATH, body | {"password": PASSWORD}), 422, "invalid", *pointers)
    assert rows(app, "SELECT count(*) FROM api_keys") == [(0,)]


def test_the_scope_that_the_role_does_not_allow_is_named(user):
    problem = user("POST", PATH, {"name": "x", "scopes": ["tasks:read", "users:manage"], "password": PASSWORD}).json
    assert "users:manage" in problem["detail"]
    assert "tasks:read" not in problem["detail"]


def test_a_key_can_be_made_for_whatever_the_role_allows(admin, user):
    assert make(admin, *SCOPES)["scopes"] == list(SCOPES)
    own = sorted(guard.PERMISSIONS["user"] - guard.OWN)
    assert make(user, *own, *own)["scopes"] == own
    assert not {guard.PUBLIC, *guard.OWN} & set(SCOPES)


def test_a_name_is_any_text_that_can_be_seen(user):
    for name in ("Zoë: laptop", "夜间报告", "x" * 100, "🥜"):
        assert make(user, "tasks:read", name=name)["name"] == name


def test_there_is_room_for_so_many_and_those_that_expired_give_way(app, user, monkeypatch):
    monkeypatch.setattr(queries, "MOST", 3)
    for _ in range(3):
        make(user, "tasks:read", expires_at=later(days=1))
    problem = assert_problem(
        user("POST", PATH, {"name": "x", "scopes": ["tasks:read"], "password": PASSWORD}), 409, "conflict"
    )
    assert "DELETE" in problem["detail"]
    other = sign_up(app, "bob")
    make(other, "tasks:read", expires_at=later(days=1))
    execute(app, "UPDATE api_keys SET expires_at = 1")
    assert len(user("GET", PATH).json["items"]) == 3, "they stay in the list until then"
    make(user, "tasks:read")
    assert [one["expires_at"] for one in user("GET", PATH).json["items"]] == [None]
    assert len(other("GET", PATH).json["items"]) == 1, "other people's stay"


def test_everybody_sees_and_revokes_his_own_only(app, admin, user):
    mine, his = make(user, "tasks:read"), make(admin, "tasks:read")
    assert [one["id"] for one in user("GET", PATH).json["items"]] == [mine["id"]]
    assert_problem(user("DELETE", f"{PATH}/{his['id']}"), 404, "not_found")
    assert_problem(admin("DELETE", f"{PATH}/{mine['id']}"), 404, "not_found")
    assert bearer(user, mine["key"])("GET", "/tasks").status_code == 200
    assert user("DELETE", f"{PATH}/{mine['id']}").status_code == 204
    assert_problem(user("DELETE", f"{PATH}/{mine['id']}"), 404, "not_found")
    assert user("GET", PATH).json["items"] == []


def test_the_list_is_in_order_and_goes_on(user):
    made = [make(user, "tasks:read", name=str(number))["name"] for number in range(3)]
    names = [one["name"] for one in user("GET", f"{PATH}?sort=created_at").json["items"]]
    assert names == made
    own = {"Authorization": f"Bearer {user.token}"}
    part = user.client.get(f"/api/v2{PATH}?limit=2", headers=own).json
    rest = user.client.get(f"/api/v2{PATH}?limit=2&cursor={part['next_cursor']}", headers=own).json
    assert [one["name"] for one in part["items"] + rest["items"]] == made[::-1]
    assert_problem(user("GET", f"{PATH}?sort=hash"), 422, "invalid", "/sort")


def test_the_trail_has_who_and_what_for_and_neither_key_nor_hint_nor_name(app, user):
    made = make(user, "tasks:read", name="Alice Liddell")
    user("DELETE", f"{PATH}/{made['id']}")
    found = rows(app, "SELECT action, actor_id, subject_id, change FROM audit_entries WHERE subject_id = ?", made["id"])
    me = user.id
    assert [entry[:3] for entry in found] == [
        ("api_key.created", me, made["id"]),
        ("api_key.removed", me, made["id"]),
    ]
    told = {name: made[name] for name in ("id", "scopes", "created_at", "expires_at")} | {"user_id": me}
    assert [json.loads(entry[3]) for entry in found] == [
        {"before": None, "after": told},
        {"before": told, "after": None},
    ]


def test_the_owner_is_told_by_mail_in_the_same_commit(app, user):
    user("POST", PATH, {"name": "x", "scopes": ["users:manage"], "password": PASSWORD})
    before = rows(app, "SELECT count(*) FROM jobs WHERE kind = ?", KIND)[0][0]
    made = make(user, "tasks:read", name="nightly", expires_at="2999-01-31T12:00:00Z")
    assert rows(app, "SELECT count(*) FROM jobs WHERE kind = ?", KIND)[0][0] == before + 1
    (payload,) = rows(app, "SELECT payload FROM jobs WHERE kind = ? ORDER BY seq DESC LIMIT 1", KIND)[0]
    with app.app_context():
        text = secret_box().open(json.loads(payload)["sealed"])
    for part in ("nightly", made["hint"], "tasks:read", "2999-01-31", made["id"], "alice@example.com"):
        assert part in text, part
    assert made["key"] not in text


# ---- as Bearer


def test_a_key_may_what_it_was_made_for(admin):
    reader, writer = shows(admin, "tasks:read"), shows(admin, "tasks:write")
    assert reader("GET", "/tasks").status_code == 200
    problem = assert_problem(reader("POST", "/tasks", {"title": "x"}), 403, "forbidden")
    assert "tasks:write" in problem["detail"]
    assert "API key" in problem["detail"]
    assert writer("POST", "/tasks", {"title": "x"}).status_code == 201
    assert_problem(writer("GET", "/tasks"), 403, "forbidden")


def test_a_key_may_of_that_only_what_its_owner_may_now(app, user):
    execute(app, "UPDATE users SET role = 'admin' WHERE username = 'alice'")
    key = shows(user, "tasks:read", "tasks:write")
    assert key("POST", "/tasks", {"title": "x"}).status_code == 201
    execute(app, "UPDATE users SET role = 'user' WHERE username = 'alice'")
    problem = assert_problem(key("POST", "/tasks", {"title": "x"}), 403, "forbidden")
    assert "role user" in problem["detail"]
    assert key("GET", "/tasks").status_code == 200
    execute(app, "UPDATE users SET role = 'emperor' WHERE username = 'alice'")
    for path in ("/tasks", "/users/me"):
        assert_problem(key("GET", path), 403, "forbidden")


def test_any_key_may_what_anybody_signed_in_may(user):
    assert shows(user, "jobs:submit")("GET", "/users/me").json["username"] == "alice"


@pytest.mark.parametrize(
    ("method", "path"), [("GET", PATH), ("POST", PATH), ("DELETE", f"{PATH}/{NOBODY}"), ("POST", "/auth/logout")]
)
def test_no_key_may_what_is_done_in_person(app, admin, method, path):
    key = shows(admin, *SCOPES)
    problem = assert_problem(key(method, path), 403, "forbidden")
    assert "API key cannot" in problem["detail"]
    assert "Sign in" in problem["detail"]


def test_not_even_one_that_was_made_for_it_behind_our_back(app, admin):
    key = shows(admin, "tasks:read")
    execute(app, "UPDATE api_keys SET scopes = ?", json.dumps([guard.IN_PERSON, guard.PUBLIC, "tasks:read"]))
    assert_problem(key("GET", PATH), 403, "forbidden")


def test_jobs_of_all_are_seen_by_a_key_that_was_made_for_it(admin, user):
    job = {"vendor_type": "sync", "vendor_payload": 1}
    path = f"/jobs/{user('POST', '/jobs', job).json['request_id']}"
    assert_problem(shows(admin, "jobs:submit")("GET", path), 404, "not_found")
    assert shows(admin, "jobs:submit", "jobs:manage")("GET", path).status_code == 200
    assert shows(user, "jobs:submit")("GET", path).status_code == 200
    assert_problem(shows(user, "tasks:read")("GET", path), 403, "forbidden")


def test_what_is_done_by_a_key_is_done_by_its_owner(app, admin):
    task = shows(admin, "tasks:write")("POST", "/tasks", {"title": "x"}, Idempotency_Key="k").json
    assert task["created_by"] == admin.id
    assert rows(app, "SELECT actor_id FROM audit_entries WHERE subject_id = ?", task["id"]) == [(admin.id,)]
    assert rows(app, "SELECT user_id FROM idempotency_keys") == [(admin.id,)]


def ways_to_end(app, user, made):
    return {
        "revoked": lambda: user("DELETE", f"{PATH}/{made['id']}"),
        "expired": lambda: execute(app, "UPDATE api_keys SET expires_at = ?", db.now()),
        "its owner inactive": lambda: execute(app, "UPDATE users SET active = 0 WHERE username = 'alice'"),
        "its owner gone": lambda: execute(app, "DELETE FROM users WHERE username = 'alice'"),
    }


@pytest.mark.parametrize("way", ["revoked", "expired", "its owner inactive", "its owner gone"])
def test_a_key_ends_at_once_also_where_the_edge_answers(app, admin, user, way):
    made = make(user, "tasks:read", "jobs:submit", expires_at=later(hours=1))
    key = bearer(user, made["key"])
    job = {"vendor_type": "sync", "vendor_payload": 1}
    for _ in range(3):
        answer = key("GET", "/tasks")
    assert answer.headers["Cache-Status"] == "walnut; hit"
    ways_to_end(app, user, made)[way]()
    for method, path, body in (("GET", "/tasks", None), ("GET", "/users/me", None), ("POST", "/jobs", job)):
        answer = key(method, path, body)
        assert_problem(answer, 401, "unauthenticated")
        assert answer.headers["WWW-Authenticate"].startswith(INVALID)


def test_the_edge_keeps_to_the_scopes(app, admin):
    """It has the answer and knows the key; the scope is missing."""
    admin("GET", "/tasks")
    made = make(admin, "tasks:read")
    key = bearer(admin, made["key"])
    assert [key("GET", "/tasks").headers["Cache-Status"] for _ in range(2)] == ["walnut; hit"] * 2
    execute(app, "UPDATE api_keys SET scopes = '[\"tasks:write\"]'")
    assert_problem(key("GET", "/tasks"), 403, "forbidden")


def test_the_edge_keeps_to_the_role(app, admin, user):
    execute(app, "UPDATE users SET role = 'admin' WHERE username = 'alice'")
    key = shows(user, "tasks:read")
    assert [key("GET", "/tasks").status_code for _ in range(3)] == [200] * 3
    execute(app, "UPDATE users SET role = 'emperor' WHERE username = 'alice'")
    assert_problem(key("GET", "/tasks"), 403, "forbidden")


def test_what_the_edge_answers_a_key_is_what_it_answers_a_session(admin):
    admin("POST", "/tasks", {"title": "x"})
    key = shows(admin, "tasks:read")
    for caller in (admin, key, admin, key):
        answer = caller("GET", "/tasks")
    assert (answer.headers["Cache-Status"], answer.data) == ("walnut; hit", admin("GET", "/tasks").data)


def test_a_key_that_expires_between_two_calls_is_refused(user):
    key = shows(user, "tasks:read", expires_at=later(milliseconds=400))
    assert [key("GET", "/tasks").status_code for _ in range(2)] == [200, 200]
    time.sleep(0.45)
    refused(key, path="/tasks")


@pytest.mark.parametrize(
    "key",
    ["walnut_", "walnut_x", f"walnut_{'A' * 43}", "walnut_é", "walnut_ x", f"walnut_{'x' * 5000}", "walnut_a.b.c"],
)
def test_what_is_no_key_is_refused(app, admin, key):
    make(admin, "tasks:read")
    refused(Caller(app, key.encode().decode("latin-1")))


def test_a_key_is_its_every_character(user):
    key = make(user, "tasks:read")["key"]
    for other in (key[:-1], key + "x", key.swapcase(), key.removeprefix("walnut_"), f"Walnut_{key[7:]}"):
        assert bearer(user, other)("GET", "/tasks").status_code == 401, other
    assert bearer(user, key)("GET", "/tasks").status_code == 200


def test_the_hash_opens_nothing(app, user):
    make(user, "tasks:read")
    ((found,),) = rows(app, "SELECT hash FROM api_keys")
    assert Caller(app, found)("GET", "/tasks").status_code == 401
    refused(Caller(app, f"walnut_{found}"))


def test_the_end_of_a_session_ends_no_key_and_no_refresh_works_with_one(user):
    key = shows(user, "tasks:read")
    user("POST", "/auth/logout?all=true")
    assert key("GET", "/tasks").status_code == 200
    assert key("POST", "/auth/refresh").status_code == 401
    assert key("POST", "/auth/refresh", {"refresh_token": key.token}).status_code == 401


def test_a_write_looks_at_the_key_again_once_it_has_the_lock(app, admin, monkeypatch):
    """It is revoked while the body is on its way."""
    monkeypatch.setattr(guard, "AT_ONCE_SECONDS", -1.0)
    key, seen = shows(admin, "tasks:write"), []
    look = guard.known

    def then_it_is_revoked(*args, **more):
        found = look(*args, **more)
        if not seen:
            seen.append(found)
            execute(app, "DELETE FROM api_keys")
        return found

    monkeypatch.setattr(guard, "known", then_it_is_revoked)
    assert_problem(key("POST", "/tasks", {"title": "x"}), 401, "unauthenticated")
    assert rows(app, "SELECT count(*) FROM tasks") == [(0,)]


# ---- limits


def left(answer):
    return int(re.search(r"r=(\d+)", answer.headers["RateLimit"])[1])


def test_a_key_is_counted_with_its_owner_also_at_the_edge(make_app):
    app = make_app(RATE_LIMIT_DEFAULT="20 per day")
    admin = sign_up(app, "root", role="admin")
    key = shows(admin, "tasks:read")
    assert [left(caller("GET", "/tasks")) for caller in (admin, key, admin, key, key, admin)] == [*range(18, 12, -1)]
    again = shows(sign_in(app, "root"), "tasks:read")
    assert left(again("GET", "/tasks")) == 11, "any session, any key: one account"


def test_an_unknown_key_is_counted_by_its_address(make_app):
    app = make_app(RATE_LIMIT_DEFAULT="5 per day")
    admin = sign_up(app, "root", role="admin")
    made = make(admin, "tasks:read")
    key = bearer(admin, made["key"])
    admin("DELETE", f"{PATH}/{made['id']}")
    asked = [caller("GET", "/tasks").status_code for caller in (key, Caller(app, "walnut_x"), Caller(app)) * 2]
    assert asked == [401] * 5 + [429]
    assert left(admin("GET", "/tasks")) == 2, "its former owner has made three requests"


def test_the_key_of_an_account_that_was_closed_is_nobodys(app, user):
    """Its owner can have his account opened again with his limit untouched."""
    key = shows(user, "tasks:read")
    with app.test_request_context(headers={"Authorization": f"Bearer {key.token}"}):
        assert limits.who("default") == limits.as_user(user.id)
    execute(app, "UPDATE users SET active = 0 WHERE username = 'alice'")
    with app.test_request_context(headers={"Authorization": f"Bearer {key.token}"}):
        assert limits.who("default") == "address:unknown"


def test_who_is_over_his_limit_is_so_by_key_too(make_app):
    app = make_app(RATE_LIMIT_DEFAULT="5 per day")
    admin = sign_up(app, "root", role="admin")
    key = shows(admin, "tasks:read")
    assert [key("GET", "/tasks").status_code for _ in range(5)] == [200] * 4 + [429]
    assert admin("GET", "/users/me").status_code == 429


# ---- last_used_at


def last_used(app):
    return rows(app, "SELECT last_used_at FROM api_keys")[0][0]


def test_when_a_key_was_used_is_kept_beside_the_request(app, user):
    key = shows(user, "tasks:read")
    before = db.now()
    assert key("GET", "/users/me").status_code == 200
    gevent.sleep(0)
    assert before <= last_used(app) <= db.now()
    (listed,) = user("GET", PATH).json["items"]
    assert listed["last_used_at"] >= listed["created_at"]
    assert rows(app, "SELECT count(*) FROM audit_entries WHERE action LIKE 'api_key.%'") == [(1,)], "no entry for it"


def test_it_is_kept_once_a_minute_by_all_processes_together(app, user, monkeypatch):
    key, kept = shows(user, "tasks:read"), []
    change = corridor.Change
    monkeypatch.setattr(corridor, "Change", lambda writer: kept.append(1) or change(writer))
    for _ in range(5):
        key("GET", "/tasks")
        gevent.sleep(0)
    assert len(kept) == 1
    first = last_used(app)
    corridor._noted.clear()  # as another process, which has not seen it used
    key("GET", "/tasks")
    gevent.sleep(0)
    assert len(kept) == 1, "the row says that it is no minute ago"
    corridor._keep(app.extensions["database"], rows(app, "SELECT id FROM api_keys")[0][0])
    assert last_used(app) == first, "nor when two have seen the same row"
    execute(app, "UPDATE api_keys SET last_used_at = ?", first - 61_000)
    key("GET", "/tasks")
    gevent.sleep(0)
    assert last_used(app) >= first


def test_the_edge_keeps_it_too(app, user):
    key = shows(user, "tasks:read")
    for _ in range(3):
        key("GET", "/tasks")
    gevent.sleep(0)
    execute(app, "UPDATE api_keys SET last_used_at = 1")
    corridor._noted.clear()
    assert key("GET", "/tasks").headers["Cache-Status"] == "walnut; hit"
    gevent.sleep(0)
    assert last_used(app) > 1


def test_no_request_fails_because_it_cannot_be_kept(app, user, monkeypatch, caplog):
    caplog.set_level("INFO")
    key, tried = shows(user, "tasks:read"), []

    class Full(group_commit.Change):
        def __enter__(self):
            tried.append(1)
            raise Unavailable("The disk is full.")

    monkeypatch.setattr(corridor, "Change", Full)
    for _ in range(4):
        assert key("GET", "/tasks").status_code == 200
        gevent.sleep(0)
    assert tried == [1], "a disk that is full is not asked at each request"
    assert "The disk is full" in caplog.text
    assert last_used(app) is None


def test_how_many_keys_are_remembered_is_bounded(app, monkeypatch):
    monkeypatch.setattr(corridor, "MANY", 2)
    monkeypatch.setattr(corridor, "_keep", lambda *_: None)
    for number in range(5):
        corridor.used(None, {"session_id": str(number), "last_used_at": None})
    assert list(corridor._noted) == ["3", "4"]


# ---- a second factor that admins need


@pytest.fixture
def strict(make_app):
    return make_app(REQUIRE_ADMIN_TOTP="true")


def test_an_admin_without_a_second_factor_may_only_set_one_up(strict):
    admin = sign_up(strict, "root", role="admin")
    for method, path in (("GET", "/tasks"), ("POST", "/tasks"), ("GET", "/jobs"), ("GET", "/audit")):
        problem = assert_problem(admin(method, path), 403, "second_factor_needed")
        assert "POST /api/v1/auth/totp" in problem["detail"]
    assert admin("GET", "/users/me").status_code == 200
    assert admin("GET", PATH).status_code == 200
    assert admin("POST", "/auth/logout").status_code == 204


def test_with_one_he_may_everything_and_a_user_needs_none(strict):
    admin, user = sign_up(strict, "root", role="admin"), sign_up(strict, "alice")
    assert user("GET", "/tasks").status_code == 200
    execute(strict, "UPDATE users SET totp_enabled_at = 1 WHERE username = 'root'")
    assert admin("POST", "/tasks", {"title": "x"}).status_code == 201


def test_nor_may_his_keys_and_the_edge_knows_it(strict):
    admin = sign_up(strict, "root", role="admin")
    execute(strict, "UPDATE users SET totp_enabled_at = 1")
    key = shows(admin, "tasks:read")
    callers = (admin, key)
    assert [caller("GET", "/tasks").headers["Cache-Status"] for caller in callers * 2][1:] == ["walnut; hit"] * 3
    execute(strict, "UPDATE users SET totp_enabled_at = NULL")
    for caller in callers:
        assert_problem(caller("GET", "/tasks"), 403, "second_factor_needed")
        assert caller("GET", "/users/me").status_code == 200
    assert_problem(key("POST", "/tasks"), 403, "forbidden")  # what the key may not do anyway


def test_where_it_is_not_asked_for_nobody_needs_one(app, admin):
    assert admin("GET", "/tasks").status_code == 200
    assert rows(app, "SELECT totp_enabled_at FROM users") == [(None,)]


# ---- events


def heard(caller, *doings):
    """Return the types of what a caller hears of while things are done."""
    own = {"Authorization": f"Bearer {caller.token}"}
    answer = caller.client.get("/api/v1/events", headers=own)
    assert answer.status_code == 200, answer.text
    pieces = iter(answer.response)
    next(pieces)
    listener = next(iter(caller.client.application.extensions["events"]._listeners))
    for doing in doings:
        doing()
    with gevent.Timeout(5):
        while doings and not listener._pieces and not listener._over:
            gevent.sleep(0.01)
        gevent.sleep(0.15)
    text = b"".join(listener._pieces).decode()
    over = listener._over
    answer.close()
    gevent.sleep(0.12)
    return sorted(re.findall(r"^event: (\S+)", text, re.MULTILINE)), over


def test_a_key_hears_what_it_was_made_for(app, admin, user):
    def add():
        admin("POST", "/tasks", {"title": "x"})

    def submit(who):
        return lambda: who("POST", "/jobs", {"vendor_type": "sync", "vendor_payload": 1})

    everything = (submit(user), submit(admin), add)
    assert heard(shows(admin, "tasks:read"), *everything) == (["task.created"], False)
    assert heard(shows(admin, "jobs:submit"), *everything) == (["job.created"], False)
    assert heard(shows(admin, "jobs:manage"), *everything) == (["job.created"] * 2, False)
    assert heard(admin, *everything) == (["job.created", "job.created", "task.created"], False)


def test_a_stream_ends_with_its_key(app, admin):
    made = make(admin, "tasks:read")
    ended = heard(bearer(admin, made["key"]), lambda: admin("DELETE", f"{PATH}/{made['id']}"))
    assert ended == ([], True)


def test_a_stream_ends_when_its_key_expires(app, admin):
    made = make(admin, "tasks:read", expires_at=later(milliseconds=700))
    listener = bearer(admin, made["key"])
    answer = listener.client.get("/api/v1/events", headers={"Authorization": f"Bearer {made['key']}"})
    with gevent.Timeout(5):
        assert len(list(answer.response)) == 1
    answer.close()
    gevent.sleep(0.12)


def test_a_stream_ends_when_its_admin_loses_his_second_factor(strict):
    admin = sign_up(strict, "root", role="admin")
    execute(strict, "UPDATE users SET totp_enabled_at = 1")
    lost = heard(admin, lambda: execute(strict, "UPDATE users SET totp_enabled_at = NULL"))
    assert lost == ([], True)
    assert heard(admin) == ([], False), "what everybody may hear: nothing"


# ---- its statements


def test_each_question_goes_along_a_key(app):
    asked = [
        (corridor.KNOWN, {"key_hash": "x", "now": 1}),
        (guard.CALLERS[True], {"sid": "x", "sub": "y", "now": 1}),
        (guard.CALLERS[False], {"sid": "x", "sub": "y", "now": 1}),
        (guard.KEYS, {"ids": "[]", "now": 1}),
        (queries.COUNT, {"owner": "x"}),
    ]
    with app.app_context(), db.reading() as conn:
        for statement, values in asked:
            compiled = statement._for(conn.dialect)
            explain = f"EXPLAIN QUERY PLAN {compiled.sql}"
            plan = [row[-1] for row in conn.exec_driver_sql(explain, tuple(compiled._parameters(values)))]
            assert not [step for step in plan if step.startswith("SCAN") and "VIRTUAL" not in step], plan


def test_what_may_be_seen_of_a_name():
    schema = schemas.ApiKeyIn()
    assert not schema.validate({"name": "a b", "scopes": ["tasks:read"]})
    for name in ("a\tb", "a\u00a0b", "a\u2028b", "a\u200bb"):
        assert list(schema.validate({"name": name, "scopes": ["tasks:read"]})) == ["name"]
