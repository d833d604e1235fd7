"""Starts the programs that make up a running Walnut, keeps them running, and ends them without dropping a request.

Each program has a process group of its own, so that Ctrl-C reaches the supervisor alone, which then asks each to end.
"""

import ctypes
import logging.config
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from urllib.error import URLError
from urllib.request import urlopen

from api import logs, scoreboard, sqlite
from api.assets import asset
from api.checkpoints import keep_short
from api.errors import SettingsError
from api.housekeeping import keep_swept
from api.settings import Settings, address

PARENT = "WALNUT_SUPERVISOR"  # tells a program whose child it is
PR_SET_PDEATHSIG = 1  # linux/prctl.h
WORKER = ("-m", "gevent.monkey", "--module", "api.worker_process")
BOOT_SECONDS = 5.0  # a program that ends sooner did not start at all
TRIES = 3
UNSAFE = (
    f"WARNING: SQLite {sqlite.VERSION} can lose a committed transaction (https://sqlite.org/wal.html#walresetbug).\n"
    "Install one that cannot: the wheel pysqlite3, or SQLite 3.51.3 or newer. Until then one process checkpoints alone."
)

EXPOSED = (
    "WARNING: others can reach this server, and it is not in production: who registers first may become its admin."
)


@dataclass
class Program:
    """A program to keep running."""

    name: str
    command: Sequence[str]
    essential: bool = True  # without it there is nothing to serve; another one is started anew, whatever happens to it
    started: float = 0.0
    failures: int = field(default=0)


class Supervisor:
    """Runs programs until told to stop, or until one cannot be started. `board` is where they keep their numbers."""

    def __init__(self, programs: Sequence[Program], board: Path | None = None) -> None:
        self._programs = programs
        self._board = board
        self._running: dict[int, Program] = {}
        self._stopping = False

    def run(self) -> int:
        """Run them all and return the exit status for the shell: 0 after a stop that was asked for."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, lambda *_: self._signal(signal.SIGHUP))
        for program in self._programs:
            self._start(program)
        status = 0
        while self._running:
            pid, code = os.wait()
            ended = self._running.pop(pid, None)  # none: a child of whoever became this program
            if ended and self._board:
                scoreboard.bury(self._board, pid)
            if ended and not self._stopping:
                status = self._ended(ended, os.waitstatus_to_exitcode(code)) or status
        return status

    def _start(self, program: Program) -> None:
        program.started = time.monotonic()
        environment = {**os.environ, PARENT: str(os.getpid())}
        pid = os.posix_spawn(sys.executable, [sys.executable, *program.command], environment, setpgroup=0)
        self._running[pid] = program
        if self._stopping:
            self._signal(signal.SIGTERM)

    def _ended(self, program: Program, code: int) -> int:
        """Start a program anew that ended by itself; give up, and end the others, if it never really starts."""
        quick = time.monotonic() - program.started < BOOT_SECONDS
        program.failures = program.failures + 1 if quick else 0
        if program.essential and (
            program.failures >= TRIES or code == 3
        ):  # 3: Gunicorn's own word for "the app does not load"
            say(f"{program.name} does not start ({_how(code)}). The lines above say why.")
            self._stop(signal.SIGTERM, None)
            return 1
        say(f"{program.name} ended ({_how(code)}) and is started anew.")
        time.sleep(min(program.failures, TRIES if program.essential else 1))
        if not self._stopping:
            self._start(program)
        return 0

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        """Ask every program to end in its own time; when asked a second time, end them at once."""
        if not self._stopping and sys.stderr.isatty():
            say("\nEnding: requests and jobs under way get up to 25 s. Ctrl-C again ends them at once.")
        self._signal(signal.SIGKILL if self._stopping else signal.SIGTERM)
        self._stopping = True

    def _signal(self, number: int) -> None:
        for pid in list(self._running):
            with suppress(ProcessLookupError):
                (os.killpg if number == signal.SIGKILL else os.kill)(pid, number)


def serve(settings: Settings, *, worker: bool = True, reload: bool = False) -> int:
    """Serve until SIGTERM or Ctrl-C, with a worker for jobs unless there is one elsewhere. Returns the exit status."""
    if not settings.production and settings.host not in ("127.0.0.1", "::1", "localhost"):
        say(EXPOSED)
    gunicorn = ["-m", "gunicorn", "-c", str(asset("gunicorn.conf.py")), *["--reload"] * reload, "api:create_app()"]
    threading.Thread(target=_greet, args=(settings,), kwargs={"worker": worker}, daemon=True).start()
    beside = [Program("The worker", WORKER, essential=False)] if worker else []
    return _run(settings, [Program("Gunicorn", gunicorn), *beside])


def work(settings: Settings) -> int:
    """Work on jobs until SIGTERM or Ctrl-C. Returns the exit status."""
    say("Walnut is working on jobs. Ctrl-C ends it.")
    return _run(settings, [Program("The worker", WORKER, essential=False)])


def _run(settings: Settings, programs: Sequence[Program]) -> int:
    """Run programs, and beside them what looks after the database."""
    logging.config.dictConfig(logs.config(settings.log_level, settings.log_dir))
    if not sqlite.is_safe():
        say(UNSAFE)
    board = scoreboard.make()
    os.environ[scoreboard.VARIABLE] = str(board)
    stop = threading.Event()
    keepers = [threading.Thread(target=keep, args=(settings, stop)) for keep in (keep_short, keep_swept)]
    for keeper in keepers:
        keeper.start()
    try:
        return Supervisor(programs, board).run()
    finally:
        stop.set()
        for keeper in keepers:
            keeper.join()
        scoreboard.remove(board)


def refuse_port_in_use(host: str, port: int) -> None:
    """Raise SettingsError if something listens there already, or the address is not this machine's."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except socket.gaierror as error:
        raise SettingsError(f"HOST: {host} is no address of this machine ({error.strerror}).") from None
    except OSError as error:
        fault = f"cannot listen on {address(host, port)} ({error.strerror})"
        raise SettingsError(f"PORT: {fault}. Stop what listens there, or choose another PORT.") from None


def end_with_parent(parent: str | None) -> None:
    """Ask the kernel to end this process when its supervisor is gone, however that came about (Linux only)."""
    if parent and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):  # it went before the kernel was asked
            os.kill(os.getpid(), signal.SIGTERM)


def allow_files(number: int) -> None:
    """Let this process and those it starts have so many files and connections open, if the system permits it.

    Many systems give a program 1,024 to begin with, and let it ask for more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = number if hard == resource.RLIM_INFINITY else min(number, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def say(line: str) -> None:
    """Tell the person at the terminal; standard output is for the log."""
    print(line, file=sys.stderr, flush=True)


def _how(code: int) -> str:
    return f"exit status {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"


def _greet(settings: Settings, *, worker: bool) -> None:
    """Wait until the server answers, then say where everything is."""
    host = "localhost" if settings.host in ("127.0.0.1", "0.0.0.0", "::", "::1") else settings.host  # noqa: S104
    url, probe = f"http://{address(host, settings.port)}", f"http://{settings.local_address}/health/live"
    while not _answers(probe):
        time.sleep(0.1)
    processes = "1 worker process" if settings.workers == 1 else f"{settings.workers} worker processes"
    say(
        f"\n  Walnut is serving ({settings.app_env}, {processes}). Ctrl-C ends it.\n\n"
        f"    Dashboard   {url}/\n    Swagger UI  {url}/api-docs\n    Health      {url}/health\n"
        f"    Data        {settings.instance_path}\n"
        + ("" if settings.smtp_url else f"    Mail        {settings.instance_path / 'outbox'} (SMTP_URL is unset)\n")
        + ("" if worker else "    Jobs        wait for `walnut worker`\n")
    )


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=1) as answer:  # noqa: S310 (our own address)
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False
