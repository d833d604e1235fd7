import base64
import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
import standardwebhooks

from api import db, housekeeping, metrics
from api.jobs import outcomes, queue, webhooks
from api.jobs.kinds import Again, Awaiting, Done
from api.vendors import keys, queries
from tests.conftest import Caller, assert_problem, execute, rows

SOMEBODY = "019a9f3e-0000-7000-8000-000000000000"
UNKNOWN = "019a9f3e-5b1c-7c3a-9d0e-0f6b2a1c4d5e"
MINUTE = 60_000
RESULT = {"status": "success", "data": ["ü", 1.5, None]}


class Vendor:
    """The other side: it signs with its keys and calls back."""

    def __init__(self, app, name="async"):
        self.app = app
        self.name = name
        self.caller = Caller(app)

    @property
    def row(self):
        with self.app.app_context(), db.reading() as conn:
            return queries.by_name(conn, self.name)

    def sign(self, body, webhook_id="msg_1", late=0):
        with self.app.app_context():
            return keys.sign(self.row, webhook_id, db.now() - late, body)

    def send(self, body, headers, to=None):
        return self.caller.send(
            "POST", f"/webhooks/{to or self.name}", headers, data=body, content_type="application/json"
        )

    def __call__(self, told, webhook_id="msg_1", late=0, to=None):
        body = told if isinstance(told, bytes) else json.dumps(told).encode()
        return self.send(body, self.sign(body, webhook_id, late), to)


@pytest.fixture
def vendor(app):
    return Vendor(app)


@pytest.fixture
def job(app):
    """A job that the vendor is being called for."""
    return called(app, enqueue(app))


def enqueue(app, lane="async"):
    with app.app_context(), db.writing() as conn:
        return queue.enqueue(conn, "vendor", {"x": 1}, lane=lane, max_attempts=3)


def called(app, job):
    with app.app_context(), db.writing() as conn:
        (claimed,) = queue.claim(conn, SOMEBODY, job["lane"], job["priority"], 1, db.now())
    return claimed


def settle(app, job, outcome):
    with app.app_context(), db.writing() as conn:
        return outcomes.settle(conn, job, outcome, db.now())


def state(app, job):
    with app.app_context(), db.reading() as conn:
        found = queue.get(conn, job["id"])
    return found["status"], found["result"], found["error"]


def history(app, job):
    return [event for (event,) in rows(app, "SELECT event FROM job_history WHERE job_seq = ? ORDER BY seq", job["seq"])]


def complete(job, **more):
    return {"request_id": job["id"], "status": "complete", "result": RESULT} | more


def failed(job, **more):
    return {"request_id": job["id"], "status": "failed", "error": "Out of paper."} | more


def untouched(app, job):
    """Check that nothing has come of it."""
    assert state(app, job) == ("processing", None, None)
    assert history(app, job) == ["created", "claimed"]
    assert rows(app, "SELECT * FROM webhook_ids") == []


# ---- what it does


def test_a_job_that_is_awaited_is_completed(app, vendor, job):
    assert settle(app, job, Awaiting(within=MINUTE))
    answer = vendor(complete(job))
    assert (answer.status_code, answer.json) == (
        200, {"request_id": job["id"], "outcome": "completed", "reason": None}
    )  # fmt: skip
    assert answer.headers["Cache-Control"] == "no-store"
    assert "RateLimit" not in answer.headers
    assert state(app, job) == ("complete", RESULT, None)
    assert history(app, job) == ["created", "claimed", "accepted", "webhook", "complete"]
    ((detail,),) = rows(app, "SELECT detail FROM job_history WHERE event = 'webhook'")
    assert detail == "msg_1"
    ((action, subject),) = rows(app, "SELECT action, subject_id FROM audit_entries")
    assert (action, subject) == ("job.completed", job["id"])


def test_a_job_that_is_awaited_fails(app, vendor, job):
    settle(app, job, Awaiting(within=MINUTE))
    assert vendor(failed(job)).json == {"request_id": job["id"], "outcome": "failed", "reason": None}
    assert state(app, job) == ("failed", None, "Out of paper.")
    assert rows(app, "SELECT action FROM audit_entries") == [("job.failed",)]


def test_a_failure_without_a_reason_says_that_there_was_none(app, vendor, job):
    assert vendor({"requestId": job["id"], "status": "failed"}).json["outcome"] == "failed"
    assert state(app, job) == ("failed", None, webhooks.UNSAID)


@pytest.mark.parametrize("result", [None, 0, -0.25, 2**63 - 1, "", "7", [], {}, False, [None, {"a": {}}]])
def test_any_json_is_a_result(app, vendor, job, result):
    assert vendor(complete(job, result=result)).status_code == 200
    assert state(app, job) == ("complete", result, None)


def test_what_comes_before_the_vendors_own_answer_counts_and_the_answer_does_not(app, vendor, job):
    assert vendor(complete(job)).json["outcome"] == "completed"
    assert not settle(app, job, Awaiting(within=MINUTE))
    assert not settle(app, job, Again(error="It timed out."))
    assert not settle(app, job, Done(result="another"))
    assert state(app, job) == ("complete", RESULT, None)
    assert history(app, job) == ["created", "claimed", "webhook", "complete"]


def test_what_comes_after_a_timeout_counts_while_the_job_waits_to_be_tried_again(app, vendor, job):
    settle(app, job, Again(error="No webhook came in time.", after=MINUTE))
    assert vendor(complete(job)).json["outcome"] == "completed"
    assert state(app, job) == ("complete", RESULT, None)
    with app.app_context(), db.writing() as conn:
        assert queue.claim(conn, SOMEBODY, "async", 3, 10, db.now() + 2 * MINUTE) == []


def test_a_job_that_was_never_handed_over_cannot_have_ended(app, vendor):
    job = enqueue(app)
    assert_problem(vendor(complete(job)), 409, "conflict")
    assert state(app, job) == ("pending", None, None)
    job = called(app, job)
    assert vendor(complete(job)).json["outcome"] == "completed"  # with the same id: it was not used


def test_what_is_over_stays_as_it_is_and_shows_that_a_webhook_came(app, vendor, job):
    with app.app_context(), db.writing() as conn:
        queue.cancel(conn, job, db.now())
    answer = vendor(complete(job))
    assert answer.status_code == 200
    assert answer.json == {
        "request_id": job["id"], "outcome": "ignored", "reason": "The job is cancelled already."
    }  # fmt: skip
    assert state(app, job) == ("cancelled", None, None)
    assert history(app, job) == ["created", "claimed", "cancelled", "webhook"]
    assert vendor(complete(job)).json["outcome"] == "duplicate"
    assert history(app, job) == ["created", "claimed", "cancelled", "webhook"]


@pytest.mark.parametrize(("first", "second", "status"), [
    (complete, failed, "complete"), (failed, complete, "failed"), (complete, complete, "complete"),
])  # fmt: skip
def test_the_first_word_counts(app, vendor, job, first, second, status):
    vendor(first(job), "msg_1")
    before = state(app, job)
    assert vendor(second(job), "msg_2").json["reason"] == f"The job is {status} already."
    assert state(app, job) == before
    assert len(rows(app, "SELECT * FROM audit_entries")) == 1


def test_an_id_counts_once_whatever_else_it_says(app, vendor, job):
    other = called(app, enqueue(app))
    vendor(complete(job))
    assert vendor(complete(other)).json == {"request_id": other["id"], "outcome": "duplicate", "reason": None}
    assert state(app, other) == ("processing", None, None)


def test_an_id_is_of_one_vendor(app, admin, vendor, job):
    other = called(app, enqueue(app, "sync"))
    assert vendor(complete(job)).json["outcome"] == "completed"
    assert Vendor(app, "sync")(complete(other)).json["outcome"] == "completed"


def test_fifty_at_once_have_one_effect(app, vendor, job):
    settle(app, job, Awaiting(within=MINUTE))
    body = json.dumps(complete(job)).encode()
    headers, start = vendor.sign(body), threading.Barrier(50)

    def send(_number):
        caller = Vendor(app)
        start.wait()
        return caller.send(body, headers)

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(send, range(50)))
    assert [answer.status_code for answer in answers] == [200] * 50
    assert sorted(answer.json["outcome"] for answer in answers) == ["completed"] + ["duplicate"] * 49
    assert history(app, job) == ["created", "claimed", "accepted", "webhook", "complete"]
    assert len(rows(app, "SELECT * FROM audit_entries")) == 1
    assert len(rows(app, "SELECT * FROM webhook_ids")) == 1


def test_fifty_that_contradict_one_another_have_one_effect(app, vendor, job):
    start = threading.Barrier(50)

    def send(number):
        caller = Vendor(app)
        body = json.dumps(complete(job, result=number) if number % 2 else failed(job)).encode()
        headers = caller.sign(body, f"msg_{number}")
        start.wait()
        return caller.send(body, headers).json["outcome"]

    with ThreadPoolExecutor(50) as pool:
        outcomes = list(pool.map(send, range(50)))
    assert sorted(set(outcomes) - {"ignored"}) in (["completed"], ["failed"])
    assert outcomes.count("ignored") == 49
    assert len(rows(app, "SELECT * FROM audit_entries")) == 1


def test_the_metrics_count_how_it_ended(app, vendor, job):
    def counted(outcome):
        return metrics.JOB_OUTCOMES.labels("vendor", outcome)._value.get()

    before = counted("done"), counted("failed")
    vendor(complete(job)), vendor(complete(job))
    vendor(failed(called(app, enqueue(app))), "msg_2")
    assert (counted("done"), counted("failed")) == (before[0] + 1, before[1] + 1)


# ---- who may


def test_every_flipped_bit_of_the_signature_is_seen(app, vendor, job):
    body = json.dumps(complete(job)).encode()
    headers = vendor.sign(body)
    signature = headers["webhook-signature"]
    for place in range(len(signature)):
        for bit in range(7):
            flipped = signature[:place] + chr(ord(signature[place]) ^ 1 << bit) + signature[place + 1 :]
            if flipped[place] in "\r\n":  # no header holds those
                continue
            answer = vendor.send(body, headers | {"webhook-signature": flipped})
            assert answer.status_code == 401, (place, bit, flipped)
    untouched(app, job)


def test_every_flipped_bit_of_the_rest_is_seen(app, vendor, job):
    body = json.dumps(complete(job)).encode()
    headers = vendor.sign(body)
    for place in range(len(body)):
        flipped = body[:place] + bytes([body[place] ^ 1 << place % 8]) + body[place + 1 :]
        assert vendor.send(flipped, headers).status_code == 401, place
    for name in ("webhook-id", "webhook-timestamp"):
        for place, character in enumerate(headers[name]):
            flipped = headers[name][:place] + chr(ord(character) ^ 1) + headers[name][place + 1 :]
            assert vendor.send(body, headers | {name: flipped}).status_code == 401, (name, flipped)
    for changed in (body + b" ", body[:-1], b" " + body, b"", json.dumps(complete(job), indent=1).encode()):
        assert vendor.send(changed, headers).status_code == 401
    untouched(app, job)
    assert vendor.send(body, headers).status_code == 200


@pytest.mark.parametrize("late", [-6 * MINUTE, 6 * MINUTE, -MINUTE * 60 * 24 * 365, MINUTE * 60 * 24 * 365])
def test_what_was_signed_at_another_time_is_refused(app, vendor, job, late):
    problem = assert_problem(vendor(complete(job), late=late), 401, "unauthenticated")
    assert "five minutes" in problem["detail"]
    untouched(app, job)


@pytest.mark.parametrize("late", [-4 * MINUTE, 4 * MINUTE])
def test_clocks_may_differ_a_little(vendor, job, late):
    assert vendor(complete(job), late=late).status_code == 200


def test_the_key_of_another_vendor_opens_nothing(app, vendor, job):
    assert_problem(Vendor(app, "sync")(complete(job), to="async"), 401, "unauthenticated")
    untouched(app, job)


def test_a_vendor_cannot_speak_of_the_jobs_of_another(app, vendor, job):
    sync = Vendor(app, "sync")
    assert_problem(sync(complete(job)), 404, "not_found")
    untouched(app, job)
    with app.app_context(), db.writing() as conn:
        mail = queue.enqueue(conn, "maintenance", {"task": "x"})
    assert_problem(sync(complete(mail)), 404, "not_found")
    assert_problem(sync({"request_id": UNKNOWN, "status": "complete"}), 404, "not_found")
    assert_problem(sync({"request_id": "x", "status": "complete"}), 404, "not_found")
    assert rows(app, "SELECT * FROM webhook_ids") == []


@pytest.mark.parametrize("name", ["nobody", "Async", ":mail", "%00", "a" * 500])
def test_nobody_is_no_vendor(vendor, job, name):
    assert_problem(vendor(complete(job), to=name), 404, "not_found")


def test_keys_that_were_replaced_are_good_for_a_day(app, admin, vendor, job, monkeypatch):
    body = json.dumps(complete(job)).encode()
    with app.app_context():
        (old,) = keys.good(vendor.row, db.now())
    new = admin("POST", "/vendors/async/secret").json["secret"]
    began = db.now()

    def sent(key, at, number):
        monkeypatch.setattr(db, "now", lambda: at)
        headers = {"webhook-id": f"msg_{number}", "webhook-timestamp": str(at // 1000)}
        signed = f"msg_{number}.{at // 1000}.".encode() + body
        mac = base64.b64encode(keys.hmac.digest(base64.b64decode(key[6:]), signed, "sha256")).decode()
        return vendor.send(body, headers | {"webhook-signature": f"v1,{mac}"}).status_code

    assert sent(old, began + 23 * 60 * MINUTE, 1) == 200
    assert sent(old, began + 25 * 60 * MINUTE, 2) == 401
    assert sent(new, began + 25 * 60 * MINUTE, 3) == 200


def test_another_library_can_speak_to_us(app, vendor, job):
    with app.app_context():
        (key,) = keys.good(vendor.row, db.now())
    body, now = json.dumps(complete(job)), datetime.now(UTC)
    signature = standardwebhooks.Webhook(key).sign("msg_x", now, body)
    headers = {"webhook-id": "msg_x", "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signature}
    assert vendor.send(body.encode(), headers).json["outcome"] == "completed"


def test_our_own_call_sent_back_is_no_webhook(app, vendor, job):
    """The same key signs both ways, and a vendor may show others what it was sent."""
    for sent in ({"request_id": job["id"], "payload": complete(job)}, {"request_id": job["id"], "callback_url": "x"}):
        assert vendor(sent).status_code == 422
    untouched(app, job)


def test_the_keys_of_a_vendor_that_cannot_be_read_are_nobodys_fault_here(app, vendor, job):
    headers = vendor.sign(b"{}")
    execute(app, "UPDATE vendors SET secrets = 'lost' WHERE name = 'async'")
    problem = assert_problem(vendor.send(b"{}", headers), 503, "unavailable")
    assert "lost" not in problem["detail"].split("If it is")[0]
    untouched(app, job)


# ---- malformed everything


MALFORMED = [
    ("webhook-id", ""), ("webhook-id", "a b"), ("webhook-id", "a.b"), ("webhook-id", "x" * 256),
    ("webhook-id", "\xfc"), ("webhook-id", "\xff\xfe"), ("webhook-id", "a\tb"),
    ("webhook-timestamp", ""), ("webhook-timestamp", "soon"), ("webhook-timestamp", "-1"),
    ("webhook-timestamp", "1e9"), ("webhook-timestamp", "nan"), ("webhook-timestamp", "inf"),
    ("webhook-timestamp", "9" * 400), ("webhook-timestamp", "0"), ("webhook-timestamp", "\xb2\xb2"),
    ("webhook-timestamp", "1_000"), ("webhook-timestamp", "2026-01-01T00:00:00Z"),
    ("webhook-signature", ""), ("webhook-signature", "v1"), ("webhook-signature", "v1,"), ("webhook-signature", ","),
    ("webhook-signature", "v1,a,b"), ("webhook-signature", "v1,\xfc"), ("webhook-signature", "v1,===="),
    ("webhook-signature", "v1," + "A" * 43 + "="), ("webhook-signature", "v1,A"), ("webhook-signature", " " * 100),
    ("webhook-signature", "v1a," + "A" * 86 + "=="), ("webhook-signature", "v1," * 2000),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), MALFORMED)
def test_a_malformed_header_is_a_clean_refusal(app, vendor, job, name, value):
    body = json.dumps(complete(job)).encode()
    headers = {**vendor.sign(body), "Content-Type": "application/json"}
    headers[name] = value
    environ = {f"HTTP_{key.upper().replace('-', '_')}": text for key, text in headers.items() if "webhook" in key}
    answer = vendor.caller.send(
        "POST", "/webhooks/async", data=body, content_type="application/json", environ_overrides=environ
    )
    assert_problem(answer, 401, "unauthenticated")
    assert answer.headers["WWW-Authenticate"] == 'Standard-Webhooks realm="walnut"'
    untouched(app, job)


@pytest.mark.parametrize(
    "body", [b"\xff\xfe", b"{", b'{"a":1,"a":2}', b"[" * 50_000, b'{"x":"\\ud800"}', b"NaN", b"\x00"]
)
def test_nothing_is_parsed_before_the_signature_holds(app, vendor, job, body, monkeypatch):
    headers = vendor.sign(b"another body")
    assert_problem(vendor.send(body, headers), 401, "unauthenticated")
    assert_problem(vendor(body), 400, "malformed")
    untouched(app, job)


@pytest.mark.parametrize(("told", "pointers"), [
    ({}, ["/request_id", "/status"]),
    ({"request_id": UNKNOWN}, ["/status"]),
    ({"request_id": 5, "status": "complete"}, ["/request_id"]),
    ({"request_id": "", "status": "complete"}, ["/request_id"]),
    ({"request_id": UNKNOWN, "status": "done"}, ["/status"]),
    ({"request_id": UNKNOWN, "status": "complete", "colour": 1}, ["/colour"]),
    ({"request_id": UNKNOWN, "status": "failed", "error": 5}, ["/error"]),
    ({"request_id": UNKNOWN, "status": "failed", "error": ""}, ["/error"]),
    ({"request_id": UNKNOWN, "status": "failed", "error": "x" * 10_001}, ["/error"]),
    ({"request_id": UNKNOWN, "status": "failed", "result": 1}, ["/result"]),
    ({"request_id": UNKNOWN, "status": "complete", "error": "x"}, ["/error"]),
    ([], [""]), (5, [""]), (None, [""]),
])  # fmt: skip
def test_a_signed_body_is_held_to_its_shape(app, vendor, told, pointers):
    assert_problem(vendor(told), 422, "invalid", *pointers)
    assert rows(app, "SELECT * FROM webhook_ids") == []


def test_a_body_of_another_kind_or_size_is_refused(app, vendor, job):
    body = json.dumps(complete(job)).encode()
    answer = vendor.caller.send("POST", "/webhooks/async", vendor.sign(body), data=body, content_type="text/plain")
    assert_problem(answer, 415, "unsupported_media_type")
    large = json.dumps(complete(job, result="x" * (1 << 20))).encode()
    assert vendor(large).status_code == 413
    untouched(app, job)
    assert vendor(complete(job, result="x" * ((1 << 20) - 200))).status_code == 200


def test_an_error_and_a_long_id_fit_into_the_history(app, vendor, job):
    assert vendor(failed(job, error="ü" * 10_000), "i" * 255).status_code == 200
    assert state(app, job)[2] == "ü" * 10_000
    assert vendor(failed(job), "j" * 255).json["outcome"] == "ignored"
    assert max(len(text or "") for (text,) in rows(app, "SELECT detail FROM job_history")) <= 500


def test_no_signature_and_no_key_is_in_the_log(app, vendor, job, caplog):
    caplog.set_level(logging.DEBUG)
    with app.app_context():
        (key,) = keys.good(vendor.row, db.now())
    body = json.dumps(complete(job)).encode()
    headers = vendor.sign(body)
    for sent in (body, b"{}"):
        answer = vendor.send(sent, headers)
        text = caplog.text + str([vars(record) for record in caplog.records]) + answer.text
        assert headers["webhook-signature"].removeprefix("v1,") not in text
        assert key.removeprefix("whsec_") not in text
    facts = [vars(record) for record in caplog.records if getattr(record, "route", "") == "/webhooks/<vendor>"]
    assert [(fact["status"], fact.get("outcome")) for fact in facts] == [(200, "completed"), (401, None)]
    assert (facts[0]["job_id"], facts[0]["webhook_id"]) == (job["id"], "msg_1")


# ---- the ids that are kept


def test_ids_are_forgotten_after_a_day_in_steps(app, monkeypatch):
    monkeypatch.setattr(webhooks, "BATCH", 3)
    now = db.now()
    for number in range(7):
        execute(
            app, "INSERT INTO webhook_ids VALUES ('async', ?, ?)", f"old_{number}", now - webhooks.KEPT - 1 - number
        )
    execute(app, "INSERT INTO webhook_ids VALUES ('async', 'new', ?)", now - webhooks.KEPT + MINUTE)
    removed = []
    while not removed or removed[-1]:
        with app.app_context(), db.writing() as conn:
            removed.append(webhooks.sweep(conn))
    assert removed == [3, 3, 1, 0]
    assert rows(app, "SELECT id FROM webhook_ids") == [("new",)]


def test_housekeeping_forgets_them(app):
    execute(app, "INSERT INTO webhook_ids VALUES ('async', 'old', 0)")
    expired = housekeeping.sweeps(app.extensions["settings"])
    housekeeping._sweep(app.extensions["database"], expired, threading.Event())
    assert rows(app, "SELECT * FROM webhook_ids") == []
