"""The commands: walnut serve | db ... | user ... (the same under `flask --app wsgi`)."""

import os
import sys

import click
from flask import current_app
from flask.cli import with_appcontext
from marshmallow import Schema, ValidationError

from api import db, settings, supervisor
from api.auth import passwords
from api.auth.schemas import RegisterIn
from api.errors import Refusal
from api.migrations import upgrade
from api.users import queries
from api.version import __version__
from api.web import ROLES, clear_cache


class Commands(click.Group):
    """A group whose faults of set-up are one clear line instead of a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        os.umask(0o077)  # all state is its owner's alone
        try:
            return super().invoke(ctx)
        except (settings.SettingsError, upgrade.DatabaseError, Refusal) as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="walnut")
def walnut() -> None:
    """A lightweight, SQLite-first backend server. One request, one commit.

    Settings come from the environment and from .env; the README lists them.
    """


@walnut.command()
@click.option("--no-worker", is_flag=True, help="Serve HTTP only. (There is no job worker yet: both are the same.)")
@click.option("--reload", is_flag=True, help="Start anew when the code changes, for development.")
def serve(no_worker: bool, reload: bool) -> None:  # noqa: ARG001 (part of the start-up contract)
    """Serve until Ctrl-C.

    Upgrades the database if need be. PORT, HOST, WORKERS and the other settings come from the environment and .env.
    """
    given = settings.load()
    supervisor.refuse_port_in_use(given.host, given.port)
    supervisor.say(upgrade.upgrade(given))
    sys.exit(supervisor.serve(given, reload=reload))


@walnut.group("db")
def database() -> None:
    """Look after the database."""


@database.command("upgrade")
def upgrade_database() -> None:
    """Make the database, or bring it to the shape this version needs."""
    click.echo(upgrade.upgrade(settings.load()))


@database.command("check")
def check_database() -> None:
    """Say whether the database is in the shape this version needs."""
    upgrade.check(settings.load())
    click.echo(f"The database is at revision {upgrade.head()}, as this version needs it.")


@walnut.group("cache")
def kept_answers() -> None:
    """Look after kept answers."""


@kept_answers.command("clear")
@with_appcontext
def clear() -> None:
    """Let no kept answer be found any more, in any process, replica or Redis. For after a restore, or in doubt."""
    upgrade.check(current_app.extensions["settings"])
    with db.writing() as conn:
        names = clear_cache(conn)
    click.echo(f"Kept answers about {', '.join(names)} are not found any more.")


@walnut.group("user")
def user() -> None:
    """Look after accounts."""


@user.command("create")
@click.argument("username")
@click.argument("email")
@click.option("--role", type=click.Choice(ROLES), default="user", show_default=True)
@click.option("--password", help="Asked for when left out, which is safer: other users can see a command line.")
@with_appcontext
def create_user(username: str, email: str, role: str, password: str | None) -> None:
    """Make an account, also an admin's."""
    upgrade.check(current_app.extensions["settings"])
    password = password or click.prompt("Password", hide_input=True, confirmation_prompt=True)
    account = _checked(RegisterIn(), username=username, email=email, role=role, password=password)
    password_hash = passwords.hash_password(account.pop("password"))
    with db.writing() as conn:
        if names := queries.taken(conn, username, email):
            raise click.ClickException(f"There is an account with this {' and this '.join(names)} already.")
        made = queries.create(conn, **account, password_hash=password_hash)
    click.echo(f"{made['username']} has an account now, with the role {made['role']} (id {made['id']}).")


def _checked(schema: Schema, **values: str) -> dict[str, str]:
    """Return the values if they pass the same rules as over HTTP."""
    try:
        checked: dict[str, str] = schema.load(values)
    except ValidationError as error:
        faults = dict(error.messages_dict).items()
        raise click.ClickException("; ".join(f"{name}: {' '.join(texts)}" for name, texts in faults)) from None
    return checked


COMMANDS = (database, kept_answers, user)  # what `flask --app wsgi` offers too; it has its own way to serve
