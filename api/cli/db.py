"""walnut db ..."""

import click

from api import settings
from api.migrations import upgrade


@click.group("db")
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
