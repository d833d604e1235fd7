"""Calls to other people's servers: to no address that is not theirs, in bounded time, with a bounded answer.

Knows nothing of jobs, Flask or the database. For greenlets of a monkey-patched process (gevent).
docs/decisions/0019-outgoing-calls.md says what is kept out and how.
"""

from api.outgoing.answers import MAX_REPLY
from api.outgoing.calls import Calls, Reply, post
from api.outgoing.failures import CallFailed
from api.outgoing.urls import check_url

__all__ = ["MAX_REPLY", "CallFailed", "Calls", "Reply", "check_url", "post"]
