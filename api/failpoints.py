"""Places at which a test can let this process die as if by `kill -9`: WALNUT_FAILPOINT=commit.before:25.

The number says the how-manieth time kills, so that a process which is started anew gets somewhere. It is read once, at
import. In production Walnut does not start with it.
"""

import os
import signal
from typing import Any

VARIABLE = "WALNUT_FAILPOINT"
NAMES = (  # in the order in which a POST with an Idempotency-Key meets them
    "key.unknown",  # its transaction is open, its key is not there: nothing has been changed
    "audit.before",  # its change is made
    "audit.after",  # its audit entry too
    "key.stored",  # its answer too
    "commit.before",
    "commit.after",  # all of it is on disk, and nobody has been told
    "answer.before",  # the same, in the request's own time
)


def _armed(text: str) -> tuple[str, int]:
    name, _, count = text.partition(":")
    if text and (name not in NAMES or not count.isdecimal() or int(count) == 0):
        raise ValueError(f"{VARIABLE}: write NAME:COUNT with a NAME of {', '.join(NAMES)}")
    return name, int(count or 0)


ARMED, _left = _armed(os.environ.get(VARIABLE, ""))


def init_app(_app: Any, settings: Any) -> None:
    """Refuse to serve in production with this. Raises RuntimeError."""
    if settings.production and ARMED:
        raise RuntimeError(f"{VARIABLE} lets Walnut die on purpose, for tests. Unset it in production.")


def reach(name: str) -> None:
    """Die here, if that is what a test asked for."""
    if name == ARMED:
        _die()


def _die() -> None:
    global _left
    _left -= 1
    if not _left:
        os.kill(os.getpid(), signal.SIGKILL)
