"""walnut user remove-totp: for who has lost the device and the recovery codes."""

import click
from flask import current_app
from flask.cli import with_appcontext

from api import audit_trail, db
from api.auth import accounts, mails, totp
from api.migrations import upgrade
from api.second_factor.schemas import FactorOut


@click.command("remove-totp")
@click.argument("who", metavar="EMAIL_OR_ID")
@with_appcontext
def remove_totp(who: str) -> None:
    """Take the second factor off an account whose owner has lost it. Make sure first that it is the owner who asks."""
    upgrade.check(current_app.extensions["settings"])
    with db.writing() as conn:
        before = accounts.by_email(conn, who) or accounts.get(conn, who)
        if before is None:
            raise click.ClickException(f"There is no account with the email or the id {who}.")
        if not before["totp_secret"]:
            raise click.ClickException(f"{before['username']} has no second factor.")
        after = totp.remove(conn, before)
        shown = {"before": FactorOut().dump(before), "after": FactorOut().dump(after)}
        audit_trail.append(conn, "user.totp_removed", after["id"], **shown)
        mails.warn(
            conn, after, "Your account has no second factor any more",
            "Whoever runs this server has taken it off your account. From now on a sign-in asks for no code.",
        )  # fmt: skip
    click.echo(f"{after['username']} signs in without a second factor now, and was told so by mail.")
