"""The servers that are measured: Walnut twice and the bare route, each with one Gunicorn worker.

One Walnut is read from and keeps its 1,000 tasks; the other is written to, so that its growth slows no list down.
"""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

from bench import machine
from bench.load import Request
from tests.system.processes import PROJECT, HttpServer, Walnut

TASKS = 1_000
READS = {"live", "health", "list", "one", "cached-list", "cached-one"}
WRITES = {"create", "full", "keyed"}
ANEW = {"Cache-Control": "no-cache"}  # as a browser's reload says it: the answer is made anew
ACCOUNT = {"username": "bench", "email": "bench@example.com", "password": "correct horse"}
# A limit that is never met is still counted, so its cost is measured.
NO_LIMITS: dict[str, Any] = {
    "RATE_LIMIT_DEFAULT": "token-bucket 1000000000 refill 1000000/s",
    "RATE_LIMIT_AUTH": "1000000 per 15 minutes",
}


class Bare(HttpServer):
    """bench/bare.py under Gunicorn's own worker, or under Walnut's."""

    def __init__(self, folder: Path, *, stock: bool) -> None:
        super().__init__(folder)
        self._config = PROJECT / ("bench/stock.py" if stock else "gunicorn.conf.py")

    name = "bare"

    def command(self) -> list[str]:
        """Return the command."""
        return [sys.executable, "-m", "gunicorn", "-c", str(self._config), "bench.bare:app"]

    def launch(self) -> None:
        """Start it. gunicorn.conf.py wants a database to be there; nothing here asks it anything."""
        self.folder.mkdir(parents=True)
        upgrade = [sys.executable, "-m", "api", "db", "upgrade"]
        subprocess.run(upgrade, cwd=PROJECT, env=os.environ | self.environment(), stdout=subprocess.DEVNULL, check=True)
        super().launch()

    def environment(self) -> dict[str, str]:
        """Return the settings that gunicorn.conf.py reads."""
        return {
            "PYTHONPATH": str(PROJECT),
            "INSTANCE_PATH": str(self.folder),
            "PORT": str(self.port),
            "WORKERS": "1",
        }

    def is_ready(self) -> bool:
        """Return whether it answers."""
        try:
            return self.request("GET", "/", timeout=2).status == 200
        except (OSError, HTTPException):
            return False


@contextmanager
def running(folder: Path, names: set[str], redis_url: str = "") -> Iterator[dict[str, tuple[HttpServer, Request]]]:
    """Start what the named measurements need; yield for each of them its server and its request, tried once."""
    bare = Bare(folder / "bare", stock=True)
    ours = Bare(folder / "bare-ours", stock=False)
    about = {"WORKERS": 1} | NO_LIMITS | ({"REDIS_URL": redis_url} if redis_url else {})
    kinds = {"read": (READS, _reads), "written": (WRITES, _writes), "mix": ({"mix"}, _mix)}
    walnuts = {kind: Walnut(folder / kind, **about) for kind, (own, _) in kinds.items() if names & own}
    servers = [bare, *([ours] if "ours" in names else []), *walnuts.values()]
    with ExitStack() as stack:
        with machine.on_core(machine.server_core()):  # what is started stays there
            for server in servers:
                stack.callback(server.stop)
                server.launch()
        for server in servers:
            server.wait_ready()
        found: dict[str, tuple[HttpServer, Request]] = {"bare": (bare, Request(f"{bare.url}/"))}
        found |= {"ours": (ours, Request(f"{ours.url}/"))} if "ours" in names else {}
        for kind, walnut in walnuts.items():
            requests = kinds[kind][1](walnut)
            found |= {name: (walnut, request) for name, request in requests.items() if name in names}
        for name, (server, request) in found.items():
            _try(name, server, request)
        yield found


def workers(server: HttpServer) -> list[int]:
    """Return the ids of Gunicorn's workers: the processes of the server that have no children."""
    pids = server.pids()
    return sorted(set(pids) - set(pids.values()) - {server.pid})


def task(number: int) -> dict[str, object]:
    """Return a task of usual size."""
    return {
        "title": f"Task {number}",
        "description": "Walnuts are to be gathered when the green husk opens by itself, and dried in the shade.",
        "status": ("todo", "in_progress", "done")[number % 3],
        "priority": number % 5 + 1,
        "tags": ["bench", f"group-{number % 10}"],
        "due_at": "2031-05-01T12:00:00Z",
    }


def _reads(walnut: Walnut) -> dict[str, Request]:
    token, one = _furnish(walnut)
    tasks = f"{walnut.url}/api/v1/tasks"
    kept_list, kept_one = Request(f"{tasks}?limit=20", token), Request(f"{tasks}/{one}", token)
    return {
        "live": Request(f"{walnut.url}/health/live"),
        "health": Request(f"{walnut.url}/health"),
        "list": dataclasses.replace(kept_list, more=ANEW),
        "one": dataclasses.replace(kept_one, more=ANEW),
        "cached-list": kept_list,
        "cached-one": kept_one,
    }


def _writes(walnut: Walnut) -> dict[str, Request]:
    token, _ = _furnish(walnut)
    tasks = f"{walnut.url}/api/v1/tasks"
    create = Request(tasks, token, "POST", json.dumps({"title": "My Task"}))  # as in README's tour
    full = Request(tasks, token, "POST", json.dumps(task(0)))
    return {"create": create, "full": full, "keyed": dataclasses.replace(create, keyed=True)}


def _mix(walnut: Walnut) -> dict[str, Request]:
    """Return nine reads, of the list or of a task in turn, to each change: which ends all that is kept."""
    token, one = _furnish(walnut)
    tasks = f"{walnut.url}/api/v1/tasks"
    change = Request(f"{tasks}/{one}", token, "PATCH", json.dumps({"title": "My Task"}))
    return {"mix": dataclasses.replace(change, reads=("/api/v1/tasks?limit=20", f"/api/v1/tasks/{one}"))}


def _furnish(walnut: Walnut) -> tuple[str, str]:
    """Make an admin and the tasks. Return the admin's access token and the id of a task in their midst."""
    _asked(walnut, "/auth/register", ACCOUNT | {"role": "admin"})
    signed_in = _asked(walnut, "/auth/login", {name: ACCOUNT[name] for name in ("email", "password")})
    token = str(signed_in["access_token"])
    with ThreadPoolExecutor(32) as together:
        ids = list(together.map(lambda number: _asked(walnut, "/tasks", task(number), token)["id"], range(TASKS)))
    return token, str(ids[TASKS // 2])


def _asked(walnut: Walnut, path: str, body: object, token: str = "") -> dict[str, object]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = walnut.request("POST", f"/api/v1{path}", body, headers)
    if answer.status >= 300:
        raise RuntimeError(f"POST {path} was answered with {answer.status}: {answer.body.decode()}")
    return dict(answer.json())


def _try(name: str, server: HttpServer, request: Request) -> None:
    """Ask twice. Raises RuntimeError if it is not answered with 2xx, and from the cache just if that is measured."""
    path = request.url.removeprefix(server.url)
    for _ in range(2):
        answer = server.request(request.method, path, request.body.encode() or None, request.headers())
        if not 200 <= answer.status < 300:
            raise RuntimeError(f"{request.method} {path} was answered with {answer.status}: {answer.body.decode()}")
    if ("hit" in answer.headers.get("Cache-Status", "")) != name.startswith("cached"):
        raise RuntimeError(f"{name}: {request.method} {path} says Cache-Status: {answer.headers.get('Cache-Status')}")
