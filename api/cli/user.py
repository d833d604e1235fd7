"""walnut user ..."""

import click
from flask import current_app
from flask.cli import with_appcontext

from api import audit_trail, db
from api.auth import accounts, passwords
from api.auth.password_rules import names_of, refuse_names
from api.auth.schemas import RegisterIn, UserOut
from api.cli.faults import checked
from api.migrations import upgrade
from api.web import ROLES


@click.group("user")
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
    account = checked(RegisterIn(), username=username, email=email, role=role, password=password)
    refuse_names(password, names_of(account))
    password_hash = passwords.hash_password(account.pop("password"))
    with db.writing() as conn:
        if names := accounts.taken(conn, username, email):
            raise click.ClickException(f"There is an account with this {' and this '.join(names)} already.")
        made = accounts.create(conn, **account, password_hash=password_hash)
        audit_trail.append(conn, "user.created", made["id"], after=UserOut().dump(made))
    click.echo(f"{made['username']} has an account now, with the role {made['role']} (id {made['id']}).")
