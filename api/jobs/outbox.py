"""Mail where there is no SMTP server: a file for each, INSTANCE_PATH/outbox/ID.eml, which any mail program opens."""

import os
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

KEPT_SECONDS = 7 * 86400
NAME = re.compile(r"\.?([0-9a-f-]{36})\.")  # of a mail, and of one that was never finished: its job's id
BATCH = 500


def folder(instance: Path) -> Path:
    """Return where the files are."""
    return instance / "outbox"


def put(instance: Path, name: str, mail: bytes) -> Path:
    """Keep a mail under a name, in place of one that had it before. Nobody ever sees half of one. Raises OSError."""
    folder(instance).mkdir(mode=0o700, exist_ok=True)
    path, unfinished = folder(instance) / f"{name}.eml", folder(instance) / f".{name}.{os.urandom(4).hex()}"
    file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(file, "wb") as output:
            output.write(mail)
            output.flush()
            os.fsync(file)
        unfinished.rename(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    return path


def remove(instance: Path, names: Iterable[str]) -> None:
    """Remove mails. Those that cannot be are left to `sweep`."""
    for name in names:
        with suppress(OSError):
            (folder(instance) / f"{name}.eml").unlink(missing_ok=True)


def sweep(instance: Path, there: Callable[[list[str]], set[str]]) -> int:
    """Remove what is older than KEPT_SECONDS, also what was never finished, and mails whose jobs are not there any
    more: of people who were erased. `there` tells which of some ids are jobs'. Return how many there were.
    """
    oldest, removed = time.time() - KEPT_SECONDS, 0
    with suppress(FileNotFoundError):  # no folder, or who was quicker
        files = [path for path in folder(instance).iterdir() if path.is_file()]
        for first in range(0, len(files), BATCH):
            of = {path: found[1] for path in files[first : first + BATCH] if (found := NAME.match(path.name))}
            known = there(list(of.values()))
            for path in files[first : first + BATCH]:
                if path.stat().st_mtime < oldest or (path in of and of[path] not in known):
                    path.unlink()
                    removed += 1
    return removed
