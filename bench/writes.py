"""Writes without HTTP: `db.writing()` from 32 greenlets, whose commits are shared, against one greenlet, whose are not.

    python -m bench.writes FOLDER ROUNDS SECONDS

Both run the same three statements a write, durable (synchronous=FULL), in one process and in turns, and print JSON.
"""

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402 (gevent patches before other imports)
import os  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

import gevent  # noqa: E402
from flask import Flask  # noqa: E402

from api import create_app, db, settings  # noqa: E402
from api.migrations import upgrade  # noqa: E402
from api.tasks import queries  # noqa: E402

TOGETHER = 32
TASK = {
    "title": "Gather walnuts",
    "description": "When the green husk opens by itself.",
    "status": "todo",
    "priority": 3,
    "tags": ["bench", "group-0"],
    "due_at": None,
    "assignee_id": None,
}


def write() -> None:
    """Make one durable change of three statements: a task, its tags, and the task once more."""
    with db.writing() as conn:
        task = queries.create(conn, None, TASK)
        queries.change(conn, task, {"status": "in_progress"})


def rate(app: Flask, greenlets: int, seconds: float) -> float:
    """Return the writes per second of so many greenlets."""
    done = 0
    started = time.perf_counter()

    def keep_writing() -> None:
        nonlocal done
        with app.app_context():
            while time.perf_counter() < started + seconds:
                write()
                done += 1

    gevent.joinall([gevent.spawn(keep_writing) for _ in range(greenlets)], raise_error=True)
    return done / (time.perf_counter() - started)


def main(folder: Path, rounds: int, seconds: float) -> None:
    """Measure in turns and print the rates of each round."""
    os.environ["INSTANCE_PATH"] = str(folder)
    given = settings.load()
    upgrade.upgrade(given)
    app = create_app(given)
    rate(app, TOGETHER, 0.3)  # to warm up
    found = [{"alone": rate(app, 1, seconds), "together": rate(app, TOGETHER, seconds)} for _ in range(rounds)]
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
