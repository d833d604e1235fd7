"""How Gunicorn serves Walnut. `walnut serve` uses this file; `gunicorn -c gunicorn.conf.py wsgi:app` does too.

docs/decisions/0004-gunicorn.md says what was measured for each of these.
"""

from gevent import monkey

monkey.patch_all()

import gc
import os
import sys
from pathlib import Path

import gevent

from api import logs, scoreboard, settings, supervisor
from api.migrations import upgrade
from api.watchdog import watchdog
from api.web import headers

_settings = settings.load()

bind = settings.address(_settings.host, _settings.port)
workers = _settings.workers
umask = 0o077  # all state is its owner's alone
worker_class = "api.gunicorn_worker.Worker"
worker_connections = 4096  # of them at most 2,000 that listen to events (api/events/hub.py)
keepalive = 20  # longer than Nginx keeps its side (15 s), so that it is never the server that hangs up first
timeout = 60  # of the worker's heartbeat, not of a request
graceful_timeout = 25
max_requests = 0
preload_app = False  # no database connection may cross a fork
http_parser = "python"  # the C parser lets through what smuggles requests past a proxy
control_socket_disable = True
accesslog = None  # the app writes one JSON line a request
logger_class = "api.gunicorn_answers.Log"
logconfig_dict = logs.config(_settings.log_level, _settings.log_dir)
forwarded_allow_ips = ""  # the app itself counts TRUSTED_PROXIES hops
if Path("/dev/shm").is_dir():  # noqa: S108 (the heartbeat's file: on a disk it can stall a worker)
    worker_tmp_dir = "/dev/shm"  # noqa: S108


# Where the worker processes keep their numbers together: the supervisor's folder, otherwise one of our own.
_supervised = supervisor.PARENT in os.environ
_scoreboard = Path(os.environ[scoreboard.VARIABLE]) if _supervised else scoreboard.make()


def on_starting(server):
    """End with the supervisor, also when that is killed. Refuse a database that is not in shape."""
    supervisor.end_with_parent(os.environ.get(supervisor.PARENT))
    supervisor.allow_files(worker_connections * 2)
    try:
        upgrade.check(_settings)
    except upgrade.DatabaseError as error:
        sys.exit(f"Error: {error}")


def post_fork(server, worker):
    """Let the worker hear what it was told before it listened, and the other workers see what this one counts."""
    worker.told = server.SIG_QUEUE
    worker.always = headers.SECURITY
    scoreboard.share(_scoreboard)


def child_exit(server, worker):
    """Keep what a worker counted, however it ended."""
    scoreboard.bury(_scoreboard, worker.pid)


def on_exit(server):
    """Leave nothing in shared memory."""
    if not _supervised:
        scoreboard.remove(_scoreboard)


def post_worker_init(worker):
    """Let /health/ready say when this worker is about to end, and spare the collector what stays for good."""
    gc.collect()
    gc.freeze()
    worker.wsgi.extensions["draining"] = lambda: not worker.alive
    worker.wsgi.extensions["scoreboard"] = _scoreboard
    watchdog.start()


def post_request(worker, req, environ, resp):
    """Give the other connections a turn: a handler that never waits would starve them (p99 1,070 ms against 16)."""
    gevent.sleep(0)
