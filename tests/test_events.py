"""Events: each once, in order, to whoever may see it, from where he left off."""

import itertools
import json
import time

import gevent
import pytest

from api import db, metrics
from api.events import hub as hubs
from api.events import listeners, queries
from api.events.listeners import Ear, Listener
from api.events.queries import Position
from api.events.schemas import Event as EventOnTheWire
from api.jobs import bell, outcomes, queue
from api.jobs.kinds import Again, Awaiting, Done, Event, Failed, GivenBack
from api.web import guard
from tests.conftest import assert_problem, ended, execute, rows, sign_up, start_python

WITHIN = 5.0  # seconds: for what takes some hundredths


class Ears:
    """Somebody who listens: reads the stream as the standard says a browser does."""

    def __init__(self, caller, query="", version=1, **headers):
        own = {"Authorization": f"Bearer {caller.token}"} | {k.replace("_", "-"): v for k, v in headers.items()}
        self.answer = caller.client.get(f"/api/v{version}/events{query}", headers=own)
        assert self.answer.status_code == 200, self.answer.text
        self._pieces = iter(self.answer.response)
        self._lines = []
        self.last_id = ""
        self.read()

    def read(self):
        """Return the events of the next piece; None at the end."""
        piece = next(self._pieces, None)
        if piece is None:
            return None
        return [event for event in map(self._event, piece.decode().removesuffix("\n\n").split("\n\n")) if event]

    def _event(self, text):
        fields = dict(line.split(": ", 1) for line in text.split("\n"))
        self.last_id = fields.get("id", self.last_id)
        if "data" not in fields:
            return None
        data = json.loads(fields["data"])
        assert fields["event"] == data["type"]
        assert set(data) <= set(EventOnTheWire().fields)
        return data

    def hear(self, number=1):
        """Return so many events: those of all pieces until they are there."""
        found = []
        with gevent.Timeout(WITHIN):
            while len(found) < number:
                piece = self.read()
                assert piece is not None, "it ended"
                found += piece
        assert len(found) == number, found
        return found

    def ended(self):
        """Read until the end; return what was said before it."""
        with gevent.Timeout(WITHIN):
            found = list(itertools.chain(*iter(self.read, None)))
        self.close()
        return found

    def close(self):
        self.answer.close()


@pytest.fixture
def listen():
    """Return a function that lets somebody listen until the test is over."""
    everybody = []

    def listening(*args, **headers):
        everybody.append(Ears(*args, **headers))
        return everybody[-1]

    yield listening
    for ears in everybody:
        ears.close()
    gevent.sleep(hubs.LOOK_SECONDS * 2)  # the hub sees that nobody is there


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(hubs, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(hubs, "LAST_WORDS_SECONDS", 0.05)
    monkeypatch.setattr(bell.Bells, "ring", lambda _: None)  # nobody works here


def add(caller, title="x"):
    return caller("POST", "/tasks", {"title": title}).json["id"]


def submit(app, owner, kind="vendor", lane="sync"):
    """Put a job into the queue, as a request would."""
    with app.app_context(), db.writing() as conn:
        return queue.enqueue(conn, kind, {}, lane=lane, owner_id=owner.id if owner else None, max_attempts=3)


def told(events):
    return [(event["type"], event["id"]) for event in events]


# ---- what is told


@pytest.mark.parametrize("version", [1, 2])
def test_a_task_is_told_as_it_changes(admin, user, listen, version):
    ears = listen(user, "", version)
    answer = admin("POST", "/tasks", {"title": "secret"})
    path, task = f"/tasks/{answer.json['id']}", answer.json["id"]
    admin("PATCH", path, {"title": "new"})
    admin("PUT", path, {"title": "other"})
    admin("DELETE", path)
    events = ears.hear(4)
    assert told(events) == [(f"task.{deed}", task) for deed in ("created", "changed", "replaced", "removed")]
    assert all(set(event) == {"type", "id", "at"} for event in events)
    entries = admin("GET", "/audit?subject=task:" + task).json["items"]
    assert [event["at"] for event in events] == [entry["at"] for entry in reversed(entries)]


def test_what_was_undone_is_never_told(admin, listen):
    ears = listen(admin)
    assert admin("POST", "/tasks", {"title": ""}).status_code == 422
    assert admin("PATCH", "/tasks/019a9f3e-5b1c-7c3a-9d0e-0f6b2a1c4d5e", {"title": "x"}).status_code == 404
    last = add(admin)
    assert told(ears.hear()) == [("task.created", last)]


def test_every_status_of_a_job_is_told_and_is_what_the_table_says(app, user, listen):
    """Each way through the queue: after each step the last event has the status that the job has."""
    ears = listen(user)
    waits = [Event(1, "called"), Event(1, "answered")]
    ways = [
        [Done(result=1)],
        [Again(error="x", after=0), GivenBack(why="x"), Awaiting(within=1000), "cancel", "retry", Failed(error="y")],
        [Done(result=1, events=waits)],
    ]
    for way in ways:
        job = submit(app, user)
        assert ears.hear() == [
            {"type": "job.created", "id": job["id"], "at": ears_time(job["created_at"]), "request_id": job["id"],
             "vendor_type": "sync", "status": "pending"}
        ]  # fmt: skip
        for step in way:
            for status, event in steps(app, job, step, ears):
                assert event["status"] == status, event
                assert event["id"] == event["request_id"] == job["id"]


def ears_time(milliseconds):
    return queries.rfc3339(milliseconds)


def steps(app, job, step, ears):
    """Take a job a step further, and yield its status with the event of each part."""
    with app.app_context():
        if step in ("cancel", "retry"):
            with db.writing() as conn:
                row = queue.get(conn, job["id"])
                queue.cancel(conn, row, db.now()) if step == "cancel" else queue.retry(conn, row, db.now())
        else:
            with db.writing() as conn:
                (claimed,) = queue.claim(conn, db.new_id(), "sync", 3, 1, db.now() + 1000)
            yield status_of(app, job), ears.hear()[0]
            with db.writing() as conn:
                assert outcomes.settle(conn, claimed, step, db.now())
    yield status_of(app, job), ears.hear()[0]


def status_of(app, job):
    ((status,),) = rows(app, "SELECT status FROM jobs WHERE id = ?", job["id"])
    return status


def test_a_name_of_two_words_is_one(app, user, listen):
    ears = listen(user)
    submit(app, user)
    with app.app_context(), db.writing() as conn:
        (claimed,) = queue.claim(conn, db.new_id(), "sync", 3, 1, db.now())
        outcomes.settle(conn, claimed, GivenBack(why="the worker ends"), db.now())
    assert [event["type"] for event in ears.hear(3)] == ["job.created", "job.claimed", "job.given_back"]


# ---- who may hear what


def test_jobs_are_their_owners_and_the_admins(app, admin, user, listen):
    bob = sign_up(app, "bob")
    hers, his, everything = listen(user), listen(bob), listen(admin)
    first, second, third = submit(app, user), submit(app, bob), submit(app, None)
    submit(app, user, kind="mail", lane=":mail")  # the server's own business
    last = add(admin)
    assert told(hers.hear(2)) == [("job.created", first["id"]), ("task.created", last)]
    assert told(his.hear(2)) == [("job.created", second["id"]), ("task.created", last)]
    assert [event["id"] for event in everything.hear(4)] == [first["id"], second["id"], third["id"], last]


def test_what_was_missed_is_his_own_as_well(app, admin, user, listen):
    bob, before = sign_up(app, "bob"), listen(user).last_id
    first, _ = submit(app, user), submit(app, bob)
    assert told(listen(user, Last_Event_ID=before).hear()) == [("job.created", first["id"])]
    assert len(listen(admin, Last_Event_ID=before).hear(2)) == 2


def test_a_role_hears_what_it_may():
    assert Ear("a", tasks=False, own_jobs=True, all_jobs=False).hears(None, is_task=True) is False
    assert Ear("a", tasks=True, own_jobs=True, all_jobs=False).hears(None, is_task=False) is False
    assert Ear("a", tasks=False, own_jobs=False, all_jobs=True).hears("b", is_task=False) is True
    assert Ear("a", tasks=True, own_jobs=False, all_jobs=False).hears("a", is_task=False) is False


def test_nobody_listens_without_signing_in(anyone):
    assert_problem(anyone("GET", "/events"), 401, "unauthenticated")


@pytest.mark.parametrize("how", ["logout", "role", "active", "session"])
def test_who_may_no_longer_hears_nothing_more(app, admin, how):
    alice = sign_up(app, "alice")
    ears, others = Ears(alice), Ears(admin)
    if how == "logout":
        assert alice("POST", "/auth/logout").status_code == 204
    elif how == "role":
        execute(app, "UPDATE users SET role = 'admin' WHERE username = 'alice'")
    elif how == "active":
        execute(app, "UPDATE users SET active = 0 WHERE username = 'alice'")
    else:
        execute(app, "UPDATE sessions SET expires_at = 1 WHERE user_id = ?", alice.id)
    task = add(admin)
    assert ears.ended() == []
    assert told(others.hear()) == [("task.created", task)]
    others.close()


def test_a_look_for_somebody_else_hands_him_nothing_either(app, admin, listen):
    """Who joins makes the hub look, before its own time."""
    alice = sign_up(app, "alice")
    ears, before = listen(alice), listen(admin).last_id
    assert alice("POST", "/auth/logout").status_code == 204
    task = add(admin)
    again = listen(admin, Last_Event_ID=before)
    assert [one._waiting for one in app.extensions["events"]._listeners if one.rights == guard.PERMISSIONS["user"]] == [
        0
    ]
    assert told(again.hear()) == [("task.created", task)]
    assert ears.ended() == []


def test_it_ends_with_the_token(make_app):
    app = make_app(ACCESS_TOKEN_TTL="1")
    alice = sign_up(app, "alice")
    began, ears = time.monotonic(), Ears(alice)
    assert ears.ended() == []
    assert time.monotonic() - began < 2
    assert not app.extensions["events"]._listeners


# ---- going on


def test_it_goes_on_right_after_the_last_event(app, admin, listen):
    ears = listen(admin)
    add(admin)
    ears.hear()
    missed = [add(admin), submit(app, admin)["id"], add(admin)]
    ways = listen(admin, Last_Event_ID=ears.last_id), listen(admin, f"?last_event_id={ears.last_id}")
    for again in ways:
        assert [event["id"] for event in again.hear(3)] == missed
    more = add(admin)
    for again in ways:
        assert [event["id"] for event in again.hear()] == [more]


def test_every_event_is_a_place_to_go_on_from(app, admin, listen):
    """Cut off after any number of events, nothing is repeated and nothing skipped."""
    first = listen(admin).last_id
    whole = [add(admin), submit(app, admin)["id"], add(admin), submit(app, admin)["id"]]
    with app.app_context(), db.reading() as conn:
        events, _ = queries.between(conn, queries.parsed(first), queries.last(conn), 100)
    for number, event in enumerate(events, 1):
        again = Ears(admin, Last_Event_ID=str(event.position))
        assert [one["id"] for one in (again.hear(4 - number) if number < 4 else [])] == whole[number:]
        again.close()


def test_another_process_may_have_told_more(app, admin, listen):
    """The last id of a listener is ahead of the hub that he comes to: it looks before it judges."""
    listen(admin)  # so that the hub runs
    _, second = add(admin), add(admin)
    with app.app_context(), db.reading() as conn:
        ahead = queries.between(conn, Position(0, 0), queries.last(conn), 100)[0][0].position
    assert app.extensions["events"].position.behind(ahead) > 0
    assert [event["id"] for event in listen(admin, Last_Event_ID=str(ahead)).hear()] == [second]


def test_a_long_absence_is_made_up_in_parts(app, admin, listen, monkeypatch):
    monkeypatch.setattr(hubs, "PART", 7)
    before = listen(admin).last_id
    ids = [add(admin) if number % 3 else submit(app, admin)["id"] for number in range(40)]
    ears = listen(admin, Last_Event_ID=before)
    assert sorted(event["id"] for event in ears.hear(40)) == sorted(ids)
    assert ears.last_id == str(app.extensions["events"].position)


def test_a_burst_is_handed_out_in_parts(app, admin, user, listen, monkeypatch):
    monkeypatch.setattr(hubs, "PART", 7)
    ears = listen(user)
    ids = [add(admin) for _ in range(40)]
    assert [event["id"] for event in ears.hear(40)] == ids


@pytest.mark.parametrize("given", ["x", "1", "1-", "-1-1", "1-1-1", "1.5-2", "\u0663-\u0661", "9" * 19 + "-1", " "])
def test_an_id_that_is_none_is_refused_by_name(admin, given):
    if given != " " and given.isascii():
        answer = admin("GET", "/events", Last_Event_ID=given)
        assert "Last-Event-ID" in assert_problem(answer, 422, "invalid", "/Last-Event-ID")["detail"]
    answer = admin.send("GET", "/events", query_string={"last_event_id": given})
    assert_problem(answer, 422, "invalid", "/last_event_id")


def test_an_empty_header_is_none_and_the_header_counts_first(admin, listen):
    before = listen(admin).last_id
    add(admin)
    now = listen(admin).last_id
    assert listen(admin, Last_Event_ID="").last_id == now
    assert listen(admin, f"?last_event_id={before}", Last_Event_ID=now).last_id == now


@pytest.mark.parametrize("where", ["far back", "ahead", "ahead in the trail", "removed"])
def test_who_cannot_go_on_is_told_to_begin_anew(app, admin, listen, monkeypatch, where):
    before = listen(admin).last_id
    job = submit(app, admin)
    if where == "far back":
        monkeypatch.setattr(hubs, "MOST_BEHIND", 1)
        add(admin)
        submit(app, admin)
    elif where == "removed":
        submit(app, admin)
        execute(app, "DELETE FROM jobs WHERE id = ?", job["id"])
    last = str(
        Position(*rows(app, "SELECT (SELECT max(seq) FROM audit_entries), (SELECT max(seq) FROM job_history)")[0])
    )
    given = {"ahead": last.replace("-", "-9"), "ahead in the trail": f"9{last}"}.get(where, before)
    ears = listen(admin, Last_Event_ID=given)
    assert ears.hear() == [{"type": "reset"}]
    assert ears.last_id == last
    task = add(admin)
    assert told(ears.hear()) == [("task.created", task)]


# ---- how it is sent


def test_the_answer_says_what_it_is(admin, app):
    answer = admin("GET", "/events")
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert "ETag" not in answer.headers
    assert "Content-Length" not in answer.headers
    assert int(answer.headers["X-RateLimit-Limit"]) > 0
    first = next(iter(answer.response)).decode()
    answer.close()
    assert 1000 <= int(first.split("\n")[0].removeprefix("retry: ")) < 3000
    assert first.split("\n")[1].startswith("id: ")


def test_head_says_the_same_and_does_not_stay(admin, app):
    answer = admin("HEAD", "/events")
    assert (answer.status_code, answer.data, answer.content_type) == (200, b"", "text/event-stream")
    assert "Content-Length" not in answer.headers
    assert not app.extensions["events"]._listeners


def test_silence_is_broken_now_and_then_and_keeps_the_place(app, admin, user, listen, monkeypatch):
    monkeypatch.setattr(listeners, "HEARTBEAT_SECONDS", 0.05)
    ears = listen(user)
    submit(app, admin)  # not for her
    with gevent.Timeout(WITHIN):
        while ears.last_id != str(app.extensions["events"].position) or ears.last_id.endswith("-0"):
            assert ears.read() == []


def test_between_events_nothing_is_held_and_nothing_asked(app, admin, listen, monkeypatch):
    listen(admin)
    gevent.sleep(0.05)
    looks, before = [], len(app.extensions["database"]._idle)
    monkeypatch.setattr(queries, "last", lambda conn: looks.append(conn))
    gevent.sleep(0.1)
    assert looks == []
    assert len(app.extensions["database"]._idle) == before


def test_the_hub_rests_when_nobody_listens(app, admin):
    ears = Ears(admin)
    hub = app.extensions["events"]
    assert hub._running
    assert metrics.EVENT_LISTENERS._value.get() == 1
    ears.close()
    gevent.sleep(0.1)
    assert hub._running is None
    assert metrics.EVENT_LISTENERS._value.get() == 0
    task, ears = add(admin), Ears(admin)
    assert add(admin) == ears.hear()[0]["id"] != task
    ears.close()


def test_a_fault_of_the_database_is_waited_out(app, admin, listen, monkeypatch, caplog):
    ears, faults = listen(admin), [hubs.Unavailable("busy")]
    original = queries.between

    def between(*args):
        if faults:
            raise faults.pop()
        return original(*args)

    monkeypatch.setattr(queries, "between", between)
    task = add(admin)
    assert told(ears.hear()) == [("task.created", task)]
    assert "events wait: busy" in caplog.text


def test_a_bug_ends_the_streams_and_the_next_listener_is_served(app, admin, monkeypatch, caplog):
    ears = Ears(admin)
    with monkeypatch.context() as patch:
        patch.setattr(queries, "between", lambda *_: 1 / 0)
        task = add(admin)
        assert ears.ended() == []
    assert "ZeroDivisionError" in caplog.text
    again = Ears(admin, Last_Event_ID=ears.last_id)
    assert told(again.hear()) == [("task.created", task)]
    again.close()


# ---- how many, and how slow


def test_a_user_has_so_many_ears(app, admin, user, listen, monkeypatch):
    monkeypatch.setattr(hubs, "MOST_EACH", 2)
    for _ in range(2):
        kept = listen(user)
    problem = assert_problem(user("GET", "/events"), 429, "rate_limited")
    assert problem["violated-policies"] == ["listeners"]
    listen(admin)
    kept.close()
    listen(user)


def test_a_process_has_room_for_so_many(app, admin, user, listen, monkeypatch):
    monkeypatch.setattr(hubs, "MOST_HERE", 1)
    listen(user)
    assert_problem(admin("GET", "/events"), 503, "unavailable")


def test_when_the_process_ends_all_streams_do(app, admin):
    ears = Ears(admin)
    app.extensions["draining"] = lambda: True
    assert ears.ended() == []
    assert_problem(admin("GET", "/events"), 503, "unavailable")


def listener():
    return Listener(Ear("a", True, True, True), "s", frozenset({"x"}), time.time() + 60)


def test_who_does_not_read_is_cut_off(monkeypatch):
    monkeypatch.setattr(listeners, "MOST_WAITING", 100)
    seen = []

    def send():
        slow = listener()
        seen.append(slow)
        try:
            slow.put(b"x")
            assert slow.take() == b"x"
            gevent.sleep(WITHIN)  # the client does not take it
        except BrokenPipeError as gone:
            seen.append(gone)

    sending = gevent.spawn(send)
    gevent.sleep(0.01)
    for _ in range(100):
        seen[0].put(b"0123456789")
    sending.join(1)
    assert isinstance(seen[1], BrokenPipeError)
    assert seen[0].take() is None
    assert not seen[0]._pieces


def test_who_reads_slowly_gets_all_of_it_in_one_piece():
    slow = listener()
    for number in range(10):
        slow.put(b"%d" % number)
    assert slow.take() == b"0123456789"


def test_who_has_left_is_not_cut_off():
    """Whoever answered him may be answering the next request of the connection."""
    seen = []

    def answer():
        one = listener()
        one.leave()
        seen.append(one)
        gevent.sleep(0.05)
        seen.append("the next answer")

    answering = gevent.spawn(answer)
    gevent.sleep(0.01)
    seen[0].cut_off()
    answering.join(1)
    assert seen[1:] == ["the next answer"]


def test_to_ask_for_commits_has_no_deadline(app, admin, monkeypatch, caplog):
    """What a statement does adds up over all the times it is run, and a reader's deadline is long over by then."""
    assert db.WATCHED_STEPS < 20_000 * 6
    hub, asked = app.extensions["events"], []
    hub._listeners.add(listener())

    def version(conn):
        asked.append(queries.DATA_VERSION.value(conn))
        if len(asked) > 20_000:
            hub._listeners.clear()
        return asked[0]

    monkeypatch.setattr(queries, "data_version", version)
    monkeypatch.setattr(hubs, "rights_of", lambda *_, **__: {"s": frozenset({"x"})})
    monkeypatch.setattr(gevent, "sleep", lambda _: None)
    reader = app.extensions["database"].reader()
    reader.watch.until = 0.0
    hub._watch(reader)
    assert len(asked) > 20_000
    assert not caplog.records
    app.extensions["database"].keep(reader)


def test_the_commits_of_this_process_and_of_others_are_seen(app, admin):
    """`data_version` is blind to its own connection's commits only, and the one that asks never writes."""
    with app.app_context(), db.reading(snapshot=False) as conn:
        before = queries.data_version(conn)
        assert queries.data_version(conn) == before
        add(admin)
        after = queries.data_version(conn)
    assert after != before
    ended(start_python(ELSEWHERE, app.extensions["database"].path))
    with app.app_context(), db.reading(snapshot=False) as conn:
        assert queries.data_version(conn) != after


ELSEWHERE = """
import sys
from api.sqlite import driver
with driver.connect(sys.argv[1]) as connection:
    connection.execute("UPDATE users SET version = version + 1")
connection.close()
"""


def test_many_are_told_a_few_at_a_time(app, monkeypatch):
    monkeypatch.setattr(hubs, "TURN", 10)
    turns = []
    monkeypatch.setattr(gevent, "sleep", turns.append)
    everybody = [listener() for _ in range(35)]
    hubs._hand_out([queries.Event(Position(1, 0), None, True, b"task")], everybody)
    assert len(turns) == 3
    assert {one.take() for one in everybody} == {b"task"}


def test_who_is_good():
    one = listener()
    assert one.is_good(one.rights)
    assert not one.is_good(one.rights | {"more"})
    assert not one.is_good(frozenset())
    assert not one.is_good(None)
    one.expires_at = time.time()
    assert not one.is_good(one.rights)


def test_who_waits_for_more_just_ends():
    one, seen = listener(), []
    waiting = gevent.spawn(lambda: seen.append(one.take()))
    gevent.sleep(0.01)
    one.cut_off()
    waiting.join(1)
    assert seen == [None]


def test_those_who_hear_the_same_share_the_bytes():
    everybody = [Listener(Ear(name, True, True, False), "s", frozenset(), time.time() + 60) for name in "abc"]
    events = [queries.Event(Position(1, 0), None, True, b"task"), queries.Event(Position(1, 1), "a", False, b"job")]
    hubs._hand_out(events, everybody)
    assert [list(one._pieces) for one in everybody] == [[b"taskjob"], [b"task"], [b"task"]]
    assert everybody[1]._pieces[0] is everybody[2]._pieces[0]


def test_the_query_goes_along_the_keys(app):
    with app.app_context(), db.reading() as conn:
        for statement in (queries.TASKS, queries.JOBS, queries.KEPT, queries.LAST):
            compiled = statement._for(conn.dialect)
            values = {"after": 0, "until": 1, "most": 1}
            explain = f"EXPLAIN QUERY PLAN {compiled.sql}"
            plan = [row[-1] for row in conn.exec_driver_sql(explain, tuple(compiled._parameters(values)))]
            assert not [step for step in plan if step.startswith(("SCAN audit", "SCAN job")) or "TEMP B-TREE" in step]


def test_a_session_lives_or_not_for_many_at_once(app, admin, user):
    with app.app_context(), db.reading() as conn:
        sessions = [row[0] for row in conn.exec_driver_sql("SELECT id FROM sessions")]
        found = hubs.rights_of(conn, [*sessions, "nobody's"], strict=False)
    assert set(found.values()) == {guard.PERMISSIONS["admin"], guard.PERMISSIONS["user"]}
    assert set(found) == set(sessions)


RAISES = """
import resource
from api.supervisor import allow_files
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 4000))
for number in (100, 3000, 2000, 9000):
    allow_files(number)
    print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_so_many_connections_may_be_open():
    """As many as are asked for and the system permits; never less than before."""
    assert ended(start_python(RAISES)).split("\n")[:4] == ["256 4000", "3000 4000", "3000 4000", "4000 4000"]
