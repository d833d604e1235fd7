"""Who gets an account back has it for himself: nothing that somebody else left in it lets him in again."""

import json

import pytest
from click.testing import CliRunner
from flask.cli import ScriptInfo

from api import db
from api.auth import mails
from api.cli import walnut
from api.secret_box import secret_box
from tests.conftest import PASSWORD, Caller, assert_problem, execute, rows, sign_in, sign_up
from tests.test_credentials import carry_out, delivered, link_in
from tests.test_second_factor import Device, clock, shown  # noqa: F401 (a fixture)

EVIL = "evil@example.net"
NEW = "another horse"


def change(app, user):
    body = {"current_password": PASSWORD, "new_password": NEW}
    assert user("PUT", "/auth/change-password", body).status_code == 204


def reset(app, user):
    Caller(app)("PUT", "/auth/forgot-password", {"email": "alice@example.com"})
    (mail,) = [mail for mail in delivered(app) if mail["Subject"] == "Choose a new password"]
    assert Caller(app)("PUT", f"/auth/reset-password/{link_in(mail)[1]}", {"password": NEW}).status_code == 204


def by_operator(app, user):
    command = ["user", "reset-password", "alice", "--password-stdin"]
    found = CliRunner().invoke(walnut, command, obj=ScriptInfo(create_app=lambda: app), input=f"{NEW}\n")
    assert found.exit_code == 0, found.output


def shut_and_opened(app, user):
    admin, path = sign_in(app, "root"), f"/users/{user.id}"
    assert [admin("PATCH", path, {"active": active}).status_code for active in (False, True)] == [200, 200]


def second_factor(app, user):
    begun = user("POST", "/auth/totp", {"password": PASSWORD}).json
    assert user("PUT", "/auth/totp", {"code": shown(begun["secret"], db.now())}).status_code == 200


def with_key(user, *scopes):
    made = user("POST", "/auth/api-keys", {"name": "x", "scopes": list(scopes), "password": PASSWORD})
    assert made.status_code == 201, made.text
    return Caller(user.client.application, made.json["key"])


RECOVERIES = [change, reset, by_operator, shut_and_opened, second_factor]


@pytest.mark.parametrize("recover", RECOVERIES)
def test_an_address_to_be_is_forgotten_with_its_link(app, user, recover):
    """Or whoever had the account for a minute could have it back at any time, by a new link to his own address."""
    execute(app, "UPDATE users SET email_confirmed_at = 1")
    assert user("PATCH", "/users/me", {"email": EVIL, "current_password": PASSWORD}).status_code == 200
    (sent,) = [mail for mail in delivered(app) if mail["To"] == EVIL]
    recover(app, user)
    assert rows(app, "SELECT email, new_email FROM users WHERE username = 'alice'") == [("alice@example.com", None)]
    assert_problem(Caller(app)("PUT", f"/auth/confirmation/{link_in(sent)[1]}"), 404, "not_found")
    for address in ("alice@example.com", EVIL):
        Caller(app)("PUT", "/auth/confirmation", {"email": address})
    assert not [mail for mail in delivered(app) if mail["To"] == EVIL]


@pytest.mark.parametrize("recover", [reset, by_operator, shut_and_opened])
def test_api_keys_end_with_who_made_them(app, user, recover):
    key = with_key(user, "tasks:read")
    assert key("GET", "/tasks").status_code == 200
    recover(app, user)
    assert_problem(key("GET", "/tasks"), 401, "unauthenticated")
    assert rows(app, "SELECT count(*) FROM api_keys") == [(0,)]
    assert rows(app, "SELECT count(*) FROM audit_entries WHERE action = 'api_key.removed'") == [(1,)]


def test_keys_stay_when_their_owner_changes_the_password(app, user):
    """They are for what runs when nobody is there; the mail about it says to look at them."""
    key = with_key(user, "tasks:read")
    change(app, user)
    assert key("GET", "/tasks").status_code == 200
    assert "remove the API keys you do not know" in " ".join(delivered(app)[-1].get_content().split())


def test_a_second_factor_of_who_never_showed_the_address_ends_with_the_first_who_does(app, user, clock):  # noqa: F811
    Device(app, user, clock)
    reset(app, user)
    columns = "totp_secret, totp_enabled_at, email_confirmed_at IS NOT NULL"
    assert rows(app, f"SELECT {columns} FROM users WHERE username = 'alice'") == [(None, None, 1)]
    assert rows(app, "SELECT count(*) FROM recovery_codes") == [(0,)]
    body = {"email": "alice@example.com", "password": NEW}
    assert Caller(app)("POST", "/auth/login", body).status_code == 200


def test_an_address_that_an_admin_gives_an_account_is_no_way_round_its_second_factor(app, user, clock):  # noqa: F811
    execute(app, "UPDATE users SET email_confirmed_at = 1 WHERE username = 'alice'")
    Device(app, user, clock)
    moved = sign_in(app, "root")("PATCH", f"/users/{user.id}", {"email": "moved@example.com"})
    assert (moved.status_code, moved.json["email_confirmed_at"]) == (200, None)
    delivered(app)
    Caller(app)("PUT", "/auth/forgot-password", {"email": "moved@example.com"})
    (mail,) = delivered(app)
    assert Caller(app)("PUT", f"/auth/reset-password/{link_in(mail)[1]}", {"password": NEW}).status_code == 204
    body = {"email": "moved@example.com", "password": NEW}
    assert_problem(Caller(app)("POST", "/auth/login", body), 401, "second_factor_required")


def test_the_second_factor_of_a_confirmed_address_outlives_a_reset(app, user, clock):  # noqa: F811
    execute(app, "UPDATE users SET email_confirmed_at = 1")
    Device(app, user, clock)
    reset(app, user)
    body = {"email": "alice@example.com", "password": NEW}
    assert_problem(Caller(app)("POST", "/auth/login", body), 401, "second_factor_required")


# ---- asked once more

ASKS = {
    "key": ("POST", "/auth/api-keys", {"name": "x", "scopes": ["tasks:read"]}, "password"),
    "password": ("PUT", "/auth/change-password", {"new_password": NEW}, "current_password"),
    "address": ("PATCH", "/users/me", {"email": "new@example.com"}, "current_password"),
    "farewell": ("DELETE", "/users/me", {}, "password"),
}


@pytest.mark.parametrize("name", ASKS)
def test_a_stolen_session_is_not_enough(app, user, clock, name):  # noqa: F811
    method, path, body, field = ASKS[name]
    assert_problem(user(method, path, body), 422, "invalid", f"/{field}")
    for wrong in ("wrong one", "", " ", PASSWORD.upper()):
        assert_problem(user(method, path, body | {field: wrong}), 403, "forbidden", f"/{field}")
    assert_problem(user(method, path, body | {field: None}), 422, "invalid", f"/{field}")
    device = Device(app, user, clock)
    right = body | {field: PASSWORD}
    assert_problem(user(method, path, right), 403, "forbidden", "/code")
    assert_problem(user(method, path, right | {"code": device.wrong()}), 403, "forbidden", "/code")
    answer = user(method, path, right | {"code": device.code()})
    assert answer.status_code in (200, 201, 204), answer.text
    if name != "farewell":
        again = user(method, path, right | {"code": device.code()} | {field: NEW if name == "password" else PASSWORD})
        assert_problem(again, 403, "forbidden", "/code")


def test_an_enabled_second_factor_tells_nothing_of_its_codes(app, user, clock):  # noqa: F811
    device = Device(app, user, clock)
    for code in (device.wrong(), device.code()):
        assert_problem(user("PUT", "/auth/totp", {"code": code}), 409, "conflict")


def test_a_closed_account_slows_down_whoever_has_its_password(app, user):
    execute(app, "UPDATE users SET active = 0 WHERE username = 'alice'")
    body = {"email": "alice@example.com", "password": PASSWORD}
    answers = [Caller(app)("POST", "/auth/login", body).status_code for _ in range(6)]
    assert answers == [401] * 5 + [429]


# ---- mails


def sealed_texts(app):
    with app.app_context():
        return [
            json.loads(secret_box().open(json.loads(payload)["sealed"]))
            for (payload,) in rows(app, "SELECT payload FROM jobs WHERE kind = 'mail' ORDER BY seq")
        ]


def test_a_mailbox_that_may_be_a_strangers_hears_nothing_that_anybody_chose(app):
    eve = sign_up(app, "stranger")
    assert eve("PATCH", "/users/me", {"username": "https://evil.example/reset"}).status_code == 200
    key = {"name": "your bank: https://evil.example", "scopes": ["tasks:read"], "password": PASSWORD}
    assert eve("POST", "/auth/api-keys", key).status_code == 201
    Caller(app)("PUT", "/auth/forgot-password", {"email": "stranger@example.com"})
    carry_out(app, "account_mail")
    texts = sealed_texts(app)
    assert len(texts) == 2
    assert not [mail for mail in texts if "evil.example" in mail["text"] + mail["subject"]]
    execute(app, "UPDATE users SET email_confirmed_at = 1")
    assert eve("POST", "/auth/api-keys", key).status_code == 201
    assert sealed_texts(app)[-1]["text"].startswith("Hello https://evil.example/reset,")


def test_an_hour_has_so_many_mails_for_an_account(app, user, monkeypatch):
    monkeypatch.setattr(mails, "MOST_AN_HOUR", 3)
    for _ in range(5):
        assert user("POST", "/auth/api-keys", ASKS["key"][2] | {"password": PASSWORD}).status_code == 201
    assert len(sealed_texts(app)) == 3
    execute(app, "UPDATE users SET mails_since = mails_since - 3600001")
    assert user("POST", "/auth/api-keys", ASKS["key"][2] | {"password": PASSWORD}).status_code == 201
    assert len(sealed_texts(app)) == 4
    Caller(app)("PUT", "/auth/forgot-password", {"email": "alice@example.com"})
    carry_out(app, "account_mail")
    assert rows(app, "SELECT priority FROM jobs WHERE kind = 'mail' ORDER BY seq DESC LIMIT 1") == [(mails.URGENT,)]
