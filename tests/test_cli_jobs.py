"""walnut jobs ... and walnut mail ..., as a person and as a program use them."""

import importlib
import json
import re
import time
import uuid
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from flask.cli import ScriptInfo

from api import db
from api.cli import tables, walnut
from api.jobs import mail, outcomes, queue, workers
from api.jobs.kinds import Again, Done, Failed
from tests.conftest import execute, rows

commands = importlib.import_module("api.cli.jobs")  # the package has a group of that name
TO = "john@example.com"


@pytest.fixture
def run(app):
    """Return a function that runs a command on the app's database."""

    def invoke(*words):
        return CliRunner().invoke(walnut, [str(word) for word in words], obj=ScriptInfo(create_app=lambda: app))

    return invoke


@pytest.fixture
def add(app):
    """Return a function that puts a job into the queue, and gives it its end if one is given."""

    def added(kind="vendor", lane="sync", outcome=None, payload=None, **more):
        with app.app_context(), db.writing() as conn:
            job = queue.enqueue(conn, kind, payload, lane=lane, **more)
            if outcome:
                (claimed,) = queue.claim(conn, db.new_id(), job["lane"], job["priority"], 1, db.now())
                outcomes.settle(conn, claimed, outcome, db.now())
        return job["id"]

    return added


def ids(found):
    return re.findall(r"^[0-9a-f]{8}-[0-9a-f-]{27}", found.output, re.MULTILINE)


def test_the_list_has_the_newest_first_in_columns_that_are_aligned(run, add):
    first, second = add(), add("mail", None, Failed(error="No.\x1b[2J \x9b1A"))
    found = run("jobs", "list")
    assert found.exit_code == 0, found.output
    assert ids(found) == [second, first]
    heading, *lines = found.stdout.splitlines()
    for name in ("STATUS", "KIND", "VENDOR", "ATTEMPTS", "CREATED", "ERROR"):
        start = heading.index(name)
        assert all(line[start - 1] == " " and line[start] != " " for line in lines), name
    assert re.search(r"failed +mail +- +1/10 +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} +No\.\\x1b\[2J \\x9b1A", lines[0])
    assert re.search(r"pending +vendor +sync +0/\d+ ", lines[1])
    assert found.stderr == "1 pending, 0 processing, 0 complete, 1 failed, 0 cancelled\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "edcba"),
        (("--limit", 2), "ed"),
        (("--status", "failed"), "db"),
        (("--vendor", "async"), "cb"),
        (("--vendor", "async", "--status", "failed"), "b"),
        (("--vendor", "async", "--kind", "vendor"), "cb"),
        (("--vendor", "async", "--kind", "mail"), ""),
        (("--kind", "mail"), "ed"),
        (("--kind", "mail", "--status", "failed"), "d"),
        (("--kind", "vendor"), "cba"),
        (("--vendor", "nobody"), ""),
    ],
)
def test_the_list_can_be_narrowed_down(run, add, words, expected):
    names = {
        add(): "a",
        add(lane="async", outcome=Failed(error="x")): "b",
        add(lane="async"): "c",
        add("mail", None, Failed(error="x")): "d",
        add("mail", None): "e",
    }
    assert "".join(names[one] for one in ids(run("jobs", "list", *words))) == expected
    as_json = json.loads(run("jobs", "list", "--json", *words).stdout)
    assert "".join(names[one["request_id"]] for one in as_json) == expected


def test_a_list_of_a_million_jobs_walks_one_index(app, monkeypatch):
    """Each of its questions finds its rows in their order: none sorts them."""
    plans = []
    with app.app_context(), db.reading() as conn:
        driver = conn.connection.driver_connection
        asked = []
        driver.set_trace_callback(asked.append)
        for status in (None, "failed"):
            for vendor, kind in ((None, None), ("sync", None), (None, "mail"), (None, "vendor")):
                filters = commands._filters(status, vendor, kind)
                commands.queries.JOBS.read(conn, sort="-seq", limit=5, **filters)
        driver.set_trace_callback(None)
        for statement in asked:
            plans += [row[3] for row in driver.execute(f"EXPLAIN QUERY PLAN {statement}")]
    assert len(plans) == 8
    assert not [plan for plan in plans if "TEMP B-TREE" in plan]
    assert plans[0] == "SCAN jobs"  # from its end, by the primary key
    assert all("USING INDEX" in plan for plan in plans[1:3] + plans[4:]), plans


def test_a_kind_that_there_is_not_is_named(run):
    found = run("jobs", "list", "--kind", "cake")
    assert found.exit_code == 2
    assert "There is no kind cake: there are account_mail, mail, maintenance, vendor." in found.output


def test_one_job_shows_all_there_is_and_what_happened(run, add):
    job = add(outcome=Done(result={"data": "x" * 3000}), payload={"productId": "P\u202e1"})
    found = run("jobs", "show", job)
    assert found.exit_code == 0, found.output
    assert re.search(r"^status +complete$", found.output, re.MULTILINE)
    assert re.search(r'^payload +\{"productId": "P\\u202e1"\}$', found.output, re.MULTILINE)
    assert "(--json shows all of it)" in found.output
    timeline = found.output.partition("AT ")[2].splitlines()[1:]
    assert [line.split()[2] for line in timeline] == ["created", "claimed", "complete"]
    whole = json.loads(run("jobs", "show", job, "--json").stdout)
    assert whole["result"] == {"data": "x" * 3000}
    assert whole["payload"] == {"productId": "P\u202e1"}
    assert [event["event"] for event in whole["timeline"]] == ["created", "claimed", "complete"]


def test_what_a_mail_says_is_not_shown(run, app):
    with app.app_context(), db.writing() as conn:
        job = mail.send(conn, to=TO, subject="x", text="y")
    for words in ((), ("--json",)):
        found = run("jobs", "show", job["id"], *words)
        assert "(encrypted)" in found.output
        assert "gAAAA" not in found.output


@pytest.mark.parametrize("command", ["show", "retry", "cancel"])
def test_a_job_that_there_is_not_is_one_line(run, command):
    missing = uuid.uuid4()
    found = run("jobs", command, missing)
    assert found.exit_code == 1
    assert found.output == f"Error: There is no job {missing}. `walnut jobs list` shows the newest.\n"
    assert run("jobs", command, "x").exit_code == 2


def audited(app, job):
    return [one for (one,) in rows(app, "SELECT action FROM audit_entries WHERE subject_id = ? ORDER BY seq", job)]


def test_a_job_is_tried_again_and_cancelled_once(run, add, app):
    job = add("mail", None, Failed(error="x"))
    assert run("jobs", "retry", job).output == f"{job} waits for its turn again.\n"
    assert rows(app, "SELECT status, attempts, max_attempts FROM jobs") == [("pending", 1, 11)]
    again = run("jobs", "retry", job)
    assert (again.exit_code, again.output.startswith("Error: The job is pending: only one that failed")) == (1, True)
    assert run("jobs", "cancel", job).output == f"{job} is cancelled.\n"
    assert run("jobs", "cancel", job).output == "Error: The job is cancelled already.\n"
    assert audited(app, job) == ["job.retried", "job.cancelled"]
    assert run("audit", "verify").exit_code == 0


def test_all_that_failed_are_tried_again_or_those_of_a_vendor(run, add, app):
    ours, theirs = [add(outcome=Failed(error="x")) for _ in range(3)], add(lane="async", outcome=Failed(error="x"))
    cancelled = add(lane="async")
    run("jobs", "cancel", cancelled)
    assert run("jobs", "retry", "--all", "--vendor", "sync").output == "3 jobs wait for their turn again.\n"
    assert {
        one["request_id"] for one in json.loads(run("jobs", "list", "--status", "pending", "--json").stdout)
    } == set(ours)
    assert run("jobs", "retry", "--all").output == "1 jobs wait for their turn again.\n"
    assert audited(app, theirs) == ["job.failed", "job.retried"]
    assert audited(app, cancelled) == ["job.cancelled"]


@pytest.mark.parametrize(
    "words", [(), (uuid.uuid4(), "--all"), ("--vendor", "sync"), (uuid.uuid4(), "--vendor", "sync")]
)
def test_which_job_to_try_again_must_be_said(run, words):
    found = run("jobs", "retry", *words)
    assert found.exit_code == 2
    assert "Name a job, or write --all" in found.output


# ---- drain


def test_a_queue_that_is_empty_is_drained(run, add):
    add(outcome=Failed(error="x"))
    found = run("jobs", "drain")
    assert (found.exit_code, found.output) == (0, "Every job has ended.\n")


def test_a_queue_that_does_not_drain_says_what_is_left_and_why(run, add, app):
    add(), add(lane="async", outcome=Again(error="x", after=100_000))
    found = run("jobs", "drain", "--timeout", 0.1)
    assert (found.exit_code, found.stdout) == (1, "")
    no_worker = "No worker is there: `walnut worker` starts one."
    assert found.stderr == f"The time is over: 2 pending, 0 processing. {no_worker}\n"
    with app.app_context(), db.writing() as conn:
        workers.join(conn, db.new_id(), db.now())
        workers.join(conn, db.new_id(), db.now() - 3600_000)
    assert run("jobs", "drain", "--timeout", 0).stderr.endswith(" 1 at work.\n")


def instead_of_sleeping(monkeypatch, module, work):
    """Let a command that waits find something done each time."""
    found = SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: work())
    monkeypatch.setattr(importlib.import_module(module), "time", found)


def worked(app, lane, outcome):
    """Do what a worker does with the next job of a lane."""
    with app.app_context(), db.writing() as conn:
        (job,) = queue.claim(conn, db.new_id(), lane, 3, 1, db.now())
        assert outcomes.settle(conn, job, outcome, db.now())


@pytest.mark.parametrize("person", [True, False])
def test_draining_ends_with_the_last_job_and_tells_how_far_it_is(run, add, app, monkeypatch, person):
    instead_of_sleeping(monkeypatch, "api.cli.jobs", lambda: worked(app, "sync", Done()))
    monkeypatch.setattr(commands, "SAY_SECONDS", 0)
    monkeypatch.setattr(tables, "a_person_looks", lambda: person)
    for _ in range(4):
        add()
    found = run("jobs", "drain", "--timeout", 10)
    assert (found.exit_code, found.stdout) == (0, "Every job has ended.\n")
    if person:
        assert found.stderr.startswith("Jobs")
        assert "pending" not in found.stderr
    else:
        assert found.stderr == "".join(f"{left} pending, 0 processing.\n" for left in (3, 2, 1, 0))


# ---- mail


def test_a_test_mail_that_nobody_takes_says_so(run):
    found = run("mail", "test", TO, "--timeout", 0.2)
    assert found.exit_code == 1
    assert "no worker took it" in found.output
    job = re.search("walnut jobs cancel ([0-9a-f-]{36})", found.output)[1]
    assert run("jobs", "cancel", job).exit_code == 0


def test_what_is_no_address_is_one_line(run):
    found = run("mail", "test", "john")
    assert found.output == "Error: No mail can be sent: its address is no mail address like john@example.com.\n"


@pytest.mark.parametrize(
    ("outcome", "code", "said"),
    [
        (Done(result={"server": "mail.example.com:587"}), 0, "Sent: the server mail.example.com:587 has it (job "),
        (Done(result={"file": "/x.eml"}), 0, "Sent: /x.eml has it (job "),
        (Failed(error="Refused (550)."), 1, "Error: Not sent, for good: Refused (550). (job "),
        (Again(error="Not there.", after=5000), 1, "Error: Not sent yet: Not there. It is tried again at 20"),
    ],
)  # fmt: skip
def test_a_test_mail_says_what_became_of_it(run, app, monkeypatch, outcome, code, said):
    instead_of_sleeping(monkeypatch, "api.cli.mail", lambda: worked(app, ":mail", outcome))
    found = run("mail", "test", TO)
    assert found.exit_code == code
    assert found.output.startswith(said)
    assert TO not in found.output


def test_a_test_mail_says_that_mail_is_left_alone_for_a_while(run, app):
    execute(app, "INSERT INTO lanes (name, level, at, failures, closed_until) VALUES (':mail', 0, 0, 6, 4000000000000)")
    found = run("mail", "test", TO, "--timeout", 0.1)
    assert "mail failed before, and is left alone until 2096-10-02 07:06:40.000 UTC" in found.output
