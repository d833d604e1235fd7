"""walnut user ..."""

import json
import sys
from contextlib import suppress
from typing import Any

import click
from flask import current_app
from flask.cli import with_appcontext
from sqlalchemy import Connection

from api import audit_trail, checkpoints, db
from api.auth import accounts, doors, mails, passwords, totp
from api.auth.password_rules import names_of, refuse_names
from api.auth.schemas import RegisterIn, UserOut
from api.cli import tables
from api.cli.faults import checked
from api.errors import Unavailable
from api.migrations import upgrade
from api.statements import Row
from api.users import changes, erasure, queries
from api.web import ROLES, rfc3339

COLUMNS = {
    "id": "ID", "username": "USERNAME", "email": "EMAIL", "role": "ROLE", "active": "ACTIVE", "created_at": "CREATED",
}  # fmt: skip
FROM_STDIN = click.option(
    "--password-stdin", "from_stdin", is_flag=True, help="Read the password from standard input, not from a person."
)

shape = UserOut().dump


@click.group("user")
def user() -> None:
    """Look after accounts. WHO is a username, an address or an id."""


@user.command("create")
@click.argument("username")
@click.argument("email")
@click.option("--role", type=click.Choice(ROLES), default="user", show_default=True)
@FROM_STDIN
@with_appcontext
def create_user(username: str, email: str, role: str, from_stdin: bool) -> None:
    """Make an account, also an admin's. Its address counts as confirmed: whoever runs the server vouches for it."""
    upgrade.check(current_app.extensions["settings"])
    given = {"username": username, "email": email, "role": role}
    checked(RegisterIn(exclude=("password",)), **given)  # before a password is typed for nothing
    account = checked(RegisterIn(), **given, password=_password(from_stdin))
    refuse_names(account["password"], names_of(account))
    password_hash = passwords.hash_password(account.pop("password"))
    with db.writing() as conn:
        accounts.refuse_taken(conn, username=username, email=email)
        made = accounts.create(conn, **account, password_hash=password_hash, email_confirmed_at=db.now())
        audit_trail.append(conn, "user.created", made["id"], after=shape(made))
    click.echo(f"{made['username']} has an account now, with the role {made['role']} (id {made['id']}).")


@user.command("set-role")
@click.argument("who")
@click.argument("role", type=click.Choice(ROLES))
@with_appcontext
def set_role(who: str, role: str) -> None:
    """Give an account another role. It acts on its owner's next request."""
    upgrade.check(current_app.extensions["settings"])
    with db.writing() as conn:
        before = _found(conn, who)
        after = changes.by_admin(conn, before, {"role": role})
        audit_trail.append(conn, "user.changed", after["id"], before=shape(before), after=shape(after))
    click.echo(f"{after['username']} has the role {role} now.")


@user.command("reset-password")
@click.argument("who")
@FROM_STDIN
@with_appcontext
def reset_password(who: str, from_stdin: bool) -> None:
    """Give an account another password, and end all its sessions and API keys. Its owner is told by mail.

    Make sure first that it is the owner who asks. The address counts as confirmed afterwards.
    """
    upgrade.check(current_app.extensions["settings"])
    with db.reading() as conn:
        known = _found(conn, who)
    password = checked(RegisterIn(only=("password",)), password=_password(from_stdin))["password"]
    refuse_names(password, names_of(known))
    password_hash = passwords.hash_password(password)
    with db.writing() as conn:
        before = _found(conn, known["id"])
        confirmed = before["email_confirmed_at"] or db.now()
        after = accounts.change(conn, before, password_hash=password_hash, email_confirmed_at=confirmed, new_email=None)
        audit_trail.append(conn, "user.password_reset", after["id"], before=shape(before), after=shape(after))
        doors.close(conn, before, keys=True)
        mails.warn(conn, after, "Your password was changed", "Whoever runs this server has given you another password.")
    click.echo(f"{after['username']} has another password now, and no session is open any more.")


@user.command("remove-totp")
@click.argument("who")
@with_appcontext
def remove_totp(who: str) -> None:
    """Take the second factor off an account whose owner has lost it. Make sure first that it is the owner who asks."""
    upgrade.check(current_app.extensions["settings"])
    with db.writing() as conn:
        before = _found(conn, who)
        if not before["totp_secret"]:
            raise click.ClickException(f"{before['username']} has no second factor.")
        after = totp.remove(conn, before)
        audit_trail.append(conn, "user.totp_removed", after["id"], before=shape(before), after=shape(after))
        mails.warn(
            conn, after, "Your account has no second factor any more",
            "Whoever runs this server has taken it off your account. From now on a sign-in asks for no code.",
        )  # fmt: skip
    click.echo(f"{after['username']} signs in without a second factor now, and was told so by mail.")


@user.command("list")
@click.option("--search", help="Only those with this text anywhere in username or address.")
@click.option("--role", type=click.Choice(ROLES), help="Only those with this role.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="How many at the most.")
@tables.FOR_MACHINES
@with_appcontext
def list_users(search: str | None, role: str | None, limit: int, as_json: bool) -> None:
    """Show accounts, the newest first. Times are in UTC."""
    upgrade.check(current_app.extensions["settings"])
    given = {"q": search, "role": role}
    with db.reading() as conn:
        part = queries.find(conn, sort="-created_at", limit=limit, **{name: one for name, one in given.items() if one})
    if as_json:
        click.echo(json.dumps([shape(row) for row in part.items], indent=2))
        return
    tables.show([row | {"active": "yes" if row["active"] else "no"} for row in part.items], COLUMNS)
    if part.next_cursor:
        click.echo(f"There are more than {limit:,}: --limit shows more, --search finds some.", err=True)


@user.command("erase")
@click.argument("who", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_appcontext
def erase(who: tuple[str, ...], yes: bool) -> None:
    """Erase people and what is theirs, for good. Tasks stay, without their names."""
    settings = current_app.extensions["settings"]
    upgrade.check(settings)
    with db.reading() as conn:
        people = {found["id"]: found for found in (_found(conn, one) for one in who)}  # all of them, or nobody
    if not yes:
        for person in people.values():
            click.echo(f"{person['username']} <{person['email']}> ({person['id']})")
        click.confirm("Erase for good?", abort=True)
    for person_id in people:
        with db.writing() as conn:
            found = _found(conn, person_id)
            erasure.erase(conn, found)
            audit_trail.append(conn, audit_trail.FORGOTTEN, found["id"], before=shape(found))
        click.echo(f"{found['id']} is erased.")
    with suppress(Unavailable):
        if checkpoints.tidied(settings):
            return
    click.echo("The database is in use. A server that runs, or is started, lets the last bytes go.", err=True)


@user.command("erased")
@with_appcontext
def erased() -> None:
    """Say who was erased and when: to erase them again, by id, from a backup that was put back."""
    upgrade.check(current_app.extensions["settings"])
    with db.reading() as conn:
        for entry in erasure.all_erased(conn):
            click.echo(f"{entry['subject_id']}  {rfc3339(entry['at'])}")


def _found(conn: Connection, who: str) -> Row:
    """Return the one account that is meant. A username may look like somebody else's address."""
    found = {row["id"]: row for row in accounts.named(conn, who)}
    if not found:
        raise click.ClickException(f"There is no account {who}. `walnut user list` shows them.")
    if len(found) > 1:
        ids = " and ".join(sorted(found))
        raise click.ClickException(f"{who} is one account's name and another one's address: {ids}. Write the id.")
    return next(iter(found.values()))


def has_terminal() -> bool:
    """Tell whether there is somebody to ask."""
    return sys.stdin.isatty()


def _password(from_stdin: bool) -> str:
    """Return a new password: never from the command line, which others on this machine can see."""
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not has_terminal():
        raise click.UsageError("There is no terminal to ask for the password on. Send it with --password-stdin.")
    asked: Any = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    return str(asked)
