"""What bad servers can do to a call, on real sockets: outgoing_scenes.py plays it, in a process under gevent."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.system.processes import PROJECT

pytestmark = pytest.mark.alone

MB = 1_000_000
CLOSED = "closed the connection before it answered"


@pytest.fixture(scope="module")
def scenes() -> dict[str, Any]:
    """Everything, played once. Whatever is not closed, or fails unseen, is printed to standard error."""
    command = [sys.executable, "-W", "error", "-m", "tests.system.outgoing_scenes"]
    played = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
    assert played.stderr == ""
    found: dict[str, Any] = json.loads(played.stdout)
    return found


@pytest.fixture
def found(scenes: dict[str, Any], request: pytest.FixtureRequest) -> Any:
    """What the scene of a test's name has to say. It leaves no file or greenlet behind."""
    scene = scenes[request.node.name.removeprefix("test_")]
    assert scene["left"] == [0, 0]
    return scene["found"]


def test_late(found: dict[str, Any]) -> None:
    assert len(found) == 8
    for name, call in found.items():
        assert call["reason"] == "timeout", name
        assert "0.4 s" in call["message"]
        assert 0.39 < call["took"] < 0.6, name


def test_late_at_the_door(found: dict[str, Any]) -> None:
    assert {call["reason"] for call in found.values()} == {"timeout"}
    assert all(0.39 < call["took"] < 0.6 for call in found.values()), found


def test_large(found: dict[str, Any], scenes: dict[str, Any]) -> None:
    assert scenes["large"]["stood_still"] < found["tiny chunks"]["took"] / 2, "others got their turn meanwhile"
    for name, call in found.items():
        assert call["reason"] == ("malformed" if "header" in name or "status" in name else "too_large"), name
        assert call["sent"] < 10 * MB, name  # most of it stayed in the buffers of the kernel
        assert call["took"] < 2, name


def test_just_fits(found: dict[str, Any]) -> None:
    outcomes = {name: call.get("status") or call["reason"] for name, call in found.items()}
    assert outcomes == {
        "fits": 200,
        "fits, in chunks": 200,
        "one more": "too_large",
        "one more, in chunks": "too_large",
    }


def test_broken(found: dict[str, Any]) -> None:
    outcomes = {name: call.get("reason") or call["body"] for name, call in found.items()}
    assert outcomes == {
        "nothing": "connection",
        "half a status line": "malformed",
        "half a header": "malformed",
        "half a body": "connection",
        "half a chunk": "connection",
        "chunks without an end": "connection",
        "garbage": "malformed",
        "mail": "malformed",
        "a header without a colon": "malformed",
        "gzip": "malformed",
        "early hints": "malformed",
        "switching protocols": "malformed",
        "continue, then an answer": "{}",
        "no length": "all of it",
    }
    assert all(call["requests"] == 1 for call in found.values()), "nothing is sent twice by a new connection"


def test_redirect(found: dict[str, Any]) -> None:
    assert (found["status"], found["connections"], found["inside"]) == (307, 1, 0)


def test_refused_while_sending(found: dict[str, Any]) -> None:
    assert found["status"] == 413


def test_reuse(found: dict[str, Any]) -> None:
    assert found["one after the other"] == [[200] * 5, 1]
    assert found["together"] == [[200] * 20, 20]
    assert found["afterwards"] == [[200] * 20, 20]
    for name in ("surplus", "surplus, later", "close", "http/1.0"):
        assert found[name] == [["{}"] * 3, 3], name


def test_stale(found: dict[str, Any]) -> None:
    requests = {name: (call.get("status") or call["reason"], call["requests"]) for name, call in found.items()}
    assert requests == {
        "with a key": (200, 3),
        "with a key in capitals": (200, 3),
        "without a key": ("connection", 2),
        "after a byte": ("malformed", 2),
        "after half of it": ("connection", 2),
        "reset after some": ("connection", 2),
        "seen in time": (200, 2),
    }
    assert CLOSED in found["without a key"]["message"]


def test_rebinding(found: dict[str, Any]) -> None:
    assert found["first"]["status"] == 200
    assert found["second"]["reason"] == found["refused"]["reason"] == "address"
    assert found["asked"] == ["vendor.test", "vendor.test"], "once by each of two, and never by a socket"
    assert found["connections"] == 1
    assert found["host"] == f"Host: vendor.test:{found['port']}"


def test_next_address(found: dict[str, Any]) -> None:
    assert found["found"]["status"] == 200
    assert found["closed"]["reason"] == "connection"
    assert "refused" in found["closed"]["message"]

    assert found["hangs"]["status"] == 200
    assert found["hangs"]["took"] < 0.9


def test_moved(found: dict[str, Any]) -> None:
    assert (found["before"]["status"], found["moved"]["reason"], found["back"]["status"]) == (200, "connection", 200)


def test_kept(found: dict[str, Any]) -> None:
    assert found == {"at most": 3, "open": 3, "expired": 1, "closed": 0}


def test_proxy(found: dict[str, Any]) -> None:
    assert (found["status"], found["connections"]) == (200, 1)


def test_tls(found: dict[str, Any]) -> None:
    names = found.pop("names")
    outcomes = {name: call.get("status") or call["reason"] for name, call in found.items()}
    assert outcomes == {
        "right": 200,
        "another name": "tls",
        "another authority": "tls",
        "an address": 200,
        "the wrong address": "tls",
        "no TLS there": "tls",
    }
    for name in ("right", "an address"):
        assert (found[name]["connections"], found[name]["requests"]) == (1, 3), "one handshake for three calls"
    for name in ("another name", "another authority", "the wrong address"):
        assert found[name]["requests"] == 0, "nothing was sent to whoever that is"
        assert not any(word in found[name]["message"] for word in (".test", "127."))
    assert names == ["vendor.test", *["other.test"] * 3, *["vendor.test"] * 3, *[None] * 4]


def test_ended_by_the_caller(found: dict[str, Any]) -> None:
    assert found == {"mine": True, "killed": True, "left": 0}
