"""The commands, a file for each group: walnut serve | worker | db ... | user ... (also under `flask --app wsgi`)."""

import click

from api.cli.audit import audit
from api.cli.cache import kept_answers
from api.cli.db import database
from api.cli.faults import Commands
from api.cli.jobs import jobs
from api.cli.mail import mail
from api.cli.secrets import secrets
from api.cli.serve import serve, worker
from api.cli.user import user
from api.cli.vendors import vendors
from api.version import __version__

# What `flask --app wsgi` offers too; it has its own way to serve.
COMMANDS = (database, kept_answers, user, vendors, secrets, jobs, mail, audit)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="walnut")
def walnut() -> None:
    """A lightweight, SQLite-first backend server. One request, one commit.

    Settings come from the environment and from .env; the README lists them.
    """


for command in (serve, worker, *COMMANDS):
    walnut.add_command(command)
