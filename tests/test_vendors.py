import base64
import dataclasses
import io
import json
import logging
import re
import time
from datetime import UTC, datetime

import orjson
import pytest
import standardwebhooks
from click.testing import CliRunner
from flask.cli import ScriptInfo
from werkzeug.datastructures import Headers

from api import db
from api.cli import walnut
from api.errors import Unauthenticated
from api.jobs import mock_vendors, queue
from api.secret_box import SecretBox
from api.vendors import keys, mock, queries
from api.vendors.pace import pace
from api.vendors.schemas import Terms
from tests.conftest import PROJECT, assert_problem, execute, rows, sign_up

ACME = {"name": "acme", "url": "http://127.0.0.1:9/jobs", "mode": "async"}
DAY = 24 * 3600 * 1000
OWN = "whsec_" + base64.b64encode(bytes(range(24))).decode()


@pytest.fixture
def acme(admin):
    """A vendor, as the answer to its creation had it."""
    made = admin("POST", "/vendors", ACME)
    assert made.status_code == 201, made.text
    return made.json


def row_of(app, name):
    with app.app_context(), db.reading() as conn:
        return queries.by_name(conn, name)


def good(app, name, at=None):
    with app.app_context():
        return keys.good(row_of(app, name), at or db.now())


def enqueue(app, lane):
    with app.app_context(), db.writing() as conn:
        return queue.enqueue(conn, "vendor", {"x": 1}, lane=lane, max_attempts=3)


# ---- the routes


def test_a_vendor_is_made_with_defaults_and_its_secret_is_told_once(app, admin):
    made = admin("POST", "/vendors", ACME)
    assert made.status_code == 201
    assert made.headers["Location"] == "/api/v1/vendors/acme"
    assert made.headers["Cache-Control"] == "no-store"
    assert made.headers["ETag"] == '"1"'
    secret = made.json["secret"]
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", secret)
    assert good(app, "acme") == [secret]
    shown = admin("GET", made.headers["Location"].removeprefix("/api/v1")).json
    assert made.json | {"paused_until": None} == shown | {"secret": secret}
    defaults = {"limit": None, "concurrency": 10, "timeout": 30, "callback_timeout": 3600, "attempts": 5}
    assert shown.items() >= (ACME | defaults | {"active": True, "version": 1}).items()


def test_two_vendors_have_two_secrets(admin, acme):
    assert admin("POST", "/vendors", ACME | {"name": "other"}).json["secret"] != acme["secret"]


def test_a_vendor_may_dictate_its_secret(app, admin):
    assert admin("POST", "/vendors", ACME | {"secret": OWN}).json["secret"] == OWN
    assert good(app, "acme") == [OWN]


def test_everything_is_given_and_camel_case_will_do(admin):
    given = {"limit": "10 per second", "concurrency": 1000, "timeout": 300, "attempts": 50, "active": False}
    made = admin("POST", "/vendors", ACME | given | {"callbackTimeout": 604800})
    assert made.json.items() >= (given | {"callback_timeout": 604800}).items()


@pytest.mark.parametrize(("field", "value"), [
    ("name", ""), ("name", "Acme"), ("name", "-acme"), ("name", ":mail"), ("name", "a" * 64), ("name", "a\n"),
    ("name", "a/b"), ("name", None), ("name", 7), ("name", "ü"),
    ("url", ""), ("url", "acme"), ("url", "ftp://example.com"), ("url", "https://"), ("url", "mock:other"),
    ("url", "https://user:password@example.com/"), ("url", "https://example.com/" + "x" * 2000), ("url", None),
    ("mode", "later"), ("mode", None),
    ("limit", "often"), ("limit", "0 per second"), ("limit", ""), ("limit", 10), ("limit", "token-bucket 0 refill 1/s"),
    ("concurrency", 0), ("concurrency", 1001), ("concurrency", "10"), ("concurrency", 1.0), ("concurrency", True),
    ("timeout", 0), ("timeout", 301), ("callback_timeout", 0), ("callback_timeout", 604801),
    ("attempts", 0), ("attempts", 51), ("active", "yes"), ("active", 1), ("active", None),
    ("secret", "x"), ("secret", "whsec_"), ("secret", "whsec_????"), ("secret", OWN.removeprefix("whsec_")),
    ("secret", "whsec_" + base64.b64encode(bytes(23)).decode()), ("secret", "whsec_" + "ü" * 44),
    ("secret", "whsec_" + base64.b64encode(bytes(65)).decode()), ("colour", "red"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused_by_name(app, admin, field, value):
    assert_problem(admin("POST", "/vendors", ACME | {field: value}), 422, "invalid", f"/{field}")
    assert row_of(app, "acme") is None


@pytest.mark.parametrize("field", ["name", "url", "mode"])
def test_what_must_be_said_is_missed_by_name(admin, field):
    given = {name: value for name, value in ACME.items() if name != field}
    assert_problem(admin("POST", "/vendors", given), 422, "invalid", f"/{field}")


@pytest.mark.parametrize("secret", ["x" * 60, "whsec_c2hvcnQgYnV0IHNlY3JldA==", "whsec_" + "A" * 200])
def test_a_refused_secret_is_not_repeated(admin, secret):
    assert secret not in admin("POST", "/vendors", ACME | {"secret": secret}).text


def test_a_name_is_one_vendors(admin, acme):
    assert_problem(admin("POST", "/vendors", ACME), 409, "conflict", "/name")


def test_in_production_no_vendor_is_on_a_private_network_and_none_is_a_mock(make_app):
    app = make_app(APP_ENV="production", REGISTER_ADMIN="first")
    admin = sign_up(app, "root", role="admin")
    for url in ("http://127.0.0.1/", "http://[::1]/", "http://10.0.0.1/", "http://169.254.169.254/", "mock:sync"):
        assert_problem(admin("POST", "/vendors", ACME | {"url": url}), 422, "invalid", "/url")
    made = admin("POST", "/vendors", ACME | {"url": "https://example.com/jobs"})
    assert made.status_code == 201
    assert_problem(admin("PATCH", "/vendors/acme", {"url": "http://10.0.0.1/"}), 422, "invalid", "/url")


def test_a_mock_is_a_vendor_like_others_where_there_are_mocks(admin):
    assert admin("POST", "/vendors", ACME | {"url": "mock:async"}).status_code == 201


def test_terms_are_changed_and_the_name_and_the_secret_are_not(app, admin, acme):
    changed = admin("PATCH", "/vendors/acme", {"active": False, "limit": "5 per second"}, If_Match='"1"')
    assert changed.status_code == 200
    assert changed.json == {
        name: value for name, value in acme.items() if name != "secret"
    } | {"active": False, "limit": "5 per second", "version": 2, "updated_at": changed.json["updated_at"]}  # fmt: skip
    assert changed.headers["ETag"] == '"2"'
    assert admin("GET", "/vendors/acme").json == changed.json | {"paused_until": None}
    assert admin("PATCH", "/vendors/acme", {"limit": None}).json["limit"] is None
    for field in ("name", "secret", "secrets", "id", "version"):
        assert_problem(admin("PATCH", "/vendors/acme", {field: acme.get(field, "x")}), 422, "invalid", f"/{field}")
    assert_problem(admin("PATCH", "/vendors/acme", {}), 422, "invalid", "")
    assert good(app, "acme") == [acme["secret"]]


def test_who_saw_another_version_changes_nothing(app, admin, acme):
    for method, path, body in (
        ("PATCH", "/vendors/acme", {"active": False}),
        ("DELETE", "/vendors/acme", None),
        ("POST", "/vendors/acme/secret", {}),
    ):
        assert_problem(admin(method, path, body, If_Match='"7"'), 412, "precondition_failed")
    assert admin("GET", "/vendors/acme").json["version"] == 1
    assert good(app, "acme") == [acme["secret"]]


@pytest.mark.parametrize("version", [1, 2])
def test_they_are_listed_by_name_or_by_age(admin, acme, version):
    def listed(query):
        answer = admin.client.get(f"/api/v{version}/vendors{query}", headers={"Authorization": f"Bearer {admin.token}"})
        assert answer.status_code == 200, answer.text
        assert "secret" not in answer.text
        return [vendor["name"] for vendor in answer.json["items"]]

    assert listed("") == ["acme", "async", "sync"]
    assert listed("?sort=-name") == ["sync", "async", "acme"]
    assert listed("?sort=-created_at&limit=1") == ["acme"]


def test_a_vendor_is_removed_with_what_its_lane_has_counted(app, admin, acme):
    execute(app, "INSERT INTO lanes (name, level, at, failures, closed_until) VALUES ('acme', 1, 1, 9, 1)")
    removed = admin("DELETE", "/vendors/acme", If_Match='"1"')
    assert (removed.status_code, removed.data) == (204, b"")
    assert_problem(admin("GET", "/vendors/acme"), 404, "not_found")
    assert rows(app, "SELECT * FROM lanes") == []


def test_a_vendor_with_jobs_stays_until_they_have_ended(app, admin, acme):
    first, second = enqueue(app, "acme"), enqueue(app, "acme")
    enqueue(app, "sync")
    refused = assert_problem(admin("DELETE", "/vendors/acme"), 409, "conflict")
    assert refused["detail"].startswith("2 jobs wait or are under way for acme. Cancel ")
    assert "active: false" in refused["detail"]
    assert admin("POST", f"/jobs/{first['id']}/cancellation").status_code == 200
    assert assert_problem(admin("DELETE", "/vendors/acme"), 409, "conflict")["detail"].startswith("1 job waits ")
    assert admin("POST", f"/jobs/{second['id']}/cancellation").status_code == 200
    assert admin("DELETE", "/vendors/acme").status_code == 204


def test_only_who_may_manage_vendors_may(app, user, anyone, acme):
    for method, path in (
        ("GET", "/vendors"), ("POST", "/vendors"), ("GET", "/vendors/acme"), ("PATCH", "/vendors/acme"),
        ("DELETE", "/vendors/acme"), ("POST", "/vendors/acme/secret"),
    ):  # fmt: skip
        assert_problem(user(method, path, {}), 403, "forbidden")
        assert_problem(anyone(method, path, {}), 401, "unauthenticated")


@pytest.mark.parametrize("name", ["nobody", "Acme", "%00", "a" * 500, "%FF"])
def test_who_is_no_vendor_is_not_found(admin, acme, name):
    for method, path in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/secret")):
        assert_problem(
            admin(method, f"/vendors/{name}{path}", {"active": True} if path == "" else {}), 404, "not_found"
        )


# ---- rotation


def test_a_secret_is_replaced_and_the_one_before_is_good_for_a_day(app, admin, acme):
    answer = admin("POST", "/vendors/acme/secret")
    assert (answer.status_code, answer.headers["ETag"]) == (200, '"2"')
    new = answer.json["secret"]
    assert new != acme["secret"]
    now = db.now()
    assert good(app, "acme") == [new, acme["secret"]]
    assert good(app, "acme", now + DAY - 60_000) == [new, acme["secret"]]
    assert good(app, "acme", now + DAY + 1) == [new]
    assert good(app, "acme", now + 1000 * DAY) == [new]


def test_a_vendor_has_three_keys_at_the_most(app, admin, acme):
    told = [acme["secret"], *(admin("POST", "/vendors/acme/secret", {}).json["secret"] for _ in range(4))]
    assert good(app, "acme") == told[:1:-1]


def test_a_key_that_was_replaced_does_not_live_longer_by_the_next_rotation(app, admin, acme, monkeypatch):
    began = db.now()
    admin("POST", "/vendors/acme/secret")
    real = db.now
    monkeypatch.setattr(db, "now", lambda: real() + DAY // 2)
    later = admin("POST", "/vendors/acme/secret")
    assert later.status_code == 200
    assert acme["secret"] in good(app, "acme", began + DAY - 60_000)
    assert acme["secret"] not in good(app, "acme", began + DAY + 60_000)
    assert len(good(app, "acme", began + DAY + 60_000)) == 2


def test_a_dictated_secret_comes_next_and_none_comes_twice(app, admin, acme):
    assert admin("POST", "/vendors/acme/secret", {"secret": OWN}).json["secret"] == OWN
    assert good(app, "acme") == [OWN, acme["secret"]]
    for twice in (OWN, acme["secret"]):
        refused = admin("POST", "/vendors/acme/secret", {"secret": twice})
        assert_problem(refused, 422, "invalid", "/secret")
        assert twice not in refused.text
    assert_problem(admin("POST", "/vendors/acme/secret", {"secret": "x"}), 422, "invalid", "/secret")


def test_a_key_that_cannot_be_decrypted_any_more_is_replaced_by_a_new_one(app, admin, acme):
    execute(app, "UPDATE vendors SET secrets = 'lost' WHERE name = 'acme'")
    new = admin("POST", "/vendors/acme/secret").json["secret"]
    assert good(app, "acme") == [new]


# ---- what is said of it elsewhere


def test_no_secret_is_in_the_database_the_log_the_trail_or_any_later_answer(app, admin, acme, caplog):
    caplog.set_level(logging.DEBUG)
    rotated = admin("POST", "/vendors/acme/secret").json["secret"]
    dictated = admin("POST", "/vendors", ACME | {"name": "own", "secret": OWN}).json["secret"]
    admin("POST", "/vendors", ACME | {"name": "own", "secret": OWN})
    admin("PATCH", "/vendors/acme", {"active": False})
    admin("DELETE", "/vendors/own")
    answers = [admin("GET", path).text for path in ("/vendors", "/vendors/acme", "/audit?limit=100")]
    stored = str(rows(app, "SELECT * FROM vendors")) + str(rows(app, "SELECT * FROM audit_entries"))
    for secret in (acme["secret"], rotated, dictated):
        for text in (*answers, stored, caplog.text, str([vars(record) for record in caplog.records])):
            assert secret.removeprefix("whsec_") not in text


def test_the_trail_says_who_did_what_to_a_vendor(admin, acme):
    admin("PATCH", "/vendors/acme", {"active": False})
    admin("POST", "/vendors/acme/secret")
    admin("DELETE", "/vendors/acme")
    found = admin("GET", f"/audit?subject=vendor:{acme['id']}").json["items"]
    assert [entry["action"] for entry in found] == [
        "vendor.removed", "vendor.secret_rotated", "vendor.changed", "vendor.created"
    ]  # fmt: skip
    assert {entry["actor_id"] for entry in found} == {admin.id}
    created = found[-1]["after"]
    assert created == {name: value for name, value in acme.items() if name != "secret"}
    assert (found[2]["before"]["active"], found[2]["after"]["active"]) == (True, False)
    assert (found[1]["before"]["version"], found[1]["after"]["version"]) == (2, 3)


# ---- keys


@pytest.fixture
def vendor(app, acme):
    return row_of(app, "acme")


@pytest.fixture
def inside(app):
    with app.app_context():
        yield


@pytest.mark.parametrize("body", [b"", b"{}", '{"x": "ü 買"}'.encode(), b'{\n  "a": 1\n}\n'])
def test_what_we_sign_another_library_verifies(inside, vendor, acme, body):
    headers = keys.sign(vendor, "msg_1", db.now(), body)
    standardwebhooks.Webhook(acme["secret"]).verify(body, headers, json_parse=False)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(acme["secret"]).verify(body + b" ", headers, json_parse=False)


def test_what_another_library_signs_we_verify(inside, vendor, acme):
    now = time.time()
    signature = standardwebhooks.Webhook(acme["secret"]).sign("msg_2", datetime.fromtimestamp(now, UTC), '{"a": "ü"}')
    headers = {"webhook-id": "msg_2", "webhook-timestamp": str(int(now)), "webhook-signature": signature}
    assert keys.verify(vendor, headers, '{"a": "ü"}'.encode(), db.now()) == "msg_2"


def test_bytes_that_are_no_text_are_signed_too(inside, vendor):
    body = bytes(range(256))
    assert keys.verify(vendor, Headers(keys.sign(vendor, "x", db.now(), body)), body, db.now()) == "x"


def test_every_good_key_signs_and_each_is_enough(app, inside, admin, acme):
    new = admin("POST", "/vendors/acme/secret").json["secret"]
    headers = keys.sign(row_of(app, "acme"), "msg", db.now(), b"{}")
    assert headers["webhook-signature"].count("v1,") == 2
    for key in (acme["secret"], new):
        standardwebhooks.Webhook(key).verify(b"{}", headers)
    later = keys.sign(row_of(app, "acme"), "msg", db.now() + DAY + 1000, b"{}")
    assert later["webhook-signature"].count("v1,") == 1


@pytest.mark.parametrize(("off", "ok"), [
    (-300_000, True), (300_000, True), (-301_000, False), (301_000, False), (-360_000, False), (360_000, False),
])  # fmt: skip
def test_five_minutes_either_way(inside, vendor, off, ok):
    now = db.now() // 1000 * 1000
    headers = keys.sign(vendor, "x", now + off, b"{}")
    if ok:
        assert keys.verify(vendor, headers, b"{}", now) == "x"
    else:
        with pytest.raises(Unauthenticated, match="five minutes"):
            keys.verify(vendor, headers, b"{}", now)


def test_an_id_cannot_reach_into_what_comes_after_it(inside, vendor):
    """`a.1.{}` is the id `a`, or the id `a.1`: the full stop is nobody's but the signature's."""
    with pytest.raises(Unauthenticated, match="full stop"):
        keys.verify(vendor, keys.sign(vendor, "a.1", db.now(), b"{}"), b"{}", db.now())


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_each_header_is_needed(inside, vendor, name):
    headers = keys.sign(vendor, "x", db.now(), b"{}")
    del headers[name]
    with pytest.raises(Unauthenticated, match=name):
        keys.verify(vendor, headers, b"{}", db.now())


def test_a_signature_may_stand_among_others(inside, vendor):
    headers = keys.sign(vendor, "x", db.now(), b"{}")
    own = headers["webhook-signature"]
    for among in (f"v1a,abc {own}", f"v2,x  {own} v1,", f"v1,{'A' * 43}= {own}"):
        assert keys.verify(vendor, headers | {"webhook-signature": among}, b"{}", db.now()) == "x"


def test_the_vendor_in_the_docs_understands_us_and_we_understand_it(inside, vendor, acme):
    """docs/vendors.md has a whole vendor in Python: what it verifies and signs is held against what is done here."""
    text = (PROJECT / "docs" / "vendors.md").read_text()
    (source,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    theirs = {"__name__": "vendor"}
    exec(compile(source, "docs/vendors.md", "exec"), theirs)
    ours = Headers(keys.sign(vendor, "msg", db.now(), b'{"a": 1}'))
    assert theirs["is_genuine"](acme["secret"], ours, b'{"a": 1}')
    assert not theirs["is_genuine"](acme["secret"], ours, b'{"a": 2}')
    assert not theirs["is_genuine"](OWN, ours, b'{"a": 1}')
    late = Headers(keys.sign(vendor, "msg", db.now() - 360_000, b"{}"))
    assert not theirs["is_genuine"](acme["secret"], late, b"{}")
    body, headers = theirs["webhook"](acme["secret"], {"request_id": "x", "status": "complete"})
    assert keys.verify(vendor, headers, body, db.now()) == headers["webhook-id"]


# ---- pace


def test_a_pace_spreads_a_window_and_leaves_a_bucket_as_it_is():
    assert pace("10 per second").quota == 1
    assert pace("token-bucket 5 refill 2/s").quota == 5
    with pytest.raises(ValueError):
        pace("sometimes")


# ---- the mock vendors


def test_a_new_database_has_two_to_try(app, admin):
    for mode in ("sync", "async"):
        found = admin("GET", f"/vendors/{mode}").json
        assert found.items() >= {"url": f"mock:{mode}", "mode": mode, "concurrency": 25, "attempts": 5}.items()
    assert good(app, "sync") != good(app, "async")


@pytest.mark.parametrize("orders", [{"hang": True}, {"delay": 330}, {"hang": True, "delay": 1}])
def test_they_hang_no_longer_than_anybody_waits(app, inside, monkeypatch, orders):
    slept = []
    monkeypatch.setattr(mock_vendors.gevent, "sleep", slept.append)
    body = orjson.dumps({"request_id": "x", "payload": {"mock": orders}})
    signed = keys.sign(row_of(app, "sync"), "x", db.now(), body)
    environ = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in signed.items()}
    environ |= {"PATH_INFO": "/sync", "wsgi.input": io.BytesIO(body)}
    mock_vendors.MockVendors(app)(environ, lambda *_: None)
    assert Terms().fields["timeout"].validate.max < slept[0] <= 400


@pytest.mark.parametrize("orders", [{"delay": "x"}, {"delay": 1e300}, {"bogus": 1}, 5, {"status": 99}, {"hang": "?"}])
def test_what_they_cannot_be_told_is_refused(app, inside, orders):
    body = orjson.dumps({"request_id": "x", "payload": {"mock": orders}})
    signed = keys.sign(row_of(app, "sync"), "x", db.now(), body)
    environ = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in signed.items()}
    environ |= {"PATH_INFO": "/sync", "wsgi.input": io.BytesIO(body)}
    told = []
    answer = b"".join(mock_vendors.MockVendors(app)(environ, lambda status, _: told.append(status)))
    assert told == ["400 Bad Request"]
    assert b"mock" in answer


def test_they_come_back_unless_they_are_not_wanted_and_what_was_changed_stays(app, admin):
    settings = app.extensions["settings"]
    admin("DELETE", "/vendors/async")
    changed = admin("PATCH", "/vendors/sync", {"concurrency": 3}).json
    mock.ensure(settings.__class__(**vars(settings) | {"mock_vendors": False}))
    assert admin("GET", "/vendors/async").status_code == 404
    mock.ensure(settings)
    assert admin("GET", "/vendors/async").status_code == 200
    assert admin("GET", "/vendors/sync").json == changed | {"paused_until": None}


def test_a_start_that_has_nothing_to_add_writes_nothing(app, monkeypatch):
    monkeypatch.setattr(mock, "Change", None)
    mock.ensure(app.extensions["settings"])


# ---- the commands


@pytest.fixture
def run(app):
    def invoke(*words, asked=None):
        return CliRunner().invoke(walnut, ["vendors", *words], obj=ScriptInfo(create_app=lambda: app), input=asked)

    return invoke


def test_vendors_are_made_and_listed_on_the_command_line(app, run):
    made = run("create", "acme", "https://example.com/x", "--mode", "async", "--limit", "10 per second")
    assert made.exit_code == 0, made.output
    assert made.output.splitlines()[-1] == good(app, "acme")[0]
    lines = run("list").output.splitlines()
    assert lines[0].split() == ["NAME", "MODE", "STATE", "LIMIT", "AT", "ONCE", "TIMEOUT", "ATTEMPTS", "URL"]
    assert lines[1].split() == ["acme", "async", "on", "10", "per", "second", "10", "30", "5", "https://example.com/x"]
    assert json.loads(run("list", "--json").output)[0]["name"] == "acme"
    assert good(app, "acme")[0] not in run("list").output
    ((action,),) = rows(app, "SELECT action FROM audit_entries WHERE action LIKE 'vendor%'")
    assert action == "vendor.created"


def test_a_vendor_that_fails_is_seen_and_a_person_may_call_it_again(app, admin, run):
    execute(app, "INSERT INTO lanes VALUES ('sync', 0, 0, 6, ?)", db.now() + 60_000)
    execute(app, "INSERT INTO lanes VALUES ('async', 0, 0, 6, ?)", db.now() - 1)
    until = admin("GET", "/vendors/sync").json["paused_until"]
    assert [vendor["paused_until"] for vendor in admin("GET", "/vendors").json["items"]] == [None, until]
    assert until
    assert admin("GET", "/vendors/sync", If_None_Match='"1"').status_code == 200  # how it is at this moment
    assert "failing, next try" in run("list").output
    assert run("resume", "sync").exit_code == 0
    assert admin("GET", "/vendors/sync").json["paused_until"] is None
    assert run("pause", "sync").exit_code == 0
    assert admin("GET", "/vendors/sync").json["active"] is False
    assert "off" in run("list").output
    assert run("pause", "nobody").exit_code == 1
    changes = rows(app, "SELECT count(*) FROM audit_entries WHERE action = 'vendor.changed'")
    assert changes == [(2,)]


def test_a_dictated_secret_is_asked_for(app, run):
    made = run("create", "acme", "https://example.com/x", "--mode", "sync", "--secret", asked=f"{OWN}\n")
    assert made.exit_code == 0, made.output
    assert good(app, "acme") == [OWN]


@pytest.mark.parametrize(("words", "fault"), [
    (("create", "Acme", "https://example.com", "--mode", "sync"), "name: "),
    (("create", "acme", "nowhere", "--mode", "sync"), "url: "),
    (("create", "sync", "https://example.com", "--mode", "sync"), "There is a vendor sync already."),
    (("create", "acme", "https://example.com", "--mode", "sync", "--limit", "x"), "limit: "),
    (("create", "acme", "https://example.com", "--mode", "sync", "--timeout", "0"), "timeout: "),
    (("remove", "nobody"), "There is no vendor nobody."),
    (("rotate", "nobody"), "There is no vendor nobody."),
    (("rotate", "sync", "--secret", "x"), "secret: "),
])  # fmt: skip
def test_what_makes_no_sense_is_one_line(run, words, fault):
    found = run(*words)
    assert (found.exit_code, found.output.count("\n")) == (1, 1), found.output
    assert found.output.startswith(f"Error: {fault}")


def test_a_secret_is_replaced_on_the_command_line(app, run):
    (before,) = good(app, "sync")
    rotated = run("rotate", "sync")
    assert rotated.exit_code == 0
    assert good(app, "sync") == [rotated.output.splitlines()[-1], before]


def test_a_vendor_is_removed_on_the_command_line(app, run):
    job = enqueue(app, "sync")
    assert run("remove", "sync").output.startswith("Error: 1 job waits")
    with app.app_context(), db.writing() as conn:
        queue.cancel(conn, job, db.now())
    assert run("remove", "sync").exit_code == 0
    assert row_of(app, "sync") is None


def test_all_secrets_move_to_a_new_key_or_none(app, run, acme):
    """ENCRYPTION_KEY is set, rekey, and JWT_SECRET is no longer needed to read them."""
    secret, settings = good(app, "acme"), app.extensions["settings"]
    chosen = dataclasses.replace(settings, encryption_key=["a key of thirty-two bytes or more"])
    app.extensions["secret_box"] = SecretBox(chosen)
    stored = "SELECT secrets FROM vendors ORDER BY name"
    before = rows(app, stored)
    execute(app, "UPDATE vendors SET secrets = 'lost' WHERE name = 'sync'")
    spoiled = rows(app, stored)
    found = run("rekey")
    assert (found.exit_code, found.output.count("\n")) == (1, 1)
    assert found.output.startswith("Error: A stored secret cannot be decrypted")
    assert rows(app, stored) == spoiled
    execute(app, "UPDATE vendors SET secrets = ? WHERE name = 'sync'", before[-1][0])
    assert run("rekey").output == (
        "The secrets of 3 vendors and 0 second factors are encrypted under the newest key now.\n"
    )
    app.extensions["secret_box"] = SecretBox(dataclasses.replace(chosen, jwt_secret="another " * 8))
    assert good(app, "acme") == secret
    assert all(good(app, name) for name in ("sync", "async"))
