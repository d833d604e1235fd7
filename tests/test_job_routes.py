"""Jobs over HTTP, and what a vendor's answer means."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import orjson
import pytest

from api import db
from api.jobs import maintenance, mock_vendors, outcomes, queries, queue
from api.jobs import vendors as calls
from api.jobs.kinds import Again, Awaiting, Done, Event, Failed, Job
from api.outgoing import CallFailed
from api.outgoing.calls import Reply
from api.vendors import queries as vendors
from tests.conftest import Caller, assert_problem, execute, rows, sign_up

NOBODY = "019a9f3e-0000-7000-8000-000000000000"
PAYLOAD = {"productId": "PROD-ABC-123", "action": "fetch_details"}


def submit(caller, vendor="sync", payload=PAYLOAD, **more):
    answer = caller("POST", "/jobs", {"vendorType": vendor, "vendorPayload": payload} | more)
    assert answer.status_code == 202, answer.text
    return answer.json["request_id"]


def settle(app, job_id, outcome):
    """Claim a job as a worker would, and let it come to this."""
    with app.app_context(), db.writing() as conn:
        job = queue.get(conn, job_id)
        (claimed,) = queue.claim(conn, "w", job["lane"], job["priority"], 1, db.now())
        assert claimed["id"] == job_id
        assert outcomes.settle(conn, claimed, outcome, db.now())


# ---- submitting


def test_a_job_is_taken_in_with_nothing_but_its_id(user):
    answer = user("POST", "/jobs", {"vendorType": "sync", "vendorPayload": PAYLOAD})
    assert answer.status_code == 202
    assert list(answer.json) == ["request_id"]
    assert answer.headers["Location"] == f"/api/v1/jobs/{answer.json['request_id']}"
    job = user("GET", f"/jobs/{answer.json['request_id']}").json
    assert (job["status"], job["vendor_type"], job["attempts"], job["result"]) == ("pending", "sync", 0, None)
    assert [event["event"] for event in job["timeline"]] == ["created"]


@pytest.mark.parametrize("payload", [None, True, 7, 1.5, "text", [], {}, [1, {"a": [None]}], {"ü": "☃"}, 2**53, -0.5])
def test_a_payload_is_any_json_and_stays_as_it_is(app, user, payload):
    job_id = submit(user, payload=payload)
    with app.app_context(), db.reading() as conn:
        assert queue.get(conn, job_id)["payload"] == payload


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, {"/vendor_type", "/vendor_payload"}),
        ({"vendorType": "nobody", "vendorPayload": 1}, {"/vendor_type"}),
        ({"vendor_type": 5, "vendor_payload": 1}, {"/vendor_type"}),
        ({"vendor_type": "sync", "vendor_payload": 1, "priority": 0}, {"/priority"}),
        ({"vendor_type": "sync", "vendor_payload": 1, "priority": "1"}, {"/priority"}),
        ({"vendor_type": "sync", "vendor_payload": 1, "run_at": "soon"}, {"/run_at"}),
        ({"vendor_type": "sync", "vendor_payload": 1, "deduplication_key": ""}, {"/deduplication_key"}),
        ({"vendor_type": "sync", "vendor_payload": 1, "owner_id": NOBODY}, {"/owner_id"}),
        ({"vendor_type": "sync", "vendor_payload": 1, "status": "complete"}, {"/status"}),
        ({"vendor_type": "sync", "vendor_payload": 1, "kind": "mail"}, {"/kind"}),
    ],
)
def test_a_wrong_job_is_refused_by_field(app, user, body, pointers):
    assert_problem(user("POST", "/jobs", body), 422, "invalid", *pointers)
    assert rows(app, "SELECT count(*) FROM jobs") == [(0,)]


def test_who_names_no_known_vendor_learns_which_there_are(user):
    problem = user("POST", "/jobs", {"vendor_type": "sink", "vendor_payload": 1}).json
    assert "async, sync" in problem["errors"][0]["detail"]


def test_no_lane_of_another_kind_is_a_vendor(user):
    for name in (":mail", ":maintenance", "mail", "maintenance"):
        assert_problem(
            user("POST", "/jobs", {"vendor_type": name, "vendor_payload": {}}), 422, "invalid", "/vendor_type"
        )


def test_who_repeats_with_a_key_gets_one_job(app, user):
    body = {"vendorType": "sync", "vendorPayload": PAYLOAD}
    first, second = (user("POST", "/jobs", body, Idempotency_Key="k") for _ in range(2))
    assert first.data == second.data
    assert second.headers["Location"] == first.headers["Location"]
    assert rows(app, "SELECT count(*) FROM jobs") == [(1,)]


def test_a_deduplication_key_is_of_one_user_and_one_vendor(app, user, admin):
    first = submit(user, deduplicationKey="k")
    assert submit(user, deduplicationKey="k") == first
    assert submit(user, "async", deduplicationKey="k") != first
    assert submit(admin, deduplicationKey="k") != first
    settle(app, first, Done())
    assert submit(user, deduplicationKey="k") != first


def test_a_job_and_its_audit_entry_and_its_key_are_one_commit(app, user):
    execute(app, "CREATE TRIGGER stop BEFORE INSERT ON idempotency_keys BEGIN SELECT RAISE(ABORT, 'no'); END")
    user("POST", "/jobs", {"vendorType": "sync", "vendorPayload": 1}, Idempotency_Key="k")
    assert rows(app, "SELECT count(*) FROM jobs") == rows(app, "SELECT count(*) FROM job_history") == [(0,)]
    assert rows(app, "SELECT count(*) FROM audit_entries WHERE action = 'job.submitted'") == [(0,)]


def test_the_trail_holds_neither_payload_nor_result(app, user):
    job_id = submit(user, payload={"card": "4242-4242"})
    settle(app, job_id, Done(result={"iban": "DE89"}))
    said = str(rows(app, "SELECT * FROM audit_entries WHERE subject_id = ?", job_id))
    assert "job.completed" in said
    assert "4242" not in said
    assert "DE89" not in said


def test_the_limit_of_jobs_is_its_own(make_app):
    app = make_app(RATE_LIMIT_JOBS="leaky-bucket 2 leak 1/s")
    admin = sign_up(app, "root", role="admin")
    answers = [admin("POST", "/jobs", {"vendorType": "sync", "vendorPayload": n}).status_code for n in range(3)]
    assert answers == [202, 202, 429]
    assert admin("GET", "/jobs").status_code == 200


def test_a_job_carries_the_trace_of_its_request_on(app, user):
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    user("POST", "/jobs", {"vendorType": "sync", "vendorPayload": 1}, traceparent=f"00-{trace}-00f067aa0ba902b7-01")
    ((kept,),) = rows(app, "SELECT traceparent FROM jobs")
    assert kept.split("-")[1] == trace


# ---- looking


def test_nobody_elses_job_is_there(app, user, admin):
    job_id = submit(user)
    stranger = sign_up(app, "mallory")
    for method, path in (("GET", ""), ("POST", "/cancellation")):
        assert_problem(stranger(method, f"/jobs/{job_id}{path}"), 404, "not_found")
        assert_problem(user(method, f"/jobs/{NOBODY}{path}"), 404, "not_found")
    assert_problem(stranger("POST", f"/jobs/{job_id}/retry"), 403, "forbidden")
    assert_problem(user("POST", f"/jobs/{job_id}/retry"), 403, "forbidden")
    assert_problem(Caller(app)("GET", f"/jobs/{job_id}"), 401, "unauthenticated")
    assert stranger("GET", "/jobs").json["items"] == []
    assert admin("GET", f"/jobs/{job_id}").json["owner_id"] == user.id


def test_a_list_is_of_ones_own_jobs_and_says_how_many_there_are(app, user, admin):
    mine = [submit(user, vendor) for vendor in ("sync", "async", "sync")]
    submit(admin)
    settle(app, mine[0], Done(result=1))
    found = user("GET", "/jobs").json
    assert [item["request_id"] for item in found["items"]] == mine[::-1]
    assert found["total"] == 3
    assert found["counts"] == {"pending": 2, "processing": 0, "complete": 1, "failed": 0, "cancelled": 0}
    assert "result" not in found["items"][0]
    assert user("GET", "/jobs?status=complete").json["total"] == 1
    assert [item["request_id"] for item in user("GET", "/jobs?status=complete").json["items"]] == [mine[0]]
    assert user("GET", "/jobs?vendor_type=async").json["total"] == 1
    assert user("GET", "/jobs?vendor_type=sync").json["counts"]["complete"] == 1
    assert user("GET", "/jobs?sort=created_at").json["items"][0]["request_id"] == mine[0]
    assert admin("GET", "/jobs").json["total"] == 4
    assert admin("GET", "/jobs?status=pending").json["total"] == 3


def test_version_2_goes_on_where_the_last_part_ended(app, user):
    mine = [submit(user) for _ in range(5)]
    seen, path = [], "/api/v2/jobs?limit=2"
    while path:
        answer = user.client.get(path, headers={"Authorization": f"Bearer {user.token}"}).json
        seen += [item["request_id"] for item in answer["items"]]
        assert answer["counts"]["pending"] == 5
        path = answer["next_cursor"] and f"/api/v2/jobs?limit=2&cursor={answer['next_cursor']}"
    assert seen == mine[::-1]


def test_mail_of_a_user_is_no_job_of_his(app, user, admin):
    with app.app_context(), db.writing() as conn:
        mail = queue.enqueue(conn, "mail", {"sealed": "x"}, owner_id=user.id)
    found = user("GET", "/jobs").json
    assert (found["total"], found["items"]) == (0, [])
    assert_problem(user("GET", f"/jobs/{mail['id']}"), 404, "not_found")
    assert_problem(user("POST", f"/jobs/{mail['id']}/cancellation"), 404, "not_found")
    found = admin("GET", f"/jobs/{mail['id']}").json
    assert (found["kind"], found["vendor_type"]) == ("mail", None)


def test_who_asks_again_hears_304_until_something_happens(app, user):
    job_id = submit(user)
    tag = user("GET", f"/jobs/{job_id}").headers["ETag"]
    assert user("GET", f"/jobs/{job_id}", If_None_Match=tag).status_code == 304
    settle(app, job_id, Done())
    assert user("GET", f"/jobs/{job_id}", If_None_Match=tag).status_code == 200


@pytest.mark.parametrize("query", ["status=done", "vendor_type=", "sort=priority", "page=0", "limit=101", "owner_id=x"])
def test_a_wrong_question_is_refused(user, query):
    assert_problem(user("GET", f"/jobs?{query}"), 422, "invalid", f"/{query.partition('=')[0]}")


# ---- cancelling and trying again


def test_what_was_cancelled_is_over(app, user):
    job_id = submit(user)
    job = user("POST", f"/jobs/{job_id}/cancellation").json
    assert (job["status"], job["timeline"][-1]["event"]) == ("cancelled", "cancelled")
    assert_problem(user("POST", f"/jobs/{job_id}/cancellation"), 409, "conflict")
    with app.app_context(), db.writing() as conn:
        assert queue.claim(conn, "w", "sync", 3, 5, db.now()) == []


def test_what_comes_of_a_job_that_was_cancelled_meanwhile_is_not_kept(app, user):
    job_id = submit(user)
    with app.app_context(), db.writing() as conn:
        (claimed,) = queue.claim(conn, "w", "sync", 3, 1, db.now())
    user("POST", f"/jobs/{job_id}/cancellation")
    with app.app_context(), db.writing() as conn:
        assert not outcomes.settle(conn, claimed, Done(result="late"), db.now())
    job = user("GET", f"/jobs/{job_id}").json
    assert (job["status"], job["result"]) == ("cancelled", None)


def test_an_admin_lets_a_failed_job_begin_again(app, user, admin):
    job_id = submit(user)
    assert_problem(admin("POST", f"/jobs/{job_id}/retry"), 409, "conflict")
    settle(app, job_id, Failed(error="The vendor said no."))
    assert user("GET", f"/jobs/{job_id}").json["error"] == "The vendor said no."
    job = admin("POST", f"/jobs/{job_id}/retry").json
    assert (job["status"], job["error"], job["finished_at"]) == ("pending", None, None)
    settle(app, job_id, Done(result=1))
    assert user("GET", f"/jobs/{job_id}").json["attempts"] == 2


def test_all_that_failed_begin_again_by_a_job_of_its_own(app, user, admin, monkeypatch):
    monkeypatch.setattr(maintenance, "BATCH", 2)
    failed = [submit(user, vendor) for vendor in ("sync", "sync", "async", "sync")]
    for job_id in failed:
        settle(app, job_id, Failed(error="x"))
    complete = submit(user)
    settle(app, complete, Done())
    asked = admin("POST", "/jobs/retry", {"vendorType": "sync"}).json["request_id"]
    time.sleep(0.002)
    with app.app_context(), db.reading() as conn:
        row = queue.get(conn, asked)
    job = Job(row["id"], row["kind"], row["lane"], row["payload"], 1, None, row["created_at"])
    with app.app_context():
        assert maintenance.maintain.run(job) == Done(result={"retried": 3})
    assert rows(app, "SELECT status, count(*) FROM jobs WHERE kind = 'vendor' GROUP BY 1 ORDER BY 1") == [
        ("complete", 1), ("failed", 1), ("pending", 3),
    ]  # fmt: skip
    assert rows(app, "SELECT count(*) FROM audit_entries WHERE action = 'job.retried'") == [(3,)]
    assert_problem(user("POST", "/jobs/retry", {}), 403, "forbidden")


def test_counts_of_one_lane_and_of_all(app, user, admin):
    submit(user), submit(user, "async"), submit(admin)
    with app.app_context(), db.reading() as conn:
        assert queries.counts(conn, None)["pending"] == 3
        assert queries.counts(conn, user.id)["pending"] == 2
        assert queries.counts(conn, user.id, "async")["pending"] == 1
        assert queries.counts(conn, NOBODY)["pending"] == 0


def test_a_person_whose_account_is_removed_leaves_jobs_without_a_name(app, user, admin):
    job_id = submit(user)
    execute(app, "DELETE FROM users WHERE id = ?", user.id)
    assert admin("GET", f"/jobs/{job_id}").json["owner_id"] is None
    assert admin("GET", "/jobs").json["counts"]["pending"] == 1


# ---- what a vendor's answer means

CALLED = Event(1, "called")


def meant(status, body=b"{}", headers=None, mode="sync"):
    vendor = {"mode": mode, "callback_timeout": 60}
    return calls.meaning(vendor, Reply(status, headers or {}, body), CALLED)


def test_a_2xx_is_the_result_or_the_promise_of_one():
    assert meant(200, b'{"a": [1]}').result == {"a": [1]}
    assert meant(204, b"").result is None
    assert meant(200, b"plain \xff text").result == "plain \ufffd text"
    assert meant(200, b"null").result is None
    accepted = meant(202, mode="async")
    assert isinstance(accepted, Awaiting)
    assert accepted.within == 60_000
    assert [event.name for event in accepted.events] == ["called", "answered"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 413, 422, 451, 301, 302, 307, 304, 100, 199])
def test_what_would_be_refused_again_fails(status):
    outcome = meant(status, b"nope")
    assert isinstance(outcome, Failed), outcome
    assert str(status) in outcome.error


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_what_may_pass_is_tried_again(status):
    outcome = meant(status, b"nope")
    assert isinstance(outcome, Again)
    assert outcome.after is None
    assert outcome.to_blame == (status in (502, 503, 504))  # a 500 may be the payload's doing


def http_date(seconds):
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("7", 7000, 7000),
        ("0", 0, 0),
        ("999999999", 86_400_000, 86_400_000),
        ("in a minute", 30_000, 61_000),
        ("a minute ago", 0, 0),
        ("-5", None, None),
        ("soon", None, None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400_000, 86_400_000),
        ("Fri, 31 Dec 99999999999999999999 23:59:59 GMT", None, None),
        ("1.5", None, None),
        ("", None, None),
        ("9" * 100, 86_400_000, 86_400_000),
        ("9" * 5000, None, None),
        ("Mon, 99 Foo 2026 00:00:00 GMT", None, None),
        ("²", None, None),
    ],
)
def test_retry_after_is_kept_to_in_both_forms(header, least, most):
    header = {"in a minute": http_date(60), "a minute ago": http_date(-60)}.get(header, header)  # as of now
    after = meant(503, headers={"Retry-After": header}).after
    assert after == least if least is None else least <= after <= most


def test_an_error_quotes_a_little_of_the_answer_and_nothing_that_steers_a_terminal():
    error = meant(422, b"\x1b[31mno such product\r\n" + b"x" * 5000).error
    assert "no such product" in error
    assert "\x1b" not in error
    assert len(error) < 300


@pytest.fixture
def called(app, user, monkeypatch):
    """Return a function that carries a job out against an answer, and returns the outcome and what was sent."""
    sent = []

    def call(answer, vendor="sync", payload=PAYLOAD, attempt=1):
        def post(url, body, headers, **more):
            sent.append((url, orjson.loads(body), headers, more))
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(calls, "post", post)
        monkeypatch.setattr(mock_vendors, "_here", "http://127.0.0.1:1")
        with app.app_context():
            job = Job(NOBODY, "vendor", vendor, payload, attempt, f"00-{'a' * 32}-{'b' * 16}-01", 0)
            return calls.call.run(job), sent[-1] if sent else None

    return call


def test_a_call_says_which_job_it_is_and_who_calls(called):
    outcome, (url, body, headers, more) = called(Reply(200, {}, b"1"), attempt=3)
    assert outcome.result == 1
    assert url == "http://127.0.0.1:1/sync"
    assert body == {"request_id": NOBODY, "payload": PAYLOAD}
    assert (headers["Idempotency-Key"], headers["webhook-id"], headers["Walnut-Attempt"]) == (NOBODY, NOBODY, "3")
    assert headers["webhook-signature"].startswith("v1,")
    assert headers["traceparent"].startswith(f"00-{'a' * 32}-")
    assert more == {"seconds": 30, "private": True}


def test_one_that_calls_back_learns_where(called):
    _, (_, body, _, _) = called(Reply(202, {}, b""), vendor="async")
    assert body["callback_url"] == "http://127.0.0.1:3000/api/v1/webhooks/async"


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("timeout", Again),
        ("connection", Again),
        ("tls", Again),
        ("malformed", Again),
        ("address", Failed),
        ("too_large", Failed),
    ],
)
def test_a_call_without_an_answer_may_pass_unless_it_cannot(called, reason, kind):
    outcome, _ = called(CallFailed(reason, "It did not work."))
    assert isinstance(outcome, kind)
    assert outcome.error == "It did not work."
    assert [event.name for event in outcome.events] == ["called"]


def test_a_vendor_that_was_removed_is_called_no_more(called):
    outcome, sent = called(Reply(200, {}, b""), vendor="gone")
    assert (type(outcome), sent) == (Failed, None)


def test_in_production_only_the_mock_vendors_may_be_on_this_machine(make_app):
    app = make_app(APP_ENV="production", MOCK_VENDORS="true")
    given = app.extensions["settings"]
    assert not calls._private("http://10.0.0.1/x", given)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mock_vendors, "_here", "http://127.0.0.1:1")
        assert calls._private("http://127.0.0.1:1/sync", given)
        assert not calls._private("http://127.0.0.1:10/sync", given)


def test_the_mock_vendors_are_there_and_only_where_they_are_wanted(app, make_app):
    with app.app_context(), db.reading() as conn:
        assert vendors.names(conn) == ["async", "sync"]
    with pytest.raises(CallFailed, match="MOCK_VENDORS"):
        mock_vendors.address({"name": "sync", "url": "mock:sync"})
    with make_app(MOCK_VENDORS="false").app_context():
        assert mock_vendors.address({"name": "x", "url": "https://x/"}) == "https://x/"
