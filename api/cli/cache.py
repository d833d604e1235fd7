"""walnut cache ..."""

import click
from flask import current_app
from flask.cli import with_appcontext

from api import db
from api.migrations import upgrade
from api.web import clear_cache


@click.group("cache")
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
