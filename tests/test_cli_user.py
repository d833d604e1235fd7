"""Accounts from a terminal: with the server running or not, audited, and never without an admin."""

import json
import sys

import pytest
from click.testing import CliRunner
from flask.cli import ScriptInfo

from api import checkpoints, db
from api.auth import accounts, links
from api.cli import walnut
from api.errors import NotFound
from tests.conftest import PASSWORD, Caller, assert_problem, execute, rows, sign_in, sign_up

NEW = "correct donkey"
STDIN = "--password-stdin"


@pytest.fixture
def run(app, monkeypatch):
    """Return a function that runs `walnut user ...` beside an app that serves the same database."""
    monkeypatch.setattr(sys.modules["api.cli.user"], "has_terminal", lambda: True)

    def invoke(*words, asked=None):
        return CliRunner().invoke(walnut, ("user", *words), obj=ScriptInfo(create_app=lambda: app), input=asked)

    return invoke


@pytest.mark.parametrize("words", [("create", "bob", "bob@example.com"), ("reset-password", "root")])
def test_where_there_is_nobody_to_ask_it_says_how_to_send_a_password(admin, run, monkeypatch, words):
    monkeypatch.undo()
    asked = run(*words, asked=f"{PASSWORD}\n{PASSWORD}\n")
    assert (asked.exit_code, "--password-stdin" in asked.output) == (2, True)


def test_no_password_is_asked_for_in_vain(run):
    refused(run("create", "bob", "no address", asked=""), "email")


def test_who_is_to_be_erased_is_looked_up_first(app, admin, run):
    """An id is an id, also if somebody calls himself by it."""
    for name in ("alice", "bob"):
        sign_up(app, name)
    refused(run("erase", "--yes", "alice", "nobody", "bob"), "nobody")
    ids = dict(rows(app, "SELECT username, id FROM users"))
    sign_up(app, "eve")("PATCH", "/users/me", {"username": ids["alice"]})
    shown = run("erase", ids["alice"], "bob", asked="y\n")
    assert f"alice <alice@example.com> ({ids['alice']})" in shown.output
    assert shown.exit_code == 0, shown.output
    assert {name for (name,) in rows(app, "SELECT username FROM users")} == {"root", ids["alice"]}


def refused(result, *texts):
    assert result.exit_code == 1, result.output
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1, "one line"
    for text in texts:
        assert text in result.output


def entry(app, action):
    found = rows(app, "SELECT actor_id, address, change FROM audit_entries WHERE action = ? ORDER BY seq DESC", action)
    actor, address, change = found[0]
    assert (actor, address) == (None, None)
    return json.loads(change) if change else None


def state(app, name):
    names = ("role", "active", "email_confirmed_at", "version")
    return dict(zip(names, rows(app, f"SELECT {', '.join(names)} FROM users WHERE username = ?", name)[0], strict=True))


def mails(app):
    return rows(app, "SELECT owner_id FROM jobs WHERE kind = 'mail'")


@pytest.mark.parametrize(
    ("words", "asked"), [((), f"{PASSWORD}\n{PASSWORD}\n"), ((STDIN,), f"{PASSWORD}\n"), ((STDIN,), f"{PASSWORD}\r\n")]
)
def test_an_account_is_made_with_a_password_that_no_command_line_shows(app, run, words, asked):
    made = run("create", "bob", "bob@example.com", "--role", "admin", *words, asked=asked)
    assert made.exit_code == 0, made.output
    assert PASSWORD not in made.output
    assert sign_in(app, "bob")("GET", "/users/me").json["email_confirmed_at"]
    assert entry(app, "user.created")["after"]["username"] == "bob"
    assert run("create", "eve", "eve@example.com", "--password", PASSWORD).exit_code == 2


def test_an_empty_standard_input_makes_no_account(app, run):
    refused(run("create", "bob", "bob@example.com", STDIN, asked=""), "password")
    assert rows(app, "SELECT count(*) FROM users") == [(0,)]


@pytest.mark.parametrize("who", ["alice", "ALICE", "alice@example.com", "ID"])
def test_a_role_is_given_to_who_is_meant(app, run, user, who):
    done = run("set-role", user.id if who == "ID" else who, "admin")
    assert (done.exit_code, done.output) == (0, "alice has the role admin now.\n")
    assert user("POST", "/tasks", {"title": "x"}).status_code == 201
    change = entry(app, "user.changed")
    assert (change["before"]["role"], change["after"]["role"]) == ("user", "admin")


def test_who_is_not_there_or_not_clear_is_one_line(app, run, admin):
    refused(run("set-role", "nobody", "admin"), "no account nobody", "walnut user list")
    sign_up(app, "alice")
    sign_up(app, "mallory")
    execute(
        app, "UPDATE users SET username = ?, username_key = ? WHERE username = 'mallory'", *["alice@example.com"] * 2
    )
    refused(run("set-role", "alice@example.com", "admin"), "Write the id")
    assert rows(app, "SELECT count(*) FROM users WHERE role = 'admin'") == [(1,)]


def test_the_last_admin_stays(app, run, admin, user):
    for words in (("set-role", "root", "user"), ("erase", "root", "--yes")):
        refused(run(*words), "last admin", "set-role")
    assert state(app, "root")["role"] == "admin"
    assert run("set-role", "alice", "admin").exit_code == 0
    assert run("set-role", "root", "user").exit_code == 0
    refused(run("set-role", "alice", "user"), "last admin")


@pytest.mark.parametrize(("words", "asked"), [((), f"{NEW}\n{NEW}\n"), ((STDIN,), f"{NEW}\n")])
def test_a_password_is_reset_and_nothing_that_was_open_stays_open(app, run, user, words, asked):
    user_id = user.id
    with app.app_context(), db.writing() as conn:
        link = links.make(conn, accounts.get(conn, user_id), links.RESET).partition("#")[2]
    before = len(mails(app))
    done = run("reset-password", "alice", *words, asked=asked)
    assert done.exit_code == 0, done.output
    assert NEW not in done.output
    assert_problem(user("GET", "/users/me"), 401, "unauthenticated")
    assert Caller(app)("POST", "/auth/login", {"email": "alice@example.com", "password": PASSWORD}).status_code == 401
    assert Caller(app)("POST", "/auth/login", {"email": "alice@example.com", "password": NEW}).status_code == 200
    assert state(app, "alice")["email_confirmed_at"]
    with app.app_context(), db.writing() as conn, pytest.raises(NotFound):
        links.take(conn, link, links.RESET)
    assert len(mails(app)) == before + 1
    assert NEW not in str(entry(app, "user.password_reset"))
    assert rows(app, "SELECT count(*) FROM audit_entries WHERE action = 'session.ended'") == [(1,)]


def test_a_password_that_cannot_be_resets_nothing(app, run, user):
    refused(run("reset-password", "alice", STDIN, asked="short\n"), "password: ")
    refused(run("reset-password", "nobody", STDIN, asked=f"{NEW}\n"), "no account")
    assert user("GET", "/users/me").status_code == 200


def test_accounts_are_listed(app, run, admin, user):
    shown = run("list").output.splitlines()
    assert shown[0].split() == ["ID", "USERNAME", "EMAIL", "ROLE", "ACTIVE", "CREATED"]
    assert [line.split()[1] for line in shown[1:]] == ["alice", "root"]
    assert [line.split()[1] for line in run("list", "--search", "ALI").output.splitlines()[1:]] == ["alice"]
    assert [line.split()[1] for line in run("list", "--role", "admin").output.splitlines()[1:]] == ["root"]
    assert "There are more than 1" in run("list", "--limit", "1").output
    found = json.loads(run("list", "--json", "--search", "root@").output)
    assert [one["email"] for one in found] == ["root@example.com"]
    assert "password" not in json.dumps(found)


def test_people_are_erased_and_named_by_id_afterwards(app, run, admin, user):
    user_id = user.id
    assert run("erase", "alice", asked="n\n").exit_code == 1
    assert user("GET", "/users/me").status_code == 200
    done = run("erase", "alice", "--yes")
    assert done.exit_code == 0, done.output
    assert "alice" not in done.output
    assert entry(app, "user.erased") is None
    assert_problem(user("GET", "/users/me"), 401, "unauthenticated")
    assert run("erased").output.split()[0] == user_id
    assert checkpoints.tidied(app.extensions["settings"])
    refused(run("erase", user_id, "--yes"), "no account")


def test_the_database_is_written_anew_on_demand(app, admin, monkeypatch):
    monkeypatch.setattr("api.settings.load", lambda **_: app.extensions["settings"])
    execute(app, "CREATE TABLE filler(x)")
    execute(app, "INSERT INTO filler VALUES (zeroblob(1000000))")
    execute(app, "DELETE FROM filler")
    pages = rows(app, "PRAGMA page_count")[0][0]
    done = CliRunner().invoke(walnut, ("db", "vacuum"))
    assert (done.exit_code, done.output) == (0, "The database was written anew.\n")
    assert rows(app, "PRAGMA page_count")[0][0] < pages - 200
    with app.app_context(), db.reading() as conn:
        execute(app, "DELETE FROM filler")
        assert conn.exec_driver_sql("SELECT count(*) FROM users").scalar() == 1
        refusal = CliRunner().invoke(walnut, ("db", "vacuum"))
    refused(refusal, "Somebody reads")
