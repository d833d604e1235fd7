"""walnut audit ..."""

import re

import click
from flask import current_app
from flask.cli import with_appcontext

from api import audit_trail, db
from api.audit import verify
from api.migrations import upgrade


class NotedEntry(click.ParamType[verify.Link]):
    """An entry as `walnut audit verify` prints it."""

    name = "entry"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> verify.Link:
        """Return its number and its hash."""
        if not (match := re.fullmatch("([0-9]+):([0-9a-f]{64})", value)):
            self.fail("must be NUMBER:HASH, as `walnut audit verify` prints it.", param, ctx)
        return verify.Link(int(match[1]), bytes.fromhex(match[2]))


@click.group("audit")
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
