"""walnut secrets ..."""

import click
from flask import current_app
from flask.cli import with_appcontext

from api import db
from api.auth import totp
from api.migrations import upgrade
from api.secret_box import secret_box
from api.vendors import queries


@click.group("secrets")
def secrets() -> None:
    """Look after what is stored encrypted."""


@secrets.command("rekey")
@with_appcontext
def rekey() -> None:
    """Encrypt the stored secrets of all vendors and second factors anew, under the first key of ENCRYPTION_KEY.

    All of them or none. `walnut vendors rekey` is the same command under its former name.
    """
    upgrade.check(current_app.extensions["settings"])
    with db.writing() as conn:
        vendors, factors = queries.rekey(conn, secret_box()), totp.rekey(conn, secret_box())
    click.echo(f"The secrets of {vendors} vendors and {factors} second factors are encrypted under the newest key now.")
