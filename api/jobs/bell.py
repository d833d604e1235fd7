"""Wakes the workers of this host when there is something to do, and shows which of them live.

A worker has two files in a folder beside the database: a socket, to be woken by, and a file that it holds locked, which
the kernel lets go of when the worker dies, however that comes about. A ring is a hint: who misses it looks by himself.
"""

import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path

import gevent.socket
from flask import Flask, current_app

from api import db
from api.lease import is_abandoned
from api.settings import Settings

SOCKET, LOCK = ".bell", ".alive"
LONGEST = 100  # bytes of a socket's path: sun_path has 108, or 104
RING = b"!"


def init_app(app: Flask, settings: Settings) -> None:  # noqa: ARG001 (every part is given both)
    """Give the app its bells, once it has its database."""
    database: db.Database = app.extensions["database"]
    app.extensions["bells"] = Bells(database.path.with_name(f"{database.path.name}-workers"))


def bells() -> "Bells":
    """Return the bells of the current app."""
    found: Bells = current_app.extensions["bells"]
    return found


class Bells:
    """All workers of a database on this host."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def ring(self) -> None:
        """Wake every worker that waits. Never waits itself, and never raises: what it tells of is committed."""
        with suppress(OSError), os.scandir(self._folder) as entries:
            hung = [Path(entry.path) for entry in entries if entry.name.endswith(SOCKET)]
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                for bell in hung:
                    with suppress(OSError), _short(bell) as path:  # one that is full will be woken anyway
                        sender.sendto(RING, path)

    def hang(self, worker_id: str) -> "Bell":
        """Return the bell of a new worker, which shows that it lives until it is closed."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        return Bell(self._folder, worker_id)

    def is_dead(self, worker_id: str) -> bool:
        """Tell whether a worker of this host is known to be dead. One whose file is not here may live elsewhere."""
        return is_abandoned(self._folder / f"{worker_id}{LOCK}")

    def forget(self, worker_id: str) -> None:
        """Remove what a dead worker left."""
        for end in (SOCKET, LOCK):
            self._folder.joinpath(f"{worker_id}{end}").unlink(missing_ok=True)


class Bell:
    """What one worker hangs up."""

    def __init__(self, folder: Path, worker_id: str) -> None:
        self._paths = [folder / f"{worker_id}{end}" for end in (SOCKET, LOCK)]
        self._lock = os.open(self._paths[1], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._socket = gevent.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with _short(self._paths[0]) as path:
            self._socket.bind(path)

    def wait(self) -> None:
        """Wait until it is rung. However often it was rung meanwhile, that is once."""
        self._socket.setblocking(True)
        self._socket.recv(1)
        self._socket.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                self._socket.recv(1)

    def close(self) -> None:
        """Take it down."""
        self._socket.close()
        for path in self._paths:
            path.unlink(missing_ok=True)
        os.close(self._lock)


class _short:
    """A path that a socket may have, to the same place: a folder's number in /proc stands for a long name (Linux)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder: int | None = None

    def __enter__(self) -> str:
        if len(os.fsencode(self._path)) <= LONGEST:
            return str(self._path)
        self._folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._folder}/{self._path.name}"

    def __exit__(self, *_raised: object) -> None:
        if self._folder is not None:
            os.close(self._folder)
