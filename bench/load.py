"""Sends load with wrk: 64 keep-alive connections from one thread that costs the machine little.

wrk (Debian's package) and not k6 or Python, because the generator has one core for itself: wrk fills it to a fifth
at 4,000 requests/s, where the others would be the bottleneck that is then measured.
"""

import dataclasses
import json
import os
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path

from tests.system.processes import program

CONNECTIONS = 64
SCRIPT = Path(__file__).with_name("wrk.lua")


@dataclasses.dataclass(frozen=True)
class Request:
    """The request that is sent over and over. `body` is JSON text, if there is one."""

    url: str
    token: str = ""
    method: str = "GET"
    body: str = ""
    more: Mapping[str, str] = dataclasses.field(default_factory=dict)  # headers
    keyed: bool = False  # each time with another Idempotency-Key
    reads: tuple[str, ...] = ()  # nine times of ten one of these paths is read instead

    def headers(self) -> dict[str, str]:
        """Return the headers it needs."""
        found = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return found | ({"Content-Type": "application/json"} if self.body else {}) | dict(self.more)


@dataclasses.dataclass(frozen=True)
class Sample:
    """What was counted in one stretch of load. Latencies in milliseconds, `cpu` is the server's in microseconds."""

    requests: int
    seconds: float
    p50: float
    p99: float
    refused: int  # answers with a status of 400 or more
    broken: int  # connections that failed, and answers that took longer than 10 s
    cpu: float = 0.0

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def send(request: Request, seconds: int) -> Sample:
    """Send the request for so many seconds over every connection. Raises CalledProcessError if wrk fails."""
    headers = [part for name, value in request.headers().items() for part in ("-H", f"{name}: {value}")]
    command = [
        program("wrk", "wrk"),
        "-t1",
        f"-c{CONNECTIONS}",
        f"-d{seconds}s",
        "--timeout",
        "10s",
        "-s",
        str(SCRIPT),
        *headers,
    ]
    environment = os.environ | {"BENCH_METHOD": request.method}
    if request.body:
        environment["BENCH_BODY"] = request.body
    if request.keyed:
        environment["BENCH_KEY"] = str(uuid.uuid4())
    if request.reads:
        environment["BENCH_READS"] = " ".join(request.reads)
    done = subprocess.run([*command, request.url], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return Sample(**json.loads(done.stdout.rpartition("RESULT ")[2]))
