"""Addresses and passwords: what proves them, what changes them, and what nobody learns by asking."""

# ruff: noqa: RUF001 (letters that look alike are what it is about)

import json
import logging
import re
import threading
import time
import unicodedata
from contextlib import contextmanager
from email import message_from_bytes
from email.policy import default
from itertools import permutations
from pathlib import Path

import bcrypt
import pytest
from click.testing import CliRunner
from flask.cli import ScriptInfo

from api import audit_trail, db
from api.audit import verify
from api.auth import accounts, links, mails, password_rules, passwords
from api.auth.names import folded
from api.cli import walnut
from api.credentials import requests
from api.errors import Invalid
from api.jobs import outbox
from api.jobs.kinds import KINDS, Again, Done, Job
from api.statements import Compiled
from tests.conftest import PASSWORD, Caller, assert_problem, execute, rows, sign_in, sign_up
from tests.smtp_server import SmtpServer

ADDRESS = "alice@example.com"
OTHER = "another horse"
LINK = re.compile(r"(http://\S+/static/([a-z-]+)\.html)#([\w-]{43})\s")


def account(name="bob", **more):
    return {"username": name, "email": f"{name}@example.com", "password": PASSWORD} | more


def waiting(app, kind):
    return rows(
        app, "SELECT id, payload, created_at FROM jobs WHERE kind = ? AND status = 'pending' ORDER BY seq", kind
    )


def carry_out(app, kind):
    """Do what a worker does with every job of a kind that waits, and return what came of them."""
    outcomes = []
    for job_id, payload, created_at in waiting(app, kind):
        with app.app_context():
            outcomes.append(KINDS[kind].run(Job(job_id, kind, f":{kind}", json.loads(payload), 1, None, created_at)))
        execute(app, "UPDATE jobs SET status = 'complete' WHERE id = ?", job_id)
    return outcomes


def delivered(app):
    """Return the mails that went out by now, as they are in the outbox."""
    folder = outbox.folder(app.extensions["settings"].instance_path)
    for path in folder.glob("*.eml"):
        path.unlink()
    carry_out(app, requests.KIND)
    sent = [outcome.result["file"] for outcome in carry_out(app, "mail")]
    return [message_from_bytes(Path(name).read_bytes(), policy=default) for name in sent]


def link_in(mail):
    """Return the page and the token of the one link of a mail."""
    ((_, page, token),) = LINK.findall(mail.get_content().replace("\r\n", "\n"))
    return page, token


def token_for(app, purpose, name="alice", to=None):
    """Return the token of a link to a user, as one that was mailed."""
    with app.app_context(), db.writing() as conn:
        user = accounts.by_email(conn, f"{name}@example.com")
        return links.make(conn, user, purpose, to).rpartition("#")[2]


def field(app, column, name="alice"):
    ((found,),) = rows(app, f"SELECT {column} FROM users WHERE username = ?", name)
    return found


def entries(app, action):
    return rows(app, "SELECT actor_id, subject_id, change FROM audit_entries WHERE action = ?", action)


def login(app, password=PASSWORD, name="alice", **more):
    return Caller(app)("POST", "/auth/login", {"email": f"{name}@example.com", "password": password} | more)


def reset(app, token, password=OTHER):
    return Caller(app)("PUT", f"/auth/reset-password/{token}", {"password": password})


def confirm(app, token):
    return Caller(app)("PUT", f"/auth/confirmation/{token}")


def change(caller, current=PASSWORD, new=OTHER):
    return caller("PUT", "/auth/change-password", {"current_password": current, "new_password": new})


@pytest.fixture
def clock(monkeypatch):
    """Return a function that lets time pass, in seconds, for all that is stored."""
    passed = [0]
    real = db.now
    monkeypatch.setattr(db, "now", lambda: real() + int(passed[0] * 1000))
    return lambda seconds: passed.__setitem__(0, passed[0] + seconds)


@pytest.fixture
def hashes(monkeypatch):
    """The passwords that were hashed or checked."""
    done = []
    for name in ("hashpw", "checkpw"):
        real = getattr(bcrypt, name)
        monkeypatch.setattr(bcrypt, name, lambda *given, real=real: (done.append(given[0]), real(*given))[1])
    return done


# ---- confirming an address


def test_who_registers_gets_a_link_that_confirms_the_address(app, anyone):
    made = anyone("POST", "/auth/register", account()).json
    assert made["email_confirmed_at"] is None
    (mail,) = delivered(app)
    assert (mail["To"], mail["Subject"]) == ("bob@example.com", "Confirm your address")
    page, token = link_in(mail)
    assert page == "confirm-email"
    answer = confirm(app, token)
    assert (answer.status_code, answer.data, answer.headers["Cache-Control"]) == (204, b"", "no-store")
    assert abs(field(app, "email_confirmed_at", "bob") - time.time() * 1000) < 5000
    assert (field(app, "version", "bob"), field(app, "updated_at", "bob") > 0) == (2, True)
    ((actor, subject, changed),) = entries(app, "user.email_confirmed")
    assert actor == subject == made["id"]
    said = json.loads(changed)
    assert (said["before"]["email_confirmed_at"], said["after"]["version"]) == (None, 2)


def test_nothing_in_that_mail_is_the_choice_of_who_typed_the_address(app, anyone):
    anyone("POST", "/auth/register", account() | {"username": "win-a-car.example/now"})
    (mail,) = delivered(app)
    assert "win-a-car" not in mail.as_string()


def test_a_registration_that_is_refused_sends_no_mail(app, user, anyone):
    assert anyone("POST", "/auth/register", account("alice")).status_code == 409
    execute(app, "CREATE TRIGGER stop BEFORE INSERT ON audit_entries BEGIN SELECT RAISE(ABORT, 'no'); END")
    assert anyone("POST", "/auth/register", account("eve")).status_code == 500
    assert rows(app, "SELECT count(*) FROM one_time_tokens") == [(0,)]
    assert delivered(app) == []


@pytest.mark.parametrize("email", ["a..b@example.com", '"a"b@example.com', ".a@example.com"])
def test_an_address_that_no_mail_can_be_sent_to_is_refused_by_its_field(lasting_app, lasting_admin, email):
    for method, path, body in (
        ("POST", "/auth/register", account() | {"email": email}),
        ("PUT", "/auth/forgot-password", {"email": email}),
        ("PUT", "/auth/confirmation", {"email": email}),
    ):
        assert_problem(Caller(lasting_app)(method, path, body), 422, "invalid", "/email")


def test_confirming_twice_is_no_fault_and_changes_nothing_more(app, user):
    first, second = (token_for(app, links.CONFIRMATION) for _ in range(2))
    assert confirm(app, first).status_code == 204
    before = rows(app, "SELECT * FROM users")
    assert confirm(app, second).status_code == 204
    assert rows(app, "SELECT * FROM users") == before


def test_a_link_for_a_new_address_makes_it_the_accounts(app, user):
    execute(app, "UPDATE users SET new_email = 'New@Example.org' WHERE username = 'alice'")
    token, old_reset = token_for(app, links.CONFIRMATION, to="New@Example.org"), token_for(app, links.RESET)
    assert confirm(app, token).status_code == 204
    kept = rows(app, "SELECT email, email_key, new_email, version FROM users WHERE username = 'alice'")
    assert kept == [("New@Example.org", "new@example.org", None, 2)]
    assert field(app, "email_confirmed_at")
    (mail,) = delivered(app)
    assert (mail["To"], mail["Subject"]) == (ADDRESS, "Your address was changed")
    assert "New@Example.org" in mail.get_content()
    assert_problem(reset(app, old_reset), 404, "not_found")
    assert login(app).status_code == 401
    signed_in = {"email": "new@example.org", "password": PASSWORD}
    assert Caller(app)("POST", "/auth/login", signed_in).status_code == 200
    said = json.loads(entries(app, "user.email_confirmed")[0][2])
    assert (said["before"]["email"], said["after"]["email"]) == (ADDRESS, "New@Example.org")


def test_a_new_address_that_another_account_has_meanwhile_is_refused_and_nothing_is_lost(app, user):
    execute(app, "UPDATE users SET new_email = 'bob@example.com' WHERE username = 'alice'")
    token = token_for(app, links.CONFIRMATION, to="bob@example.com")
    sign_up(app, "Bob")
    assert_problem(confirm(app, token), 409, "conflict")
    assert (field(app, "email"), field(app, "new_email"), field(app, "version")) == (ADDRESS, "bob@example.com", 1)
    assert delivered(app) == []
    assert_problem(confirm(app, token), 409, "conflict")


def test_a_link_to_an_address_that_is_nobodys_any_more_is_no_good(app, user):
    tokens = {purpose: token_for(app, purpose, to="before@example.com") for purpose in links.LIFETIME}
    assert_problem(confirm(app, tokens[links.CONFIRMATION]), 404, "not_found")
    for purpose in (links.RESET, links.INVITATION):
        assert_problem(reset(app, tokens[purpose]), 404, "not_found")
    assert field(app, "version") == 1


# ---- links


USES = {links.CONFIRMATION: confirm, links.RESET: reset, links.INVITATION: reset}


@pytest.mark.parametrize("purpose", USES)
def test_a_link_works_once(app, user, purpose):
    token = token_for(app, purpose)
    assert USES[purpose](app, token).status_code == 204
    assert_problem(USES[purpose](app, token), 404, "not_found")
    assert field(app, "version") == 2


@pytest.mark.parametrize("purpose", USES)
def test_a_link_that_is_used_twice_at_the_same_moment_works_once(app, user, purpose):
    token, ready, answers = token_for(app, purpose), threading.Barrier(4), []

    def use(number):
        ready.wait(5)
        if USES[purpose] is confirm:
            answers.append(confirm(app, token).status_code)
        else:
            answers.append(reset(app, token, f"horse number {number}").status_code)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [204, 404, 404, 404]
    assert field(app, "version") == 2


@pytest.mark.parametrize("purpose", USES)
def test_a_link_expires(app, user, clock, purpose):
    first, second = token_for(app, purpose), token_for(app, purpose)
    clock(links.LIFETIME[purpose] / 1000 - 2)
    assert USES[purpose](app, first).status_code == 204
    if purpose != links.CONFIRMATION:
        second = token_for(app, purpose)  # the first one's use has ended it
        clock(links.LIFETIME[purpose] / 1000 - 2)
    clock(4)
    assert_problem(USES[purpose](app, second), 404, "not_found")


@pytest.mark.parametrize(("purpose", "other"), list(permutations(USES, 2)))
def test_a_link_is_for_its_purpose_only(app, user, purpose, other):
    token = token_for(app, purpose)
    answer = USES[other](app, token)
    assert answer.status_code == (204 if USES[purpose] is USES[other] else 404)
    if answer.status_code == 404:
        assert USES[purpose](app, token).status_code == 204, "a wrong try has not used it up"


@pytest.mark.parametrize("token", ["x", "%00", "%FF", "a" * 500, "%F0%9F%A5%9C", "null"])
def test_what_is_no_token_is_no_link_and_costs_no_hash(app, user, hashes, token):
    for answer in (confirm(app, token), reset(app, token)):
        assert_problem(answer, 404, "not_found")
    assert hashes == []


def test_tokens_are_kept_as_hashes_only(app, user):
    made = [token_for(app, purpose) for purpose in USES]
    Caller(app)("PUT", "/auth/forgot-password", {"email": ADDRESS})
    (mail,) = delivered(app)
    tables = [name for (name,) in rows(app, "SELECT name FROM sqlite_master WHERE type = 'table'")]
    stored = "\n".join(str(rows(app, f"SELECT * FROM {name}")) for name in tables)
    assert len(rows(app, "SELECT * FROM one_time_tokens WHERE email = ?", ADDRESS)) >= len(made) + 1
    assert not any(token in stored for token in [*made, link_in(mail)[1]])


def test_a_closed_account_has_no_way_in_by_mail(app, user):
    tokens = {purpose: token_for(app, purpose) for purpose in USES}
    execute(app, "UPDATE users SET active = 0 WHERE username = 'alice'")
    for purpose, token in tokens.items():
        assert_problem(USES[purpose](app, token), 404, "not_found")
    for path in ("/auth/forgot-password", "/auth/confirmation"):
        assert Caller(app)("PUT", path, {"email": ADDRESS}).status_code == 202
    assert delivered(app) == []


SPELLINGS = ["/api/v1/auth/{}/{}", "/api/v2/auth/{}/{}", "/api/auth/{}/{}", "/api/v1/auth/{}/{}/", "/api/v9/auth/{}/{}"]


@pytest.mark.parametrize("path", SPELLINGS)
def test_no_line_of_the_log_has_a_token_or_a_password(app, user, caplog, path):
    caplog.set_level(logging.DEBUG)
    for name, purpose in (("confirmation", links.CONFIRMATION), ("reset-password", links.RESET)):
        for method in ("GET", "POST", "PUT"):
            token = token_for(app, purpose)
            Caller(app).client.open(path.format(name, token), method=method, json={"password": "s3cr3t horse"})
            said = " ".join(str(vars(record)) for record in caplog.records)
            assert not any(token[start : start + 20] in said for start in range(len(token) - 20))
            assert "s3cr3t" not in said
    assert len(caplog.records) >= 6


# ---- asking for a link


ASKING = {"/auth/forgot-password": links.RESET, "/auth/confirmation": links.CONFIRMATION}


@contextmanager
def watched(monkeypatch):
    """What the database is asked, and how often it commits."""
    asked = []
    with monkeypatch.context() as patch:
        real = Compiled.run
        patch.setattr(Compiled, "run", lambda self, *given: (asked.append(self.sql), real(self, *given))[1])
        yield asked


def everything(answer):
    return (
        answer.status,
        {name: value for name, value in answer.headers if name != "X-Request-ID" and "RateLimit" not in name},
        answer.data,
    )


@pytest.mark.parametrize("path", ASKING)
def test_nobody_learns_whether_there_is_an_account(app, user, hashes, monkeypatch, path):
    """The same answer, byte for byte, and the same work: the same statements, the same rows, no hash."""
    sign_up(app, "closed")
    sign_up(app, "confirmed")
    execute(app, "UPDATE users SET active = 0 WHERE username = 'closed'")
    execute(app, "UPDATE users SET email_confirmed_at = 1 WHERE username = 'confirmed'")
    hashes.clear()
    names = ("alice", "nobody", "closed", "confirmed")
    tables = ("jobs", "job_history", "audit_entries", "one_time_tokens", "users")
    answers, work, added = [], [], []
    for name in names:
        before = [rows(app, f"SELECT count(*) FROM {table}")[0][0] for table in tables]
        with watched(monkeypatch) as asked:
            answers.append(everything(Caller(app)("PUT", path, {"email": f"{name}@example.com"})))
        after = [rows(app, f"SELECT count(*) FROM {table}")[0][0] for table in tables]
        work.append(asked)
        added.append([now - then for now, then in zip(after, before, strict=True)])
    assert answers[0][0] == "202 ACCEPTED"
    assert answers.count(answers[0]) == len(names)
    assert len(work[0]) >= 2
    assert work.count(work[0]) == len(names)
    assert added == [[1, 1, 0, 0, 0]] * len(names)
    assert hashes == []
    found = {mail["To"] for mail in delivered(app)}
    assert found == {ADDRESS, "confirmed@example.com"} - (
        {"confirmed@example.com"} if "confirmation" in path else set()
    )


def test_what_was_asked_is_sealed_and_forgotten(app, user):
    Caller(app)("PUT", "/auth/forgot-password", {"email": ADDRESS})
    assert "alice" not in str(rows(app, "SELECT * FROM jobs"))
    delivered(app)
    assert rows(app, "SELECT payload FROM jobs WHERE kind = ?", requests.KIND) == [("null",)]


def test_a_link_goes_to_the_address_of_the_account_and_to_no_look_alike(app, user):
    for typed in ("ALICE@Example.COM", "аlice@example.com", "alice@exаmple.com"):
        Caller(app)("PUT", "/auth/forgot-password", {"email": typed})
    assert [mail["To"] for mail in delivered(app)] == [ADDRESS] * 3


def test_there_are_at_most_three_links_of_a_kind_in_an_hour(app, user, clock):
    ask = lambda path: Caller(app)("PUT", path, {"email": ADDRESS}).status_code  # noqa: E731
    assert {ask("/auth/forgot-password") for _ in range(5)} == {202}
    assert len(delivered(app)) == 3
    assert {ask("/auth/confirmation") for _ in range(5)} == {202}
    assert len(delivered(app)) == 3, "each kind has its own"
    clock(3601)
    ask("/auth/forgot-password")
    assert len(delivered(app)) == 1
    assert len(entries(app, "user.reset_requested")) == 4


@pytest.mark.parametrize("path", ASKING)
def test_a_request_that_sent_a_link_has_its_entry(app, user, path):
    answer = Caller(app)("PUT", path, {"email": ADDRESS})
    delivered(app)
    action = {"/auth/forgot-password": "user.reset_requested", "/auth/confirmation": "user.confirmation_requested"}[
        path
    ]
    asked = answer.headers["X-Request-ID"]
    ((seen, subject, change_, address),) = rows(
        app, "SELECT action, subject_id, change, address FROM audit_entries WHERE request_id = ?", asked
    )
    assert (seen, subject, address) == (action, user.id, None)
    assert json.loads(change_)["after"]["requested_from"] == "127.0.0.1"
    with app.app_context():
        with db.writing() as conn:
            audit_trail.forget(conn, user.id)
        assert "127.0.0.1" not in str(rows(app, "SELECT * FROM audit_entries WHERE request_id = ?", asked))


def test_nobody_but_its_owner_has_a_link_sent_to_an_address_to_be(app, user):
    execute(app, "UPDATE users SET new_email = 'new@example.org' WHERE username = 'alice'")
    Caller(app)("PUT", "/auth/confirmation", {"email": ADDRESS})
    (mail,) = delivered(app)
    assert mail["To"] == ADDRESS
    page, token = link_in(mail)
    assert (page, confirm(app, token).status_code) == ("confirm-email", 204)
    for address in (ADDRESS, "new@example.org"):
        Caller(app)("PUT", "/auth/confirmation", {"email": address})
        assert delivered(app) == []
    assert field(app, "email") == ADDRESS


def test_a_worker_that_dies_after_its_commit_has_sent_one_link_and_no_second(app, user):
    """The job is there again for another worker, with or without what it was to do: both do nothing more."""
    Caller(app)("PUT", "/auth/forgot-password", {"email": ADDRESS})
    ((job_id, payload, created_at),) = waiting(app, requests.KIND)
    for again in (payload, payload, "null"):
        with app.app_context():
            job = Job(job_id, requests.KIND, ":account_mail", json.loads(again), 1, None, created_at)
            assert KINDS[requests.KIND].run(job) == Done()
    assert len(waiting(app, "mail")) == len(entries(app, "user.reset_requested")) == 1


def test_a_transaction_of_the_job_that_fails_leaves_it_to_be_tried_again(app, user, monkeypatch):
    Caller(app)("PUT", "/auth/forgot-password", {"email": ADDRESS})
    monkeypatch.setattr(mails, "offer_reset", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        carry_out(app, requests.KIND)
    monkeypatch.undo()
    assert len(delivered(app)) == 1


def test_a_request_that_cannot_be_decrypted_waits_for_its_key(app, user):
    job = Job("x", requests.KIND, ":account_mail", {"sealed": "x"}, 1, None, 0)
    with app.app_context():
        assert isinstance(KINDS[requests.KIND].run(job), Again)


def test_links_arrive_at_a_real_server(make_app):
    with SmtpServer() as server:
        app = make_app(SMTP_URL=f"smtp://127.0.0.1:{server.port}", PUBLIC_URL="http://walnut.example.com/")
        Caller(app)("POST", "/auth/register", account("alice"))
        Caller(app)("PUT", "/auth/forgot-password", {"email": ADDRESS})
        assert carry_out(app, requests.KIND) == [Done()]
        carry_out(app, "mail")
    assert [mail["Subject"] for mail in server.mails()] == ["Confirm your address", "Choose a new password"]
    for mail, name in zip(server.mails(), ("confirm-email", "reset-password"), strict=True):
        ((address, page, token),) = LINK.findall(mail.get_content().replace("\r\n", "\n"))
        assert (address, page) == (f"http://walnut.example.com/static/{name}.html", name)
        assert {"confirm-email": confirm, "reset-password": reset}[page](app, token).status_code == 204
        served = app.test_client().get(f"/static/{page}.html")
        assert served.status_code == 200
        served.close()


# ---- choosing a new password by a link


@pytest.mark.parametrize("purpose", [links.RESET, links.INVITATION])
def test_a_link_sets_a_password_and_ends_all_that_was_open(app, user, purpose):
    twin = sign_in(app, "alice")
    token, others = token_for(app, purpose), [token_for(app, other) for other in (links.RESET, links.INVITATION)]
    answer = reset(app, token)
    assert (answer.status_code, answer.data) == (204, b"")
    for caller in (user, twin):
        assert_problem(caller("GET", "/users/me"), 401, "unauthenticated")
        assert Caller(app)("POST", "/auth/refresh", {"refresh_token": caller.refresh_token}).status_code == 401
    for other in others:
        assert_problem(reset(app, other), 404, "not_found")
    assert (login(app).status_code, login(app, OTHER).status_code) == (401, 200)
    assert field(app, "email_confirmed_at"), "the link came there"
    (mail,) = delivered(app)
    assert (mail["To"], mail["Subject"]) == (ADDRESS, "Your password was changed")
    assert mails.NOT_YOU in mail.get_content().replace("\r\n", "\n")
    ((actor, subject, changed),) = entries(app, "user.password_reset")
    assert actor == subject
    assert field(app, "password_hash") not in changed
    assert (json.loads(changed)["before"]["version"], json.loads(changed)["after"]["version"]) == (1, 2)
    assert len(entries(app, "session.ended")) == 2


def test_an_address_that_was_confirmed_before_stays_so(app, user):
    execute(app, "UPDATE users SET email_confirmed_at = 5 WHERE username = 'alice'")
    reset(app, token_for(app, links.RESET))
    assert field(app, "email_confirmed_at") == 5


def test_a_bad_password_does_not_use_the_link_up(app, user, hashes):
    token = token_for(app, links.RESET)
    for bad in ("short", "password1", "Alice123", "x" * 73):
        assert_problem(reset(app, token, bad), 422, "invalid", "/password")
    assert hashes == []
    assert reset(app, token).status_code == 204


# ---- changing the password


def test_a_change_ends_every_other_session_and_no_more(app, user):
    twin, token = sign_in(app, "alice"), token_for(app, links.RESET)
    answer = change(user)
    assert (answer.status_code, answer.data) == (204, b"")
    assert user("GET", "/users/me").json["version"] == 2
    assert Caller(app)("POST", "/auth/refresh", {"refresh_token": user.refresh_token}).status_code == 200
    assert_problem(twin("GET", "/users/me"), 401, "unauthenticated")
    assert_problem(reset(app, token), 404, "not_found")
    assert (login(app).status_code, login(app, OTHER).status_code) == (401, 200)
    (mail,) = delivered(app)
    assert (mail["To"], mail["Subject"]) == (ADDRESS, "Your password was changed")
    ((actor, subject, _),) = entries(app, "user.password_changed")
    assert actor == subject == user.id
    assert field(app, "email_confirmed_at") is None, "nobody has read a mail"


def test_a_wrong_current_password_changes_nothing(app, user):
    before = field(app, "password_hash")
    assert_problem(change(user, "wrong password"), 403, "forbidden", "/current_password")
    assert field(app, "password_hash") == before
    assert delivered(app) == []


def test_guessing_the_current_password_is_as_slow_as_at_login(app, user):
    found = [change(user, "wrong password").status_code for _ in range(6)]
    assert found == [403] * 5 + [429]
    assert login(app).status_code == 429, "it is one count"


def test_the_new_password_must_be_another_and_a_good_one(app, user):
    for new in (PASSWORD, unicodedata.normalize("NFD", PASSWORD), "short", "password1", "alice1234", "x" * 73):
        assert_problem(change(user, new=new), 422, "invalid", "/new_password")


def test_a_password_that_was_changed_meanwhile_is_noticed(app, user, monkeypatch):
    real = passwords.hash_password

    def slow(password):
        execute(app, "UPDATE users SET password_hash = 'another' WHERE username = 'alice'")
        return real(password)

    monkeypatch.setattr(passwords, "hash_password", slow)
    assert_problem(change(user), 403, "forbidden", "/current_password")
    assert field(app, "password_hash") == "another"


# ---- signing in before the address is confirmed


def test_where_the_setting_says_so_an_address_is_confirmed_before_anybody_signs_in(make_app):
    app = make_app(REQUIRE_CONFIRMED_EMAIL="true")
    Caller(app)("POST", "/auth/register", account("alice"))
    refused = assert_problem(login(app), 403, "email_not_confirmed")
    assert "mail" in refused["detail"]
    assert rows(app, "SELECT count(*) FROM sessions") == [(0,)]
    assert_problem(login(app, "wrong password"), 401, "unauthenticated")
    assert_problem(login(app, name="nobody"), 401, "unauthenticated")
    execute(app, "UPDATE users SET active = 0")
    assert_problem(login(app), 401, "unauthenticated")
    execute(app, "UPDATE users SET active = 1")
    (mail,) = delivered(app)
    assert confirm(app, link_in(mail)[1]).status_code == 204
    assert login(app).status_code == 200


def test_otherwise_nobody_waits(app, user):
    assert field(app, "email_confirmed_at") is None
    assert login(app).status_code == 200


# ---- what a password may be

EVERYWHERE = {
    "register": lambda app, user, new: Caller(app)("POST", "/auth/register", account("eve", password=new)),
    "reset": lambda app, user, new: reset(app, token_for(app, links.RESET), new),
    "change": lambda app, user, new: change(user, new=new),
}


@pytest.mark.parametrize("way", EVERYWHERE)
def test_every_way_has_the_same_rules(app, user, way):
    for new in (
        "7 chars",
        "x" * 73,
        "ä" * 36 + "x",
        "🥜" * 19,
        "iloveyou",
        "IloveYou",
        "ｐａｓｓｗｏｒｄ１",
        "Walnut-1",
    ):
        found = EVERYWHERE[way](app, user, new)
        assert_problem(found, 422, "invalid", "/new_password" if way == "change" else "/password")
        assert "hoose" in found.json["errors"][0]["detail"], "what to do"
        assert new not in found.text


LONGEST = {
    "72 bytes": "0123456789" * 7 + "ab",
    "72 bytes of umlauts": "ä" * 35 + "ö",
    "18 emoji": "🥜" * 17 + "🌰",
    "NFD of 72 bytes in NFC": "e\u0301" * 35 + "o\u0301",
}


@pytest.mark.parametrize("way", ["reset", "change"])
@pytest.mark.parametrize("new", LONGEST.values(), ids=LONGEST.keys())
def test_a_password_is_taken_whole_and_in_every_normal_form(app, user, way, new):
    assert EVERYWHERE[way](app, user, new).status_code == 204
    for form in ("NFC", "NFD"):
        assert login(app, unicodedata.normalize(form, new)).status_code == 200
    assert login(app, unicodedata.normalize("NFC", new)[:-1]).status_code == 401
    assert login(app, new + "x").status_code == 422


def test_a_73rd_byte_is_never_ignored(app, user):
    assert change(user, new="x" * 71 + "y").status_code == 204
    assert_problem(login(app, "x" * 71 + "yz"), 422, "invalid", "/password")


@pytest.mark.parametrize(
    "password", ["secret123", PASSWORD, "walnuts and cream", "        ", "a walnut's shell, closed"]
)
def test_what_is_good_enough(password):
    password_rules.not_common(password)
    password_rules.refuse_names(password, ["john", "john@example.com", "john"])


def test_the_commonest_are_known():
    assert len(password_rules.COMMONEST) >= 3000
    assert {"password", "12345678", "iloveyou", "qwertyuiop", "88888888", "987654321"} <= password_rules.COMMONEST
    assert all(len(word) >= 8 and word == folded(word) for word in password_rules.COMMONEST)


@pytest.mark.parametrize(
    ("password", "bad"),
    [
        ("jonathan", True),
        ("JONATHAN1234", True),
        ("1jonathan!", True),
        ("jonathan12345", False),
        ("jonathan@example.com", True),
        ("jonathan@example.com!!", True),
        ("jonathanjonathan", True),
        ("jonathanwalnut", True),
        ("walnut2024", True),
        ("Ｗａｌｎｕｔ２０２４", True),
        ("walnut20245", False),
        ("jonаthan99", True),
        ("me&jonathan&you", False),
        ("ab12345678", False),
    ],
)
def test_a_name_is_no_password(password, bad):
    names = ["Jonathan", "jonathan@example.com", "jonathan", "ab"]
    if not bad:
        password_rules.refuse_names(password, names)
        return
    with pytest.raises(Invalid) as refused:
        password_rules.refuse_names(password, names)
    assert [pointer for pointer, _ in refused.value.fields] == ["/password"]


def test_the_rules_are_for_choosing_and_not_for_signing_in(app, user):
    hashed = bcrypt.hashpw(b"walnut", bcrypt.gensalt(4)).decode()
    execute(app, "UPDATE users SET password_hash = ? WHERE username = 'alice'", hashed)
    assert login(app, "walnut").status_code == 200
    assert_problem(login(app, "password"), 401, "unauthenticated")


def test_the_command_line_has_the_same_rules(app):
    for bad, why in (("iloveyou", "commonest"), ("eve12345", "little more than a name"), ("short", "fewer than 8")):
        command = ["user", "create", "eve12", "eve@example.com", "--password-stdin"]
        found = CliRunner().invoke(walnut, command, obj=ScriptInfo(create_app=lambda: app), input=f"{bad}\n")
        assert found.exit_code == 1, found.output
        assert why in found.output
    assert rows(app, "SELECT count(*) FROM users") == [(0,)]


# ---- names that look alike

LOOK_ALIKES = ["jоhn", "јohn", "ЈOHN", "JOHN", "𝗃𝗈𝗁𝗇", "ｊｏｈｎ", "johո"]


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_a_name_that_looks_like_anothers_is_refused(app, anyone, name):
    anyone("POST", "/auth/register", account("john"))
    other = anyone("POST", "/auth/register", account("other") | {"username": name})
    assert_problem(other, 409, "conflict", "/username")
    local = anyone("POST", "/auth/register", account("other") | {"email": f"{name}@example.com"})
    assert_problem(local, 409, "conflict", "/email")
    assert rows(app, "SELECT count(*) FROM users") == [(1,)]


DOMAINS = ["exаmple.com", "xn--exmple-4nf.com", "XN--EXMPLE-4NF.com", "ехаmple.com", "exampl℮.com", "EXAMPLE.COM"]


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_domain_that_looks_like_anothers_is_the_same(anyone, domain):
    anyone("POST", "/auth/register", account("john"))
    other = anyone("POST", "/auth/register", account("other") | {"email": f"john@{domain}"})
    assert other.status_code in (409, 422)
    assert [error["pointer"] for error in other.json["errors"]] == ["/email"]


def test_a_domain_is_the_same_in_both_its_forms(anyone):
    assert anyone("POST", "/auth/register", account() | {"email": "bob@münchen.de"}).status_code == 201
    other = anyone("POST", "/auth/register", account("other") | {"email": "bob@xn--mnchen-3ya.de"})
    assert_problem(other, 409, "conflict", "/email")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("anna", "hanna"),
        ("user1", "userl"),
        ("bernard", "bemard"),
        ("анна", "инна"),
        ("müller", "muller"),
        ("o0", "oo"),
    ],
)
def test_names_that_differ_may_both_be_had(one, other):
    assert folded(one) != folded(other)


@pytest.mark.parametrize("text", ["xn--", "a@xn--", "a@xn--99999999999.de", "@", "xn--mnchen-3ya"])
def test_what_only_looks_like_a_domain_is_left_as_it_is(text):
    assert folded(text) == text


# ---- pages


@pytest.mark.parametrize("name", ["confirm-email", "reset-password"])
def test_the_pages_are_there_and_have_nothing_inline(lasting_app, name):
    page = lasting_app.test_client().get(f"/static/{name}.html")
    assert page.status_code == 200
    assert not re.search(r"<style|\son\w+=|\sstyle=|<script(?![^>]*\ssrc=)|https?://", page.text)
    for address in re.findall(r'(?:src|href)="(/static/[^"#]+)"', page.text):
        found = lasting_app.test_client().get(address)
        assert found.status_code == 200, address
        found.close()
    page.close()


# ---- the trail


def test_the_trail_is_whole_after_all_of_it(app, user):
    confirm(app, token_for(app, links.CONFIRMATION))
    change(user)
    reset(app, token_for(app, links.RESET), "a third horse")
    Caller(app)("PUT", "/auth/forgot-password", {"email": ADDRESS})
    delivered(app)
    with app.app_context():
        assert verify.verify()["intact"]
