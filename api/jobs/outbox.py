"""Mail where there is no SMTP server: a file for each, INSTANCE_PATH/outbox/ID.eml, which any mail program opens."""

import os
import time
from contextlib import suppress
from pathlib import Path

KEPT_SECONDS = 7 * 86400


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


def sweep(instance: Path) -> int:
    """Remove what is older than KEPT_SECONDS, also what was never finished. Return how many there were."""
    oldest, removed = time.time() - KEPT_SECONDS, 0
    with suppress(FileNotFoundError):  # no folder, or who was quicker
        for path in folder(instance).iterdir():
            if path.is_file() and path.stat().st_mtime < oldest:
                path.unlink()
                removed += 1
    return removed
