import re
import signal

import pytest

from api import create_app, failpoints
from tests.conftest import PROJECT, start_python

REACH = "from api import failpoints\nfor n in range(9): print(n, flush=True); failpoints.reach('commit.before')"


def test_every_fail_point_is_reached_somewhere_and_no_other():
    text = "\n".join(path.read_text() for path in (PROJECT / "api").rglob("*.py"))
    assert sorted(re.findall(r'failpoints\.reach\("(.*?)"\)', text)) == sorted(failpoints.NAMES)


def test_nothing_is_armed_unless_a_test_asks():
    assert failpoints.ARMED == ""


def test_the_process_dies_at_the_time_that_was_asked_for():
    process = start_python(REACH, WALNUT_FAILPOINT="commit.before:3")
    output, _ = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGKILL
    assert output.split() == ["0", "1", "2"]


def test_another_point_is_passed():
    process = start_python(REACH, WALNUT_FAILPOINT="commit.after:3")
    output, _ = process.communicate(timeout=20)
    assert (process.returncode, len(output.split())) == (0, 9)


@pytest.mark.parametrize("text", ["nowhere:1", "commit.before", "commit.before:0", "commit.before:x", ":1"])
def test_what_is_no_fail_point_stops_the_start(text):
    process = start_python("import api.failpoints", WALNUT_FAILPOINT=text)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "WALNUT_FAILPOINT" in said


def test_in_production_it_is_refused(configure, monkeypatch):
    monkeypatch.setattr(failpoints, "ARMED", "commit.before")
    create_app(configure())
    with pytest.raises(RuntimeError, match="WALNUT_FAILPOINT"):
        create_app(configure(APP_ENV="production", JWT_SECRET="0123456789abcdefghijklmnopqrstuvwxyz"))
