import os
import stat
import subprocess
import sys

import pytest
from click.testing import CliRunner
from flask.cli import ScriptInfo

from api import create_app
from api.cli import walnut
from api.version import __version__
from tests.conftest import PASSWORD, PROJECT, Caller


@pytest.fixture
def run(configure, monkeypatch):
    """Return a function that runs a command as in a shell, in an empty folder."""
    monkeypatch.setattr(sys.modules["api.cli.user"], "has_terminal", lambda: True)
    configure()
    made = []

    def create():
        made.append(create_app())
        return made[-1]

    def invoke(*words, asked=None):
        return CliRunner().invoke(walnut, words, obj=ScriptInfo(create_app=create), input=asked)

    yield invoke
    for app in made:
        app.extensions["database"].close()


FROM_STDIN = "--password-stdin"


def create_user(run, *more, name="bob", asked=f"{PASSWORD}\n"):
    return run("user", "create", name, f"{name}@example.com", *more, asked=asked)


def test_help_and_version(run):
    assert run("--version").output == f"walnut, version {__version__}\n"
    for words in (["-h"], ["--help"]):
        found = run(*words)
        assert found.exit_code == 0
        for command in ("serve", "db", "user"):
            assert f"  {command} " in found.output


def test_every_command_has_help(run):
    for name, command in walnut.commands.items():
        assert command.help
        assert run(name, "--help").exit_code == 0


def test_the_database_is_made_then_current(run):
    first, second = run("db", "upgrade"), run("db", "upgrade")
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert first.output.startswith("The database went from nothing to revision ")
    assert second.output.endswith("already.\n")
    assert "as this version needs it" in run("db", "check").output


def test_a_database_that_is_not_there_is_one_line(run):
    found = run("db", "check")
    assert found.exit_code == 1
    assert found.output.startswith("Error: There is no database at ")
    assert found.output.count("\n") == 1


def test_a_setting_that_makes_no_sense_is_one_line(run, monkeypatch):
    monkeypatch.setenv("PORT", "abc")
    for words in (["db", "upgrade"], ["db", "check"], ["serve"]):
        found = run(*words)
        assert found.exit_code == 1
        assert found.output == "Error: PORT: Not a valid integer.\n"


def test_all_that_is_made_is_its_owners_alone(run, tmp_path):
    run("db", "upgrade")
    create_user(run, FROM_STDIN)
    for path in (tmp_path / "instance").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_an_admin_is_made_who_can_sign_in(run):
    run("db", "upgrade")
    made = create_user(run, "--role", "admin", asked=f"{PASSWORD}\n{PASSWORD}\n")
    assert made.exit_code == 0, made.output
    assert "with the role admin" in made.output
    assert PASSWORD not in made.output
    app = create_app()
    tokens = Caller(app)("POST", "/auth/login", {"email": "bob@example.com", "password": PASSWORD}).json
    assert Caller(app, tokens["access_token"])("GET", "/users/me").json["role"] == "admin"
    app.extensions["database"].close()


def test_an_account_is_a_users_unless_asked_otherwise(run):
    run("db", "upgrade")
    assert "with the role user" in create_user(run, FROM_STDIN).output


def test_passwords_that_differ_are_asked_for_again(run):
    run("db", "upgrade")
    assert create_user(run, asked=f"{PASSWORD}\nanother\n{PASSWORD}\n{PASSWORD}\n").exit_code == 0


def test_an_account_that_is_there_already_is_one_line(run):
    run("db", "upgrade")
    create_user(run, FROM_STDIN)
    again = create_user(run, FROM_STDIN)
    assert again.exit_code == 1
    assert again.output == "Error: There is an account with this username and this email already.\n"


@pytest.mark.parametrize(
    ("name", "email", "password", "fault"),
    [
        ("two words", "b@example.com", PASSWORD, "username"),
        ("bob", "bob", PASSWORD, "email"),
        ("bob", "b@example.com", "short", "password"),
    ],
)
def test_an_account_obeys_the_same_rules_as_over_http(run, name, email, password, fault):
    run("db", "upgrade")
    found = run("user", "create", name, email, FROM_STDIN, asked=f"{password}\n")
    assert found.exit_code == 1
    assert found.output.startswith(f"Error: {fault}: ")
    assert found.output.count("\n") == 1


def test_a_role_that_there_is_not_is_refused(run):
    run("db", "upgrade")
    assert create_user(run, "--role", "emperor", FROM_STDIN).exit_code == 2


def test_an_account_needs_a_database(run):
    found = create_user(run, FROM_STDIN)
    assert found.exit_code == 1
    assert "There is no database" in found.output
    assert "Traceback" not in found.output


def shell(folder, *words, asked=None):
    environment = {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT), "APP_ENV": "testing", "INSTANCE_PATH": str(folder),
    }  # fmt: skip
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=folder, env=environment, input=asked, capture_output=True, text=True, timeout=30)


def test_the_same_commands_are_there_under_flask(tmp_path):
    """Also the one that makes the database, which is not there when the app is asked for its commands."""
    flask = ("flask", "--app", str(PROJECT / "wsgi.py"))
    made = shell(tmp_path, *flask, "db", "upgrade")
    assert made.returncode == 0, made.stderr
    assert "went from nothing" in made.stdout
    found = shell(tmp_path, *flask, "user", "create", "bob", "bob@example.com", FROM_STDIN, asked=f"{PASSWORD}\n")
    assert found.returncode == 0, found.stderr


def test_it_runs_from_any_folder(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    found = shell(tmp_path / "elsewhere", "api", "db", "upgrade")
    assert (found.returncode, found.stderr) == (0, "")
    assert (tmp_path / "elsewhere" / "walnut.db").exists()
