import errno
import itertools
import os
import socket
import time
from contextlib import contextmanager, suppress

import gevent
import orjson
import pytest
from sqlalchemy.dialects import postgresql

from api import db
from api.errors import Conflict, Unavailable
from api.group_commit import after_commit
from api.jobs import attempts, heads, kinds, lanes, maintenance, outcomes, queue, workers
from api.jobs import clock as clock_module
from api.jobs import worker as worker_module
from api.jobs.bell import bells
from api.jobs.clock import Clock
from api.jobs.kinds import Again, Awaiting, Done, Event, Failed, GivenBack
from api.jobs.worker import Worker
from api.vendors import queries as vendors
from tests.conftest import execute, rows, sign_up

NOW = 1_800_000_000_000
SOMEBODY = "019a9f3e-0000-7000-8000-000000000000"


@pytest.fixture(autouse=True)
def own_kinds():
    before = dict(kinds.KINDS)
    yield
    kinds.KINDS.clear()
    kinds.KINDS.update(before)


@pytest.fixture
def queued(app):
    """Return a function that puts a job of the kind `plain` into the queue and returns its row."""
    kinds.register(kinds.kind("plain", attempts=3, audited=True)(lambda job: Done(result=job.payload)))

    def enqueue(payload=None, **more):
        with app.app_context(), db.writing() as conn:
            return queue.enqueue(conn, more.pop("kind", "plain"), payload, **more)

    return enqueue


@pytest.fixture
def claimed(app, queued):
    """Return a function that does so and claims it."""

    def claim(**more):
        job = queued(**more)
        with app.app_context(), db.writing() as conn:
            (found,) = queue.claim(conn, SOMEBODY, job["lane"], job["priority"], 1, db.now())
        return found

    return claim


def settle(app, job, outcome):
    with app.app_context(), db.writing() as conn:
        return outcomes.settle(conn, job, outcome, db.now())


def undone(app):
    """Put a job into the queue in a transaction that fails."""
    with suppress(ZeroDivisionError), app.app_context(), db.writing() as conn:
        queue.enqueue(conn, "plain", {})
        1 / 0  # noqa: B018


def of(app, job, *names):
    with app.app_context(), db.reading() as conn:
        found = queue.get(conn, job["id"])
    return tuple(found[name] for name in names) if len(names) > 1 else found[names[0]]


def history(app, job):
    return [event for (event,) in rows(app, "SELECT event FROM job_history WHERE job_seq = ? ORDER BY seq", job["seq"])]


@contextmanager
def working(app, concurrency=50):
    worker = Worker(app, concurrency)
    running = gevent.spawn(worker.run)
    try:
        yield worker
    finally:
        worker.stop()
        running.join(30)
        assert running.ready()
        assert running.successful(), running.exception


def until(condition, within=10):
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "not within its time"
        gevent.sleep(0.005)


def ended(app):
    return rows(app, "SELECT count(*) FROM jobs WHERE status IN ('pending', 'processing')") == [(0,)]


# ---- the queue


def test_a_job_is_there_when_its_transaction_is_and_not_otherwise(app, queued):
    undone(app)
    assert rows(app, "SELECT count(*) FROM jobs") == rows(app, "SELECT count(*) FROM job_history") == [(0,)]
    job = queued({"n": 1})
    assert of(app, job, "status", "attempts", "payload") == ("pending", 0, {"n": 1})
    assert history(app, job) == ["created"]


def test_a_claim_counts_the_attempt_and_takes_nobody_elses(app, queued):
    job = queued()
    with app.app_context(), db.writing() as conn:
        assert len(queue.claim(conn, "a", job["lane"], 3, 5, db.now())) == 1
        assert queue.claim(conn, "b", job["lane"], 3, 5, db.now()) == []
    assert of(app, job, "status", "attempts", "worker_id", "version") == ("processing", 1, "a", 2)


def test_the_urgent_come_first_then_those_who_wait_longest(app, queued):
    names = {}
    for name, priority, run_at in [
        ("late", 3, NOW + 2),
        ("early", 3, NOW + 1),
        ("urgent", 1, NOW + 3),
        ("not yet", 3, NOW * 2),
    ]:
        names[queued(priority=priority, run_at=run_at)["id"]] = name
    with app.app_context(), db.writing() as conn:
        claims = lanes.claim(conn, "a", {}, 50, NOW + 10)
    assert [names[job["id"]] for job, _ in claims.jobs] == ["urgent", "early", "late"]
    with app.app_context(), db.writing() as conn:
        assert lanes.claim(conn, "a", {}, 50, NOW + 10) == ([], NOW * 2)


def test_no_lane_takes_the_places_that_others_may_need(app, queued):
    for _ in range(20):
        queued()
    with app.app_context(), db.writing() as conn:
        assert len(lanes.claim(conn, "a", {}, 10, db.now()).jobs) == 5
        assert len(lanes.claim(conn, "a", {":plain": 2}, 8, db.now()).jobs) == 3
        assert len(lanes.claim(conn, "a", {":plain": 5}, 5, db.now()).jobs) == 0
        assert len(lanes.claim(conn, "a", {}, 1, db.now()).jobs) == 1


@pytest.mark.parametrize(
    ("outcome", "status", "told"),
    [
        (Done(result={"x": [1]}), "complete", ["complete"]),
        (Failed(error="no"), "failed", ["failed"]),
        (Again(error="later"), "pending", ["retry"]),
        (Awaiting(within=1000), "processing", ["accepted"]),
        (GivenBack(why="end"), "pending", ["given back"]),
        (Done(result=None, events=[Event(5, "called")]), "complete", ["called", "complete"]),
    ],
)
def test_what_comes_of_an_attempt(app, claimed, outcome, status, told):
    job = claimed()
    assert settle(app, job, outcome)
    assert of(app, job, "status", "worker_id", "version") == (status, None, 3)
    assert history(app, job) == ["created", "claimed", *told]
    assert (of(app, job, "finished_at") is not None) == (status in ("complete", "failed"))


def test_a_result_is_kept_as_it_was(app, claimed):
    job = claimed()
    settle(app, job, Done(result={"text": "ü", "n": [1, None, 2.5]}))
    assert of(app, job, "result", "error") == ({"text": "ü", "n": [1, None, 2.5]}, None)


def test_attempts_run_out(app, claimed):
    job = claimed(max_attempts=1)
    settle(app, job, Again(error="Nobody is there."))
    assert of(app, job, "status", "error") == ("failed", "Nobody is there.")


def test_what_was_given_back_has_lost_no_attempt(app, claimed):
    job = claimed(max_attempts=1)
    settle(app, job, GivenBack(why="The worker was told to end."))
    assert of(app, job, "status", "attempts", "max_attempts") == ("pending", 1, 2)


def test_an_attempt_that_is_over_changes_nothing_any_more(app, claimed):
    job = claimed()
    settle(app, job, Again(error="x", after=0))
    with app.app_context(), db.writing() as conn:
        (second,) = queue.claim(conn, "another", job["lane"], 3, 1, db.now())
    for outcome in (Done(result="old"), Failed(error="old"), Again(error="old"), GivenBack(why="old")):
        assert not settle(app, job, outcome)
    assert settle(app, second, Done(result="new"))
    assert not settle(app, second, Done(result="again"))
    assert not settle(app, job, Failed(error="old"))
    assert of(app, job, "result") == "new"
    assert rows(app, "SELECT action FROM audit_entries") == [("job.completed",)]


def test_the_same_attempt_by_another_worker_changes_nothing(app, claimed):
    job = claimed()
    assert not settle(app, job | {"worker_id": "another"}, Done(result=1))


def test_an_outcome_is_not_that_of_the_next_job_with_the_same_number(app, claimed):
    """Cancelled while it was under way, then removed: SQLite gives the highest number again."""
    old = claimed()
    with app.app_context(), db.writing() as conn:
        queue.cancel(conn, queue.get(conn, old["id"]), db.now())
        assert queue.sweep(conn, db.now()) == 1
    new = claimed()
    assert (new["seq"], new["attempts"], new["worker_id"]) == (old["seq"], old["attempts"], old["worker_id"])
    assert not settle(app, old, Done(result="somebody else's"))
    assert of(app, new, "status", "result") == ("processing", None)


def test_of_jobs_with_one_key_there_is_one_until_it_has_ended(app, queued, claimed):
    first = claimed(dedup_key="k")
    assert queued(dedup_key="k")["id"] == first["id"]
    settle(app, first, Done())
    assert queued(dedup_key="k")["id"] != first["id"]
    assert queued(dedup_key="other")["id"] not in (first["id"], None)


def test_a_retry_has_as_many_attempts_as_a_new_one(app, claimed):
    job = claimed(max_attempts=1)
    settle(app, job, Again(error="x"))
    with app.app_context(), db.writing() as conn:
        again = queue.retry(conn, queue.get(conn, job["id"]), db.now())
        assert (again["status"], again["attempts"], again["max_attempts"]) == ("pending", 1, 4)
        with pytest.raises(Conflict, match="The job is pending"):
            queue.retry(conn, again, db.now())


def test_a_retry_gives_way_to_who_has_its_key_now(app, claimed, queued):
    old, alone = claimed(dedup_key="k"), claimed()
    settle(app, old, Failed(error="x"))
    second = claimed(dedup_key="k")
    for job in (second, alone):
        settle(app, job, Failed(error="x"))
    new = queued(dedup_key="k")
    with app.app_context():
        with db.writing() as conn, pytest.raises(Conflict, match=new["id"]):
            queue.retry(conn, queue.get(conn, old["id"]), db.now())
        assert sum(maintenance.retrying(None, db.now())) == 1  # one in the way does not hold up the others
        execute(app, "UPDATE jobs SET status = 'complete' WHERE id = ?", new["id"])
        assert sum(maintenance.retrying(None, db.now())) == 1  # of two with one key there is one
    assert [of(app, job, "status") for job in (alone, old, second)] == ["pending", "pending", "failed"]


def test_backoff_is_jittered_and_bounded():
    assert {outcomes.backoff(1) < 2000 for _ in range(200)} == {True}
    assert max(outcomes.backoff(50) for _ in range(300)) > 3_000_000
    assert max(outcomes.backoff(50) for _ in range(300)) < outcomes.LONGEST_BACKOFF
    assert min(outcomes.backoff(50) for _ in range(300)) < 600_000


def test_counts_are_right_whatever_happens(app, queued, claimed, admin):
    person = sign_up(app, "bob")
    for _ in range(3):
        queued(owner_id=person.id)
    settle(app, claimed(owner_id=person.id, lane="a"), Done())
    settle(app, claimed(owner_id=person.id, lane="b"), Failed(error="x"))
    claimed(lane="c")
    execute(app, "UPDATE jobs SET lane = 'z' WHERE lane = 'a'")
    execute(app, "DELETE FROM jobs WHERE lane = 'b'")
    execute(app, "UPDATE jobs SET owner_id = NULL WHERE lane = 'z'")
    counted = "SELECT coalesce(owner_id, ''), lane, status, count(*) FROM jobs GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
    assert rows(app, "SELECT * FROM job_counts WHERE n <> 0 ORDER BY 1, 2, 3") == rows(app, counted)


def test_who_names_a_time_long_ago_is_not_before_others(app, admin):
    body = {"vendor_type": "sync", "vendor_payload": None}
    first = admin("POST", "/jobs", body).json["request_id"]
    admin("POST", "/jobs", body | {"run_at": "1971-01-01T00:00:00Z"})
    with app.app_context(), db.reading() as conn:
        assert heads.heads(conn)["sync"][0].run_at > db.now() - 60_000
    with app.app_context(), db.writing() as conn:
        (job,) = queue.claim(conn, SOMEBODY, "sync", 3, 1, db.now())
    assert job["id"] == first


def test_a_persons_counts_are_of_what_the_list_shows(app, queued, admin):
    person = sign_up(app, "bob")
    queued({"sealed": "x"}, kind="mail", owner_id=person.id)
    queued(kind="vendor", lane="sync", owner_id=person.id)
    found = person("GET", "/jobs").json
    assert (len(found["items"]), found["total"], found["counts"]["pending"]) == (1, 1, 1)
    assert admin("GET", "/jobs").json["total"] == 2


def test_queries_for_work_use_the_small_indices(app, queued):
    queued()
    for statement, words in (
        (heads.HEADS, ["USING COVERING INDEX ix_jobs_pending"]),
        (lanes.BUSY, ["USING COVERING INDEX ix_jobs_processing"]),
        (queue.CLAIM, ["USING COVERING INDEX ix_jobs_pending"]),
        (workers.OVERDUE, ["USING INDEX ix_jobs_processing"]),
        (workers.LEFT, ["USING INDEX ix_jobs_processing"]),
        (workers.AT_WORK, ["USING COVERING INDEX ix_jobs_processing"]),
    ):
        with app.app_context(), db.reading() as conn:
            compiled = statement._for(conn.dialect)
            plan = conn.connection.dbapi_connection.execute(f"EXPLAIN QUERY PLAN {compiled.sql}", _any(compiled.sql))
            steps = [row[3] for row in plan.fetchall()]
        assert not [step for step in steps if step.startswith("SCAN jobs") and "USING" not in step], steps
        for word in words:
            assert any(word in step for step in steps), steps


def _any(sql):
    return [0] * sql.count("?")


def test_on_postgresql_workers_step_over_what_another_one_claims():
    sql = str(queue.CLAIM.clause.compile(dialect=postgresql.dialect()))
    assert "FOR UPDATE SKIP LOCKED" in sql
    assert "INDEXED BY" not in sql


# ---- who may begin


def vendor(app, name="acme", **values):
    own = {"url": "http://x", "mode": "sync", "limit": None, "concurrency": 10, "timeout": 5, "callback_timeout": 60}
    own |= {"attempts": 5, "active": 1, "secrets": "", "created_at": 0, "updated_at": 0, "version": 1, "id": name}
    own |= {"name": name} | values
    marks = ", ".join("?" * len(own))
    names = ", ".join(f'"{column}"' for column in own)
    execute(app, f"INSERT INTO vendors({names}) VALUES ({marks})", *own.values())


def test_a_vendors_jobs_are_not_more_at_once_than_it_takes(app, queued):
    vendor(app, concurrency=3)
    for _ in range(5):
        queued(lane="acme")
    with app.app_context(), db.writing() as conn:
        assert len(lanes.claim(conn, "a", {}, 50, db.now()).jobs) == 3
        assert lanes.claim(conn, "b", {}, 50, db.now()).jobs == []
    execute(app, "UPDATE jobs SET worker_id = NULL WHERE seq = 1")  # it waits for its webhook: nobody is at it
    with app.app_context(), db.writing() as conn:
        assert len(lanes.claim(conn, "b", {}, 50, db.now()).jobs) == 1


def test_jobs_of_a_vendor_that_is_not_active_wait(app, queued):
    vendor(app, active=0)
    queued(lane="acme")
    with app.app_context(), db.writing() as conn:
        assert lanes.claim(conn, "a", {}, 50, db.now()).jobs == []
        assert lanes.may_claim(conn, {}, 50, db.now()) == (False, None)


def paced(app, moments, **values):
    """Return when jobs may begin if workers ask at these moments."""
    begins = []
    with app.app_context(), db.writing() as conn:
        for moment in moments:
            begins += [at for _, at in lanes.claim(conn, "a", {}, 1000, moment).jobs]
    return begins


@pytest.mark.parametrize("step", [1, 7, 30, 90])
def test_ten_per_second_is_ten_in_no_second_more_and_hardly_less(app, queued, step):
    vendor(app, limit="10 per second", concurrency=1000)
    for _ in range(60):
        queued(lane="acme", run_at=NOW)
    begins = paced(app, range(NOW, NOW + 12_000, step))
    assert len(begins) == 60
    assert all(later - earlier > 1000 for earlier, later in zip(begins, begins[10:], strict=False))
    if step <= lanes.AHEAD:
        assert begins[-1] - begins[0] <= 59 * 100 * 1.05


def test_a_bucket_lets_its_capacity_begin_at_once(app, queued):
    vendor(app, limit="token-bucket 5 refill 10/s", concurrency=1000)
    for _ in range(20):
        queued(lane="acme", run_at=NOW)
    begins = paced(app, [NOW])
    assert begins == [NOW] * 5
    assert paced(app, [NOW + 1000]) == [NOW + 1000] * 5


def test_a_vendor_that_is_forgiven_its_failures_keeps_its_limit(app, queued):
    vendor(app, limit="1 per minute", concurrency=1000)
    for _ in range(3):
        queued(lane="acme", run_at=NOW)
    assert paced(app, [NOW]) == [NOW]
    with app.app_context(), db.writing() as conn:
        found = vendors.by_name(conn, "acme")
        vendors.change(conn, found, {"url": "http://y"})
        vendors.forget_failures(conn, found)
    assert paced(app, range(NOW, NOW + 60_000, 1000)) == []


def test_what_may_not_begin_yet_says_when_to_ask_again(app, queued):
    vendor(app, limit="1 per second")
    for _ in range(2):
        queued(lane="acme", run_at=NOW)
    with app.app_context(), db.writing() as conn:
        claims = lanes.claim(conn, "a", {}, 50, NOW)
        assert len(claims.jobs) == 1
        assert NOW + 900 < claims.again_at < NOW + 1100
        assert lanes.may_claim(conn, {}, 50, NOW + 1) == (False, claims.again_at)
        assert lanes.may_claim(conn, {}, 50, claims.again_at + lanes.AHEAD)[0]


def test_only_what_was_claimed_is_counted(app, queued):
    vendor(app, limit="token-bucket 5 refill 1/s", concurrency=1000)
    queued(lane="acme", run_at=NOW)
    assert paced(app, [NOW, NOW + 1, NOW + 2]) == [NOW]
    for _ in range(9):
        queued(lane="acme", run_at=NOW)
    assert paced(app, [NOW + 3]) == [NOW + 3] * 4


def test_nothing_is_looked_up_for_lanes_that_there_is_no_place_for(app, queued, monkeypatch):
    for n in range(40):
        queued(lane=f"lane{n}")
    asked, real = [], lanes.vendors.by_name
    monkeypatch.setattr(lanes.vendors, "by_name", lambda conn, name: asked.append(name) or real(conn, name))
    with app.app_context(), db.writing() as conn:
        assert len(lanes.claim(conn, "a", {}, 2, db.now()).jobs) == 2
        assert len(lanes.claim(conn, "a", {"lane2": 1}, 1, db.now()).jobs) == 1
    assert asked == ["lane0", "lane1", "lane3"]


def test_a_lane_that_fails_is_closed_then_one_tries(app, queued):
    vendor(app)
    for _ in range(9):
        queued(lane="acme", run_at=NOW)
    with app.app_context(), db.writing() as conn:
        for n in range(lanes.FAILURES):
            assert lanes.may_claim(conn, {}, 50, NOW)[0], n
            lanes.judge(conn, "acme", NOW, failed=True)
        assert lanes.may_claim(conn, {}, 50, NOW) == (False, NOW + lanes.SHORTEST)
        assert lanes.claim(conn, "a", {}, 50, NOW).jobs == []
        assert lanes.CLOSED.value(conn, now=NOW) == 1
        assert lanes.judge(conn, "acme", NOW, failed=True) is None  # they were under way: nothing new
        then = NOW + lanes.SHORTEST
        assert len(lanes.claim(conn, "a", {}, 50, then).jobs) == 1
        assert lanes.claim(conn, "b", {}, 50, then).jobs == []  # one tries, and the lane is closed for twice as long
        assert lanes.may_claim(conn, {}, 50, then) == (False, then + 2 * lanes.SHORTEST)
        lanes.judge(conn, "acme", then, failed=True)
        then += 2 * lanes.SHORTEST
        assert len(lanes.claim(conn, "a", {}, 50, then).jobs) == 1  # though the one before still waits for its answer
        lanes.judge(conn, "acme", then, failed=False)
        assert len(lanes.claim(conn, "b", {}, 50, then).jobs) == 7


def test_a_lane_is_closed_for_five_minutes_at_the_most(app, queued):
    vendor(app)
    queued(lane="acme", run_at=NOW)
    now = NOW
    with app.app_context(), db.writing() as conn:
        for _ in range(40):
            until = lanes.judge(conn, "acme", now, failed=True) or now
            assert until - now <= lanes.LONGEST
            now = until
    assert rows(app, "SELECT failures FROM lanes") == [(40,)]


# ---- workers


def test_a_worker_carries_out_what_there_is_and_what_comes(app, queued):
    for n in range(30):
        queued({"n": n})
    with working(app, 7):
        until(lambda: ended(app))
        late = queued({"n": "late"})
        until(lambda: ended(app), 2)
    assert of(app, late, "result") == {"n": "late"}
    assert rows(app, "SELECT count(*), max(attempts) FROM jobs WHERE status = 'complete'") == [(31, 1)]
    assert rows(app, "SELECT count(*) FROM audit_entries WHERE action = 'job.completed'") == [(31,)]
    assert rows(app, "SELECT count(*) FROM workers") == [(0,)]


def test_a_worker_is_woken_by_the_commit(app, queued):
    took = []
    kinds.register(kinds.kind("timed")(lambda job: took.append(time.time() * 1000 - job.created_at) or Done()))
    with working(app):
        gevent.sleep(0.1)
        for _ in range(20):
            queued(kind="timed")
            gevent.sleep(0.02)
        until(lambda: ended(app))
    assert sorted(took)[10] < 100, took  # without its bell it would look once a second


def test_what_was_undone_wakes_nobody(app, queued):
    rung = []
    with app.app_context():
        bells().ring = lambda: rung.append(1)
        undone(app)
        assert rung == []
        with db.writing() as conn:
            after_commit(conn, bells().ring)
            after_commit(conn, bells().ring)
            assert rung == []
    assert rung == [1]


def test_kinds_may_wait_side_by_side(app, queued):
    kinds.register(kinds.kind("slow")(lambda job: gevent.sleep(0.3) or Done()))
    for _ in range(20):
        queued(kind="slow")
    started = time.monotonic()
    with working(app, 50):
        until(lambda: ended(app))
    assert time.monotonic() - started < 2


def test_one_lane_that_hangs_leaves_room_for_others(app, queued, monkeypatch):
    monkeypatch.setattr(worker_module, "GRACE_SECONDS", 0.1)
    kinds.register(kinds.kind("hangs")(lambda job: gevent.sleep(60) or Done()))
    for _ in range(100):
        queued(kind="hangs")
    with working(app, 10) as worker:
        until(lambda: worker._mine[":hangs"] == 5)
        job = queued({"n": 1})
        until(lambda: of(app, job, "status") == "complete", 3)
        assert worker._mine[":hangs"] == 5


def test_who_cancels_does_not_get_more_calls_at_once(app, queued, admin, monkeypatch):
    monkeypatch.setattr(worker_module, "GRACE_SECONDS", 0.1)
    began = []
    kinds.register(kinds.kind("vendor")(lambda job: began.append(job.id) or gevent.sleep(60) or Done()))
    admin("PATCH", "/vendors/sync", {"concurrency": 2})
    with working(app):
        for _ in range(5):
            job = queued(kind="vendor", lane="sync")
            gevent.sleep(0.05)
            assert admin("POST", f"/jobs/{job['id']}/cancellation").status_code == 200
        assert len(began) == 2


def test_a_job_that_is_tried_again_while_its_first_call_goes_on_is_two(app, queued, admin):
    """The end of the first is not taken for the end of the second: at the end of the worker that waits for it."""
    slow = {1: 0.4, 2: 0.8}
    kinds.register(kinds.kind("vendor")(lambda job: gevent.sleep(slow[job.attempt]) or Done(result=job.attempt)))
    with working(app):
        job = queued(kind="vendor", lane="sync")
        until(lambda: of(app, job, "attempts") == 1)
        admin("POST", f"/jobs/{job['id']}/cancellation")
        admin("POST", f"/jobs/{job['id']}/retry")
        until(lambda: of(app, job, "attempts") == 2)
        gevent.sleep(0.45)
    assert of(app, job, "status", "result") == ("complete", 2)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda job: 1 / 0, "ZeroDivisionError"),
        (lambda job: Done(result={1, 2}), "nothing that JSON can say"),
        (lambda job: Done(result="x" * 2_000_000), "larger than"),
        (lambda job: gevent.sleep(5), "longer than 0.05 s"),
        (lambda job: None, "is no outcome"),
    ],
)
def test_a_kind_that_goes_wrong_harms_its_own_job_only(app, queued, fault, said):
    kinds.register(kinds.kind("faulty", attempts=1, seconds=0.05)(fault))
    bad, good = queued(kind="faulty"), queued({"n": 1})
    with working(app):
        until(lambda: ended(app))
    assert of(app, bad, "status") == "failed"
    assert said in of(app, bad, "error")
    assert of(app, good, "status") == "complete"


@pytest.mark.parametrize("depth", [253, 254, 255])
def test_a_result_is_no_deeper_than_can_be_read(app, admin, queued, depth):
    kinds.register(kinds.kind("deep", attempts=1)(lambda job: Done(result=orjson.loads("[" * depth + "]" * depth))))
    job = queued(kind="deep")
    with working(app):
        until(lambda: ended(app))
    shown = admin("GET", f"/jobs/{job['id']}")
    assert shown.status_code == 200, shown.text
    assert shown.json["status"] == ("complete" if depth < 254 else "failed")


def test_a_result_may_be_as_large_as_it_says(app, queued):
    kinds.register(kinds.kind("large", attempts=1)(lambda job: Done(result="x" * (attempts.MAX_RESULT + job.payload))))
    fits, too_large = queued(-2, kind="large"), queued(-1, kind="large")
    with working(app):
        until(lambda: ended(app))
    assert (of(app, fits, "status"), of(app, too_large, "status")) == ("complete", "failed")


def test_a_kind_that_nobody_knows_waits_for_somebody_who_does(app, queued):
    job = queued()
    execute(app, "UPDATE jobs SET kind = 'novel'")
    with working(app):
        until(lambda: of(app, job, "attempts") == 1 and of(app, job, "status") == "pending")
    assert of(app, job, "run_at") > db.now() + 10_000


def test_jobs_of_a_kind_that_nobody_knows_lose_no_attempt(app, queued):
    job = queued(lane=kinds.lane_of("novel"))
    with app.app_context(), db.writing() as conn:
        assert lanes.may_claim(conn, {}, 50, db.now()) == (False, None)
        assert lanes.claim(conn, "old", {}, 50, db.now()).jobs == []
        kinds.register(kinds.kind("novel")(lambda job: Done()))
        assert [found["id"] for found, _ in lanes.claim(conn, "new", {}, 50, db.now()).jobs] == [job["id"]]


def test_a_worker_that_is_told_to_end_gives_back_what_does_not(app, queued, monkeypatch):
    monkeypatch.setattr(worker_module, "GRACE_SECONDS", 0.3)
    kinds.register(kinds.kind("slow")(lambda job: gevent.sleep(60) or Done()))
    kinds.register(kinds.kind("brief")(lambda job: gevent.sleep(0.1) or Done()))
    slow, brief, never = queued(kind="slow"), queued(kind="brief"), None
    with working(app) as worker:
        until(lambda: len(worker._running) == 2)
        worker.stop()
        never = queued()
    assert of(app, slow, "status", "attempts", "max_attempts") == ("pending", 1, 6)
    assert of(app, brief, "status") == "complete"
    assert of(app, never, "attempts") == 0


def test_who_is_dead_is_known_at_once_and_who_is_silent_by_ones_own_clock(app, claimed, monkeypatch):
    dead, silent, live = (claimed() for _ in range(3))
    for n, name in enumerate(("dead", "silent", "live"), 1):
        execute(app, "UPDATE jobs SET worker_id = ? WHERE seq = ?", name, n)
        execute(app, "INSERT INTO workers VALUES (?, 0, 'h', 0, ?)", name, NOW * n)  # clocks that are years apart
    clock = [100.0]
    monkeypatch.setattr(workers.time, "monotonic", lambda: clock[0])
    lookout = workers.Lookout(lambda worker_id: worker_id == "dead")

    def gone():
        with app.app_context(), db.reading() as conn:
            return lookout.gone(conn)

    assert gone() == ["dead"]
    with app.app_context(), db.writing() as conn:
        assert len(workers.rescue(conn, ["dead"], db.now())) == 1
    assert gone() == []
    clock[0] += workers.LEASE_SECONDS - 1
    execute(app, "UPDATE workers SET beat = beat + 1 WHERE id = 'live'")
    assert gone() == []
    clock[0] += 2
    assert gone() == ["silent"]
    assert of(app, dead, "status", "error") == ("pending", workers.DIED)
    assert of(app, silent, "status") == of(app, live, "status") == "processing"


def test_a_job_whose_worker_is_not_even_on_the_list_is_rescued(app, claimed, monkeypatch):
    claimed()
    clock = [100.0]
    monkeypatch.setattr(workers.time, "monotonic", lambda: clock[0])
    lookout = workers.Lookout(lambda worker_id: False)
    with app.app_context(), db.reading() as conn:
        assert lookout.gone(conn) == []
        clock[0] += workers.LEASE_SECONDS + 1
        assert lookout.gone(conn) == [SOMEBODY]


def test_a_job_that_kills_its_workers_ends_as_failed(app, claimed):
    job = claimed(max_attempts=2)
    for _ in range(2):
        with app.app_context(), db.writing() as conn:
            workers.rescue(conn, [SOMEBODY], db.now())
            execute_here = queue.claim(conn, SOMEBODY, job["lane"], 3, 1, NOW * 2)
        assert len(execute_here) <= 1
    assert of(app, job, "status", "error", "attempts") == ("failed", workers.DIED, 2)
    assert rows(app, "SELECT action FROM audit_entries") == [("job.failed",)]


def test_a_webhook_that_never_comes_is_a_failed_attempt(app, claimed):
    job = claimed()
    settle(app, job, Awaiting(within=0))
    with app.app_context(), db.writing() as conn:
        assert len(workers.rescue(conn, [], db.now() + 1)) == 1
    assert of(app, job, "status", "error") == ("pending", workers.SILENT)


def test_the_lock_of_a_worker_shows_that_it_lives(app):
    with app.app_context():
        bell = bells().hang("w1")
        assert not bells().is_dead("w1")
        assert not bells().is_dead("of another host")
        bell._socket.close()
        os.close(bell._lock)  # as the kernel does for a process that died
        assert bells().is_dead("w1")
        bells().forget("w1")
        assert not bells().is_dead("w1")


def test_a_socket_that_nobody_reads_holds_up_nobody(app):
    with app.app_context():
        bell = bells().hang("w1")
        started = time.monotonic()
        for _ in range(2000):
            bells().ring()
        assert time.monotonic() - started < 1
        bell.close()
        bells().ring()


def test_who_cannot_ring_has_committed_nevertheless(app, queued, monkeypatch):
    def too_many(*_arguments):
        raise OSError(errno.EMFILE, "Too many open files")

    with app.app_context():
        bell = bells().hang("w1")
        for module, name in ((os, "scandir"), (socket, "socket")):
            with monkeypatch.context() as patch:
                patch.setattr(module, name, too_many)
                queued()
        bell.close()
    assert rows(app, "SELECT count(*) FROM jobs") == [(2,)]


def test_a_bell_may_hang_at_the_end_of_a_long_path(make_app, tmp_path):
    long = tmp_path / ("x" * 100) / ("y" * 100)
    app = make_app(INSTANCE_PATH=str(long))
    with app.app_context():
        bell = bells().hang("019a9f3e-0000-7000-8000-000000000000")
        heard = gevent.spawn(bell.wait)
        gevent.sleep(0)
        bells().ring()
        heard.join(2)
        assert heard.ready()
        bell.close()


def test_a_clock_that_jumps_is_not_followed_at_once(monkeypatch):
    said, passed = [NOW], [50.0]
    monkeypatch.setattr(clock_module.db, "now", lambda: said[0])
    monkeypatch.setattr(clock_module.time, "clock_gettime", lambda _: passed[0])
    clock = Clock()

    def later(seconds, jump=0):
        passed[0] += seconds
        said[0] += seconds * 1000 + jump
        return clock.now()

    assert later(10) == NOW + 10_000
    assert later(10, jump=3_600_000) == NOW + 20_000
    assert later(10, jump=-3_600_000) == NOW + 30_000
    later(0, jump=-3_600_000)
    assert later(500) == NOW + 530_000
    assert later(200) == NOW + 730_000 - 3_600_000  # it stayed: it was set right


def test_two_workers_share_the_work(app, queued):
    for _ in range(200):
        queued()
    with working(app, 5), working(app, 5):
        until(lambda: ended(app))
    assert rows(app, "SELECT count(*), max(attempts) FROM jobs WHERE status = 'complete'") == [(200, 1)]


def test_a_full_disk_loses_no_outcome(app, queued, monkeypatch):
    monkeypatch.setattr(worker_module, "BUSY_SECONDS", 0.01)
    job = queued({"n": 1})
    real, failures = Worker._exchange, []

    def failing(self, ended, places):
        if ended and len(failures) < 3:
            failures.append(1)
            raise Unavailable("The disk is full.")
        return real(self, ended, places)

    monkeypatch.setattr(Worker, "_exchange", failing)
    with working(app):
        until(lambda: ended(app))
    assert len(failures) == 3
    assert of(app, job, "status", "attempts") == ("complete", 1)


# ---- what mutants showed to be unseen


def test_an_earlier_attempt_of_the_same_worker_changes_nothing(app, claimed):
    job = claimed()
    settle(app, job, Again(error="x", after=0))
    with app.app_context(), db.writing() as conn:
        (second,) = queue.claim(conn, SOMEBODY, job["lane"], 3, 1, db.now())
    before = history(app, job)
    assert not settle(app, job, Done(result="old"))
    assert history(app, job) == before
    assert settle(app, second, Done(result="new"))


def test_what_was_waited_for_is_over_once_it_came(app, claimed):
    job = claimed()
    started = db.now()
    settle(app, job, Awaiting(within=60_000))
    assert started + 60_000 <= of(app, job, "run_at") <= db.now() + 60_000
    with app.app_context(), db.writing() as conn:
        waiting = queue.get(conn, job["id"])
        assert outcomes.end(conn, waiting, db.now(), result="by webhook")
        assert not outcomes.end(conn, waiting, db.now(), error="too late")
    assert of(app, job, "status", "result") == ("complete", "by webhook")


def test_a_retry_wakes_the_workers(app, claimed):
    job, rung = claimed(max_attempts=1), []
    settle(app, job, Again(error="x"))
    with app.app_context():
        bells().ring = lambda: rung.append(1)
        with db.writing() as conn:
            queue.retry(conn, queue.get(conn, job["id"]), db.now())
    assert rung == [1]


def test_a_lane_that_was_closed_by_a_clock_that_was_wrong_is_open(app, queued):
    queued(lane="acme", run_at=NOW)
    with app.app_context(), db.writing() as conn:
        for _ in range(lanes.FAILURES):
            lanes.judge(conn, "acme", NOW + 3_600_000, failed=True)
        assert len(lanes.claim(conn, "a", {}, 50, NOW).jobs) == 1


def test_who_was_given_up_and_goes_on_is_on_the_list_again(app):
    with app.app_context(), db.writing() as conn:
        workers.beat(conn, "w", 1)
        workers.beat(conn, "w", 2)
        workers.leave(conn, "w")
        workers.beat(conn, "w", 3)
    assert rows(app, "SELECT id, beat, seen_at FROM workers") == [("w", 0, 3)]


def test_a_job_begins_at_its_moment_or_not_at_all(app, queued, monkeypatch):
    vendor(app, limit="10 per second", concurrency=100)
    began = []
    kinds.register(kinds.kind("vendor")(lambda job: began.append(db.now()) or Done()))
    for _ in range(6):
        queued(kind="vendor", lane="acme")
    with working(app):
        until(lambda: ended(app))
    assert len(began) == 6
    assert all(later - earlier >= 80 for earlier, later in itertools.pairwise(began)), began

    late = queued(kind="vendor", lane="acme")
    monkeypatch.setattr(lanes, "LATE", -1000)  # whoever is not early by a second is late
    with working(app):
        until(lambda: "given back" in history(app, late))
        monkeypatch.setattr(lanes, "LATE", 1000)
        until(lambda: ended(app))
    assert of(app, late, "status") == "complete"
    assert of(app, late, "max_attempts") > 5


def test_outcomes_close_a_lane_and_open_it_again(app, queued):
    fails = [True]
    kinds.register(
        kinds.kind("moody", attempts=50)(lambda job: Again(error="x", after=0, to_blame=True) if fails[0] else Done())
    )
    queued(kind="moody")
    failures = "SELECT failures FROM lanes WHERE name = ':moody'"
    with working(app):
        until(lambda: rows(app, failures) == [(lanes.FAILURES,)])
        fails[0] = False
        execute(app, "UPDATE lanes SET closed_until = 0")
        until(lambda: ended(app))
    assert rows(app, failures) == [(0,)]


def test_who_only_stood_still_keeps_his_bell(app, claimed, monkeypatch):
    claimed()
    monkeypatch.setattr(workers, "LEASE_SECONDS", -1.0)  # whoever is not dead is silent for too long
    with app.app_context():
        bell = bells().hang(SOMEBODY)
        Worker(app, 5)._look_out(workers.Lookout(bells().is_dead))
        assert rows(app, "SELECT status FROM jobs") == [("pending",)]
        assert len(list(bells()._folder.iterdir())) == 2
        bell.close()


def test_two_short_jumps_of_the_clock_are_no_long_one(monkeypatch):
    said, passed = [NOW], [50.0]
    monkeypatch.setattr(clock_module.db, "now", lambda: said[0])
    monkeypatch.setattr(clock_module.time, "clock_gettime", lambda _: passed[0])
    clock = Clock()
    for seconds, off in ((10, 3_600_000), (300, 0), (300, 3_600_000), (10, 3_600_000)):
        passed[0] += seconds
        said[0] = NOW + int((passed[0] - 50.0) * 1000) + off
        assert clock.now() == said[0] - off


def test_an_outcome_that_the_database_never_takes_stops_no_other(app, queued, monkeypatch, caplog):
    monkeypatch.setattr(worker_module, "BUSY_SECONDS", 0.01)
    execute(
        app,
        "CREATE TRIGGER stop BEFORE UPDATE ON jobs WHEN new.result LIKE '%poison%'"
        " BEGIN SELECT RAISE(ABORT, 'no'); END",
    )
    bad, good = queued("poison"), [queued({"n": n}) for n in range(5)]
    with working(app):
        until(lambda: ended(app))
    assert of(app, bad, "status", "error") == ("failed", worker_module.UNRECORDED.error)
    assert [of(app, job, "status") for job in good] == ["complete"] * 5
    assert "cannot be recorded" in caplog.text


def test_what_comes_too_late_is_told_and_not_kept(app, queued):
    kinds.register(kinds.kind("slow")(lambda job: gevent.sleep(0.3) or Done(result="late")))
    job = queued(kind="slow")
    with working(app):
        until(lambda: of(app, job, "status") == "processing")
        with app.app_context(), db.writing() as conn:
            queue.cancel(conn, queue.get(conn, job["id"]), db.now())
        until(lambda: "late" in history(app, job))
    assert of(app, job, "status", "result") == ("cancelled", None)
    assert history(app, job)[-2:] == ["cancelled", "late"]


def test_after_its_last_attempt_a_job_has_failed_in_the_log_too(app, queued, caplog):
    kinds.register(kinds.kind("fails", attempts=1)(lambda job: Again(error="x")))
    queued(kind="fails")
    with working(app):
        until(lambda: ended(app))
    (line,) = [record for record in caplog.records if record.message == "job"]
    assert (line.outcome, line.levelname) == ("failed", "WARNING")


def test_a_job_whose_vendor_is_gone_is_not_tried_again(app, claimed):
    kinds.register(kinds.kind("vendor")(lambda job: Done()))
    job = claimed(kind="vendor", lane="gone")
    settle(app, job, Failed(error="x"))
    with app.app_context(), db.writing() as conn, pytest.raises(Conflict, match="no vendor gone"):
        queue.retry(conn, queue.get(conn, job["id"]), db.now())
