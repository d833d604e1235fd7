import gzip
from datetime import UTC, datetime

import pytest

from api import metrics
from api.migrations import upgrade
from api.sqlite import driver
from api.tasks import queries
from api.tasks.schemas import TaskFilter, TaskOut
from api.web import PUBLIC, Resource, cache
from tests.conftest import Caller, execute, rows, sign_up

LISTS = ["/tasks", "/tasks?limit=5", "/tasks?q=milk", "/tasks?status=todo&sort=priority"]


def said(answer):
    return answer.headers.get("Cache-Status")


@pytest.fixture
def task(admin):
    return admin("POST", "/tasks", {"title": "milk"}).json


@pytest.mark.parametrize("path", [*LISTS, "/tasks/{id}"])
def test_the_second_answer_is_the_first_one(admin, task, path):
    path = path.format(**task)
    first, *others = [admin("GET", path) for _ in range(4)]
    assert said(first) == "walnut; fwd=miss"
    assert [said(other) for other in others] == ["walnut; hit"] * 3
    for other in others:
        assert (other.data, other.headers["ETag"], other.content_type) == (
            first.data,
            first.headers["ETag"],
            first.content_type,
        )


@pytest.mark.parametrize("change", ["POST", "PATCH", "PUT", "DELETE"])
@pytest.mark.parametrize("path", ["/tasks", "/tasks/{id}"])
def test_no_change_leaves_a_stale_answer(admin, task, change, path):
    path = path.format(**task)
    before = [admin("GET", path) for _ in range(3)][-1]
    assert said(before) == "walnut; hit"
    where = "/tasks" if change == "POST" else f"/tasks/{task['id']}"
    assert admin(change, where, {"title": "eggs"}).status_code in (200, 201, 204)
    after = admin("GET", path)
    assert said(after) in ("walnut; fwd=miss", None)
    assert after.data != before.data or (change, path) == ("POST", f"/tasks/{task['id']}")


def test_a_change_by_hand_is_seen_too(app, admin, task):
    """The generation is counted by a trigger: no way of writing can forget it."""
    admin("GET", "/tasks"), admin("GET", "/tasks")
    execute(app, "UPDATE tasks SET title = 'by hand'")
    assert admin("GET", "/tasks").json["items"][0]["title"] == "by hand"


def test_a_change_that_is_undone_ends_nothing(admin, task):
    admin("GET", "/tasks"), admin("GET", "/tasks")
    assert admin("PATCH", f"/tasks/{task['id']}", {"title": "x"}, If_Match='"9"').status_code == 412
    assert said(admin("GET", "/tasks")) == "walnut; hit"


def test_a_shared_answer_is_kept_once_for_everyone(app, admin, user, task):
    assert said(admin("GET", "/tasks")) == "walnut; fwd=miss"
    assert said(user("GET", "/tasks")) == "walnut; hit"
    assert len(app.extensions["answers"]._kept) == 1


def test_the_same_list_asked_for_in_other_words_is_kept_once(app, admin, task):
    for path in ("/tasks", "/tasks?limit=20", "/tasks?sort=-created_at&page=1", "/tasks?page=1&sort=-created_at"):
        admin("GET", path)
    assert len(app.extensions["answers"]._kept) == 1


@pytest.mark.parametrize("path", ["/tasks", "/tasks/{id}"])
def test_nobody_gets_a_kept_answer_without_permission(app, admin, user, anyone, task, path):
    path, who = path.format(**task), user.id
    for _ in range(3):
        assert user("GET", path).status_code == 200
    assert anyone("GET", path).status_code == 401
    assert anyone("GET", path, Authorization="Bearer x.y.z").status_code == 401
    execute(app, "UPDATE users SET role = 'nobody' WHERE id = ?", who)
    assert user("GET", path).status_code == 403
    execute(app, "UPDATE users SET role = 'user', active = 0 WHERE id = ?", who)
    assert user("GET", path).status_code == 401
    execute(app, "UPDATE users SET active = 1 WHERE id = ?", who)
    assert user("GET", path).status_code == 200
    assert user("POST", "/auth/logout").status_code == 204
    assert user("GET", path).status_code == 401
    assert admin("GET", path, HTTP_IF_NONE_MATCH="*").status_code in (200, 304)


def test_an_answer_of_ones_own_is_kept_for_oneself(app, admin, user, monkeypatch):
    """No route keeps such answers yet; the key names the reader."""
    one, two = (cache.key_of("stem", reader, [1]) for reader in (admin.id, user.id))
    assert len({one, two, cache.key_of("stem", None, [1]), cache.key_of("stem", admin.id, [2])}) == 4


@pytest.mark.parametrize("wish", ["no-cache", "no-store", "max-age=0, no-cache"])
def test_who_wants_it_new_gets_it_new(admin, task, wish):
    admin("GET", "/tasks"), admin("GET", "/tasks")
    assert said(admin("GET", "/tasks", Cache_Control=wish)) == "walnut; fwd=bypass"
    assert said(admin("GET", "/tasks")) == "walnut; hit"


@pytest.mark.parametrize("times", [1, 2, 3])
def test_who_has_it_gets_304(admin, task, times):
    etag = [admin("GET", "/tasks") for _ in range(times)][-1].headers["ETag"]
    for tag in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        answer = admin("GET", "/tasks", If_None_Match=tag)
        assert (answer.status_code, answer.data) == (304, b"")
        assert answer.headers["ETag"] == etag
        assert "Content-Type" not in answer.headers
    assert admin("GET", "/tasks", If_None_Match='"other"').status_code == 200


def test_head_is_get_without_a_body(admin, task):
    for _ in range(3):
        get, head = admin("GET", "/tasks"), admin("HEAD", "/tasks")
        assert (head.status_code, head.data) == (200, b"")
        for name in ("ETag", "Content-Type", "Content-Length", "Vary"):
            assert head.headers[name] == get.headers[name]


def test_who_takes_gzip_gets_it_with_an_etag_of_its_own(admin):
    for number in range(20):
        admin("POST", "/tasks", {"title": f"task {number}"})
    plain = admin("GET", "/tasks")
    for _ in range(2):
        zipped = admin("GET", "/tasks", Accept_Encoding="gzip, br")
        assert zipped.headers["Content-Encoding"] == "gzip"
        assert zipped.headers["ETag"] == f"W/{plain.headers['ETag']}"
        assert len(zipped.data) < len(plain.data) / 3
        assert gzip.decompress(zipped.data) == plain.data
        assert admin("GET", "/tasks", Accept_Encoding="gzip", If_None_Match=zipped.headers["ETag"]).status_code == 304
    assert "Accept-Encoding" in plain.headers["Vary"]
    assert "Content-Encoding" not in admin("GET", "/tasks", Accept_Encoding="gzip;q=0").headers


def test_what_the_edge_answers_looks_like_what_the_corridor_answers(app, admin, task):
    """On every cached route there is, in every version."""
    rules = [rule.rule for rule in app.url_map.iter_rules() if is_cached(app, rule)]
    assert {"/api/v1/tasks", "/api/v2/tasks/<uuid:task_id>"} <= set(rules)
    own = {"Authorization": f"Bearer {admin.token}"}
    for rule in rules:
        path = rule.replace("<uuid:task_id>", task["id"])
        flask, edge = (app.test_client().get(path, headers=own) for _ in range(2))
        assert (said(flask), said(edge)) == ("walnut; fwd=miss", "walnut; hit"), path
        assert (edge.status_code, edge.data) == (200, flask.data), path
        alike(flask, edge)


def is_cached(app, rule):
    contract = getattr(app.view_functions[rule.endpoint], "contract", None)
    return bool(contract and contract.cache)


def alike(flask, edge):
    other = {"Date", "X-Request-ID", "Cache-Status", "RateLimit", "X-RateLimit-Remaining", "X-RateLimit-Reset"}
    assert sorted(pair for pair in flask.headers if pair[0] not in other) == sorted(
        pair for pair in edge.headers if pair[0] not in other
    )
    assert edge.headers["X-Request-ID"] != flask.headers["X-Request-ID"]


def test_a_problem_is_never_kept(app, admin, task):
    for _ in range(3):
        assert admin("GET", "/tasks?page=0").status_code == 422
        assert admin("GET", f"/tasks/{task['id'][:-1]}0").status_code in (404, 200)
    assert all(b"problem" not in kept.body for kept in app.extensions["answers"]._kept.values())


def test_clear_lets_nothing_be_found(app, admin, task):
    admin("GET", "/tasks"), admin("GET", "/tasks")
    (before,) = rows(app, "SELECT n FROM generations WHERE name = 'tasks'")
    found = app.test_cli_runner().invoke(args=["cache", "clear"])
    assert (found.exit_code, found.output) == (0, "Kept answers about tasks are not found any more.\n")
    (after,) = rows(app, "SELECT n FROM generations WHERE name = 'tasks'")
    assert after[0] > before[0] + 1_000_000
    assert said(admin("GET", "/tasks")) == "walnut; fwd=miss"


def test_two_new_databases_do_not_count_through_the_same_numbers(new_database, tmp_path, configure):
    given = configure()
    upgrade.upgrade(given)
    numbers = [
        driver.connect(path).execute("SELECT n FROM generations").fetchone()[0]
        for path in (new_database, given.database.database)
    ]
    assert numbers[0] != numbers[1]


def test_a_role_that_is_given_acts_on_the_next_request(app, admin, task):
    carol = sign_up(app, "carol")
    who = carol.id
    execute(app, "UPDATE users SET role = 'nobody' WHERE id = ?", who)
    assert carol("GET", "/tasks").status_code == 403
    execute(app, "UPDATE users SET role = 'user' WHERE id = ?", who)
    assert carol("GET", "/tasks").status_code == 200


def test_every_generation_is_counted_up_by_every_change_of_its_tables(app, admin):
    """A cached route names generations that exist; each of its tables counts it up, whoever writes."""
    contracts = [getattr(view, "contract", None) for view in app.view_functions.values()]
    named = {name for contract in contracts if contract for name in contract.cache}
    known = {name for (name,) in rows(app, "SELECT name FROM generations")}
    assert named == known == set(CHANGES)
    task = admin("POST", "/tasks", {"title": "milk", "tags": ["a"]}).json
    for name, changes in CHANGES.items():
        for change in changes:
            (before,) = rows(app, "SELECT n FROM generations WHERE name = ?", name)
            execute(app, change)
            (after,) = rows(app, "SELECT n FROM generations WHERE name = ?", name)
            assert after > before, change
    assert admin("GET", f"/tasks/{task['id']}").status_code == 404


CHANGES = {
    "tasks": [
        "UPDATE tasks SET title = 'x'",
        "INSERT INTO task_tags SELECT seq, 'b' FROM tasks",
        "UPDATE task_tags SET tag = 'c' WHERE tag = 'b'",
        "DELETE FROM task_tags WHERE tag = 'c'",
        "INSERT INTO tasks SELECT seq + 1, id || '0', title, description, status, priority, tags, due_at, assignee_id,"
        " created_by, created_at, updated_at, version FROM tasks",
        "DELETE FROM tasks",
    ]
}


def test_an_account_that_goes_takes_kept_answers_about_its_tasks_with_it(app, admin, user, task):
    """A foreign key changes the tasks then, and no statement of ours."""
    admin("PATCH", f"/tasks/{task['id']}", {"assignee_id": user.id})
    assert [admin("GET", f"/tasks/{task['id']}").json["assignee_id"] for _ in range(3)] == [user.id] * 3
    execute(app, "DELETE FROM users WHERE id = ?", user.id)
    assert admin("GET", f"/tasks/{task['id']}").json["assignee_id"] is None


def test_a_kept_answer_of_a_route_for_anybody_is_one_of_flasks(make_app):
    """The edge answers those whose token it knows; the others are Flask's, also where nobody need sign in."""
    room = Resource("room", __name__)

    @room.get("/open", returns=TaskOut(), many=True, allow=PUBLIC, cache=("tasks",), shared=True, query=TaskFilter())
    def index(conn, query):
        """List for anybody."""
        return queries.find(conn, **query)

    app = make_app()
    app.register_blueprint(room, name="room", url_prefix="/api/v1", version=1)
    assert [said(Caller(app)("GET", "/open")) for _ in range(3)] == ["walnut; fwd=miss", "walnut; hit", "walnut; hit"]


def test_a_deprecated_route_says_so_from_the_edge_too(make_app):
    room = Resource("room", __name__)
    since = datetime(2027, 1, 31, tzinfo=UTC)

    @room.get("/old", returns=TaskOut(), many=True, allow="tasks:read", cache=("tasks",), query=TaskFilter(),
              deprecated=since)  # fmt: skip
    def index(conn, query):
        """List in the old way."""
        return queries.find(conn, **query)

    app = make_app()
    app.register_blueprint(room, name="room", url_prefix="/api/v1", version=1)
    admin = sign_up(app, "root", role="admin")
    for _ in range(3):
        assert admin("GET", "/old").headers["Deprecation"] == f"@{int(since.timestamp())}"


def test_a_hit_counts_against_the_limit_once_and_is_refused_past_it(make_app):
    app = make_app(RATE_LIMIT_DEFAULT="10 per day")
    admin = sign_up(app, "root", role="admin")
    refusals = metrics.LIMITER_VERDICTS.labels("default", "refused")._value
    before = refusals.get()
    answers = [admin("GET", "/tasks") for _ in range(14)]
    assert refusals.get() == before + 4
    assert [answer.status_code for answer in answers] == [200] * 10 + [429] * 4
    left = [int(answer.headers["X-RateLimit-Remaining"]) for answer in answers]
    assert left == [*range(9, -1, -1), 0, 0, 0, 0]
    assert [said(answer) for answer in answers[1:10]] == ["walnut; hit"] * 9


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_if_match_of_a_kept_answer(admin, task, method):
    path = f"/tasks/{task['id']}"
    for _ in range(3):
        tag = admin("GET", path).headers["ETag"]
        assert admin(method, path, If_Match=tag).status_code == 200
        assert admin(method, path, If_Match='"other"').status_code == 412
