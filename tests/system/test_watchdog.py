import json
from typing import Any

import pytest

from tests.conftest import ended, start_python

pytestmark = pytest.mark.alone

WATCH = """
from gevent import monkey
block = __import__("time").sleep
monkey.patch_all()
import json, logging.config, os, re, signal, subprocess, sys, time
import gevent
from api import logs
from api.watchdog import watchdog
logging.config.dictConfig(logs.config("info"))
def spin(seconds):
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass
def sleep_in_c(): block(0.4)
def compute(): spin(0.4)
def hold_the_interpreter(): re.fullmatch("(a|a)*b", "a" * 23)
def wait(): gevent.sleep(0.4)
def wait_in_a_thread(): gevent.get_hub().threadpool.apply(block, (0.4,))
def work_in_pieces():
    for _ in range(200):
        spin(0.002)
        watchdog.moved(time.perf_counter())  # a request ended
def work_and_give_way():
    for _ in range(400):  # gevent looks at its timers after 50 callbacks
        spin(0.001)
        gevent.sleep(0)
def be_stopped():
    gevent.sleep(2)
def start_slowly():
    pass
def twice():
    for _ in range(2):
        sleep_in_c()
        gevent.sleep(0.1)
if sys.argv[1] == "be_stopped":
    stop_and_go = f"sleep 1; kill -STOP {os.getpid()}; sleep 0.5; kill -CONT {os.getpid()}"
    child = subprocess.Popen(["sh", "-c", stop_and_go])
watchdog.start()
spin(0.3)  # the app is loaded before the loop runs for the first time
gevent.sleep(0.2)
for name in sys.argv[1:]:
    globals()[name]()
    gevent.sleep(0.2)
assert "child" not in globals() or child.wait() == 0
print(json.dumps({"blocked": watchdog.blocked}))
"""


def watched(*what: str) -> tuple[list[dict[str, Any]], float]:
    """Return the warnings about a function, and how long the loop stood still in all."""
    *lines, last = [json.loads(line) for line in ended(start_python(WATCH, *what)).splitlines()]
    return lines, last["blocked"]


@pytest.mark.parametrize("what", ["sleep_in_c", "compute", "hold_the_interpreter"])
def test_what_keeps_the_loop_from_running_is_named_once(what: str) -> None:
    (line,), blocked = watched(what)
    assert (line["level"], line["message"]) == ("WARNING", "the event loop stood still")
    assert what in line["stack"], line
    assert line["blocked_ms"] >= 300
    assert blocked >= 0.3
    assert (line["processor_ms"] < 100) == (what == "sleep_in_c")


def test_what_waits_gives_way_or_starts_slowly_is_no_alarm() -> None:
    assert watched("start_slowly", "wait", "wait_in_a_thread", "work_in_pieces", "work_and_give_way") == ([], 0.0)


def test_what_is_stopped_is_no_alarm() -> None:
    assert watched("be_stopped") == ([], 0.0)


def test_the_same_place_is_named_once_a_minute_and_always_counted() -> None:
    lines, blocked = watched("twice")
    assert len(lines) == 1
    assert blocked >= 0.7
