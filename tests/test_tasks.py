import time
from urllib.parse import quote

import pytest

from api import db
from api.tables import tasks
from api.tasks import queries, search
from api.tasks.schemas import SORTS, STATUSES, TaskFilter
from api.web import lists
from tests.conftest import assert_problem, execute, rows

WHOLE = {
    "title": "My Task",
    "description": "All of it",
    "status": "in_progress",
    "priority": 1,
    "tags": ["home", "büro"],
    "due_at": "2026-01-31T12:00:00.000Z",
}
NOBODY = "019a9f3e-5b1c-7c3a-9d0e-0f6b2a1c4d5e"


@pytest.fixture
def add(admin):
    """Return a function that adds a task and returns it."""

    def added(title="x", **fields):
        answer = admin("POST", "/tasks", {"title": title} | fields)
        assert answer.status_code == 201, answer.text
        return answer.json

    return added


@pytest.fixture
def titles(admin):
    """Return a function that lists titles, in their order."""

    def listed(query=""):
        answer = admin("GET", f"/tasks?{query}")
        assert answer.status_code == 200, answer.text
        assert answer.json["total"] >= len(answer.json["items"])
        return [task["title"] for task in answer.json["items"]]

    return listed


@pytest.fixture
def finds(titles):
    """Return a function that lists the titles which a search finds, in the order of the alphabet."""
    return lambda words: sorted(titles(f"q={quote(words)}"))


# ---- one task


def test_the_tour(admin, user):
    made = admin("POST", "/tasks", {"title": "My Task"})
    assert made.status_code == 201, made.text
    assert made.headers["Location"] == f"/api/v1/tasks/{made.json['id']}"
    assert user("GET", "/tasks").json["items"] == [made.json]
    assert user("POST", "/tasks", {"title": "Mine"}).status_code == 403
    assert admin("DELETE", f"/tasks/{made.json['id']}").status_code == 204
    assert admin("GET", f"/tasks/{made.json['id']}").status_code == 404


def test_every_field_comes_back_as_it_was_given(admin, user):
    given = WHOLE | {"assignee_id": user.id}
    before = db.now()
    made = admin("POST", "/tasks", given).json
    assert {name: made[name] for name in given} == given
    assert made["created_by"] == admin.id
    assert made["version"] == 1
    assert made["created_at"] == made["updated_at"]
    assert (
        abs(
            time.mktime(time.strptime(made["created_at"][:19], "%Y-%m-%dT%H:%M:%S"))
            - time.mktime(time.gmtime(before / 1000))
        )
        <= 1
    )
    assert user("GET", f"/tasks/{made['id']}").json == made
    assert set(made) == set(given) | {"id", "created_by", "created_at", "updated_at", "version"}


def test_what_is_left_out_has_its_default(add):
    made = add()
    assert {name: made[name] for name in ("description", "status", "priority", "tags", "due_at", "assignee_id")} == {
        "description": "", "status": "todo", "priority": 3, "tags": [], "due_at": None, "assignee_id": None,
    }  # fmt: skip


@pytest.mark.parametrize("path", ["/tasks", "/tasks/"])
def test_location_is_where_the_new_task_is(admin, path):
    made = admin("POST", path, {"title": "x"})
    there = admin("GET", made.headers["Location"].removeprefix("/api/v1"))
    assert there.json == made.json


def test_an_answer_to_a_change_is_not_to_be_stored(admin):
    assert admin("POST", "/tasks", {"title": "x"}).headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_a_task_that_is_not_there_is_not_found(admin, method):
    body = {"title": "x"} if method in ("PUT", "PATCH") else None
    assert NOBODY in assert_problem(admin(method, f"/tasks/{NOBODY}", body), 404, "not_found")["detail"]


def test_an_id_in_the_path_may_be_written_in_capitals(admin, add):
    made = add()
    assert admin("GET", f"/tasks/{made['id'].upper()}").json == made


@pytest.mark.parametrize(("name", "value"), WHOLE.items())
def test_a_change_of_one_field_changes_that_field(admin, add, name, value):
    made = add()
    changed = admin("PATCH", f"/tasks/{made['id']}", {name: value}).json
    assert changed == made | {name: value, "version": 2, "updated_at": changed["updated_at"]}
    assert admin("GET", f"/tasks/{made['id']}").json == changed


@pytest.mark.parametrize("name", ["due_at", "assignee_id"])
def test_a_field_that_may_be_empty_can_be_emptied(admin, add, user, name):
    made = add(due_at="2026-01-31T12:00:00Z", assignee_id=user.id)
    assert admin("PATCH", f"/tasks/{made['id']}", {name: None}).json[name] is None


def test_a_change_says_when_it_was_made(admin, add):
    made = add()
    time.sleep(0.002)
    changed = admin("PATCH", f"/tasks/{made['id']}", {"title": "y"}).json
    assert changed["updated_at"] > made["updated_at"]
    assert changed["created_at"] == made["created_at"]


def test_a_replacement_resets_what_it_leaves_out(admin, add, user):
    made = add(**{name: value for name, value in WHOLE.items() if name != "title"}, assignee_id=user.id)
    replaced = admin("PUT", f"/tasks/{made['id']}", {"title": "New"}).json
    assert {name: replaced[name] for name in (*WHOLE, "assignee_id")} == {
        "title": "New", "description": "", "status": "todo", "priority": 3, "tags": [], "due_at": None,
        "assignee_id": None,
    }  # fmt: skip
    assert (replaced["created_by"], replaced["created_at"], replaced["version"]) == (
        made["created_by"], made["created_at"], 2,
    )  # fmt: skip
    assert_problem(admin("PUT", f"/tasks/{made['id']}", {"priority": 1}), 422, "invalid", "/title")


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_an_assignee_must_exist_also_in_a_change(admin, add, method):
    made = add()
    answer = admin(method, f"/tasks/{made['id']}", {"title": "y", "assignee_id": NOBODY})
    assert_problem(answer, 422, "invalid", "/assignee_id")
    assert admin("GET", f"/tasks/{made['id']}").json == made


def test_what_is_removed_leaves_nothing_behind(app, admin, add):
    made = add(tags=["home"])
    answer = admin("DELETE", f"/tasks/{made['id']}")
    assert (answer.status_code, answer.data) == (204, b"")
    for table in ("tasks", "task_tags"):
        assert rows(app, f"SELECT count(*) FROM {table}") == [(0,)]
    assert rows(app, "SELECT count(*) FROM tasks_search WHERE tasks_search MATCH 'x'") == [(0,)]


def test_a_task_outlives_who_made_it_and_who_had_it(app, admin, add, user):
    made = add(assignee_id=user.id)
    execute(app, "DELETE FROM users WHERE username = 'alice'")
    assert admin("GET", f"/tasks/{made['id']}").json["assignee_id"] is None


# ---- ETag, If-None-Match, If-Match


def test_the_etag_counts_the_changes(admin, add):
    made = add()
    path = f"/tasks/{made['id']}"
    tags = [admin("GET", path).headers["ETag"]]
    for title in ("y", "z"):
        changed = admin("PATCH", path, {"title": title})
        assert admin("GET", path).headers["ETag"] == changed.headers["ETag"]
        tags.append(changed.headers["ETag"])
    assert len(set(tags)) == 3


@pytest.mark.parametrize("sent", ["{tag}", "W/{tag}", '"other", {tag}', "*"])
def test_who_has_it_already_is_told_so(admin, add, sent):
    path = f"/tasks/{add()['id']}"
    tag = admin("GET", path).headers["ETag"]
    answer = admin("GET", path, If_None_Match=sent.format(tag=tag))
    assert (answer.status_code, answer.data, answer.headers["ETag"]) == (304, b"", tag)


def test_who_has_an_older_one_gets_the_new_one(admin, add):
    path = f"/tasks/{add()['id']}"
    tag = admin("GET", path).headers["ETag"]
    admin("PATCH", path, {"title": "y"})
    assert admin("GET", path, If_None_Match=tag).json["title"] == "y"


def test_a_list_has_an_etag_of_what_is_on_it(admin, add):
    made = add()
    tag = admin("GET", "/tasks").headers["ETag"]
    assert admin("GET", "/tasks", If_None_Match=tag).status_code == 304
    assert admin("GET", "/tasks?limit=50", If_None_Match=tag).status_code == 200
    admin("PATCH", f"/tasks/{made['id']}", {"title": "y"})
    again = admin("GET", "/tasks", If_None_Match=tag)
    assert (again.status_code, again.json["items"][0]["title"]) == (200, "y")


CHANGES = [("PATCH", {"title": "y"}), ("PUT", {"title": "y"}), ("DELETE", None)]


@pytest.mark.parametrize(("method", "body"), CHANGES)
@pytest.mark.parametrize("sent", ["{tag}", "W/{tag}", '"other", {tag}', "*"])
def test_a_change_of_what_was_seen_is_made(admin, add, method, body, sent):
    path = f"/tasks/{add()['id']}"
    tag = admin("GET", path).headers["ETag"]
    assert admin(method, path, body, If_Match=sent.format(tag=tag)).status_code in (200, 204)


@pytest.mark.parametrize(("method", "body"), CHANGES)
@pytest.mark.parametrize("sent", ["{tag}", "W/{tag}", '"other"', '"2x"', "garbage"])
def test_a_change_of_what_has_changed_since_is_refused(admin, add, method, body, sent):
    path = f"/tasks/{add()['id']}"
    seen = admin("GET", path).headers["ETag"]
    now = admin("PATCH", path, {"title": "somebody else's"}).json
    answer = admin(method, path, body, If_Match=sent.format(tag=seen))
    assert_problem(answer, 412, "precondition_failed")
    assert admin("GET", path).json == now


@pytest.mark.parametrize(("method", "body"), CHANGES)
def test_a_change_of_what_is_gone_is_not_found_whatever_was_seen(admin, method, body):
    assert admin(method, f"/tasks/{NOBODY}", body, If_Match="*").status_code in (404, 412)


# ---- lists


def test_an_empty_list(admin):
    assert admin("GET", "/tasks").json == {"items": [], "page": 1, "limit": 20, "total": 0}


def test_a_list_has_pages_that_hold_everything_once(admin, add):
    made = [add(str(number))["id"] for number in range(7)]
    seen = []
    for page in (1, 2, 3):
        found = admin("GET", f"/tasks?page={page}&limit=3").json
        assert (found["page"], found["limit"], found["total"]) == (page, 3, 7)
        seen += [task["id"] for task in found["items"]]
    assert seen == made[::-1]
    beyond = admin("GET", "/tasks?page=4&limit=3").json
    assert (beyond["items"], beyond["total"]) == ([], 7)
    assert admin("GET", "/tasks?page=1000000&limit=100").json["items"] == []


def test_twenty_to_a_page_unless_asked_otherwise(app, admin, add):
    for number in range(21):
        add(str(number))
    assert len(admin("GET", "/tasks").json["items"]) == 20
    assert len(admin("GET", "/tasks?limit=100").json["items"]) == 21


def test_a_list_shows_each_task_as_it_is_by_itself(admin, add, user):
    made = [add(**{k: v for k, v in WHOLE.items() if k != "title"}, assignee_id=user.id), add("plain")]
    assert admin("GET", "/tasks?sort=created_at").json["items"] == made


@pytest.fixture
def three(add, admin, user):
    """Three tasks that differ in everything: c has neither a due date nor an assignee."""
    add("a", status="todo", priority=2, tags=["home", "x"], due_at="2026-01-02T00:00:00Z", assignee_id=user.id)
    add("b", status="done", priority=1, tags=["home"], due_at="2026-01-01T00:00:00Z", assignee_id=admin.id)
    return add("c", status="in_progress", priority=3, tags=["work"])


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("status=todo", "a"),
        ("status=done", "b"),
        ("priority=3", "c"),
        ("tag=home", "ab"),
        ("tag=x", "a"),
        ("tag=hom", ""),
        ("tag=HOME", ""),
        ("due_before=2026-01-02T00:00:00Z", "b"),
        ("due_before=2026-01-02T00:00:00.001Z", "ab"),
        ("due_after=2026-01-01T00:00:00Z", "a"),
        ("due_after=2025-12-31T23:59:59.999Z", "ab"),
        ("due_after=2026-01-01T02:00:00%2B02:00", "a"),
        ("due_after=2025-12-31T00:00:00Z&due_before=2026-01-02T00:00:00Z", "b"),
        ("tag=home&status=done", "b"),
        ("tag=home&status=done&priority=1&q=b", "b"),
        ("tag=home&status=in_progress", ""),
        ("q=c", "c"),
        ("q=c&tag=home", ""),
        ("", "abc"),
    ],
)
def test_filters(admin, three, titles, query, found):
    assert sorted(titles(query)) == list(found)
    assert admin("GET", f"/tasks?{query}").json["total"] == len(found)


def test_the_filter_for_an_assignee(admin, user, three, titles):
    assert titles(f"assignee_id={user.id}") == ["a"]
    assert titles(f"assignee_id={admin.id}") == ["b"]
    assert titles(f"assignee_id={NOBODY}") == []


@pytest.mark.parametrize(
    ("sort", "order"),
    [("created_at", "abc"), ("-created_at", "cba"), ("priority", "bac"), ("-priority", "cab"), ("due_at", "bac"),
     ("-due_at", "abc"), ("", "cba")],
)  # fmt: skip
def test_orders_and_those_without_a_due_date_come_last(admin, three, titles, sort, order):
    assert titles(f"sort={sort}" if sort else "") == list(order)


def test_the_order_of_changes(admin, three, titles):
    time.sleep(0.002)
    admin("PATCH", f"/tasks/{three['id']}", {"priority": 5})
    assert titles("sort=-updated_at")[0] == "c"
    assert titles("sort=updated_at")[-1] == "c"


@pytest.mark.parametrize("sort", [f"{sign}{name}" for name in SORTS for sign in ("", "-")])
def test_ties_are_settled_so_that_no_page_repeats_a_task(app, admin, add, sort):
    for number in range(9):
        add(str(number), priority=3)
    execute(app, "UPDATE tasks SET created_at = 1, updated_at = 1")
    seen = [
        task["id"]
        for page in (1, 2, 3)
        for task in admin("GET", f"/tasks?sort={sort}&limit=3&page={page}").json["items"]
    ]
    assert len(set(seen)) == 9


# ---- plans: a page is found without sorting the table


ORDERS = [f"{sign}{name}" for name in SORTS for sign in ("", "-")]
USUAL = [(order, [name]) for order in ("created_at", "-created_at") for name in ("status", "assignee_id")]


def plan_of(app, statement):
    """Return what SQLite does to answer a statement."""
    with app.app_context(), db.reading() as conn:
        sql = str(statement.clause.compile(dialect=conn.dialect))
        return [row[3] for row in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", (1,) * sql.count("?"))]


@pytest.mark.parametrize(("sort", "filters"), [*((order, []) for order in ORDERS), *USUAL])
def test_a_list_is_read_in_its_order_from_an_index(app, sort, filters):
    found, _ = lists.numbered(queries.TASKS, frozenset(filters), sort)
    plan = plan_of(app, found)
    assert not any("TEMP B-TREE" in step for step in plan), plan
    assert any("USING INDEX" in step or "USING COVERING INDEX" in step for step in plan), plan


@pytest.mark.parametrize("sort", ORDERS)
def test_every_order_ends_with_what_no_two_tasks_share(sort):
    assert lists.order(queries.TASKS, sort)[-1].compare(tasks.c.id if not sort.startswith("-") else tasks.c.id.desc())


def test_every_order_of_the_schema_is_one_of_a_column():
    assert set(SORTS) <= set(tasks.c.keys())
    assert TaskFilter().fields["sort"].load_default == "-created_at"


# ---- full text


def test_search_finds_words_in_title_and_description(add, finds):
    add("Buy milk")
    add("Call", description="about the milk")
    add("Sleep")
    assert finds("milk") == ["Buy milk", "Call"]
    assert finds("MILK") == ["Buy milk", "Call"]
    assert finds("mil") == ["Buy milk", "Call"]
    assert finds("ilk") == []


def test_search_wants_every_word_wherever_it_is(add, finds):
    add("Buy milk", description="and bread")
    add("Buy bread")
    assert finds("bread milk") == ["Buy milk"]
    assert finds("bread buy") == ["Buy bread", "Buy milk"]
    assert finds("bread sleep") == []
    assert finds("  bread\t\nmilk ") == ["Buy milk"]


@pytest.mark.parametrize(
    "words",
    ['"', '""', '"a', 'a"b', "'", "*", "a*", "**", "^a", "a^", "-", "-a", "+", "a +", ":", "title:a", "title : a",
     "(", ")", "(a", "a)", "()", "{", "{a}", "NEAR", "NEAR(a b)", "NEAR(a b, 2)", "a NEAR b", "AND", "OR", "NOT",
     "a AND", "a OR b", "NOT a", "a AND NOT b", "!", "???", "...", ";", "--", "/* */", "\\", "%", "_", "a%", "\u00a0",
     "\u200b", "😀", "a\u0301", "'; DROP TABLE tasks; --", "rank", "tasks_search", ",", "a,b", "a.b", "#", "@", "&",
     "|", "~", "`", "$1", "?1", ":q"],
)  # fmt: skip
def test_nothing_in_a_search_is_special(lasting_admin, words):
    answer = lasting_admin("GET", f"/tasks?q={quote(words)}")
    assert answer.status_code in (200, 422), answer.text
    if words.strip():
        assert (answer.status_code, answer.json["items"]) == (200, [])


@pytest.mark.parametrize("word", ["AND", "OR", "NOT", "NEAR"])
def test_operators_are_words_like_others(add, finds, word):
    add(f"this {word} that")
    add("this that")
    assert finds(f"this {word} that") == [f"this {word} that"]
    assert finds(word.lower()) == [f"this {word} that"]


@pytest.mark.parametrize(
    "words", ["milk & bread", "milk - bread", "- milk", "milk !", '"milk" "bread"', "milk, bread;", "*milk*", "(milk)"]
)
def test_punctuation_between_words_does_not_hide_what_they_find(add, finds, words):
    add("milk & bread")
    assert finds(words) == ["milk & bread"]


def test_punctuation_alone_finds_nothing(add, finds):
    add("milk & bread!")
    for words in ("&", "!", "***", '"', "- -"):
        assert finds(words) == []


def test_a_word_with_punctuation_inside_is_found_as_it_is_written(add, finds):
    add("e-mail to foo@example.com")
    add("mail an e to example")
    assert finds("e-mail") == ["e-mail to foo@example.com"]
    assert finds("foo@example.com") == ["e-mail to foo@example.com"]
    assert finds("foo@exam") == ["e-mail to foo@example.com"]


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("Crème brûlée", "creme brulee"),
        ("Creme brulee", "crème BRÛLÉE"),
        ("Übung", "ubung"),
        ("e\u0301tude", "étude"),
        ("Ελλάδα", "ΕΛΛΆΔΑ"),
        ("Việt Nam", "viet"),
        ("ПРИВЕТ", "привет"),
        ("買牛奶", "買牛"),
        ("買 牛奶", "牛奶"),
        ("牛乳を買う", "牛乳"),
        ("우유 사기", "우유"),
        ("Straße 12", "straße"),
        ("42nd", "42"),
    ],
)
def test_search_knows_the_worlds_scripts(add, finds, title, words):
    add("other")
    add(title)
    assert finds(words) == [title]


def test_the_index_follows_every_change(admin, add, finds):
    path = f"/tasks/{add('apple', description='pear')['id']}"
    assert finds("apple") == finds("pear") == ["apple"]
    admin("PATCH", path, {"title": "banana"})
    assert finds("apple") == []
    assert finds("banana") == finds("pear") == ["banana"]
    admin("PATCH", path, {"priority": 1})
    assert finds("banana") == ["banana"]
    admin("PUT", path, {"title": "cherry"})
    assert finds("banana") == finds("pear") == []
    assert finds("cherry") == ["cherry"]
    admin("DELETE", path)
    assert finds("cherry") == []


def test_the_index_agrees_with_the_table_after_many_changes(app, admin, add):
    made = [add(f"word{number}", description=f"text{number}") for number in range(10)]
    for number, task in enumerate(made):
        if number % 3 == 0:
            admin("DELETE", f"/tasks/{task['id']}")
        elif number % 3 == 1:
            admin("PATCH", f"/tasks/{task['id']}", {"description": "changed"})
    # https://sqlite.org/fts5.html#the_integrity_check_command: raises if index and content differ.
    execute(app, "INSERT INTO tasks_search(tasks_search, rank) VALUES ('integrity-check', 1)")


def test_a_refused_change_leaves_the_index_as_it_was(admin, add, finds):
    path = f"/tasks/{add('apple')['id']}"
    assert admin("PATCH", path, {"title": "banana", "assignee_id": NOBODY}).status_code == 422
    assert admin("PATCH", path, {"title": "banana"}, If_Match='"9"').status_code == 412
    assert finds("apple") == ["apple"]
    assert finds("banana") == []


@pytest.mark.parametrize(
    ("words", "made"),
    [
        ("a", '"a"'),
        ("ab cd", '"ab"* "cd"*'),
        ("ab ab", '"ab"*'),
        (" ".join(map(str, range(10, 30))), " ".join(f'"{n}"*' for n in range(10, 18))),
        ('a"b', '"a""b"*'),
    ],
)
def test_the_expression_quotes_every_word(words, made):
    assert search.expression(words) == made


# ---- tags


def tags_of(app):
    return rows(app, "SELECT tag FROM task_tags ORDER BY tag")


def test_tags_can_be_looked_up_as_they_are_now(app, admin, add, titles):
    path = f"/tasks/{add('x', tags=['home', 'a'])['id']}"
    assert titles("tag=home") == ["x"]
    assert admin("PATCH", path, {"tags": ["work"]}).json["tags"] == ["work"]
    assert titles("tag=home") == []
    assert titles("tag=work") == ["x"]
    admin("PATCH", path, {"title": "y"})
    assert titles("tag=work") == ["y"]
    assert tags_of(app) == [("work",)]
    admin("PUT", path, {"title": "z"})
    assert titles("tag=work") == []
    assert tags_of(app) == []


@pytest.mark.parametrize("tag", ["ü b", "日本", "a,b", '"', "'", "%", "A", "😀", " padded "])
def test_a_tag_may_be_anything(add, titles, tag):
    add("x", tags=[tag])
    add("y", tags=["other"])
    assert titles(f"tag={quote(tag)}") == ["x"]


def test_every_status_is_one_of_three():
    assert STATUSES == ("todo", "in_progress", "done")
