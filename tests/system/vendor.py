"""A vendor of our own, on loopback, in a process of its own: it counts its calls by their Idempotency-Key.

    with Vendor(tmp_path) as vendor:
        ... {"url": f"{vendor.url}/ok"} ...
        vendor.calls()    # [{"key", "at", "path", "headers", "body"}, ...]

What it does is in the path: /ok, /slow (0.2 s), /hang, /drip (a byte now and then), /large (100 MB), /status/503,
/busy (refuses the first two calls of each key), /redirect.
"""

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import gevent
import orjson
from gevent.pywsgi import WSGIServer

from tests.system.processes import HttpServer

CALLS: list[dict[str, Any]] = []
SEEN: Counter[str] = Counter()


class Vendor(HttpServer):
    """The vendor's process, as tests see it."""

    name = "vendor"

    def command(self) -> list[str]:
        """Return the command."""
        return [sys.executable, "-m", "gevent.monkey", "--module", "tests.system.vendor", str(self.port)]

    def environment(self) -> dict[str, str]:
        """Let it find this checkout."""
        return {"PYTHONPATH": ":".join(path for path in sys.path if path)}

    def is_ready(self) -> bool:
        """Return whether it answers."""
        try:
            return self.request("GET", "/calls", timeout=2).status == 200
        except OSError:
            return False

    def calls(self) -> list[dict[str, Any]]:
        """Return every call there was, in the order they came in."""
        found: list[dict[str, Any]] = self.request("GET", "/calls").json()
        return found


def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """WSGI."""
    at, path = time.time(), environ["PATH_INFO"]
    if environ["REQUEST_METHOD"] == "GET":
        start_response("200 OK", [("Content-Type", "application/json")])
        return [orjson.dumps(CALLS)]
    body, key = environ["wsgi.input"].read(), environ.get("HTTP_IDEMPOTENCY_KEY", "")
    headers = {name[5:].replace("_", "-").lower(): value for name, value in environ.items() if name[:5] == "HTTP_"}
    CALLS.append({"key": key, "at": at, "path": path, "headers": headers, "body": body.decode(errors="replace")})
    SEEN[key] += 1
    return acted(path, key, start_response)


def acted(path: str, key: str, start_response: Any) -> Iterable[bytes]:
    status, headers, parts = "200 OK", [("Content-Type", "application/json")], [orjson.dumps({"did": key})]
    if path == "/hang":
        gevent.sleep(3600)
    if path == "/slow":
        gevent.sleep(0.2)
    if path == "/busy" and SEEN[key] <= 2:
        status = "429 Too Many Requests"
    if path.startswith("/status/"):
        status = f"{path.removeprefix('/status/')} As Asked"
    if path == "/redirect":
        status, headers = "302 Found", [("Location", "/ok")]
    start_response(status, headers)
    return {"/drip": dripping(), "/large": large()}.get(path, parts)


def dripping() -> Iterator[bytes]:
    while True:
        yield b" "
        gevent.sleep(0.3)


def large() -> Iterator[bytes]:
    for _ in range(1600):
        yield b"x" * 65536


if __name__ == "__main__":
    WSGIServer(("127.0.0.1", int(sys.argv[1])), answer, log=None, error_log=None).serve_forever()
