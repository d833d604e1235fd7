"""The commands: walnut serve | db ... | user ... (the same under `flask --app wsgi`)."""

import os
import re
import sys

import click
from flask import current_app
from flask.cli import with_appcontext
from marshmallow import Schema, ValidationError

from api import audit_trail, db, settings, supervisor
from api.audit import verify
from api.auth import passwords
from api.auth.schemas import RegisterIn
from api.errors import Refusal, SettingsError
from api.migrations import upgrade
from api.users import queries
from api.users.schemas import UserOut
from api.version import __version__
from api.web import ROLES, clear_cache


class Commands(click.Group):
    """A group whose faults of set-up are one clear line instead of a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        os.umask(0o077)  # all state is its owner's alone
        try:
            return super().invoke(ctx)
        except (SettingsError, upgrade.DatabaseError, Refusal) as error:
            raise click.ClickException(str(error)) from None


class NotedEntry(click.ParamType[verify.Link]):
    """An entry as `walnut audit verify` prints it."""

    name = "entry"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> verify.Link:
        """Return its number and its hash."""
        if not (match := re.fullmatch("([0-9]+):([0-9a-f]{64})", value)):
            self.fail("must be NUMBER:HASH, as `walnut audit verify` prints it.", param, ctx)
        return verify.Link(int(match[1]), bytes.fromhex(match[2]))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="walnut")
def walnut() -> None:
    """A lightweight, SQLite-first backend server. One request, one commit.

    Settings come from the environment and from .env; the README lists them.
    """


@walnut.command()
@click.option("--no-worker", is_flag=True, help="Serve HTTP only: `walnut worker` works on jobs elsewhere.")
@click.option("--reload", is_flag=True, help="Start anew when the code changes, for development.")
def serve(no_worker: bool, reload: bool) -> None:
    """Serve, and work on jobs, until Ctrl-C.

    Upgrades the database if need be. PORT, HOST, WORKERS and the other settings come from the environment and .env.
    """
    given = settings.load()
    supervisor.refuse_port_in_use(given.host, given.port)
    supervisor.say(upgrade.upgrade(given))
    sys.exit(supervisor.serve(given, worker=not no_worker, reload=reload))


@walnut.command()
def worker() -> None:
    """Work on jobs until Ctrl-C. As many of them as you like may work side by side."""
    given = settings.load()
    upgrade.check(given)
    sys.exit(supervisor.work(given))


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
        audit_trail.append(conn, "user.created", made["id"], after=UserOut().dump(made))
    click.echo(f"{made['username']} has an account now, with the role {made['role']} (id {made['id']}).")


def _checked(schema: Schema, **values: str) -> dict[str, str]:
    """Return the values if they pass the same rules as over HTTP."""
    try:
        checked: dict[str, str] = schema.load(values)
    except ValidationError as error:
        faults = dict(error.messages_dict).items()
        raise click.ClickException("; ".join(f"{name}: {' '.join(texts)}" for name, texts in faults)) from None
    return checked


@walnut.group("audit")
def audit() -> None:
    """Look after the audit trail."""


@audit.command("verify")
@click.option("--noted", type=NotedEntry(), metavar="NUMBER:HASH", help="An entry that you wrote down earlier.")
@with_appcontext
def verify_audit(noted: verify.Link | None) -> None:
    """Check that nobody changed, removed or put in an entry; otherwise name the first one."""
    upgrade.check(current_app.extensions["settings"])
    verdict = verify.verify(noted=noted)
    if fault := verdict["tampered"]:
        raise click.ClickException(f"The audit trail was tampered with. Entry {fault['seq']}: {fault['reason']}")
    click.echo(f"All {verdict['checked_to']} entries are as they were written. To compare later, note the last one:")
    click.echo(f"{verdict['checked_to']}:{verdict['head']}")


@audit.command("seal")
@with_appcontext
def seal_audit() -> None:
    """Sign the end of the trail with the JWT_SECRET of today, after you changed that secret."""
    upgrade.check(current_app.extensions["settings"])
    fault = verify.verify()["tampered"]
    if fault and fault["reason"] != audit_trail.UNKNOWN_END:
        raise click.ClickException(f"This is not for want of a signature. Entry {fault['seq']}: {fault['reason']}")
    with db.writing() as conn:
        audit_trail.seal(conn)
    click.echo("The end of the audit trail is signed with the key of today. An entry says so.")


COMMANDS = (database, kept_answers, user, audit)  # what `flask --app wsgi` offers too; it has its own way to serve
