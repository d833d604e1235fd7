"""The gateway as a whole: Walnut without a worker of its own, workers beside it, and a vendor that counts.

with Gateway(tmp_path, workers=4) as gateway:
    gateway.vendor_at("acme", "/ok", limit="10 per second")
    ids = gateway.submit("acme", {"n": 1}, count=100)
    jobs = gateway.ended(ids)
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self

from tests.system.clients import QUIET, sign_in
from tests.system.processes import Program, Walnut, ask, wait_until
from tests.system.vendor import Vendor

MANY = {"RATE_LIMIT_JOBS": "token-bucket 1000000 refill 100000/s", "REGISTER_ADMIN": "first"}


class Worker(Program):
    """One worker's process, without a supervisor: who kills it, starts it again."""

    name = "worker"

    def __init__(self, walnut: Walnut, **settings: object) -> None:
        super().__init__(walnut.instance / "worker", None)
        self._environment = walnut.environment() | {name: str(value) for name, value in settings.items()}

    def command(self) -> list[str]:
        """Return the command."""
        return [sys.executable, "-m", "gevent.monkey", "--module", "tests.system.job_worker"]

    def environment(self) -> dict[str, str]:
        """Return the settings of the server it works for."""
        return self._environment

    def is_ready(self) -> bool:
        """Return whether it hung up its bell."""
        return self.running and bool(list(Path(self._environment["INSTANCE_PATH"]).glob("walnut.db-workers/*.bell")))

    def die(self) -> None:
        """Kill it."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class Gateway:
    """All of it. A context manager."""

    def __init__(self, folder: Path, workers: int = 1, **settings: object) -> None:
        self.walnut = Walnut(folder / "walnut", **(QUIET | MANY | {"WORKERS": 1} | settings))
        self.vendor = Vendor(folder / "vendor")
        self.workers = [Worker(self.walnut) for _ in range(workers)]
        self.headers: dict[str, str] = {}
        self._connection: HTTPConnection

    def __enter__(self) -> Self:
        self._ends = ExitStack()
        for program in (self.walnut, self.vendor):
            program.launch()
            self._ends.callback(program.stop)
        try:
            self.walnut.wait_ready()
            self.vendor.wait_ready()
            for worker in self.workers:
                worker.launch()
                self._ends.callback(worker.kill)
            self.headers = sign_in(self.walnut)
            self._connection = self.walnut.connect()
            wait_until(lambda: len(self.bells()) == len(self.workers), 20, "workers")
        except BaseException:
            self._ends.close()
            raise
        return self

    def __exit__(self, *_raised: object) -> None:
        self._connection.close()
        self._ends.close()

    def bells(self) -> list[Path]:
        """Return what the workers hung up."""
        return list(self.walnut.instance.glob("walnut.db-workers/*.bell"))

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request as the admin, and return the answer's JSON. Raises AssertionError for a refusal."""
        answer = ask(self._connection, method, f"/api/v1{path}", body, self.headers)
        assert answer.status < 400, (method, path, answer.status, answer.body)
        return answer.json() if answer.body else None

    def vendor_at(self, name: str, path: str, **terms: Any) -> Any:
        """Add a vendor that is ours, and return it with its secret."""
        terms = {"name": name, "url": f"{self.vendor.url}{path}", "mode": "sync", "attempts": 50} | terms
        return self.ask("POST", "/vendors", terms)

    def submit(self, vendor: str, payload: Any = None, count: int = 1) -> list[str]:
        """Submit jobs and return their ids."""
        body = {"vendor_type": vendor, "vendor_payload": payload}
        return [self.ask("POST", "/jobs", body)["request_id"] for _ in range(count)]

    def job(self, job_id: str) -> Any:
        """Return a job."""
        return self.ask("GET", f"/jobs/{job_id}")

    def ended(
        self, ids: Sequence[str], within: float = 30, meanwhile: Callable[[], object] = bool, lane: str = ""
    ) -> list[Any]:
        """Wait until nothing is left to do, of a lane or of all, and return the jobs."""

        def none_left() -> bool:
            meanwhile()
            counts = self.ask("GET", f"/jobs?limit=1{f'&vendor_type={lane}' if lane else ''}")["counts"]
            return bool(counts["pending"] + counts["processing"] == 0)

        wait_until(none_left, within, "jobs")
        return [self.job(job_id) for job_id in ids]

    def revive(self) -> None:
        """Start every worker anew that has died."""
        for worker in self.workers:
            if not worker.running:
                worker.launch()
