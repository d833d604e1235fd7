"""Lists in version 2: a cursor in every order, under inserts and deletes."""

import base64
import itertools
import json
import re
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import BigInteger, Column, MetaData, String, Table, bindparam, create_engine

from api import db
from api.tables import tasks as table
from api.tasks import queries
from api.web import Listing, cursors, lists
from api.web.lists import Page, Part, query_schema
from tests.conftest import assert_problem, execute, rows
from tests.test_tasks import ORDERS, USUAL, plan_of

V2 = "/api/v2/tasks"


@pytest.fixture
def ask(admin):
    """Return a function that asks version 2 for a part of the list."""

    def asked(query="", address=None):
        own = {"Authorization": f"Bearer {admin.token}"}
        return admin.client.get(address or f"{V2}?{query}", headers=own)

    return asked


@pytest.fixture
def walk(ask):
    """Return a function that walks a whole list by its links and returns the ids it met, in their order."""

    def walked(query="", between=lambda: None):
        seen, answer = [], ask(query)
        while True:
            assert answer.status_code == 200, answer.text
            assert set(answer.json) == {"items", "next_cursor"}
            seen += [task["id"] for task in answer.json["items"]]
            following = next_of(answer)
            if following is None:
                return seen
            assert len(seen) < 500, "it does not end"
            between()
            answer = ask(address=following)

    return walked


def next_of(answer):
    """Return the address of the part after this one, as Link says it; the body must say the same."""
    link, cursor = answer.headers.get("Link"), answer.json["next_cursor"]
    assert (link is None) == (cursor is None)
    if link is None:
        return None
    (address,) = re.fullmatch(r'<([^>]+)>; rel="next"', link).groups()
    assert address.startswith(f"{V2}?")
    assert f"cursor={cursor}" in address
    return address


def fill(app, values):
    """Add tasks behind the server's back: (id, due_at, priority, created_at) each."""
    with app.app_context(), db.writing() as conn:
        for id_, due_at, priority, created_at in values:
            conn.exec_driver_sql(
                "INSERT INTO tasks (id, title, description, status, priority, tags, due_at, created_at, updated_at,"
                " version) VALUES (?, ?, '', 'todo', ?, '[]', ?, ?, ?, 1)",
                (id_, id_, priority, due_at, created_at, created_at),
            )


def by_page(admin, query):
    """Return the whole list as version 1 has it."""
    return [task["id"] for task in admin("GET", f"/tasks?limit=100&{query}").json["items"]]


@pytest.fixture
def twenty(app):
    """Tasks with many ties, half of them without a due date."""
    fill(app, [(f"t{n:02}", [None, 5, None, 7][n % 4], 1 + n % 3, n // 5) for n in range(20)])


# ---- parts of a list


def test_an_empty_list(ask):
    answer = ask()
    assert answer.json == {"items": [], "next_cursor": None}
    assert "Link" not in answer.headers


@pytest.mark.parametrize("sort", ORDERS)
@pytest.mark.parametrize("limit", [1, 3, 7, 19, 20, 21])
def test_its_parts_are_what_version_1_has_in_the_same_order(admin, twenty, walk, sort, limit):
    assert walk(f"sort={sort}&limit={limit}") == by_page(admin, f"sort={sort}")


@pytest.mark.parametrize(
    "query", ["status=todo", "priority=2", "due_after=1969-01-01T00:00:00Z", "q=t0", "status=done"]
)
@pytest.mark.parametrize("sort", ["-created_at", "due_at", "-due_at"])
def test_its_parts_pass_the_filters(admin, twenty, walk, query, sort):
    assert walk(f"{query}&sort={sort}&limit=2") == by_page(admin, f"{query}&sort={sort}")


def test_twenty_to_a_part_unless_asked_otherwise(app, ask, twenty):
    assert (len(ask().json["items"]), ask().json["next_cursor"]) == (20, None)
    fill(app, [("more", None, 1, 0)])
    assert len(ask().json["items"]) == 20
    assert ask().json["next_cursor"]


def test_the_last_part_says_so_also_when_it_is_full(ask, twenty):
    first = ask("limit=10").json
    assert ask(f"limit=10&cursor={first['next_cursor']}").json["next_cursor"] is None


def test_the_link_keeps_what_was_asked_for(ask, twenty):
    answer = ask(f"limit=2&sort=-due_at&q={quote('t0 T0')}&status=todo")
    address = next_of(answer)
    assert "q=t0+T0&" in address or "q=t0%20T0&" in address
    for word in ("limit=2", "sort=-due_at", "status=todo"):
        assert word in address
    assert next_of(ask(address=address)).count("cursor=") == 1


def test_a_part_may_be_longer_than_the_one_before(ask, walk, twenty):
    first = ask("limit=3").json
    rest = ask(f"limit=100&cursor={first['next_cursor']}").json
    assert [task["id"] for task in first["items"] + rest["items"]] == walk("limit=100")


def test_a_part_has_an_etag_like_any_answer(admin, ask, twenty):
    answer = ask("limit=2")
    own = {"Authorization": f"Bearer {admin.token}", "If-None-Match": answer.headers["ETag"]}
    again = admin.client.get(f"{V2}?limit=2", headers=own)
    assert (again.status_code, again.data) == (304, b"")


def test_there_are_no_pages_in_version_2_and_no_cursors_in_version_1(admin, ask):
    assert_problem(ask("page=1"), 422, "invalid", "/page")
    assert_problem(admin("GET", "/tasks?cursor=x"), 422, "invalid", "/cursor")
    for limit in ("0", "101", "x"):
        assert_problem(ask(f"limit={limit}"), 422, "invalid", "/limit")


# ---- cursors


def encoded(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def decoded(cursor):
    return json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))


@pytest.fixture
def cursor(ask, twenty):
    """A good one, of the default order."""
    return ask("limit=2").json["next_cursor"]


def test_a_cursor_is_url_safe_and_holds_no_more_than_it_must(cursor):
    assert re.fullmatch(r"[A-Za-z0-9_-]{10,200}", cursor)
    sort, _, created_at, id_ = decoded(cursor)
    assert (sort, created_at, id_) == ("-created_at", 3, "t18")


GARBAGE = [
    "", "x", "====", "!!!!", "äöü", "%00", "AAAA", "a" * 1000, "a" * 1001, "..", "null",
    encoded(None), encoded(1), encoded("abcdef"), encoded([]), encoded({}),
    encoded({"a": 1, "b": 2, "c": 3, "d": 4}), encoded([None] * 4), encoded([[]] * 4),
    base64.urlsafe_b64encode(b"\xff\xfe").decode(), base64.urlsafe_b64encode(b"[" * 700).decode(),
]  # fmt: skip


@pytest.mark.parametrize("garbage", GARBAGE)
def test_what_is_no_cursor_is_refused(ask, garbage):
    assert_problem(ask(f"cursor={quote(garbage)}"), 422, "invalid", "/cursor")


@pytest.mark.parametrize(
    "last",
    [
        [],
        [3],
        ["t18"],
        [3, "t18", 1],
        ["3", "t18"],
        [3.0, "t18"],
        [True, "t18"],
        [None, "t18"],
        [3, None],
        [3, 18],
        [3, ["t18"]],
        [2**63, "t18"],
        [-(2**63) - 1, "t18"],
        [10**30, "t18"],
        [float("nan"), "t18"],
        [3, "t\0"],
        [3, "\ud800"],
        [{}, "t18"],
    ],
)
def test_a_cursor_with_values_of_another_kind_is_refused(ask, cursor, last):
    assert_problem(ask(f"limit=2&cursor={encoded([*decoded(cursor)[:2], *last])}"), 422, "invalid", "/cursor")


@pytest.mark.parametrize(
    "query", ["sort=created_at", "sort=-due_at", "status=todo", "priority=1", "q=t", "sort=priority"]
)
def test_a_cursor_of_another_order_or_other_filters_is_refused(ask, cursor, query):
    problem = assert_problem(ask(f"limit=2&cursor={cursor}&{query}"), 422, "invalid", "/cursor")
    assert "Begin again" in problem["errors"][0]["detail"]


def test_a_cursor_of_other_values_of_the_same_filter_is_refused(ask, twenty):
    found = ask("limit=2&priority=1").json["next_cursor"]
    assert ask(f"limit=2&priority=1&cursor={found}").status_code == 200
    assert_problem(ask(f"limit=2&priority=2&cursor={found}"), 422, "invalid", "/cursor")


def test_filters_may_come_in_another_order(ask, twenty):
    found = ask("limit=2&priority=1&status=todo").json["next_cursor"]
    assert ask(f"status=todo&cursor={found}&priority=1&limit=2").status_code == 200


def test_a_cursor_given_twice_or_to_another_user_changes_nothing(ask, user, cursor):
    assert_problem(ask(f"cursor={cursor}&cursor={cursor}"), 422, "invalid", "/cursor")
    other = {"Authorization": f"Bearer {user.token}"}
    assert user.client.get(f"{V2}?cursor={cursor}", headers=other).json == ask(f"cursor={cursor}").json


@settings(max_examples=300, deadline=None, database=None)
@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda data: base64.urlsafe_b64encode(data).decode()))
def test_no_text_makes_reading_a_cursor_fail(text):
    with pytest.raises(cursors.Invalid):
        cursors.read(text or "x", "-created_at", {}, [table.c.created_at, table.c.id])


@settings(max_examples=200, deadline=None, database=None)
@given(st.integers(-(2**63), 2**63 - 1) | st.none(), st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_a_cursor_comes_back_as_it_was_written(due_at, key):
    filters = {"status": "todo"}
    written = cursors.write([due_at, key], "due_at", filters)
    assert cursors.read(written, "due_at", filters, [table.c.due_at, table.c.id]) == [due_at, key]


# ---- while others write


def test_the_row_a_cursor_points_at_may_be_gone(app, ask, twenty):
    first = ask("limit=5&sort=created_at").json
    whole = [task["id"] for task in ask("limit=100&sort=created_at").json["items"]]
    execute(app, "DELETE FROM tasks WHERE id = ?", first["items"][-1]["id"])
    second = ask(f"limit=5&sort=created_at&cursor={first['next_cursor']}").json
    assert [task["id"] for task in second["items"]] == whole[5:10]


def test_pages_skip_and_repeat_where_cursors_do_not(app, admin, ask, twenty):
    """Why there are cursors: a task added at the front pushes the last of page 1 to page 2."""
    page = admin("GET", "/tasks?limit=5").json["items"]
    part = ask("limit=5").json
    fill(app, [("new", None, 1, 99)])
    assert admin("GET", "/tasks?limit=5&page=2").json["items"][0] == page[-1]
    assert part["items"][-1] not in ask(f"limit=5&cursor={part['next_cursor']}").json["items"]


SMALL = st.integers(0, 3)
ROW = st.tuples(SMALL | st.none(), st.integers(1, 2), SMALL)
STEP = st.tuples(st.lists(ROW, max_size=3), st.lists(st.integers(0, 30), max_size=3))


@settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    first=st.lists(ROW, max_size=12),
    steps=st.lists(STEP, max_size=6),
    sort=st.sampled_from(ORDERS),
    limit=st.integers(1, 4),
    dice=st.randoms(use_true_random=False),
)
def test_a_walk_among_inserts_and_deletes_meets_once_whatever_was_there_all_along(
    app, walk, first, steps, sort, limit, dice
):
    """Few values and random ids: ties everywhere, and what is new falls before, between and after."""
    execute(app, "DELETE FROM tasks")

    def new(values):
        made = [(f"{dice.randrange(1000):03}-{next(serial)}", *row) for row in values]
        fill(app, made)
        return [row[0] for row in made]

    serial = itertools.count()
    lasting, pending = set(new(first)), iter(steps)
    known = sorted(lasting)

    def others_write():
        added, removed = next(pending, ([], []))
        known.extend(new(added))
        for number in removed:
            if known:
                gone = known.pop(number % len(known))
                lasting.discard(gone)
                execute(app, "DELETE FROM tasks WHERE id = ?", gone)

    met = walk(f"sort={sort}&limit={limit}", others_write)
    assert len(met) == len(set(met)), "a task was met twice"
    assert lasting <= set(met), "a task was skipped that was there all along"


# ---- what it costs


@pytest.mark.parametrize(("sort", "filters"), [*((order, []) for order in ORDERS), *USUAL])
@pytest.mark.parametrize("started", [False, True])
def test_a_part_is_one_range_of_one_index(app, sort, filters, started):
    """Nothing is sorted, nothing is counted, and a part begins where the last one ended."""
    for empty in (False, True) if table.c[sort.removeprefix("-")].nullable else (False,):
        plan = plan_of(app, lists.after(queries.TASKS, frozenset(filters), sort, empty, started))
        assert len(plan) == 1, plan
        assert "USING INDEX" in plan[0], plan
        if started:
            assert re.search(r"SEARCH .*\((\w+=\? AND )*(\(\w+,id\)|id)[<>]", plan[0]), plan


def steps_of(app, query):
    """Return how many steps of SQLite's machine a query takes: the same each time, unlike a clock."""
    counted = [0]

    def count():
        counted[0] += 1

    with app.app_context(), db.reading() as conn:
        driver = conn.connection.dbapi_connection
        driver.set_progress_handler(count, 1)
        try:
            queries.find(conn, **query)
        finally:
            driver.set_progress_handler(None, 0)
    return counted[0]


@pytest.mark.parametrize("sort", ORDERS)
def test_a_part_costs_the_same_wherever_it_is_and_however_long_the_list(app, ask, sort):
    query = {"sort": sort, "limit": 5}

    def costs():
        deep = ask(f"sort={sort}&limit=100")
        for _ in range(2):
            deep = ask(address=next_of(deep))
        return steps_of(app, query), steps_of(app, query | {"cursor": ask_cursor(deep.json["items"][-1], sort)})

    def ask_cursor(task, sort):
        (row,) = rows(app, f"SELECT {sort.removeprefix('-')}, id FROM tasks WHERE id = ?", task["id"])
        return cursors.write(list(row), sort, {})

    fill(app, [(f"t{n:05}", n * 7 % 1000 if n % 2 else None, 1 + n % 5, n) for n in range(400)])
    few = costs()
    fill(app, [(f"u{n:05}", n * 7 % 1000 if n % 2 else None, 1 + n % 5, n) for n in range(4000)])
    many = costs()
    assert max(many) < max(few) * 1.5, (few, many)
    assert steps_of(app, query | {"page": 600}) > 20 * max(many), "and a numbered page does not"


# ---- a newcomer's list

notes = Table(
    "notes",
    MetaData(),
    Column("seq", BigInteger, primary_key=True),
    Column("mood", String(9)),
    Column("owner", String(9)),
)
NOTES = Listing(notes, {"owner": notes.c.owner == bindparam("owner")}, key="seq")


@pytest.fixture
def conn():
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        notes.metadata.create_all(connection)
        for number in range(10):
            connection.execute(notes.insert(), {"seq": number, "mood": [None, "b", "a"][number % 3], "owner": "me"})
        yield connection
    engine.dispose()


@pytest.mark.parametrize("sort", ["seq", "-seq", "mood", "-mood"])
def test_any_table_has_both_kinds_of_list(conn, sort):
    whole = NOTES.read(conn, sort=sort, limit=100, page=1, owner="me")
    assert isinstance(whole, Page)
    met, cursor = [], None
    while True:
        part = NOTES.read(conn, sort=sort, limit=3, cursor=cursor, owner="me")
        assert isinstance(part, Part)
        met += part.items
        cursor = part.next_cursor
        if cursor is None:
            break
    assert met == whole.items
    assert len(met) == whole.total == 10
    assert NOTES.read(conn, sort=sort, limit=3, owner="you") == Part([], None)


def test_a_list_without_filters_of_its_own_can_still_be_asked_for_in_parts():
    assert set(query_schema(None, 1).fields) == {"page", "limit"}
    assert set(query_schema(None, 2).fields) == {"cursor", "limit"}
