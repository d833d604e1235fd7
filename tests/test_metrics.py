import os
import re

import pytest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from api import create_app, metrics, scoreboard, sqlite, store
from api.auth import hashing, passwords
from api.errors import Unavailable
from tests.conftest import PROJECT, Caller, assert_problem, ended, start_python

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
UNITS = ("_seconds", "_bytes", "_total", "_fds", "_info")
COUNTS = {  # gauges and histograms of things that have no unit
    "http_server_active_requests",
    "walnut_database_commit_changes",
    "walnut_redis_breaker_open",
    "walnut_event_listeners",
    "walnut_jobs",
    "walnut_job_workers",
    "walnut_job_lanes_closed",
    "walnut_password_hashing_queue",
    "walnut_worker_processes",
}


def scrape(app, **headers):
    answer = app.test_client().get("/health/metrics", headers={k.replace("_", "-"): v for k, v in headers.items()})
    assert answer.status_code == 200, answer.text
    return answer


def value(app, name, **labels):
    """Return what a scrape says of one series; 0 if it has none."""
    for family in parse(scrape(app).text):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return 0.0


def requests(app, method, route, status, version=""):
    name = "http_server_request_duration_seconds_count"
    semantic = {"http_request_method": method, "http_route": route, "http_response_status_code": status}
    return value(app, name, api_version=version, **semantic)


def assert_well_formed(text, families):
    """The rules of `promtool check metrics`, and our own: https://prometheus.io/docs/practices/naming/."""
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    series = [(s.name, tuple(sorted(s.labels.items()))) for family in families for s in family.samples]
    assert len(series) == len(set(series)), "a series is there twice"
    for family in families:
        name = family.name + "_total" * (family.type == "counter")
        assert len(family.documentation) > 10, name
        assert f"# TYPE {name} " in text or f"# TYPE {family.name} " in text
        assert re.fullmatch(r"(http_server|walnut|process)_[a-z_]+", name), name
        assert name.endswith(UNITS) or name in COUNTS, f"{name} has no unit"
        assert family.type in ("counter", "gauge", "histogram"), name
        assert family.samples, name
        if family.type == "histogram":
            assert_cumulative(family)


def assert_cumulative(family):
    buckets = {}
    for sample in family.samples:
        if sample.name.endswith("_bucket"):
            labels = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "le"))
            buckets.setdefault(labels, []).append((float(sample.labels["le"]), sample.value))
    counts = {tuple(sorted(s.labels.items())): s.value for s in family.samples if s.name.endswith("_count")}
    assert buckets.keys() == counts.keys()
    for labels, found in buckets.items():
        assert found == sorted(found), family.name
        assert [count for _, count in found] == sorted(count for _, count in found), family.name
        assert found[-1] == (float("inf"), counts[labels]), family.name


def test_the_text_is_well_formed(app, admin):
    admin("GET", "/tasks")
    text = scrape(app).text
    assert_well_formed(text, list(parse(text)))


def test_openmetrics_is_well_formed_too(app, admin):
    answer = scrape(app, Accept=OPENMETRICS)
    assert answer.content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert answer.text.endswith("# EOF\n")
    assert_well_formed(answer.text, list(parse_openmetrics(answer.text)))


def test_every_metric_of_the_page_is_in_the_manual():
    manual = (PROJECT / "docs" / "operations.md").read_text()
    for family in metrics.REGISTRY.collect():
        assert f"`{family.name}{'_total' * (family.type == 'counter')}" in manual, family.name


def test_requests_are_counted_by_method_route_status_and_version(app, admin, user):
    before = requests(app, "GET", "/tasks", "200", "1")
    denied = requests(app, "POST", "/tasks", "403", "1")
    for _ in range(3):
        admin("GET", "/tasks?q=x&page=2")
    user("POST", "/tasks", {"title": "x"})
    assert requests(app, "GET", "/tasks", "200", "1") == before + 3
    assert requests(app, "POST", "/tasks", "403", "1") == denied + 1


def how_many_series():
    (family,) = metrics.REQUEST_SECONDS.collect()
    return len(family.samples)


def test_one_series_for_all_tasks_and_none_for_what_is_not_there(app, admin):
    before = how_many_series(), requests(app, "GET", "", "404"), requests(app, "GET", "", "400")
    for number in range(20):
        admin("GET", f"/tasks/019a9f3e-5b1c-7c3a-9d0e-{number:012}")
        Caller(app).client.get(f"/nowhere/{number}")
        Caller(app).client.get(f"/api/v{number + 50}/tasks")
        Caller(app).client.open("/health", method=f"BREW{number}")
    after = how_many_series()
    assert requests(app, "GET", "", "404") == before[1] + 20
    assert requests(app, "GET", "", "400") == before[2] + 20  # no such version
    assert requests(app, "_OTHER", "", "405") >= 20
    one = len(metrics.REQUEST_SECONDS._upper_bounds) + 2
    assert after - before[0] <= 5 * one  # tasks 404, nowhere 404, version 400, brew 405, the scrape itself


def test_pages_and_files_have_their_route_too(app):
    before = requests(app, "GET", "/static/<path:filename>", "200")
    Caller(app).client.get("/static/css/walnut.css").close()
    assert requests(app, "GET", "/static/<path:filename>", "200") == before + 1


def test_a_request_is_active_while_it_is_answered(app):
    before = metrics.ACTIVE_REQUESTS._value.get()
    for _ in range(2):
        assert value(app, "http_server_active_requests") == before + 1  # the scrape itself


def test_known_series_are_there_before_anything_happens(app):
    text = scrape(app).text
    for result in ("hit", "miss", "bypass"):
        assert f'walnut_cache_answers_total{{result="{result}"}} ' in text
    assert 'walnut_limiter_verdicts_total{limit="auth",verdict="refused"} ' in text
    assert "walnut_database_busy_retries_total " in text


def test_a_write_is_timed_and_its_commit_counted(app, admin):
    names = ("walnut_database_commit_seconds_count", "walnut_database_commit_changes_sum")
    before = [value(app, name) for name in names]
    waited = value(app, "walnut_database_wait_seconds_count", stage="begin")
    admin("POST", "/tasks", {"title": "x"})
    assert [value(app, name) for name in names] == [count + 1 for count in before]
    assert value(app, "walnut_database_wait_seconds_count", stage="begin") == waited + 1


def test_what_is_undone_is_no_change(app, admin):
    before = value(app, "walnut_database_commit_changes_sum")
    assert admin("PATCH", "/tasks/019a9f3e-5b1c-7c3a-9d0e-0f6b2a1c4d5e", {"title": "x"}).status_code == 404
    assert value(app, "walnut_database_commit_changes_sum") == before


def test_being_asked_again_is_counted(app, monkeypatch):
    answers = [None, sqlite.driver.OperationalError("locked")]

    def busy():
        if error := answers.pop():
            error.sqlite_errorcode = 5
            raise error

    before = value(app, "walnut_database_busy_retries_total")
    sqlite.patiently(busy)
    assert value(app, "walnut_database_busy_retries_total") == before + 1


def test_the_breaker_of_redis_is_seen(make_app, monkeypatch):
    app = make_app(REDIS_URL="redis://127.0.0.1:1/0")
    before = value(app, "walnut_redis_failures_total")
    with app.app_context():
        assert not store.store().alive()
    assert value(app, "walnut_redis_breaker_open") == 1
    assert value(app, "walnut_redis_failures_total") == before + 1
    app.extensions["store"]._rests_until = 1e-9
    app.extensions["store"]._redis = type("Redis", (), {"ping": lambda _: True})()
    with app.app_context():
        assert store.store().alive()
    assert value(app, "walnut_redis_breaker_open") == 0


def test_the_queue_for_hashing_is_seen(app, monkeypatch):
    seen = []
    with app.app_context():
        passwords._in_thread(lambda: seen.append(metrics.HASHING_QUEUE._value.get()))
        monkeypatch.setattr(hashing, "EACH", 0)
        monkeypatch.setattr(app.extensions["hashing"]._line, "_free", 0)
        before = value(app, "walnut_password_hashing_refused_total")
        with pytest.raises(Unavailable):
            passwords._in_thread(print)
    assert seen == [1]
    assert value(app, "walnut_password_hashing_queue") == 0
    assert value(app, "walnut_password_hashing_refused_total") == before + 1


def test_the_disk_and_the_process_are_seen(app, admin):
    path = app.extensions["database"].path
    assert value(app, "walnut_database_bytes") == path.stat().st_size
    assert value(app, "walnut_database_wal_bytes") == path.with_name("walnut.db-wal").stat().st_size
    assert value(app, "walnut_disk_free_bytes") > 0
    assert 10e6 < value(app, "process_resident_memory_bytes") < 10e9
    assert 0 < value(app, "process_open_fds") < value(app, "process_max_fds")
    assert value(app, "process_cpu_seconds_total") > 0
    assert value(app, "walnut_worker_processes") == 1


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "10.1.2.3", "192.168.0.9", "172.17.0.1", "fd00::1", "100.64.0.1"]
)
def test_who_is_near_may_look(lasting_app, address):
    answer = lasting_app.test_client().get("/health/metrics", environ_base={"REMOTE_ADDR": address})
    assert answer.status_code == 200


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "", "x"])
def test_who_is_not_near_finds_nothing(lasting_app, address):
    answer = lasting_app.test_client().get("/health/metrics", environ_base={"REMOTE_ADDR": address})
    assert_problem(answer, 404, "not_found")


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"])
@pytest.mark.parametrize("hops", ["0", "1"])
def test_behind_a_proxy_nobody_is_near(make_app, header, hops):
    app = make_app(TRUSTED_PROXIES=hops)
    assert_problem(app.test_client().get("/health/metrics", headers={header: "127.0.0.1"}), 404, "not_found")


def test_it_is_at_the_root_only_and_for_reading_only(lasting_app):
    client = lasting_app.test_client()
    assert client.get("/api/v1/health/metrics").status_code == 404
    assert client.post("/health/metrics").status_code == 405
    assert client.get("/health/metrics").headers["Cache-Control"] == "no-store"


def test_a_second_app_in_the_process_counts_on(configure, app):
    """Metrics are the process's: making the app again, as tests and reloads do, must not declare them twice."""
    create_app(configure()).extensions["database"].close()
    assert_well_formed(scrape(app).text, list(parse(scrape(app).text)))


# ---- several processes


COUNT = """
import os, signal, sys
from pathlib import Path
from api import metrics, scoreboard
metrics.REDIS_FAILURES.inc(5)  # before the folder is known: not lost
scoreboard.share(Path(sys.argv[1]))
metrics.ACTIVE_REQUESTS.inc()
metrics.REDIS_FAILURES.inc(2)
for number in range(int(sys.argv[2])):
    metrics.CACHE_ANSWERS.labels("hit").inc()
    metrics.REQUEST_SECONDS.labels("GET", f"/{number % 50}", "200", "1").observe(0.002)
print(os.getpid(), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setattr(scoreboard, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(scoreboard, "_owned", [])
    scoreboard.make.cache_clear()
    yield scoreboard.make()
    scoreboard.make.cache_clear()
    for file in scoreboard._owned:
        os.close(file)


def numbers(folder):
    """Return what a scrape of a folder finds."""
    samples = [sample for family in scoreboard.collect(folder) for sample in family.samples]
    found = {sample.name: sample.value for sample in samples if not sample.labels}
    found["hits"] = sum(s.value for s in samples if s.name.endswith("answers_total") and s.labels["result"] == "hit")
    found["requests"] = sum(s.value for s in samples if s.name == "http_server_request_duration_seconds_count")
    return found


def test_the_processes_of_a_replica_are_added_up_also_after_their_end(folder):
    counting = [start_python(COUNT, folder, number) for number in (1000, 234)]
    pids = [int(process.stdout.readline()) for process in counting]
    assert scoreboard.living(folder) == sorted(pids)
    expected = {"hits": 1234, "requests": 1234, "walnut_redis_failures_total": 14}
    found = numbers(folder)
    assert found.items() >= (expected | {"http_server_active_requests": 2}).items()
    counting[0].kill()
    counting[0].wait()
    assert numbers(folder).items() >= expected.items()
    scoreboard.bury(folder, pids[0])
    assert numbers(folder).items() >= (expected | {"http_server_active_requests": 1}).items()
    assert scoreboard.living(folder) == [pids[1]]
    counting[1].kill()
    counting[1].wait()
    scoreboard.bury(folder, pids[1])
    scoreboard.bury(folder, pids[1])  # as often as you like
    assert numbers(folder).items() >= expected.items()
    assert sorted(path.name for path in folder.glob("*.db")) == ["counter_0.db", "histogram_0.db"]
    for process in counting:
        process.communicate()


def test_folding_is_exact_however_often_a_scrape_comes_meanwhile(folder):
    """Four workers end, one after the other, under a reader who looks all the time."""
    reader = start_python(READ, folder)
    assert reader.stdout.readline() == "reading\n"
    for _ in range(4):
        process = start_python(COUNT, folder, 100)
        pid = int(process.stdout.readline())
        process.kill()
        process.communicate()
        scoreboard.bury(folder, pid)
    (folder / "stop").touch()
    seen = [float(number) for number in ended(reader).split()]
    assert seen == sorted(seen), "a counter went backwards"
    assert seen[-1] == 400
    assert len(set(seen)) > 2


READ = """
import sys
from pathlib import Path
from api import scoreboard
folder = Path(sys.argv[1])
print("reading", flush=True)
last = False
while True:
    last = (folder / "stop").exists()
    print(sum(s.value for f in scoreboard.collect(folder) for s in f.samples if s.labels.get("result") == "hit"))
    if last:
        break
"""


def test_folders_of_replicas_that_are_gone_are_removed_and_no_others(folder, monkeypatch):
    foreign, young, gone = (folder.with_name(f"walnut-scoreboard-{name}") for name in ("foreign", "young", "gone"))
    for path in (foreign, young, gone):
        path.mkdir()
        (path / "counter_1.db").touch()
    for path in (foreign, gone, folder):
        os.utime(path, (1, 1))
    (folder.parent / "walnut-scoreboard-link").symlink_to(folder.parent / "elsewhere")
    os.chown(foreign, 12345, -1)
    scoreboard.make.cache_clear()
    assert scoreboard.make() not in (folder, foreign, young, gone)
    assert folder.exists(), "its owner is alive"
    assert foreign.exists()
    assert young.exists(), "it may be about to be locked"
    assert not gone.exists()


def test_a_machine_without_shared_memory_has_a_temporary_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(scoreboard, "SHARED_MEMORY", tmp_path / "nowhere")
    monkeypatch.setattr(scoreboard.tempfile, "tempdir", str(tmp_path))
    made = scoreboard.make.__wrapped__()
    assert made.parent == tmp_path
    assert made.stat().st_mode & 0o777 == 0o700
    os.close(scoreboard._owned.pop())


def test_adding_up_gives_what_prometheus_client_gives(folder):
    """The same numbers as its own, slower, collector: held against it, so that its format may not change unseen."""
    counting = [start_python(COUNT, folder, number) for number in (10, 77, 200)]
    for process in counting:
        process.stdout.readline()
    for _ in range(2):  # the second time from the index
        ours = {
            (s.name, tuple(sorted(s.labels.items()))): s.value for f in scoreboard.collect(folder) for s in f.samples
        }
        theirs = MultiProcessCollector(None, str(folder)).collect()
        assert ours == {(s.name, tuple(sorted(s.labels.items()))): s.value for f in theirs for s in f.samples}
        assert len(ours) > 800
    for process in counting:
        process.kill()
        process.communicate()
