import hashlib
import json
import re
import threading
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlencode

import pytest

from api import db
from api.auth import accounts, links, mails, reauthentication
from api.auth.names import folded
from api.errors import NotFound
from api.secret_box import secret_box
from api.web import inputs
from tests.conftest import PASSWORD, Caller, assert_problem, execute, rows, sign_in, sign_up

NOBODY = "00000000-0000-7000-8000-000000000000"


@pytest.mark.parametrize("path", ["/users/me", "/users/profile"])
def test_one_sees_ones_own_account(user, path):
    found = user("GET", path)
    assert found.status_code == 200
    assert (found.json["username"], found.json["email"], found.json["role"]) == ("alice", "alice@example.com", "user")
    assert "password" not in found.text


def test_an_account_is_shown_as_it_is_now(app, user):
    execute(app, "UPDATE users SET email = 'new@example.com', version = 2 WHERE username = 'alice'")
    assert user("GET", "/users/me").json["email"] == "new@example.com"


def test_ones_own_account_is_not_sent_again_if_it_did_not_change(app, user):
    tag = user("GET", "/users/me").headers["ETag"]
    again = user("GET", "/users/me", If_None_Match=tag)
    assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", tag)
    execute(app, "UPDATE users SET role = 'admin', version = 2 WHERE username = 'alice'")
    assert user("GET", "/users/me", If_None_Match=tag).json["role"] == "admin"


def test_whoever_signs_in_next_on_the_same_browser_is_not_shown_the_last_ones_account(app, admin):
    """/users/me is another thing for everybody, so its ETag must be too: 304 would mean "what you have is still so"."""
    tag = admin("GET", "/users/me").headers["ETag"]
    found = sign_up(app, "alice")("GET", "/users/me", If_None_Match=tag)
    assert found.status_code == 200
    assert found.json["username"] == "alice"


def test_answers_to_one_user_are_kept_by_no_shared_cache(user):
    for path in ("/users/me", "/tasks"):
        assert "private" in user("GET", path).headers["Cache-Control"] or user("GET", path).cache_control.no_store


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("ABC", "abc"),
        ("Straße", "strasse"),
        ("\u03d2\u0301", "\u03cd"),
        ("①②", "12"),
        ("x", "x"),
        ("\u0130", "i\u0307"),
        ("\u1e96", "h\u0331"),
        ("\u0390", "\u03b9\u0308\u0301"),
    ],
)
def test_folding(name, same):
    assert folded(name) == folded(same)


def test_what_is_folded_is_in_its_normal_form():
    """Folding takes some letters apart (U+0390, U+1E96 ...), so that the normal form must be made again."""
    for code in (0x1F0, 0x390, 0x3B0, 0x1E96, 0x1F50, 0x1FB7):
        assert unicodedata.is_normalized("NFKC", folded(chr(code)))


@pytest.mark.parametrize(
    "character", [chr(code) for code in (0x37A, 0x390, 0x1FB3, 0xFB05, 0x1E9E, 0x345, 0x149, 0x3F4)]
)
def test_folding_twice_changes_nothing(character):
    assert folded(folded(f"a{character}b")) == folded(f"a{character}b")


def test_names_keep_the_spelling_they_were_given(app):
    caller = sign_up(app, "Zoë")
    assert caller("GET", "/users/me").json["username"] == "Zoë"
    assert_problem(Caller(app)("GET", "/users/me"), 401, "unauthenticated")
    assert sign_in(app, "ZOË").token


# ---- looking after accounts


def made(admin, name, **more):
    answer = admin("POST", "/users", {"username": name, "email": f"{name}@example.com"} | more)
    assert answer.status_code == 201, answer.text
    return answer.json


def outbox(app):
    """Return the mails that wait, as dicts, the oldest first."""
    with app.app_context():
        found = rows(app, "SELECT payload FROM jobs WHERE kind = 'mail' ORDER BY seq")
        return [json.loads(secret_box().open(json.loads(payload)["sealed"])) for (payload,) in found]


def link_in(mail, page):
    return re.search(rf"/static/{page}#(\S+)", mail["text"])[1]


@pytest.fixture
def people(admin):
    for name in ("alice", "Älva", "bob", "per%cent", "under_score"):
        made(admin, name)
    return admin


def names(answer):
    assert answer.status_code == 200, answer.text
    return [user["username"] for user in answer.json["items"]]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("LIC", ["alice"]),
        ("älv", ["Älva"]),
        ("ÄLV", ["Älva"]),
        ("%", ["per%cent"]),
        ("_", ["under_score"]),
        ("b@exam", ["bob"]),
        ("nobody", []),
        ("'", []),
        ("ob@EXAMPLE.com", ["bob"]),
    ],
)
def test_accounts_are_found_by_any_part_of_name_or_address(people, text, found):
    assert names(people("GET", f"/users?{urlencode({'q': text})}")) == found


def test_accounts_are_listed_in_order_and_by_role_and_state(app, people):
    everybody = ["root", "alice", "Älva", "bob", "per%cent", "under_score"]
    assert names(people("GET", "/users")) == everybody[::-1]
    assert names(people("GET", "/users?sort=created_at")) == everybody
    by_name = ["alice", "bob", "per%cent", "root", "under_score", "Älva"]
    assert names(people("GET", "/users?sort=username")) == by_name
    assert names(people("GET", "/users?sort=-username&limit=2&page=2")) == by_name[::-1][2:4]
    assert names(people("GET", "/users?role=admin")) == ["root"]
    execute(app, "UPDATE users SET active = 0 WHERE username = 'bob'")
    assert names(people("GET", "/users?active=false")) == ["bob"]
    assert people("GET", "/users?active=true").json["total"] == 5


@pytest.mark.parametrize("sort", ["username", "-username", "created_at", "-created_at"])
def test_a_cursor_goes_through_all_accounts_once(people, sort):
    found, cursor = [], ""
    while cursor is not None:
        answer = people.client.get(
            f"/api/v2/users?q=e&limit=2&sort={sort}{cursor}", headers={"Authorization": f"Bearer {people.token}"}
        ).json
        found += [user["username"] for user in answer["items"]]
        cursor = answer["next_cursor"] and f"&cursor={answer['next_cursor']}"
    assert found == names(people("GET", f"/users?q=e&limit=100&sort={sort}"))
    assert len(found) == 6  # each address has an e


@pytest.mark.parametrize("query", ["role=boss", "active=perhaps", "sort=email", "q=", "name=x"])
def test_a_list_of_accounts_that_cannot_be_is_refused(admin, query):
    assert_problem(admin("GET", f"/users?{query}"), 422, "invalid", f"/{query.partition('=')[0]}")


def test_what_was_searched_for_is_kept_nowhere(admin):
    admin("GET", "/users?q=zyxwvut")
    admin("GET", "/users?role=admin")
    before = inputs._loaded_query.cache_info().currsize
    admin("GET", "/users?role=admin&q=zyxwvut2")
    assert inputs._loaded_query.cache_info().currsize == before


def test_whoever_looks_after_accounts_makes_one_with_a_password(app, admin):
    user = made(admin, "eve", password=PASSWORD, role="admin")
    assert (user["role"], user["active"], user["email_confirmed_at"]) == ("admin", True, None)
    assert sign_in(app, "eve")("GET", "/users").status_code == 200
    (mail,) = [mail for mail in outbox(app) if mail["to"] == "eve@example.com"]
    assert link_in(mail, "confirm-email.html")


def test_who_is_invited_chooses_the_password(app, admin):
    made(admin, "eve")
    (mail,) = [mail for mail in outbox(app) if mail["to"] == "eve@example.com"]
    token = link_in(mail, "reset-password.html")
    with app.app_context(), db.writing() as conn:
        assert links.take(conn, token, links.INVITATION)["email"] == "eve@example.com"
    for password in (".", "", "." * 31, PASSWORD):
        login = Caller(app)("POST", "/auth/login", {"email": "eve@example.com", "password": password})
        assert login.status_code == 401, login.text


def test_to_make_an_account_is_safe_to_repeat_and_the_password_is_nowhere(app, admin):
    body = {"username": "eve", "email": "eve@example.com", "password": "a very rare password"}
    first = admin("POST", "/users", body, Idempotency_Key="k")
    again = admin("POST", "/users", body, Idempotency_Key="k")
    assert (first.status_code, first.data) == (201, again.data)
    assert first.headers["Location"] == f"/api/v1/users/{first.json['id']}"
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "password" not in first.text
    stored = rows(app, "SELECT * FROM idempotency_keys")[0]
    plain = hashlib.sha256(json.dumps(body).encode()).digest()
    assert not any(isinstance(part, bytes) and (b"rare" in part or plain in part) for part in stored)
    assert rows(app, "SELECT count(*) FROM users WHERE username = 'eve'") == [(1,)]


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({"username": "ROOT", "email": "x@example.com"}, ["/username"]),
        ({"username": "r\uff4fot", "email": "x@example.com"}, ["/username"]),
        ({"username": "x", "email": "ROOT@example.com"}, ["/email"]),
        ({"username": "Root", "email": "root@EXAMPLE.com"}, ["/username", "/email"]),
    ],
)
def test_what_is_taken_cannot_be_had_again_however_it_is_spelt(app, admin, body, pointers):
    assert_problem(admin("POST", "/users", body), 409, "conflict", *pointers)
    eve = made(admin, "eve")
    assert_problem(admin("PATCH", f"/users/{eve['id']}", body), 409, "conflict", *pointers)
    own = sign_up(app, "bob")
    assert_problem(own("PATCH", "/users/me", body | {"current_password": PASSWORD}), 409, "conflict", *pointers)


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, ["/username", "/email"]),
        ({"username": "x", "email": "x@example.com", "role": "boss"}, ["/role"]),
        ({"username": "x", "email": "x@example.com", "password": "short"}, ["/password"]),
        ({"username": "x", "email": "x@example.com", "password": None}, ["/password"]),
        ({"username": "x\u200b", "email": "x"}, ["/username", "/email"]),
        ({"username": "x", "email": "x@example.com", "active": False}, ["/active"]),
        ({"username": "x", "email": "x@example.com", "email_confirmed_at": None}, ["/email_confirmed_at"]),
    ],
)
def test_an_account_that_cannot_be_is_not_made(admin, body, pointers):
    assert_problem(admin("POST", "/users", body), 422, "invalid", *pointers)


def test_one_sees_oneself_and_others_only_as_who_looks_after_them(admin, user):
    own = user("GET", f"/users/{user.id}")
    assert (own.status_code, own.json["username"]) == (200, "alice")
    assert admin("GET", f"/users/{user.id}").json == own.json
    there, not_there = (user("GET", f"/users/{one}") for one in (admin.id, NOBODY))
    for answer in (there, not_there):
        assert_problem(answer, 403, "forbidden")
    assert there.json["detail"] == not_there.json["detail"]
    assert_problem(admin("GET", f"/users/{NOBODY}"), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("GET", "/users", None), ("POST", "/users", {"username": "x", "email": "x@example.com"})],
)
def test_accounts_are_no_business_of_others(admin, user, method, path, body):
    assert_problem(user(method, path, body), 403, "forbidden")
    for path in (f"/users/{admin.id}", f"/users/{user.id}", f"/users/{NOBODY}"):
        assert_problem(user("PATCH", path, {"role": "admin"}), 403, "forbidden")
        assert_problem(user("DELETE", path), 403, "forbidden")


def test_a_change_is_about_what_was_seen(admin, user):
    path = f"/users/{user.id}"
    tag = admin("GET", path).headers["ETag"]
    assert admin("PATCH", path, {"username": "alison"}, If_Match=tag).status_code == 200
    assert_problem(admin("PATCH", path, {"username": "alba"}, If_Match=tag), 412, "precondition_failed")
    assert_problem(admin("DELETE", path, If_Match=tag), 412, "precondition_failed")
    assert user("GET", "/users/me").json["username"] == "alison"


@pytest.mark.parametrize("body", [{}, {"current_password": PASSWORD}])
def test_nothing_is_no_change(admin, user, body):
    assert admin("PATCH", f"/users/{user.id}", {}).status_code == 422
    assert user("PATCH", "/users/me", body).status_code == 422


def test_what_is_so_already_is_no_change(app, admin, user):
    """A hundred such requests would be a hundred versions and entries otherwise."""
    execute(app, "UPDATE users SET new_email = NULL, active = 1 WHERE username = 'alice'")
    path, before = f"/users/{user.id}", rows(app, "SELECT * FROM users ORDER BY id")
    entries = rows(app, "SELECT count(*) FROM audit_entries")
    whole = {"username": "alice", "email": "alice@example.com", "role": "user", "active": True}
    for answer in (
        admin("PATCH", path, whole, If_Match='"1"'),
        user("PATCH", "/users/me", {"username": "alice"}),
        user("PATCH", "/users/me", {"email": "alice@example.com", "current_password": PASSWORD}),
    ):
        assert (answer.status_code, answer.json["version"]) == (200, 1), answer.text
    assert rows(app, "SELECT * FROM users ORDER BY id") == before
    assert rows(app, "SELECT count(*) FROM audit_entries") == entries
    assert user("PATCH", "/users/me", {"username": "Alice"}).json["version"] == 2
    assert rows(app, "SELECT count(*) FROM audit_entries") == [(entries[0][0] + 1,)]


def test_a_role_acts_on_the_next_request(admin, user):
    assert user("POST", "/tasks", {"title": "x"}).status_code == 403
    admin("PATCH", f"/users/{user.id}", {"role": "admin"})
    assert user("POST", "/tasks", {"title": "x"}).status_code == 201
    admin("PATCH", f"/users/{user.id}", {"role": "user"})
    assert user("POST", "/tasks", {"title": "x"}).status_code == 403


def test_who_is_shut_out_comes_back_by_signing_in_only(app, admin, user):
    with app.app_context(), db.writing() as conn:
        reset = links.make(conn, accounts.get(conn, user.id), links.RESET).partition("#")[2]
    path = f"/users/{user.id}"
    assert admin("PATCH", path, {"active": False}).json["active"] is False
    assert_problem(user("GET", "/users/me"), 401, "unauthenticated")
    assert Caller(app)("POST", "/auth/login", {"email": "alice@example.com", "password": PASSWORD}).status_code == 401
    admin("PATCH", path, {"active": True})
    assert_problem(user("GET", "/users/me"), 401, "unauthenticated")
    refreshed = Caller(app)("POST", "/auth/refresh", {"refresh_token": user.refresh_token})
    assert_problem(refreshed, 401, "unauthenticated")
    with app.app_context(), db.writing() as conn, pytest.raises(NotFound):
        links.take(conn, reset, links.RESET)
    assert sign_in(app, "alice").token


def test_an_address_that_an_admin_sets_is_to_be_confirmed_and_the_old_one_hears_of_it(app, admin, user):
    execute(app, "UPDATE users SET email_confirmed_at = 1, new_email = 'n@example.com' WHERE username = 'alice'")
    changed = admin("PATCH", f"/users/{user.id}", {"email": "al@example.com"}).json
    assert (changed["email"], changed["new_email"], changed["email_confirmed_at"]) == ("al@example.com", None, None)
    told = {mail["to"]: mail for mail in outbox(app)}
    assert link_in(told["al@example.com"], "confirm-email.html")
    assert "al@example.com" in told["alice@example.com"]["text"]
    assert Caller(app)("POST", "/auth/login", {"email": "al@example.com", "password": PASSWORD}).status_code == 200


def test_who_was_invited_at_a_wrong_address_is_invited_again(app, admin):
    eve = made(admin, "eve")
    admin("PATCH", f"/users/{eve['id']}", {"email": "evelyn@example.com"})
    told = {mail["to"]: mail for mail in outbox(app)}
    assert link_in(told["evelyn@example.com"], "reset-password.html")


def test_the_same_address_again_changes_nothing_about_it(app, admin, user):
    execute(app, "UPDATE users SET email_confirmed_at = 1 WHERE username = 'alice'")
    assert admin("PATCH", f"/users/{user.id}", {"email": "alice@example.com"}).json["email_confirmed_at"]


def test_ones_own_address_and_account_need_ones_password(admin, user):
    assert_problem(admin("PATCH", f"/users/{admin.id}", {"email": "x@example.com"}), 403, "forbidden", "/email")
    admin("PATCH", f"/users/{user.id}", {"role": "admin"})
    assert_problem(admin("DELETE", f"/users/{admin.id}"), 403, "forbidden")
    assert admin("GET", "/users/me").json["email"] == "root@example.com"


def test_the_last_admin_stays(app, admin, user):
    def refused(answer):
        assert "walnut user set-role" in assert_problem(answer, 409, "conflict")["detail"]

    made(admin, "asleep", role="admin", password=PASSWORD)
    execute(app, "UPDATE users SET active = 0 WHERE username = 'asleep'")
    made(admin, "invited", role="admin")  # who has no password yet
    path = f"/users/{admin.id}"
    refused(admin("PATCH", path, {"role": "user"}))
    refused(admin("PATCH", path, {"active": False}))
    refused(admin("PATCH", path, {"active": False, "role": "admin"}))
    refused(admin("DELETE", path))
    refused(admin("DELETE", "/users/me", {"password": PASSWORD}))
    assert admin("PATCH", path, {"role": "admin", "active": True}).status_code == 200
    admin("PATCH", f"/users/{user.id}", {"role": "admin"})
    assert admin("PATCH", path, {"role": "user"}).status_code == 200
    refused(user("PATCH", f"/users/{user.id}", {"active": False}))


@pytest.mark.parametrize("deed", [("PATCH", {"role": "user"}), ("PATCH", {"active": False}), ("DELETE", None)])
def test_two_admins_who_turn_on_each_other_at_the_same_moment_leave_one(app, admin, deed):
    other = sign_up(app, "other")
    admin("PATCH", f"/users/{other.id}", {"role": "admin"})
    ids, gate = {admin: other.id, other: admin.id}, threading.Barrier(2)

    def turn(caller):
        path = f"/users/{ids[caller]}"
        gate.wait(5)
        return caller(deed[0], path, deed[1]).status_code

    with ThreadPoolExecutor(2) as pool:
        codes = sorted(pool.map(turn, ids))
    assert codes[0] in (200, 204)
    assert codes[1] in (401, 403, 409)
    assert rows(app, "SELECT count(*) FROM users WHERE role = 'admin' AND active") == [(1,)]


# ---- one's own account


def test_one_changes_ones_own_name(app, user):
    assert user("PATCH", "/users/me", {"username": "Alice"}).json["username"] == "Alice"
    assert user("PATCH", "/users/me", {"username": "alba"}).json["version"] == 3
    assert sign_in(app, "alice").token  # by the address


@pytest.mark.parametrize("extra", [{"role": "admin"}, {"active": True}, {"id": NOBODY}, {"email_confirmed_at": None}])
def test_what_one_may_not_change_of_oneself_is_refused_by_name(user, extra):
    assert_problem(user("PATCH", "/users/me", {"username": "x"} | extra), 422, "invalid", f"/{next(iter(extra))}")
    assert user("GET", "/users/me").json["role"] == "user"


def test_a_new_address_waits_for_the_link_and_the_old_one_hears_of_it(app, user):
    wish = {"email": "new@example.com", "current_password": PASSWORD}
    changed = user("PATCH", "/users/me", wish).json
    assert (changed["email"], changed["new_email"]) == ("alice@example.com", "new@example.com")
    told = {mail["to"]: mail for mail in outbox(app)}
    assert "new@example.com" in told["alice@example.com"]["text"]
    with app.app_context(), db.writing() as conn:
        found = links.take(conn, link_in(told["new@example.com"], "confirm-email.html"), links.CONFIRMATION)
    assert found["email"] == "new@example.com"
    assert sign_in(app, "alice").token


def test_the_present_address_again_cancels_the_new_one(user):
    user("PATCH", "/users/me", {"email": "new@example.com", "current_password": PASSWORD})
    again = user("PATCH", "/users/me", {"email": "alice@example.com", "current_password": PASSWORD})
    assert again.json["new_email"] is None


def test_a_new_address_needs_the_password(app, user):
    assert_problem(user("PATCH", "/users/me", {"email": "n@example.com"}), 422, "invalid", "/current_password")
    wrong = {"email": "n@example.com", "current_password": "wrong one"}
    assert_problem(user("PATCH", "/users/me", wrong), 403, "forbidden", "/current_password")
    assert user("GET", "/users/me").json["new_email"] is None
    for _ in range(4):
        user("PATCH", "/users/me", wrong)
    assert_problem(user("PATCH", "/users/me", wrong), 429, "rate_limited")


def test_nobodys_mailbox_can_be_filled(app, user):
    """Two mails each, to the new address and the old one; also if every other wish is to keep the old one."""
    for number in range(mails.MOST_AN_HOUR // 2):
        for email in (f"victim{number}@example.com", "alice@example.com"):
            assert user("PATCH", "/users/me", {"email": email, "current_password": PASSWORD}).status_code == 200
    refused = user("PATCH", "/users/me", {"email": "another@example.com", "current_password": PASSWORD})
    assert_problem(refused, 429, "rate_limited")
    assert refused.headers["Retry-After"] == "3600"
    assert len(outbox(app)) == mails.MOST_AN_HOUR


def test_a_password_that_was_changed_meanwhile_opens_nothing(app, user, monkeypatch):
    prove = reauthentication.prove
    monkeypatch.setattr(reauthentication, "prove", lambda *given: meanwhile(app, prove, given))
    assert_problem(user("DELETE", "/users/me", {"password": PASSWORD}), 403, "forbidden", "/password")


def meanwhile(app, check, given):
    found = check(*given)
    execute(app, "UPDATE users SET password_hash = 'x' WHERE username = 'alice'")
    return found
