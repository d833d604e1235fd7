"""walnut serve, walnut worker"""

import sys

import click

from api import settings, supervisor
from api.cli.db import bring_up
from api.migrations import upgrade


@click.command()
@click.option("--no-worker", is_flag=True, help="Serve HTTP only: `walnut worker` works on jobs elsewhere.")
@click.option("--reload", is_flag=True, help="Start anew when the code changes, for development.")
def serve(no_worker: bool, reload: bool) -> None:
    """Serve, and work on jobs, until Ctrl-C.

    Upgrades the database if need be. PORT, HOST, WORKERS and the other settings come from the environment and .env.
    """
    given = settings.load()
    supervisor.refuse_port_in_use(given.host, given.port)
    supervisor.say(bring_up(given))
    sys.exit(supervisor.serve(given, worker=not no_worker, reload=reload))


@click.command()
def worker() -> None:
    """Work on jobs until Ctrl-C. As many of them as you like may work side by side."""
    given = settings.load(new=False)
    upgrade.check(given)
    sys.exit(supervisor.work(given))
