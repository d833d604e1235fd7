"""The place of a request in a trace that spans several programs. https://www.w3.org/TR/trace-context/"""

import random
import re
from typing import NamedTuple

TRACEPARENT = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?P<trace>(?!0{32})[0-9a-f]{32})-(?P<parent>(?!0{16})[0-9a-f]{16})"
    r"-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)
TRACESTATE = re.compile(r"[ -~\t]{1,512}")
SAMPLED = 1  # we keep a line of every request


class Trace(NamedTuple):
    """The trace a request belongs to, this server's own span in it, and the caller's."""

    trace_id: str
    span_id: str
    flags: int = SAMPLED
    parent_id: str = ""
    state: str = ""

    def headers(self) -> dict[str, str]:
        """Return the headers that hand the trace on to whom we call."""
        found = {"traceparent": f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"}
        return found | {"tracestate": self.state} if self.state else found


def trace(traceparent: str | None, tracestate: str = "") -> Trace:
    """Return a new span in the trace of a `traceparent` header, or in a new trace if it is absent or not valid.

    A version that is not known yet is read as version 00, as section 4.3 says; only 00 may have nothing after it.
    """
    span = f"{random.getrandbits(64):016x}"
    if not traceparent or not (given := TRACEPARENT.fullmatch(traceparent.strip())):
        return Trace(f"{random.getrandbits(128):032x}", span)
    if given["more"] and given["version"] == "00":
        return Trace(f"{random.getrandbits(128):032x}", span)
    state = tracestate if TRACESTATE.fullmatch(tracestate) else ""
    return Trace(given["trace"], span, int(given["flags"], 16) & SAMPLED, given["parent"], state)
