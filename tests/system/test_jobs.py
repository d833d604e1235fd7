"""The queue against what can happen to it: workers that die, hang and stand still, vendors that do what they like.

JOBS_SECONDS and JOBS_COUNT make the long proof of it (`make jobs`).
"""

import os
import random
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.system.clients import QUIET, opened, sign_in
from tests.system.gateway import Gateway, Worker
from tests.system.job_worker import LEASE
from tests.system.processes import Walnut, wait_until

pytestmark = pytest.mark.alone

SECONDS = float(os.environ.get("JOBS_SECONDS", "5"))  # of killing
COUNT = int(os.environ.get("JOBS_COUNT", "150"))
PACED = int(os.environ.get("JOBS_PACED", "40"))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(tmp_path_factory.mktemp("gateway"), workers=4) as running:
        running.vendor_at("steady", "/slow", concurrency=60)
        yield running


def outcomes(gateway: Gateway, ids: list[str]) -> Counter[str]:
    """Return how often the audit trail says of each job how it ended."""
    with opened(gateway.walnut.instance) as conn:
        said = conn.execute("SELECT subject_id FROM audit_entries WHERE action IN ('job.completed', 'job.failed')")
        return Counter(subject for (subject,) in said if subject in set(ids))


def test_workers_that_are_killed_lose_nothing_and_double_nothing(gateway: Gateway) -> None:
    ids: list[str] = []
    began, killed = time.monotonic(), 0
    while (passed := time.monotonic() - began) < SECONDS:
        due = int(COUNT * passed / SECONDS) - len(ids)
        ids += gateway.submit("steady", {"n": len(ids)}, max(0, due))
        if passed > killed * 0.5:
            random.choice(gateway.workers).die()
            killed += 1
        gateway.revive()
        time.sleep(0.01)
    ids += gateway.submit("steady", {"n": len(ids)}, COUNT - len(ids))
    jobs = gateway.ended(ids, within=60, meanwhile=gateway.revive)
    assert Counter(job["status"] for job in jobs) == {"complete": COUNT}
    assert all(job["result"] == {"did": job["request_id"]} for job in jobs)
    assert outcomes(gateway, ids) == dict.fromkeys(ids, 1)
    assert all(sum(event["event"] == "complete" for event in job["timeline"]) == 1 for job in jobs)
    calls = Counter(call["key"] for call in gateway.vendor.calls())
    assert set(ids) <= set(calls)
    again = sum(job["attempts"] - 1 for job in jobs)
    print(f"{killed} kills, {again} attempts more than jobs, {sum(calls[one] - 1 for one in ids)} calls more")
    assert again > 0, "nothing was interrupted: this proves nothing"


def test_a_worker_that_stood_still_past_its_lease_changes_nothing_afterwards(gateway: Gateway) -> None:
    gateway.revive()
    wait_until(lambda: len(gateway.bells()) >= 4, 20, "workers")
    gateway.vendor_at("still", "/slow", concurrency=8)
    ids = gateway.submit("still", None, 40)
    wait_until(lambda: any(gateway.job(one)["status"] == "processing" for one in ids), 10, "a job under way")
    stopped = gateway.workers[:2]
    for worker in stopped:
        worker.pause()
    time.sleep(LEASE + 1)
    for worker in stopped:
        worker.resume()
    jobs = gateway.ended(ids, within=30)
    assert {job["status"] for job in jobs} == {"complete"}
    assert outcomes(gateway, ids) == dict.fromkeys(ids, 1)
    for job in jobs:
        names = [event["event"] for event in job["timeline"] if event["event"] != "late"]  # what they said after all
        assert names.count("complete") == 1
        assert names[-1] == "complete"


def test_a_payload_that_kills_its_worker_ends_as_failed_and_others_flow(gateway: Gateway) -> None:
    gateway.vendor_at("victim", "/ok", attempts=3)
    (poison,) = gateway.submit("victim", {"poison": True})
    others = gateway.submit("steady", None, 20)
    jobs = gateway.ended([poison, *others], within=60, meanwhile=gateway.revive)
    assert (jobs[0]["status"], jobs[0]["attempts"]) == ("failed", 3)
    assert "died" in jobs[0]["error"]
    assert {job["status"] for job in jobs[1:]} == {"complete"}
    assert outcomes(gateway, [poison]) == {poison: 1}


def test_a_limit_is_kept_by_all_workers_together(gateway: Gateway) -> None:
    gateway.revive()
    wait_until(lambda: len(gateway.bells()) >= 4, 20, "workers")
    gateway.vendor_at("paced", "/status/200", limit="10 per second", concurrency=50)
    ids = gateway.submit("paced", None, PACED)
    gateway.ended(ids, within=PACED / 10 + 30)
    at = sorted(call["at"] for call in gateway.vendor.calls() if call["key"] in set(ids))
    assert len(at) == PACED
    windows = [later - earlier for earlier, later in zip(at, at[10:], strict=False)]
    took, ideal = at[-1] - at[0], (PACED - 1) / 10
    print(f"{PACED} calls in {took:.2f} s, {took / ideal - 1:.1%} below the limit; ten and one in {min(windows):.3f} s")
    assert min(windows) > 1.0
    assert took <= ideal * 1.05 + 0.2


def test_a_vendor_that_hangs_drips_or_floods_slows_no_other(gateway: Gateway) -> None:
    gateway.vendor_at("good", "/ok", concurrency=20)
    seconds = [latencies(gateway, 40)]
    for name in ("hang", "drip", "large"):
        gateway.vendor_at(name, f"/{name}", timeout=20, attempts=1)
        gateway.submit(name, None, 30)
    time.sleep(0.5)
    seconds.append(latencies(gateway, 40))
    alone, beside = (statistics.quantiles(found, n=20)[-1] for found in seconds)
    print(f"p95 of a good vendor's jobs: alone {alone * 1000:.1f} ms, beside bad ones {beside * 1000:.1f} ms")
    assert beside < 2 * alone + 0.05
    with opened(gateway.walnut.instance) as conn:
        large = conn.execute("SELECT DISTINCT status FROM jobs WHERE lane = 'large' AND error IS NOT NULL").fetchall()
    assert large == [("failed",)]
    for name in ("hang", "drip", "large"):
        page = gateway.ask("GET", f"/jobs?vendor_type={name}&limit=100")["items"]
        for job in page:
            if job["status"] in ("pending", "processing"):
                gateway.ask("POST", f"/jobs/{job['request_id']}/cancellation")


def latencies(gateway: Gateway, count: int) -> list[float]:
    """Return for how many seconds each of some jobs was not done."""
    found = []
    for _ in range(count):
        (job_id,) = gateway.submit("good")
        (job,) = gateway.ended([job_id], within=10, lane="good")
        at = {event["event"]: event["at"] for event in job["timeline"]}
        found.append(apart(at["created"], at["complete"]))
    return found


def apart(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def test_a_worker_whose_clock_is_an_hour_off_does_no_harm(tmp_path: Path) -> None:
    with Gateway(tmp_path, workers=1) as gateway:
        files = {sign: tmp_path / f"clock{sign}" for sign in ("+", "-")}
        odd = {sign: Worker(gateway.walnut, WALNUT_TEST_CLOCK=file) for sign, file in files.items()}
        gateway.workers += odd.values()
        gateway.revive()
        try:
            wait_until(lambda: len(gateway.bells()) == 3, 20, "workers")
            gateway.vendor_at("busy", "/busy", attempts=6, concurrency=30)
            before = gateway.submit("busy", None, 20)
            files["+"].write_text("3600")
            files["-"].write_text("-3600")
            after = gateway.submit("busy", None, 20)
            jobs = gateway.ended([*before, *after], within=60)
        finally:
            for worker in odd.values():
                worker.kill()
        assert {job["status"] for job in jobs} == {"complete"}
        assert {job["attempts"] for job in jobs} == {3}
        assert all(apart(job["created_at"], job["finished_at"]) < 60 for job in jobs)


class Serving(Walnut):
    """`walnut serve`, with its worker, as `make serve` starts it."""

    def command(self) -> list[str]:
        """Return the command."""
        return [sys.executable, "-m", "api", "serve"]


def test_the_tour_on_one_command_and_again_after_its_worker_was_killed(tmp_path: Path) -> None:
    with Serving(tmp_path, **QUIET) as walnut:
        headers = sign_in(walnut)
        toured(walnut, headers)
        (worker,) = [pid for pid in walnut.pids() if b"api.worker_process" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(worker, signal.SIGKILL)
        toured(walnut, headers)
        scraped = walnut.request("GET", "/health/metrics").body.decode()
        assert 'walnut_jobs{status="complete"} 5.0' in scraped, "and the mail that asks to confirm the address"
        assert 'walnut_job_outcomes_total{kind="vendor",outcome="done"}' in scraped
        assert "walnut_worker_processes 2.0" in scraped
    assert "Traceback" not in walnut.log.read_text()


def toured(walnut: Walnut, headers: dict[str, str]) -> None:
    for vendor, payload, data in (
        ("sync", {"productId": "PROD-ABC-123", "action": "fetch_details"}, "Processed sync data for PROD-ABC-123"),
        ("async", {"userId": "USER-XYZ-456", "reportType": "monthly_sales"}, "Processed async data for USER-XYZ-456"),
    ):
        began = time.monotonic()
        made = walnut.request("POST", "/api/v1/jobs", {"vendorType": vendor, "vendorPayload": payload}, headers)
        assert made.status == 202
        assert list(made.json()) == ["request_id"]
        assert time.monotonic() - began < 0.5
        path = f"/api/v1/jobs/{made.json()['request_id']}"
        seen: list[str] = []

        def done(path: str = path, seen: list[str] = seen) -> bool:
            seen.append(walnut.request("GET", path, headers=headers).json()["status"])
            return seen[-1] == "complete"

        wait_until(done, 15, vendor)
        assert set(seen) <= {"pending", "processing", "complete"}
        assert "processing" in seen
        result = walnut.request("GET", path, headers=headers).json()["result"]
        assert (result["status"], result["vendor"], result["data"]) == ("success", f"{vendor}Vendor", data)


def test_a_worker_that_is_told_to_end_finishes_or_gives_back(tmp_path: Path) -> None:
    with Gateway(tmp_path, workers=1) as gateway:
        gateway.vendor_at("slow", "/slow", concurrency=10)
        ids = gateway.submit("slow", None, 30)
        wait_until(lambda: any(gateway.job(one)["status"] == "processing" for one in ids), 10, "a job under way")
        os.kill(gateway.workers[0].pid, signal.SIGTERM)
        wait_until(lambda: not gateway.workers[0].running, 5, "the worker's end")
        found = Counter(gateway.job(one)["status"] for one in ids)
        assert set(found) == {"complete", "pending"}, found
        assert gateway.bells() == []
        gateway.revive()
        jobs = gateway.ended(ids)
        calls = Counter(call["key"] for call in gateway.vendor.calls())
        assert {job["status"] for job in jobs} == {"complete"}
        assert calls == dict.fromkeys(ids, 1)
