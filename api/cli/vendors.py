"""walnut vendors ..."""

import json
from typing import Any

import click
from flask import current_app
from flask.cli import with_appcontext

from api import audit_trail, db
from api.cli import tables
from api.cli.faults import checked
from api.cli.secrets import rekey
from api.migrations import upgrade
from api.secret_box import secret_box
from api.statements import Row
from api.vendors import addresses, keys, queries
from api.vendors.schemas import MODES, SecretIn, VendorIn, VendorOut, VendorStateOut

SECRET = "Theirs, if they dictate one. Without a value it is asked for: other users can see a command line."  # noqa: S105
COLUMNS = {
    "name": "NAME", "mode": "MODE", "state": "STATE", "limit": "LIMIT", "concurrency": "AT ONCE", "timeout": "TIMEOUT",
    "attempts": "ATTEMPTS", "url": "URL",
}  # fmt: skip
ONCE = "Its secret, which is shown this once and never again:"


@click.group("vendors")
def vendors() -> None:
    """Look after vendors."""


@vendors.command("list")
@tables.FOR_MACHINES
@with_appcontext
def list_vendors(as_json: bool) -> None:
    """Show every vendor, and whether it is called at the moment."""
    upgrade.check(current_app.extensions["settings"])
    with db.reading() as conn:
        found = [queries.with_state(conn, vendor) for vendor in queries.all_of_them(conn)]
    if as_json:
        click.echo(json.dumps(VendorStateOut(many=True).dump(found), indent=2))
    else:
        tables.show([vendor | {"state": _state(vendor)} for vendor in found], COLUMNS)


@vendors.command("pause")
@click.argument("name")
@with_appcontext
def pause(name: str) -> None:
    """Call a vendor no more: its jobs wait."""
    _activate(name, active=False)
    click.echo(f"{name} is not called until `walnut vendors resume {name}`. Its jobs wait.")


@vendors.command("resume")
@click.argument("name")
@with_appcontext
def resume(name: str) -> None:
    """Call a vendor again, also one that was left alone because it failed."""
    _activate(name, active=True)
    click.echo(f"{name} is called again.")


@vendors.command("create")
@click.argument("name")
@click.argument("url")
@click.option("--mode", type=click.Choice(MODES), required=True, help="sync: its answer is the result; or a webhook.")
@click.option("--limit", help="How fast it may be called, as in '10 per second'.")
@click.option("--concurrency", type=int, help="Calls at once, over all workers.")
@click.option("--timeout", type=int, help="Seconds for a call.")
@click.option("--callback-timeout", type=int, help="Seconds for its webhook after that.")
@click.option("--attempts", type=int, help="How often a job is tried at the most.")
@click.option("--secret", prompt=True, prompt_required=False, hide_input=True, default=None, help=SECRET)
@with_appcontext
def create(**given: Any) -> None:
    """Add a vendor, and show its secret once."""
    upgrade.check(current_app.extensions["settings"])
    values = checked(VendorIn(), **{name: value for name, value in given.items() if value is not None})
    addresses.check(values["url"])
    key = values.pop("secret") or keys.new()
    with db.writing() as conn:
        made = queries.create(conn, values, key, secret_box())
        audit_trail.append(conn, "vendor.created", made["id"], after=VendorOut().dump(made))
    click.echo(f"{made['name']} is a vendor now. {ONCE}\n{key}")


@vendors.command("remove")
@click.argument("name")
@with_appcontext
def remove(name: str) -> None:
    """Delete a vendor. Refused while jobs for it wait or are under way."""
    upgrade.check(current_app.extensions["settings"])
    with db.writing() as conn:
        vendor = _found(conn, name)
        queries.remove(conn, vendor)
        audit_trail.append(conn, "vendor.removed", vendor["id"], before=VendorOut().dump(vendor))
    click.echo(f"{name} is no vendor any more.")


@vendors.command("rotate")
@click.argument("name")
@click.option("--secret", prompt=True, prompt_required=False, hide_input=True, default=None, help=SECRET)
@with_appcontext
def rotate(name: str, secret: str | None) -> None:
    """Give a vendor a new secret, and show it once. The one before is good for 24 hours more."""
    upgrade.check(current_app.extensions["settings"])
    key = checked(SecretIn(), secret=secret)["secret"] or keys.new()
    with db.writing() as conn:
        before = _found(conn, name)
        after = queries.rotate(conn, before, key)
        shown = {"before": VendorOut().dump(before), "after": VendorOut().dump(after)}
        audit_trail.append(conn, "vendor.secret_rotated", after["id"], **shown)
    click.echo(f"{name} has a new secret; the one before is good for 24 hours more. {ONCE}\n{key}")


vendors.add_command(rekey)  # under its former name


def _activate(name: str, *, active: bool) -> None:
    upgrade.check(current_app.extensions["settings"])
    with db.writing() as conn:
        before = _found(conn, name)
        after = queries.change(conn, before, {"active": active})
        queries.forget_failures(conn, after)
        shown = {"before": VendorOut().dump(before), "after": VendorOut().dump(after)}
        audit_trail.append(conn, "vendor.changed", after["id"], **shown)


def _state(vendor: Row) -> str:
    if not vendor["active"]:
        return "off"
    paused = vendor["paused_until"]
    return f"failing, next try {tables.cell('at', paused)[11:19]}" if paused else "on"


def _found(conn: Any, name: str) -> Row:
    if (vendor := queries.by_name(conn, name)) is None:
        raise click.ClickException(f"There is no vendor {name}. `walnut vendors list` shows them.")
    return vendor
