"""The process of a worker: `python -m gevent.monkey --module api.worker_process`, which is what the supervisor starts.

gevent must change Python's own modules before anything else is imported, so that a call that waits holds up nobody.
"""

import gc
import logging.config
import os
import signal
from pathlib import Path

import gevent

from api import create_app, logs, scoreboard, settings, supervisor
from api.jobs import mock_vendors
from api.jobs.worker import Worker


def main() -> None:
    """Work on jobs until SIGTERM."""
    given = settings.load()
    logging.config.dictConfig(logs.config(given.log_level, given.log_dir))
    supervisor.end_with_parent(os.environ.get(supervisor.PARENT))
    if board := os.environ.get(scoreboard.VARIABLE):
        scoreboard.share(Path(board))
    app = create_app(given)
    if given.mock_vendors:
        mock_vendors.start(app)
    worker = Worker(app, given.worker_concurrency)
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, worker.stop)
    gc.collect()
    gc.freeze()
    worker.run()


if __name__ == "__main__":
    main()
