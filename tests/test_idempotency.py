"""A repeated request is carried out once, and answered as it was then."""

import hashlib
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from api import db, sqlite
from api.tasks import queries
from api.web import PUBLIC, Resource, idempotency, sweep_idempotency_keys
from api.web.idempotency import parsed
from tests.conftest import Caller, assert_problem, execute, rows, sign_up

NOBODY = "00000000-0000-7000-8000-000000000000"
# What belongs to the request and not its answer.
OWN = {
    *("X-Request-ID", "X-Served-By", "Idempotency-Replayed", "Date"),
    *("RateLimit", "X-RateLimit-Remaining", "X-RateLimit-Reset"),
}
# What creates without a key: why.
KEYLESS = {
    "/auth/api-keys": "the answer has a key, which is kept nowhere in clear; one too many is revoked",
    "/auth/register": "nobody is signed in, so a key would have no scope; the address that is taken says the same",
    "/vendors": "the answer has a secret, which is kept nowhere in clear; the name that is taken says the same",
    "/auth/totp": "the answer has a secret; to begin again replaces it",
    "/auth/totp/recovery-codes": "the answer has secrets; to make them anew replaces them",
}


def keyed(caller, key, json=None, path="/tasks", **more):
    return caller.send("POST", path, {"Idempotency-Key": key} | more.pop("headers", {}), json=json, **more)


def whole(answer):
    """Return what must be the same, byte for byte."""
    return answer.status_code, [pair for pair in answer.headers if pair[0] not in OWN], answer.data


def replayed(answer):
    return answer.headers.get("Idempotency-Replayed") == "true"


def count(app, table="tasks"):
    return rows(app, f"SELECT count(*) FROM {table}")[0][0]


def test_a_repeated_request_is_carried_out_once_and_answered_alike(app, admin):
    first = keyed(admin, "k1", {"title": "ü", "tags": ["a"]})
    assert first.status_code == 201
    assert "Idempotency-Replayed" not in first.headers
    audited = count(app, "audit_entries")
    for _ in range(3):
        again = keyed(admin, "k1", {"title": "ü", "tags": ["a"]})
        assert whole(again) == whole(first)
        assert replayed(again)
        assert again.headers["X-Request-ID"] != first.headers["X-Request-ID"]
    assert {name for name, _ in whole(first)[1]} >= {"ETag", "Location", "Content-Type", "Cache-Control"}
    assert count(app) == 1
    assert count(app, "audit_entries") == audited


def test_the_answer_is_the_one_of_then_whatever_became_of_the_thing(app, admin):
    first = keyed(admin, "k1", {"title": "x"})
    admin("PATCH", f"/tasks/{first.json['id']}", {"title": "y"})
    assert whole(keyed(admin, "k1", {"title": "x"})) == whole(first)
    admin("DELETE", f"/tasks/{first.json['id']}")
    assert whole(keyed(admin, "k1", {"title": "x"})) == whole(first)
    assert count(app) == 0


@pytest.mark.parametrize(
    "other",
    [
        {"json": {"title": "y"}},
        {"json": {"title": "x", "priority": 3}},
        {"data": b'{"title": "x"} '},
        {"data": b'{"title": "x"}', "content_type": "application/json; charset=utf-8"},
        {"data": b'{"title": "x"}', "content_type": "application/vnd.walnut+json"},
        {"data": b'{"title": "x"}', "query_string": "a=b"},
        {"data": b'{"title": ""}'},
        {"data": b"not JSON"},
        {"data": b""},
    ],
)
def test_the_same_key_with_another_request_is_refused(app, admin, other):
    given = {"data": b'{"title": "x"}', "content_type": "application/json"}
    first = keyed(admin, "k1", **given)
    if "json" in other:
        given = {}
    assert_problem(keyed(admin, "k1", **(given | other)), 422, "idempotency_key_reused")
    assert count(app) == 1
    assert whole(keyed(admin, "k1", data=b'{"title": "x"}', content_type="application/json")) == whole(first)


def test_another_user_with_the_same_key_has_his_own_result(app, admin):
    other = sign_up(app, "bob")
    execute(app, "UPDATE users SET role = 'admin'")
    one, two = keyed(admin, "k1", {"title": "x"}), keyed(other, "k1", {"title": "x"})
    assert (one.status_code, two.status_code) == (201, 201)
    assert one.json["id"] != two.json["id"]
    assert not replayed(two)
    assert whole(keyed(other, "k1", {"title": "x"})) == whole(two)
    assert_problem(keyed(other, "k1", {"title": "y"}), 422, "idempotency_key_reused")


def test_without_a_key_every_request_is_new(app, admin):
    assert admin("POST", "/tasks", {"title": "x"}).json["id"] != admin("POST", "/tasks", {"title": "x"}).json["id"]
    assert count(app, "idempotency_keys") == 0


def test_a_key_where_none_is_honoured_changes_nothing(app, admin, user):
    path = f"/tasks/{keyed(admin, 'k1', {'title': 'x'}).json['id']}"
    for title in ("y", "z"):
        assert admin("PATCH", path, {"title": title}, Idempotency_Key="k1").json["title"] == title
    login = {"email": "alice@example.com", "password": "correct horse"}
    answers = [user("POST", "/auth/login", login, Idempotency_Key="k1") for _ in range(2)]
    assert answers[0].json["refresh_token"] != answers[1].json["refresh_token"]
    assert count(app, "idempotency_keys") == 1


def test_who_may_no_longer_create_gets_no_stored_answer_either(app, admin):
    keyed(admin, "k1", {"title": "x"})
    execute(app, "UPDATE users SET role = 'user'")
    assert_problem(keyed(admin, "k1", {"title": "x"}), 403, "forbidden")
    execute(app, "UPDATE users SET role = 'admin', active = 0")
    assert_problem(keyed(admin, "k1", {"title": "x"}), 401, "unauthenticated")


# ---- which answers are kept


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"json": {"title": ""}}, 422),
        ({"json": {"titel": "x"}}, 422),
        ({"data": b"{", "content_type": "application/json"}, 400),
        ({"data": b"title=x", "content_type": "application/x-www-form-urlencoded"}, 415),
        ({}, 422),
    ],
)
def test_a_refusal_that_follows_from_the_request_alone_is_kept(app, admin, given, status):
    first = keyed(admin, "k1", **given)
    assert first.status_code == status
    assert first.content_type == "application/problem+json"
    again = keyed(admin, "k1", **given)
    assert whole(again) == whole(first)
    assert replayed(again)
    assert_problem(keyed(admin, "k1", {"title": "now it is right"}), 422, "idempotency_key_reused")
    assert count(app) == 0


def test_a_refusal_that_follows_from_the_data_is_not_kept(app, admin):
    """422 for an assignee who is not there: with him there, the same request does what it says."""
    body = {"title": "x", "assignee_id": NOBODY}
    for _ in range(2):
        refused = keyed(admin, "k1", body)
        assert_problem(refused, 422, "invalid", "/assignee_id")
        assert not replayed(refused)
    assert count(app, "idempotency_keys") == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(db, "new_id", lambda: NOBODY)
        Caller(app)("POST", "/auth/register", {"username": "n", "email": "n@example.com", "password": "correct horse"})
    assert keyed(admin, "k1", body).status_code == 201


def test_what_went_wrong_here_is_not_kept(app, admin, monkeypatch):
    create = queries.create

    def full(*given):
        create(*given)
        error = sqlite.driver.OperationalError("injected")
        error.sqlite_errorcode = 13
        raise error

    for fault, status, code in ((full, 503, "unavailable"), (lambda *_: 1 / 0, 500, "internal_server_error")):
        with monkeypatch.context() as patch:
            patch.setattr(queries, "create", fault)
            assert_problem(keyed(admin, "k1", {"title": "x"}), status, code)
    assert count(app) == count(app, "idempotency_keys") == 0
    assert keyed(admin, "k1", {"title": "x"}).status_code == 201


def test_an_answer_that_cannot_be_kept_takes_its_change_with_it(app, admin):
    audited = count(app, "audit_entries")
    execute(app, "CREATE TRIGGER stop BEFORE INSERT ON idempotency_keys BEGIN SELECT RAISE(ABORT, 'no'); END")
    assert_problem(keyed(admin, "k1", {"title": "x"}), 500, "internal_server_error")
    assert count(app) == 0
    assert count(app, "audit_entries") == audited
    execute(app, "DROP TRIGGER stop")
    assert keyed(admin, "k1", {"title": "x"}).status_code == 201


def test_a_body_that_did_not_arrive_whole_leaves_no_trace(app, admin):
    given = {"data": b'{"title": "x"}', "content_type": "application/json"}
    cut = keyed(admin, "k1", **given, environ_overrides={"CONTENT_LENGTH": "60"})
    assert_problem(cut, 400, "malformed")
    large = keyed(admin, "k1", data=b" " * (2**20 + 1), content_type="application/json")
    assert_problem(large, 413, "too_large")
    assert count(app, "idempotency_keys") == 0
    assert keyed(admin, "k1", **given).status_code == 201


def test_a_header_of_the_request_that_is_no_part_of_it_makes_no_difference(app, admin):
    first = keyed(admin, "k1", {"title": "x"})
    again = keyed(admin, "k1", {"title": "x"}, headers={"User-Agent": "another", "X-Request-ID": "mine"})
    assert whole(again) == whole(first)
    assert again.headers["X-Request-ID"] == "mine"


# ---- the key itself

KEYS = dict(
    [
        ("abc", "abc"), ('"abc"', "abc"), ("8e03978e-40d5-43dd-bc93-6894a57f9324",) * 2, ("x", "x"), ("~!", "~!"),
        ("a" * 255, "a" * 255), ('"' + "a" * 255 + '"', "a" * 255), (r'"a\"b\\c"', r'a"b\c'), ('a"b', 'a"b'),
        (r"a\b", r"a\b"), (" abc ", "abc"), ('"' + r"\"" * 255 + '"', '"' * 255), ("a;b", "a;b"), ('"a,b"', "a,b"),
    ]
)  # fmt: skip
NO_KEYS = [
    "", " ", '""', '"', '"abc', '"a"b"', r'"a\b"', '"a b"', "a b", "a" * 256, '"' + "a" * 256 + '"', "ä", "a\x7f",
    "a\tb", '"a";b=1', '"a","b"', "\xa0", "🌰", "a,b", "a, b",
]  # fmt: skip


@pytest.mark.parametrize(("header", "key"), KEYS.items())
def test_what_is_a_key(header, key):
    assert parsed(header) == key


@pytest.mark.parametrize("header", NO_KEYS)
def test_what_is_no_key(lasting_app, lasting_admin, header):
    answer = keyed(lasting_admin, header.encode("utf-8").decode("latin-1"), {"title": "x"})
    assert_problem(answer, 400, "malformed")
    assert "Idempotency-Key" in answer.json["detail"]
    assert rows(lasting_app, "SELECT count(*) FROM idempotency_keys") == [(0,)]


def test_quoted_and_bare_are_the_same_key(admin):
    first = keyed(admin, '"k1"', {"title": "x"})
    assert whole(keyed(admin, "k1", {"title": "x"})) == whole(first)


def test_the_key_itself_is_kept_nowhere(app, admin, caplog):
    caplog.set_level("DEBUG")
    keyed(admin, "a-key-with-a-name-in-it", {"title": "x"})
    assert "a-key-with-a-name-in-it" not in str(rows(app, "SELECT * FROM idempotency_keys")) + caplog.text
    (key,) = rows(app, "SELECT key FROM idempotency_keys")[0]
    assert len(key) == hashlib.sha256().digest_size


def test_no_part_can_pass_for_two():
    assert idempotency._hash(b"ab", b"c") != idempotency._hash(b"a", b"bc")
    assert idempotency._hash(b"a", b"") != idempotency._hash(b"a")
    assert idempotency._hash(b"1:a", b"") != idempotency._hash(b"", b"1:a")


# ---- twins


def test_twins_at_the_same_moment_are_carried_out_once(app, admin):
    """As many threads as a worker has greenlets: they share commits and wait for each other."""
    barrier = threading.Barrier(16)

    def one(number):
        caller = Caller(app, admin.token)
        barrier.wait()
        return keyed(caller, f"k{number % 2}", {"title": f"{number % 2}"})

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(one, range(16)))
    for half in (answers[::2], answers[1::2]):
        assert len({json.dumps(whole(answer), default=str) for answer in half}) == 1
        assert sum(not replayed(answer) for answer in half) == 1
    assert count(app) == count(app, "idempotency_keys") == 2
    assert rows(app, "SELECT count(*) FROM audit_entries WHERE action = 'task.created'") == [(2,)]


def test_a_twin_whose_commit_fails_is_not_told_that_it_was_done(app, admin, monkeypatch):
    """Both are in one group: what the first has stored is not on disk yet when the second finds it."""
    keyed(admin, "other", {"title": "opens the writer"})
    writer = app.extensions["database"].writer()
    lead = writer._lead
    together = threading.Barrier(2)
    monkeypatch.setattr(writer, "_lead", lambda group: (together.wait(5), lead(group)))

    class Refusing:
        def __getattr__(self, name):
            return getattr(driver, name)

        def execute(self, statement, *given):
            if statement == "COMMIT":
                error = sqlite.driver.OperationalError("injected")
                error.sqlite_errorcode = 13
                raise error
            return driver.execute(statement, *given)

    driver = writer._driver
    monkeypatch.setattr(writer, "_driver", Refusing())
    leave = writer.leave

    def left(group, error, *, leads):
        if not leads:
            together.wait(5)
        return leave(group, error, leads=leads)

    monkeypatch.setattr(writer, "leave", left)
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: keyed(Caller(app, admin.token), "k1", {"title": "x"}), range(2)))
    assert [answer.status_code for answer in answers] == [503, 503]
    monkeypatch.undo()
    assert count(app) == 1
    assert keyed(admin, "k1", {"title": "x"}).status_code == 201


# ---- expiry


@pytest.fixture
def clock(monkeypatch):
    """Return a function that sets the clock forward by so many seconds."""
    real = db.now
    return lambda seconds: monkeypatch.setattr(db, "now", lambda: real() + round(seconds * 1000))


def test_a_key_counts_for_its_time_and_is_new_afterwards(make_app, clock):
    app = make_app(IDEMPOTENCY_TTL="60")
    admin = sign_up(app, "root", role="admin")
    first = keyed(admin, "k1", {"title": "x"})
    clock(58)
    assert whole(keyed(admin, "k1", {"title": "x"})) == whole(first)
    clock(61)
    second = keyed(admin, "k1", {"title": "another"})
    assert second.status_code == 201
    assert not replayed(second)
    clock(62)
    assert whole(keyed(admin, "k1", {"title": "another"})) == whole(second)
    assert count(app, "idempotency_keys") == 1


def test_a_day_by_default(app, admin, clock):
    keyed(admin, "k1", {"title": "x"})
    ((expires,),) = rows(app, "SELECT expires_at FROM idempotency_keys")
    assert 86_395_000 < expires - db.now() <= 86_400_000


def test_what_has_expired_is_swept_in_small_steps_and_nothing_else(app, admin, clock, monkeypatch):
    for number in range(7):
        keyed(admin, f"old{number}", {"title": "x"})
    clock(40_000)
    for number in range(3):
        keyed(admin, f"new{number}", {"title": "x"})
    monkeypatch.setattr(idempotency, "BATCH", 3)

    def sweep():
        with app.app_context(), db.writing() as conn:
            return sweep_idempotency_keys(conn)

    assert sweep() == 0
    clock(86_401)
    assert [sweep() for _ in range(4)] == [3, 3, 1, 0]
    assert count(app, "idempotency_keys") == 3
    assert count(app) == 10
    assert replayed(keyed(admin, "new0", {"title": "x"}))


def test_a_users_keys_go_with_the_user(app, admin):
    keyed(admin, "k1", {"title": "x"})
    execute(app, "DELETE FROM users")
    assert count(app, "idempotency_keys") == 0


def test_looking_up_and_sweeping_use_indexes(app):
    with app.app_context(), db.reading() as conn:
        for statement in (idempotency.FIND, idempotency.SWEEP):
            compiled = statement.clause.compile(conn)
            values = tuple(compiled.params[name] or 1 for name in compiled.positiontup)
            plan = " / ".join(row[3] for row in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}", values))
            assert "SEARCH" in plan, plan
            assert "SCAN idempotency_keys" not in plan, plan


# ---- every route


def test_every_post_that_creates_takes_a_key_or_is_excused(lasting_app):
    creating = set()
    for rule in lasting_app.url_map.iter_rules():
        contract = getattr(lasting_app.view_functions[rule.endpoint], "contract", None)
        if contract and "POST" in rule.methods and contract.status in (201, 202) and rule.rule.startswith("/api/v"):
            path = "/" + rule.rule.split("/", 3)[3]
            creating.add(path)
            assert contract.idempotent != (path in KEYLESS), path
        elif contract:
            assert not contract.idempotent, rule.rule
    assert "/tasks" in creating
    assert set(KEYLESS) <= creating


def test_what_anybody_may_do_cannot_have_a_key():
    with pytest.raises(TypeError, match="belongs to a user"):
        Resource("room", __name__).post("/x", allow=PUBLIC, idempotent=True)


def test_the_document_has_the_header_and_its_refusals(lasting_app):
    document = lasting_app.test_client().get("/api-docs/openapi.json").json
    operation = document["paths"]["/api/v1/tasks"]["post"]
    (found,) = [one for one in operation["parameters"] if one["name"] == "Idempotency-Key"]
    assert (found["in"], found["required"]) == ("header", False)
    pattern = re.compile(found["schema"]["pattern"])
    for header in KEYS:
        assert pattern.search(header.strip()), header
    for header in NO_KEYS:
        assert not pattern.search(header), header
    assert {"400", "422"} <= set(operation["responses"])
    assert "Idempotency-Key" not in json.dumps(document["paths"]["/api/v1/auth/login"])
