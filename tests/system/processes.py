"""Starts the real programs (Walnut, Redis, Nginx) on free loopback ports, and always ends them, by process id.

    with Walnut(tmp_path) as walnut:
        walnut.request("GET", "/health").json()

    with Stack(tmp_path, replicas=2) as stack:
        stack.replicas[0].kill()
        stack.request("GET", "/api/v1/health")

Each program runs in a session of its own and carries a mark in its environment, so that whatever it started is found
and ended too, also after its parent was killed. When the test run itself is killed, the kernel asks them to end.
"""

import dataclasses
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from email.message import Message
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

PROJECT = Path(__file__).resolve().parents[2]
READY_WITHIN = 30.0  # seconds
ENDED_WITHIN = 40.0  # seconds; Gunicorn itself allows 25 for what is in flight
MARK = "WALNUT_HARNESS"


class NotReady(Exception):
    """A program ended, or stayed silent, before it could be used. The message holds the end of its log."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a server answered. Header names are found in any case."""

    status: int
    headers: Message
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)


def program(name: str, package: str) -> str:
    """Return the path of an installed program, or say which Debian package has it."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin")
    if path is None:
        raise RuntimeError(f"{name} is not installed. `make test` installs it, or: apt-get install {package}")
    return path


def free_port() -> int:
    """Return a loopback port that nobody listens on.

    Below those that the kernel gives to clients (32768 and up): a server that restarts must find its port free.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def wait_until(condition: Callable[[], bool], within: float, what: str) -> None:
    """Ask `condition` every 20 ms until it holds. Raises TimeoutError after `within` seconds."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {within:.0f} s")
        time.sleep(0.02)


AnyProgram = TypeVar("AnyProgram", bound="Program")


class Program:
    """One real program in a folder of its own. A context manager: ready inside, ended outside."""

    name = "program"

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.log = folder / f"{self.name}-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._mark = ""

    def command(self) -> list[str]:
        """Return what to run."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Return the settings it starts with; nothing else comes from the developer's shell."""
        return {}

    def is_ready(self) -> bool:
        """Return whether it can be used."""
        raise NotImplementedError

    @property
    def pid(self) -> int:
        """The process that was started; those below it are in `pids()`."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process that was started is there."""
        return self._process is not None and self._process.poll() is None

    def pids(self) -> dict[int, int]:
        """Return every living process of this program with its parent's id."""
        return dict(_living(self.pid, f"{MARK}={self._mark}".encode()))

    def launch(self) -> None:
        """Start it and return at once. Its output is added to `log`."""
        if self.running:
            raise RuntimeError(f"{self.name} is running already")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._mark = uuid.uuid4().hex
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [*_ends_with_us(), *self.command()],
                cwd=self.folder,  # where no developer's .env is
                env=kept | self.environment() | {MARK: self._mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Wait until it can be used. Raises NotReady, and ends it, if it cannot."""
        try:
            wait_until(lambda: not self.running or self.is_ready(), READY_WITHIN, self.name)
        except TimeoutError as error:
            self.kill()
            raise NotReady(f"{error}\n{self.tail()}") from None
        if not self.running:
            self.kill()
            raise NotReady(f"{self.name} ended at once:\n{self.tail()}")

    def start(self) -> Self:
        """Start it and wait until it can be used."""
        self.launch()
        self.wait_ready()
        return self

    def terminate(self, within: float = ENDED_WITHIN) -> int:
        """Ask it to end (SIGTERM) and return its exit code. Raises TimeoutError, after killing it, if it does not."""
        process = self._started()
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(within)
            wait_until(lambda: not self.pids(), 5, f"{self.name}: what it started is still there")
        except (subprocess.TimeoutExpired, TimeoutError) as error:
            self.kill()
            raise TimeoutError(f"{error}\n{self.tail()}") from None
        return code

    def kill(self) -> None:
        """Kill it and everything it started (SIGKILL), as a power cut of the process would."""
        process = self._started()

        def gone() -> bool:
            pids = self.pids()
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not pids

        wait_until(gone, 10, f"kill {self.name}")
        process.wait(10)

    def restart(self) -> Self:
        """End it gracefully and start it again on the same port and folder."""
        self.terminate()
        return self.start()

    def stop(self) -> None:
        """End it if it runs. Nothing that it started is left."""
        if self._process is None:
            return
        try:
            if self.running:
                self.resume()
                self.terminate()
        finally:
            self.kill()

    def pause(self) -> None:
        """Stop every process of it (SIGSTOP): it hangs, with its connections open."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on (SIGCONT) after `pause`."""
        self._signal_all(signal.SIGCONT)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Hang it for the length of a `with` block."""
        self.pause()
        try:
            yield
        finally:
            self.resume()

    def tail(self, lines: int = 20) -> str:
        """Return the end of its log, long lines cut."""
        if not self.log.exists():
            return ""
        return "\n".join(line[:500] for line in self.log.read_text(errors="replace").splitlines()[-lines:])

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process

    def _signal_all(self, number: signal.Signals) -> None:
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def _ends_with_us() -> list[str]:
    """Return what to put before a command so that it gets SIGTERM when this process is gone.

    The kernel goes by the thread that started it, so that only the main thread may ask for it.
    """
    if threading.current_thread() is not threading.main_thread():
        return []
    return [program("setpriv", "util-linux"), "--pdeathsig", "TERM"]


def _living(session: int, mark: bytes) -> Iterator[tuple[int, int]]:
    """Yield (pid, parent) of the processes in `session` or with `mark` in their environment, zombies left out."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, parent, _, its_session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            ours = int(its_session) == session or mark in (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it ended while we looked
        if ours and state != "Z":
            yield int(entry.name), int(parent)


@contextmanager
def together(programs: Sequence[AnyProgram]) -> Iterator[list[AnyProgram]]:
    """Start programs at once, and end them at once."""
    with ThreadPoolExecutor(len(programs)) as pool:
        try:
            list(pool.map(lambda program: program.start(), programs))
            yield list(programs)
        finally:
            list(pool.map(lambda program: program.stop(), programs))


class HttpServer(Program):
    """A program that answers HTTP on loopback."""

    @property
    def url(self) -> str:
        """The address to call, without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    def caller(self) -> str:
        """Return the address that a request comes from if the test does not choose one."""
        return "127.0.0.1"

    def connect(self, timeout: float = 30, source: str | None = None) -> HTTPConnection:
        """Return a keep-alive connection. `source` (127.x.y.z) chooses the client's address."""
        return HTTPConnection("127.0.0.1", self.port, timeout=timeout, source_address=(source or self.caller(), 0))

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float = 30,
        source: str | None = None,
    ) -> Answer:
        """Send one request on a connection of its own. A body that is no bytes is sent as JSON."""
        connection = self.connect(timeout, source)
        try:
            return ask(connection, method, path, body, headers)
        finally:
            connection.close()


def ask(
    connection: HTTPConnection, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """Send one request on `connection` and read the whole answer."""
    given = dict(headers or {})
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
        given.setdefault("Content-Type", "application/json")
    connection.request(method, path, body, given)
    response = connection.getresponse()
    return Answer(response.status, response.msg, response.read())


class Walnut(HttpServer):
    """`walnut serve` from this checkout. Settings are given by name: Walnut(folder, WORKERS=2, REDIS_URL=...)."""

    name = "walnut"

    def __init__(self, instance: Path, port: int | None = None, **settings: object) -> None:
        super().__init__(instance, port)
        self.instance = instance
        self.settings = {name: str(value) for name, value in settings.items()}

    def command(self) -> list[str]:
        """Return the command, with the Python that runs the tests."""
        return [sys.executable, "-m", "api", "serve", "--no-worker"]

    def environment(self) -> dict[str, str]:
        """Return the settings; `python -m api` finds the checkout by PYTHONPATH, so it can start anywhere."""
        return {
            "PYTHONPATH": str(PROJECT),
            "APP_ENV": "development",
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "INSTANCE_PATH": str(self.instance),
        } | self.settings

    def is_ready(self) -> bool:
        """Return whether /health/ready says so."""
        try:
            return self.request("GET", "/health/ready", timeout=2).status == 200
        except (OSError, HTTPException):
            return False

    def worker_pids(self) -> list[int]:
        """Return Gunicorn's workers: the processes that have no children."""
        pids = self.pids()
        return sorted(set(pids) - set(pids.values()) - {self.pid})


class Redis(Program):
    """A Redis of our own. It forgets everything when it ends, unless `keep`."""

    name = "redis"

    def __init__(self, folder: Path, port: int | None = None, *, keep: bool = False) -> None:
        super().__init__(folder, port)
        self.keep = keep

    @property
    def url(self) -> str:
        """What REDIS_URL says."""
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        """Return the command, with persistence only if asked for."""
        server = program("redis-server", "redis-server")
        kept = ["--appendonly", "yes" if self.keep else "no", "--save", ""]
        return [server, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), *kept]

    def is_ready(self) -> bool:
        """Return whether it answers PING."""
        return self.command_line("PING") == b"+PONG"

    def command_line(self, *words: str) -> bytes:
        """Send one command (FLUSHALL, DEBUG SLEEP ...) and return the first line of the answer, or nothing."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(" ".join(words).encode() + b"\r\n")
                return connection.recv(4096).split(b"\r\n")[0]
        except OSError:
            return b""


class Nginx(HttpServer):
    """Nginx with this checkout's nginx.conf in front of `replicas` (their ports)."""

    name = "nginx"

    def __init__(self, folder: Path, replicas: list[int], port: int | None = None) -> None:
        super().__init__(folder, port)
        self.replicas = replicas
        self._callers = (f"127.1.{number // 250}.{number % 250 + 1}" for number in itertools.count())

    def caller(self) -> str:
        """Return a new address each time, so that tests meet the limit for each address only when they mean to."""
        return next(self._callers)

    def command(self) -> list[str]:
        """Return the command, after writing what differs from place to place."""
        self.configure(self.replicas)
        nginx = program("nginx", "nginx")
        # As root, Nginx's workers become `nobody`, who may not look into root's checkout.
        as_root = ["-g", "user root root;"] if os.geteuid() == 0 else []
        return [nginx, "-p", str(self.folder), "-c", "nginx.conf", "-e", "stderr", *as_root]

    def configure(self, replicas: list[int]) -> None:
        """Write nginx.d/ and link nginx.conf. `reload` makes a running Nginx read it."""
        places = self.folder / "nginx.d"
        places.mkdir(parents=True, exist_ok=True)
        _link(self.folder / "nginx.conf", PROJECT / "nginx.conf")
        _link(places / "headers.conf", PROJECT / "nginx.d" / "headers.conf")
        (places / "server.conf").write_text(f"listen 127.0.0.1:{self.port};\nroot {PROJECT};\n")
        servers = [f"server 127.0.0.1:{port} max_fails=0;\n" for port in replicas]
        (places / "replicas.conf").write_text("zone walnut 64k;\n" + "".join(servers))

    def reload(self, replicas: list[int]) -> None:
        """Send requests to `replicas` from now on; those in flight end where they are (SIGHUP)."""
        self.replicas = replicas
        self.configure(replicas)
        before = set(self.pids())
        os.kill(self.pid, signal.SIGHUP)
        wait_until(lambda: bool(set(self.pids()) - before), 10, "nginx reload")

    def is_ready(self) -> bool:
        """Return whether it accepts connections."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=2):
            return True
        return False


def _link(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)


class Stack:
    """Redis, replicas that share one folder, and Nginx in front of them. A context manager, like its parts."""

    def __init__(self, folder: Path, replicas: int = 2, port: int | None = None, **settings: object) -> None:
        self.folder = folder
        self.redis = Redis(folder / "redis")
        shared = {"REDIS_URL": self.redis.url, "TRUSTED_PROXIES": 1} | settings
        self.replicas = [Walnut(folder, None, **shared) for _ in range(replicas)]
        self.nginx = Nginx(folder / "nginx", [replica.port for replica in self.replicas], port)

    @property
    def url(self) -> str:
        """Nginx's address."""
        return self.nginx.url

    def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, **more: Any
    ) -> Answer:
        """Send one request through Nginx."""
        return self.nginx.request(method, path, body, headers, **more)

    def start(self) -> Self:
        """Start what is not running: Redis, then all replicas at once, then Nginx."""
        try:
            for group in ([self.redis], self.replicas, [self.nginx]):
                missing = [one for one in group if not one.running]
                for one in missing:
                    one.launch()
                for one in missing:
                    one.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End all of it, Nginx first."""
        with ExitStack() as ends:  # runs every stop, last one first, whatever fails
            for one in (self.redis, *self.replicas, self.nginx):
                ends.callback(one.stop)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
