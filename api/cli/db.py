"""walnut db ..."""

import click

from api import checkpoints, settings
from api.migrations import upgrade
from api.settings import Settings
from api.vendors import mock


@click.group("db")
def database() -> None:
    """Look after the database."""


@database.command("upgrade")
def upgrade_database() -> None:
    """Make the database, or bring it to the shape this version needs."""
    click.echo(bring_up(settings.load()))


def bring_up(given: Settings) -> str:
    """Make the database ready to be served, and return what was done, for people. Raises DatabaseError."""
    done = upgrade.upgrade(given)
    mock.ensure(given)
    return done


@database.command("check")
def check_database() -> None:
    """Say whether the database is in the shape this version needs."""
    upgrade.check(settings.load(new=False))
    click.echo(f"The database is at revision {upgrade.head()}, as this version needs it.")


@database.command("vacuum")
def vacuum_database() -> None:
    """Write the database anew: smaller, and without a byte of what was deleted. Writers wait meanwhile.

    Up to 32 MB a running server does so by itself after somebody was erased. It takes memory for the whole database.
    """
    given = settings.load(new=False)
    upgrade.check(given)
    if not checkpoints.tidied(given, whole=True):
        raise click.ClickException("Somebody reads the database all the while. Try again when that has ended.")
    click.echo("The database was written anew.")
