"""What happens between a call and a bad server, on real sockets under gevent: run as a program by test_outgoing.py.

Each function below that is named `scene_...` is run in turn, and returns what JSON can say of it.
"""

from gevent import monkey

monkey.patch_all()

import contextlib
import gc
import json
import os
import socket
import ssl
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
from gevent.pool import Pool
from gevent.server import StreamServer

from api.outgoing import CallFailed, Calls, connections, names
from tests.system.certificates import Authority

MB = 1_000_000
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
KEY = {"Idempotency-Key": "k"}


class Server:
    """A server that does what `behave(self, sock)` does after each request, and counts."""

    def __init__(self, behave: Callable[["Server", Any], None], **options: Any) -> None:
        self._behave = behave
        self.connections = self.requests = self.sent = 0
        self.heads: list[str] = []
        self._server = StreamServer(("127.0.0.1", 0), self._serve, spawn=Pool(), **options)
        self._server.start()
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/"

    def _serve(self, sock: Any, _: Any) -> None:
        self.connections += 1
        with contextlib.suppress(OSError), sock, sock.makefile("rb") as file:
            while head := head_of(file):
                self.heads.append(head.decode())
                length = [line for line in head.splitlines() if line.lower().startswith(b"content-length")]
                file.read(int(length[0].split()[1]))
                self.requests += 1
                self._behave(self, sock)

    def send(self, sock: Any, data: bytes, times: int = 1) -> None:
        for _ in range(times):
            sock.sendall(data)
            self.sent += len(data)

    def stop(self) -> None:
        self._server.stop(0)


def head_of(file: Any) -> bytes:
    """Return a request up to its empty line, nothing at the end."""
    lines = []
    while (line := file.readline()) not in (b"\r\n", b""):
        lines.append(line)
    return b"".join(lines)


@contextlib.contextmanager
def serving(behave: Callable[[Server, Any], None], **options: Any) -> Iterator[Server]:
    server = Server(behave, **options)
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def plain_server(data: bytes) -> Iterator[int]:
    """Run a server that answers the first bytes it gets, whatever they are, and listens no more."""

    def serve(sock: Any, _: Any) -> None:
        with contextlib.suppress(OSError):
            sock.recv(100)
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass

    server = StreamServer(("127.0.0.1", 0), serve)
    server.start()
    yield server.server_port
    server.stop(0)


@contextlib.contextmanager
def full_at(address: str, port: int) -> Iterator[int]:
    """Listen, with a queue that is full: what connects now waits."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((address, port))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def says(data: bytes) -> Callable[[Server, Any], None]:
    return lambda server, sock: server.send(sock, data)


def outcome(
    url: str, seconds: float = 5.0, calls: Calls | None = None, body: bytes = b"{}", **more: Any
) -> dict[str, Any]:
    """Make a call, and tell what came of it and how long it took."""
    own = Calls() if calls is None else None
    started = time.perf_counter()
    try:
        reply = (calls or own).post(url, body, more.pop("headers", {}), seconds=seconds, **{"private": True} | more)  # type: ignore[union-attr]
        found: dict[str, Any] = {"status": reply.status, "body": reply.body.decode("latin1")[:50]}
    except CallFailed as error:
        found = {"reason": error.reason, "message": str(error), "detail": error.detail}
    finally:
        if own:
            own.close()
    return found | {"took": time.perf_counter() - started}


def against(behave: Callable[[Server, Any], None], **options: Any) -> dict[str, Any]:
    """Call a server once, and tell what came of it and what the server saw."""
    with serving(behave) as server:
        found = outcome(server.url, **options)
        gevent.sleep(0.02)
        return found | {"connections": server.connections, "requests": server.requests, "sent": server.sent}


def hang(server: Server, sock: Any, after: bytes = b"") -> None:
    server.send(sock, after)
    gevent.sleep(30)


def drip(server: Server, sock: Any, first: bytes = b"", drop: bytes = b"x") -> None:
    server.send(sock, first)
    while True:
        server.send(sock, drop)
        gevent.sleep(0.1)


def flood(first: bytes, again: bytes) -> Callable[[Server, Any], None]:
    def behave(server: Server, sock: Any) -> None:
        server.send(sock, first)
        server.send(sock, again * (65536 // len(again)), 100 * MB // 65536)

    return behave


HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def scene_late() -> Any:
    """Whatever is slow, the call is over when its time is."""
    half = HEAD + b"Content-Length: 100\r\n\r\nabc"
    ways: dict[str, Callable[[Server, Any], None]] = {
        "silence": hang,
        "half a status line": lambda server, sock: hang(server, sock, b"HTTP/1.1 2"),
        "half a header": lambda server, sock: hang(server, sock, HEAD + b"Content-"),
        "half a body": lambda server, sock: hang(server, sock, half),
        "a dripping body": lambda server, sock: drip(server, sock, half),
        "a dripping header": lambda server, sock: drip(server, sock, HEAD + b"X: "),
        "dripping chunks": lambda server, sock: drip(server, sock, CHUNKED, b"1\r\nx\r\n"),
        "dripping interim answers": lambda server, sock: drip(server, sock, b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    }
    jobs = {name: gevent.spawn(against, way, seconds=0.4) for name, way in ways.items()}
    return {name: job.get() for name, job in jobs.items()}


def scene_late_at_the_door() -> Any:
    """The same for a server that does not read, does not shake hands, or does not accept."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        ways = {
            "not read": (f"http://127.0.0.1:{port}/", b"x" * 30 * MB),
            "no handshake": (f"https://127.0.0.1:{port}/", b""),
        }
        found = {name: outcome(url, 0.4, body=body) for name, (url, body) in ways.items()}
    with full_at("127.0.0.1", 0) as port:
        found["not accepted"] = outcome(f"http://127.0.0.1:{port}/", 0.4)
    return found


def scene_large() -> Any:
    """Nothing is read for long after there is too much of it, and others run meanwhile."""
    ways = {
        "declared": flood(HEAD + b"Content-Length: 100000000\r\n\r\n", b"x"),
        "until closed": flood(HEAD + b"\r\n", b"x"),
        "chunks": flood(CHUNKED, b"400\r\n" + b"x" * 1024 + b"\r\n"),
        "tiny chunks": flood(CHUNKED, b"1\r\nx\r\n"),
        "one chunk": flood(CHUNKED + b"5f5e100\r\n", b"x"),
        "trailers": flood(CHUNKED + b"0\r\n", b"X: y\r\n"),
        "interim answers": flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        "headers": flood(HEAD, b"X: y\r\n"),
        "one header": flood(HEAD + b"X: ", b"x"),
        "a status line": flood(b"", b"x"),
    }
    return {name: against(way) for name, way in ways.items()}


def scene_just_fits() -> Any:
    """1 MiB is read, one byte more is not."""
    size = 1024 * 1024
    found = {}
    for name, extra in (("fits", 0), ("one more", 1)):
        data = b"x" * (size + extra)
        found[name] = against(says(HEAD + b"Content-Length: %d\r\n\r\n" % len(data) + data))
        chunks = b"".join(b"40\r\n" + data[at : at + 64] + b"\r\n" for at in range(0, size, 64))
        chunks += b"1\r\nx\r\n" * extra + b"0\r\n\r\n"
        found[f"{name}, in chunks"] = against(says(CHUNKED + chunks))
    return found


def scene_broken() -> Any:
    """What is no whole answer is none."""

    def cut(data: bytes) -> Callable[[Server, Any], None]:
        def behave(server: Server, sock: Any) -> None:
            server.send(sock, data)
            sock.shutdown(socket.SHUT_RDWR)

        return behave

    ways = {
        "nothing": b"",
        "half a status line": b"HTTP/1.1 2",
        "half a header": HEAD + b"Content-Len",
        "half a body": HEAD + b"Content-Length: 10\r\n\r\nabc",
        "half a chunk": CHUNKED + b"a\r\nabc",
        "chunks without an end": CHUNKED + b"3\r\nabc\r\n",
        "garbage": bytes(range(256)),
        "mail": b"220 mail.example ESMTP\r\n",
        "a header without a colon": HEAD + b"what is this\r\nContent-Length: 2\r\n\r\n{}",
        "gzip": HEAD + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
        "early hints": b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK,
        "switching protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
        "continue, then an answer": b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        "no length": HEAD + b"\r\nall of it",
    }
    return {name: against(cut(data), headers=KEY) for name, data in ways.items()}


def scene_redirect() -> Any:
    """Nobody goes where a vendor sends us."""
    with serving(says(OK)) as inside:
        moved = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % inside.url.encode()
        return against(says(moved)) | {"inside": inside.connections}


def scene_refused_while_sending() -> Any:
    """A server may answer and hang up before it has read everything."""

    too_large = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    with plain_server(too_large) as port:
        return outcome(f"http://127.0.0.1:{port}/", body=b"x" * 5 * MB)


def scene_reuse() -> Any:
    """A connection is used again, as long as nobody hung up and nothing is left over in it."""
    calls = Calls()
    found: dict[str, Any] = {}
    with serving(says(OK)) as server:

        def status() -> Any:
            return outcome(server.url, calls=calls)["status"]

        found["one after the other"] = [status() for _ in range(5)], server.connections
        together = [gevent.spawn(status) for _ in range(20)]
        found["together"] = [job.get() for job in together], server.connections
        found["afterwards"] = [status() for _ in range(20)], server.connections
    for name, data in {
        "surplus": OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged",
        "close": OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        "http/1.0": OK.replace(b"1.1", b"1.0"),
    }.items():
        with serving(says(data)) as server:
            found[name] = [outcome(server.url, calls=calls)["body"] for _ in range(3)], server.connections

    def later(server: Server, sock: Any) -> None:
        server.send(sock, OK)
        gevent.spawn_later(0.02, sock.sendall, b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")

    with serving(later) as server:
        bodies = []
        for _ in range(3):
            bodies.append(outcome(server.url, calls=calls)["body"])
            gevent.sleep(0.05)
        found["surplus, later"] = bodies, server.connections
    calls.close()
    return found


def scene_stale() -> Any:
    """A kept connection that was closed meanwhile costs nothing, or one more try if the call may be repeated."""
    found: dict[str, Any] = {}

    def first_only(then: bytes) -> Callable[[Server, Any], None]:
        def behave(server: Server, sock: Any) -> None:
            if server.requests == 2:
                server.send(sock, then)
                sock.shutdown(socket.SHUT_RDWR)
            else:
                server.send(sock, OK)

        return behave

    ways: dict[str, tuple[bytes, dict[str, str]]] = {
        "with a key": (b"", KEY),
        "with a key in capitals": (b"", {"IDEMPOTENCY-KEY": "k"}),
        "without a key": (b"", {}),
        "after a byte": (b"H", KEY),
        "after half of it": (HEAD + b"Content-Length: 9\r\n\r\nabc", KEY),
    }
    for name, (then, headers) in ways.items():
        calls = Calls()
        with serving(first_only(then)) as server:
            outcome(server.url, calls=calls)
            found[name] = outcome(server.url, calls=calls, headers=headers) | {"requests": server.requests}
        calls.close()

    def reset(server: Server, sock: Any) -> None:
        server.send(sock, OK if server.requests == 1 else HEAD)
        if server.requests == 2:
            gevent.sleep(0.05)  # it has arrived
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raise ConnectionAbortedError

    calls = Calls()
    with serving(reset) as server:
        outcome(server.url, calls=calls)
        found["reset after some"] = outcome(server.url, calls=calls, headers=KEY) | {"requests": server.requests}
    calls.close()

    def hang_up(server: Server, sock: Any) -> None:
        server.send(sock, OK)
        sock.shutdown(socket.SHUT_RDWR)

    calls = Calls()
    with serving(hang_up) as server:
        outcome(server.url, calls=calls)
        gevent.sleep(0.02)
        found["seen in time"] = outcome(server.url, calls=calls) | {"requests": server.requests}
    calls.close()
    return found


def scene_rebinding() -> Any:
    """The address that was checked is the one that is called, whatever the name says a moment later."""
    asked: list[str] = []

    def lookup(name: str, *_: Any, **__: Any) -> Any:
        asked.append(name)
        address = "127.0.0.1" if len(asked) == 1 else "127.0.0.2"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))]

    def never(*_: Any, **__: Any) -> Any:
        asked.append("again")
        return lookup("")

    system, resolver = socket.getaddrinfo, gevent.get_hub().resolver.getaddrinfo
    socket.getaddrinfo = gevent.get_hub().resolver.getaddrinfo = never
    try:
        with serving(says(OK)) as server:
            url = server.url.replace("127.0.0.1", "vendor.test")
            calls = Calls(lookup)
            first = outcome(url, calls=calls)
            second = outcome(url, calls=calls, private=False)
            calls.close()
            refused = outcome(url, calls=Calls(lookup), private=False)
            seen = {"connections": server.connections, "host": server.heads[0].splitlines()[1], "port": server.port}
    finally:
        socket.getaddrinfo, gevent.get_hub().resolver.getaddrinfo = system, resolver
    return {"first": first, "second": second, "refused": refused, "asked": asked, **seen}


def scene_next_address() -> Any:
    """If nobody is at the first address, the next one is tried."""

    def lookup(*_: Any, **__: Any) -> Any:
        return [(0, 0, 0, "", (address, 0)) for address in ("127.0.0.9", "127.0.0.1")]

    calls = Calls(lookup)
    with serving(says(OK)) as server:
        found = outcome(server.url.replace("127.0.0.1", "vendor.test"), calls=calls)
        closed = outcome("http://vendor.test:1/", calls=calls)
        with full_at("127.0.0.9", server.port):
            patient = Calls(lookup)
            hangs = outcome(server.url.replace("127.0.0.1", "vendor.test"), 1.0, calls=patient)  # half for each address
            patient.close()
    calls.close()
    return {"found": found, "closed": closed, "hangs": hangs}


def scene_moved() -> Any:
    """A connection to where the name was is not used for where it is."""
    address = "127.0.0.1"

    def lookup(*_: Any, **__: Any) -> Any:
        return [(0, 0, 0, "", (address, 0))]

    calls, names.KEPT_SECONDS = Calls(lookup), 0.0
    found = {}
    with serving(says(OK)) as server:
        url = server.url.replace("127.0.0.1", "vendor.test")
        found["before"] = outcome(url, calls=calls)
        address = "127.0.0.2"
        found["moved"] = outcome(url, calls=calls)
        address = "127.0.0.1"
        found["back"] = outcome(url, calls=calls)
    calls.close()
    return found


def scene_kept() -> Any:
    """Not every connection is kept, and none for long."""
    calls, connections.MAX_KEPT, connections.KEPT_SECONDS = Calls(), 3, 0.2
    found = {}
    with serving(says(OK)) as server:

        def opened() -> int:
            gevent.sleep(0.02)
            return len([sock for sock in sockets() if sock.getsockname()[1] == server.port])

        gevent.joinall([gevent.spawn(outcome, server.url, calls=calls) for _ in range(10)])
        found["at most"], found["open"] = len(calls._kept._waiting), opened()
        gevent.sleep(0.3)
        outcome(server.url, calls=calls)
        found["expired"] = opened()
        calls.close()
        found["closed"] = opened()
    return found


def scene_proxy() -> Any:
    """The environment of the server decides nothing about its calls."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        os.environ[name] = "http://127.0.0.1:1"
    return against(says(OK))


def scene_tls() -> Any:
    """The certificate is for the name, by an authority that this machine trusts."""
    trusted, other = Authority(), Authority()
    found: dict[str, Any] = {}
    asked_for: list[str | None] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SSL_CERT_FILE"] = trusted.certificate_in(folder)
        connections._tls.cache_clear()

        def context(authority: Authority, *hosts: str) -> ssl.SSLContext:
            made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            made.load_cert_chain(authority.pair_in(folder, *hosts))
            made.sni_callback = lambda _, name, __: asked_for.append(name)
            return made

        def lookup(*_: Any, **__: Any) -> Any:  # nobody is at the second one
            return [(0, 0, 0, "", (address, 0)) for address in ("127.0.0.1", "127.0.0.2")]

        for name, authority, hosts, host in [
            ("right", trusted, ["vendor.test"], "vendor.test"),
            ("another name", trusted, ["vendor.test"], "other.test"),
            ("another authority", other, ["vendor.test"], "vendor.test"),
            ("an address", trusted, ["127.0.0.1"], "127.0.0.1"),
            ("the wrong address", trusted, ["127.0.0.2"], "127.0.0.1"),
        ]:
            calls = Calls(lookup)
            with serving(says(OK), ssl_context=context(authority, *hosts)) as server:
                results = [outcome(f"https://{host}:{server.port}/", calls=calls) for _ in range(3)]
                found[name] = results[-1] | {"connections": server.connections, "requests": server.requests}
            calls.close()
        with plain_server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
            found["no TLS there"] = outcome(f"https://127.0.0.1:{port}/")
    return found | {"names": asked_for}


def scene_ended_by_the_caller() -> Any:
    """The deadline of who calls is not taken for the call's own, and ends it all the same."""
    with serving(hang) as server:
        calls, found = Calls(), {}
        try:
            with gevent.Timeout(0.1) as mine:
                calls.post(server.url, b"", {}, seconds=5, private=True)
        except gevent.Timeout as over:
            found["mine"] = over is mine
        call = gevent.spawn(calls.post, server.url, b"", {}, seconds=5, private=True)
        gevent.sleep(0.05)
        call.kill()
        found["killed"] = call.dead
        gevent.sleep(0.05)
        gone = [sock for sock in sockets() if sock.getsockname()[1] != server.port]
        return found | {"left": len(gone)}


def sockets() -> list[Any]:
    gc.collect()
    found = [thing for thing in gc.get_objects() if isinstance(thing, socket.socket)]
    return [sock for sock in found if sock.fileno() >= 0 and sock.type == socket.SOCK_STREAM]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def greenlets() -> int:
    gc.collect()
    return sum(isinstance(thing, gevent.Greenlet) and not thing.dead for thing in gc.get_objects())


class Ticker:
    """Measures for how long the loop stood still at most, in seconds."""

    def __init__(self) -> None:
        self.largest = 0.0

    def run(self) -> None:
        while True:
            before = time.perf_counter()
            gevent.sleep(0.005)
            self.largest = max(self.largest, time.perf_counter() - before)


def main(names: list[str]) -> None:
    """Run the scenes, and print what each has to say, with what it left behind."""
    gevent.get_hub().NOT_ERROR += (ssl.SSLError,)  # of the server's side, when its certificate is not accepted
    warm = outcome("http://localhost:1/")  # the resolver's threads, and what is imported late
    results: dict[str, Any] = {"warm": warm}
    for name in names:
        before = descriptors(), greenlets()
        ticker = Ticker()
        ticking = gevent.spawn(ticker.run)
        found = globals()[f"scene_{name}"]()
        ticking.kill()
        gevent.sleep(0.05)
        gc.collect()
        left = descriptors() - before[0], greenlets() - before[1]
        results[name] = {"found": found, "left": left, "stood_still": ticker.largest}
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1:] or [name.removeprefix("scene_") for name in list(globals()) if name.startswith("scene_")])
