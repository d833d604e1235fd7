"""Every route, and who may: tried by everybody, against a table that says it once more in its own words.

A new route needs a row here. What a row asks for is harmless: a body that is refused once its sender was let in, a
thing that there is not, or one that was made for it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from api import create_app, db
from api.auth import tokens
from api.web.versions import VERSIONS
from tests.conftest import PASSWORD, Caller, copy_database, execute, rows, settings_in, sign_in, sign_up

NOBODY = "019a9f3e-5b1c-7c3a-9d0e-0f6b2a1c4d5e"
NONSENSE = {"nonsense": 1}
PUBLIC, SIGNED_IN, IN_PERSON = "anybody", "who has an account", "who has signed in"
USER_MAY = {"tasks:read", "jobs:submit"}
ADMIN_MAY = {*USER_MAY, "tasks:write", "jobs:manage", "users:manage", "vendors:manage", "audit:read"}
OK = frozenset({200, 201, 202, 204, 404, 409, 412, 422})  # let in, whatever came of it
HIDDEN = frozenset({403, 404})


class World:
    """An app, and everybody who may ask it for something."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.root = sign_up(app, "root", role="admin")
        self.alice, self.bob, self.carol = (sign_up(app, name) for name in ("alice", "bob", "carol"))
        execute(app, "UPDATE users SET role = 'admin' WHERE username = 'carol'")
        self.alice_id, self._keys = self.alice.id, {}
        self.carols_key = self.key(self.carol, *ADMIN_MAY)
        execute(app, "UPDATE users SET active = 0 WHERE username = 'carol'")

    def key(self, owner: Caller, *scopes: str) -> Caller:
        if (owner, scopes) not in self._keys:
            made = owner("POST", "/auth/api-keys", {"name": "x", "scopes": list(scopes), "password": PASSWORD})
            self._keys[owner, scopes] = Caller(self.app, made.json["key"])
        return self._keys[owner, scopes]

    def everybody(self, who: str) -> dict[str, Caller]:
        """Return who asks, by what the table calls him. A key of the admin's is for just that, or for all but that."""
        wanted = [who] if who in ADMIN_MAY else sorted(ADMIN_MAY)
        return {
            "anonymous": Caller(self.app),
            "user": self.alice,
            "other": self.bob,
            "admin": self.root,
            "key": self.key(self.root, *wanted),
            "other key": self.key(self.root, *sorted(ADMIN_MAY - {who} if who in ADMIN_MAY else ["tasks:read"])),
            "inactive": self.carol,
            "inactive key": self.carols_key,
        }

    def task(self) -> str:
        return str(self.root("POST", "/tasks", {"title": "x"}).json["id"])

    def job(self) -> str:
        """Return the id of a job of the user's."""
        job = {"vendor_type": "sync", "vendor_payload": 1}
        return str(self.alice("POST", "/jobs", job).json["request_id"])

    def session(self) -> str:
        """Return the id of another session of the user's."""
        with self.app.test_request_context(), db.writing() as conn:
            tokens.open_session(conn, self.alice_id)
        return str(rows(self.app, "SELECT max(id) FROM sessions WHERE user_id = ?", self.alice_id)[0][0])

    def api_key(self) -> str:
        """Return the id of a key of the user's."""
        made = self.alice("POST", "/auth/api-keys", {"name": "x", "scopes": ["tasks:read"], "password": PASSWORD})
        return str(made.json["id"])


@dataclass(frozen=True)
class Row:
    """Who may use a route, what to ask it for, and what those get who are let in."""

    who: str
    ok: Any = OK
    thing: Callable[[World], str] = lambda _: NOBODY
    body: Any = None
    query: str = ""
    but: dict[str, Any] = field(default_factory=dict)  # what some get instead, where a thing is somebody's


def task(world: World) -> str:
    return world.task()


def of_user(**more: Any) -> dict[str, Any]:
    """What others get of a thing that is the user's."""
    return {"other": 404} | {name.replace("_", " "): value for name, value in more.items()}


OWN_JOB = of_user(key=404)  # a key of the admin's that is for jobs:submit only has none of its own
MINE = of_user(admin=404)  # not even an admin
TABLE = {
    "POST /auth/register": Row(PUBLIC, 422, body=NONSENSE),
    "POST /auth/login": Row(PUBLIC, 422, body=NONSENSE),
    "POST /auth/refresh": Row(PUBLIC, 422, body=NONSENSE),
    "POST /auth/refresh-token": Row(PUBLIC, 422, body=NONSENSE),
    "POST /auth/logout": Row(IN_PERSON, 422, query="?all=perhaps"),
    "PUT /auth/logout": Row(IN_PERSON, 422, query="?all=perhaps"),
    "GET /auth/sessions": Row(IN_PERSON, 200),
    "DELETE /auth/sessions/{}": Row(IN_PERSON, 204, World.session, but=MINE),
    "PUT /auth/confirmation": Row(PUBLIC, 422, body=NONSENSE),
    "PUT /auth/confirmation/{}": Row(PUBLIC),
    "PUT /auth/forgot-password": Row(PUBLIC, 422, body=NONSENSE),
    "PUT /auth/reset-password/{}": Row(PUBLIC, 422, body=NONSENSE),
    "PUT /auth/change-password": Row(IN_PERSON, 422, body=NONSENSE),
    "GET /auth/api-keys": Row(IN_PERSON, 200),
    "POST /auth/api-keys": Row(IN_PERSON, 422, body=NONSENSE),
    "DELETE /auth/api-keys/{}": Row(IN_PERSON, 204, World.api_key, but=MINE),
    "POST /auth/totp": Row(IN_PERSON, 422, body=NONSENSE),
    "PUT /auth/totp": Row(IN_PERSON, 422, body=NONSENSE),
    "DELETE /auth/totp": Row(IN_PERSON, 422, body=NONSENSE),
    "POST /auth/totp/recovery-codes": Row(IN_PERSON, 422, body=NONSENSE),
    "GET /users/me": Row(SIGNED_IN, 200),
    "GET /users/profile": Row(SIGNED_IN, 200),
    "PATCH /users/me": Row(IN_PERSON, 422, body=NONSENSE),
    "DELETE /users/me": Row(IN_PERSON, 422, body=NONSENSE),
    "GET /users/me/export": Row(IN_PERSON, 200),
    "GET /users": Row("users:manage", 200),
    "POST /users": Row("users:manage", 422, body=NONSENSE),
    "GET /users/{}": Row(
        *("users:manage", 200, lambda world: world.alice_id),
        but={"user": 200, "other": HIDDEN, "other key": HIDDEN},
    ),
    "PATCH /users/{}": Row("users:manage", 422, lambda world: world.alice_id, body=NONSENSE),
    "DELETE /users/{}": Row("users:manage", 404),
    "GET /tasks": Row("tasks:read", 200),
    "POST /tasks": Row("tasks:write", 201, body={"title": "x"}),
    "GET /tasks/{}": Row("tasks:read", 200, task),
    "PUT /tasks/{}": Row("tasks:write", 200, task, body={"title": "y"}),
    "PATCH /tasks/{}": Row("tasks:write", 200, task, body={"title": "z"}),
    "DELETE /tasks/{}": Row("tasks:write", 204, task),
    "GET /tasks/{}/history": Row("tasks:read", 200, task),
    "GET /jobs": Row("jobs:submit", 200),
    "POST /jobs": Row("jobs:submit", 202, body={"vendor_type": "sync", "vendor_payload": 1}),
    "GET /jobs/{}": Row("jobs:submit", 200, World.job, but=OWN_JOB),
    "POST /jobs/{}/cancellation": Row("jobs:submit", 200, World.job, but=OWN_JOB),
    "POST /jobs/{}/retry": Row("jobs:manage", 409, World.job),
    "POST /jobs/retry": Row("jobs:manage", 422, body=NONSENSE),
    "GET /vendors": Row("vendors:manage", 200),
    "POST /vendors": Row("vendors:manage", 422, body=NONSENSE),
    "GET /vendors/{}": Row("vendors:manage", 200, lambda _: "sync"),
    "PATCH /vendors/{}": Row("vendors:manage", 422, lambda _: "sync", body=NONSENSE),
    "DELETE /vendors/{}": Row("vendors:manage", 404),
    "POST /vendors/{}/secret": Row("vendors:manage", 422, lambda _: "sync", body=NONSENSE),
    "POST /webhooks/{}": Row(PUBLIC, 404),
    "GET /events": Row(SIGNED_IN, 422, query="?last_event_id=x"),
    "GET /audit": Row("audit:read", 200),
    "GET /audit/verify": Row("audit:read", 200),
    "GET /health": Row(PUBLIC, 200),
    "GET /health/db": Row(PUBLIC, 200),
    "GET /health/redis": Row(PUBLIC, 200),
    "GET /health/live": Row(PUBLIC, 200),
    "GET /health/ready": Row(PUBLIC, 200),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory, new_database):
    given = settings_in(tmp_path_factory.mktemp("matrix"))
    copy_database(new_database, given)
    app = create_app(given)
    yield World(app)
    app.extensions["database"].close()


def routes(app):
    """Yield every route with a contract: its row in the table, and the path of its version before it."""
    for rule in app.url_map.iter_rules():
        if hasattr(app.view_functions[rule.endpoint], "contract"):
            prefix, path = re.fullmatch(r"(/api/v\d+)?(.*)", rule.rule).groups()
            for method in rule.methods - {"HEAD", "OPTIONS"}:
                yield f"{method} {re.sub(r'<[^>]+>', '{}', path)}", prefix or ""


def test_every_route_has_a_row(lasting_app):
    assert {name for name, _ in routes(lasting_app)} - set(TABLE) == set()


def test_every_row_has_a_route(lasting_app):
    assert set(TABLE) - {name for name, _ in routes(lasting_app)} == set()


def test_every_version_is_tried(lasting_app):
    found = {prefix for _, prefix in routes(lasting_app)}
    assert found == {f"/api/v{version}" for version in VERSIONS} | {""}


def expected(row: Row, name: str) -> Any:
    """Return what somebody gets: a status, or several that would do."""
    if row.who == PUBLIC:
        return row.ok
    if name in ("anonymous", "inactive", "inactive key"):
        return 401
    may = {
        "user": row.who in {SIGNED_IN, IN_PERSON, *USER_MAY},
        "other": row.who in {SIGNED_IN, IN_PERSON, *USER_MAY},
        "admin": True,
        "key": row.who != IN_PERSON,
        "other key": row.who == SIGNED_IN,
    }[name]
    return row.but.get(name, row.ok if may else 403)


@pytest.mark.parametrize("name", TABLE)
def test_who_may(world, name):
    """Each gets what the table says, from every version; and who is not let in, is told why."""
    row, (method, path) = TABLE[name], name.split(" ")
    for prefix in [prefix for known, prefix in routes(world.app) if known == name]:
        for who, caller in world.everybody(row.who).items():
            own = {"Authorization": f"Bearer {caller.token}"} if caller.token else {}
            address = f"{prefix}{path.replace('{}', row.thing(world) if '{}' in path else '')}{row.query}"
            answer = caller.client.open(address, method=method, json=row.body, headers=own)
            answer.get_data()  # a stream is over when it is read
            answer.close()
            wanted = expected(row, who)
            assert answer.status_code in (wanted if isinstance(wanted, frozenset) else {wanted}), (who, address)
            if answer.status_code in (401, 403):
                assert answer.content_type == "application/problem+json"
            assert ("WWW-Authenticate" in answer.headers) == (answer.status_code == 401), (who, address)


def test_nobody_was_changed_by_it(world):
    """The requests above were harmless, so that what each of them got was his own."""
    people = rows(world.app, "SELECT username, role, active FROM users ORDER BY username")
    assert people == [("alice", "user", 1), ("bob", "user", 1), ("carol", "admin", 0), ("root", "admin", 1)]
    for caller in (world.root, world.alice, world.bob, sign_in(world.app, "alice")):
        assert caller("GET", "/users/me").status_code == 200
