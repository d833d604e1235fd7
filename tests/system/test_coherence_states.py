"""Reads and writes through two replicas in any order, Redis failing and replicas starting anew between them.

Hypothesis looks for an order in which an answer is not what was last written, or reaches who may not have it.
COHERENCE_EXAMPLES=1000 is the long proof (`make coherence`).
"""

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings, strategies
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from api import create_app
from api.migrations import upgrade
from tests.conftest import Caller, execute, settings_in, sign_up
from tests.system.processes import Redis

EXAMPLES = int(os.environ.get("COHERENCE_EXAMPLES", "12"))
STEPS = 60
REPLICAS = strategies.sampled_from([0, 1])
NAMES = strategies.sampled_from(["root", "alice"])
LISTS = strategies.sampled_from(
    ["?limit=100", "?status=done&limit=100", "?sort=priority&limit=100", "?q=milk&limit=100"]
)
TITLES = strategies.sampled_from(["milk", "more milk", "eggs"])
VERSIONS = strategies.sampled_from(["v1", "v2"])


class Coherence(RuleBasedStateMachine):
    """Two replicas of one database with one Redis, and what everybody must see."""

    tasks = Bundle("tasks")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="walnut-coherence-"))
        self.redis = Redis(self.folder / "redis")
        self.redis.start()
        self.hung = self.saved = False
        self.settings = replace(settings_in(self.folder), redis_url=self.redis.url)
        upgrade.upgrade(self.settings)
        self.apps = [create_app(self.settings) for _ in range(2)]
        self.tokens = {
            "root": sign_up(self.apps[0], "root", role="admin").token,
            "alice": sign_up(self.apps[0], "alice").token,
        }
        self.shut_out: set[str] = set()
        self.there: dict[str, dict[str, Any]] = {}

    def teardown(self) -> None:
        """Leave nothing running, and nothing on the disk."""
        for app in self.apps:
            app.extensions["database"].close()
        self.redis.stop()
        shutil.rmtree(self.folder)

    def ask(self, replica: int, name: str, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Send a request through a replica."""
        own = {"Authorization": f"Bearer {self.tokens[name]}"} | headers
        return Caller(self.apps[replica]).client.open(f"/api/{path}", method=method, json=body, headers=own)

    # ---- what people do

    @initialize(target=tasks, title=TITLES)
    def first(self, title: str) -> str:
        """There is a task to begin with."""
        return self.added(0, title)

    @rule(target=tasks, replica=REPLICAS, title=TITLES)
    def create(self, replica: int, title: str) -> str:
        """Add a task."""
        return self.added(replica, title)

    def added(self, replica: int, title: str) -> str:
        """Add a task and return its id."""
        answer = self.ask(replica, "root", "POST", "v1/tasks", {"title": title})
        assert answer.status_code == 201, answer.text
        self.there[answer.json["id"]] = answer.json
        return str(answer.json["id"])

    @rule(replica=REPLICAS, task=tasks, title=TITLES, status=strategies.sampled_from(["todo", "done"]))
    def change(self, replica: int, task: str, title: str, status: str) -> None:
        """Change a task, if it is still there."""
        answer = self.ask(replica, "root", "PATCH", f"v1/tasks/{task}", {"title": title, "status": status})
        assert answer.status_code == (200 if task in self.there else 404), answer.text
        if task in self.there:
            self.there[task] = answer.json

    @rule(replica=REPLICAS, task=tasks)
    def remove(self, replica: int, task: str) -> None:
        """Delete a task, if it is still there."""
        answer = self.ask(replica, "root", "DELETE", f"v1/tasks/{task}")
        assert answer.status_code == (204 if self.there.pop(task, None) else 404), answer.text

    @rule(task=tasks, title=TITLES)
    def change_by_hand(self, task: str, title: str) -> None:
        """Change a task without Walnut."""
        execute(self.apps[0], "UPDATE tasks SET title = ? WHERE id = ?", title, task)
        if task in self.there:
            self.there[task]["title"] = title

    @rule(replica=REPLICAS, name=NAMES, task=tasks, version=VERSIONS)
    def read_one(self, replica: int, name: str, task: str, version: str) -> None:
        """Read a task, and once more with its ETag."""
        answer = self.ask(replica, name, "GET", f"{version}/tasks/{task}")
        if name in self.shut_out:
            assert answer.status_code == 401, answer.text
        elif task not in self.there:
            assert answer.status_code == 404, answer.text
        else:
            assert answer.json == self.there[task], answer.headers["Cache-Status"]
            again = self.ask(
                replica, name, "GET", f"{version}/tasks/{task}", **{"If-None-Match": answer.headers["ETag"]}
            )
            assert (again.status_code, again.data) == (304, b"")

    @rule(replica=REPLICAS, name=NAMES, query=LISTS, version=VERSIONS)
    def read_list(self, replica: int, name: str, query: str, version: str) -> None:
        """Read a list."""
        answer = self.ask(replica, name, "GET", f"{version}/tasks{query}")
        if name in self.shut_out:
            assert answer.status_code == 401, answer.text
            return
        expected = [
            task
            for task in self.there.values()
            if ("done" not in query or task["status"] == "done") and ("milk" not in query or "milk" in task["title"])
        ]
        by_id = {task["id"]: task for task in answer.json["items"]}
        assert by_id == {task["id"]: task for task in expected}, answer.headers["Cache-Status"]

    @rule(name=NAMES)
    def shut_or_let_in(self, name: str) -> None:
        """Close somebody's account, or open it again."""
        self.shut_out ^= {name}
        execute(self.apps[0], "UPDATE users SET active = ? WHERE username = ?", name not in self.shut_out, name)

    # ---- what goes wrong

    @rule()
    def flush(self) -> None:
        """Redis forgets everything."""
        self.redis.command_line("FLUSHALL") if not self.hung else None

    @precondition(lambda self: not self.hung)
    @rule()
    def hang(self) -> None:
        """Redis is stopped, and keeps its connections."""
        self.redis.pause()
        self.hung = True

    @precondition(lambda self: self.hung)
    @rule()
    def go_on(self) -> None:
        """Redis goes on where it was."""
        self.redis.resume()
        self.hung = False

    @precondition(lambda self: not self.hung)
    @rule()
    def save(self) -> None:
        """Keep a snapshot of Redis for later."""
        self.redis.command_line("SAVE")
        self.saved = True

    @precondition(lambda self: not self.hung)
    @rule()
    def come_back_old(self) -> None:
        """Redis is killed, and comes back with what it had at the last snapshot."""
        self.redis.kill()
        self.redis.start()

    @rule()
    def believe_in_redis(self) -> None:
        """The breakers close: Redis is asked again at once, not a second later."""
        for app in self.apps:
            app.extensions["store"]._rests_until = 0.0

    @rule(replica=REPLICAS)
    def start_anew(self, replica: int) -> None:
        """A replica is restarted: what it kept in its memory is gone."""
        self.apps[replica].extensions["database"].close()
        self.apps[replica] = create_app(self.settings)

    @invariant()
    def somebody_may_write(self) -> None:
        """The admin is let in again at once, or nothing more would happen."""
        if "root" in self.shut_out:
            assert self.ask(0, "root", "GET", "v1/tasks").status_code == 401
            self.shut_or_let_in("root")


Coherence.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestCoherence = Coherence.TestCase
