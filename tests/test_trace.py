import pytest

from api import observe
from api.trace import trace
from tests.conftest import Caller

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{PARENT}-01"


def test_a_trace_is_gone_on_with_as_a_span_of_its_own():
    found = trace(VALID, "vendor=x")
    assert (found.trace_id, found.parent_id, found.flags, found.state) == (TRACE, PARENT, 1, "vendor=x")
    assert found.span_id != PARENT
    assert found.headers() == {"traceparent": f"00-{TRACE}-{found.span_id}-01", "tracestate": "vendor=x"}


@pytest.mark.parametrize(
    ("given", "flags"),
    [
        (f"00-{TRACE}-{PARENT}-00", 0),
        (f"00-{TRACE}-{PARENT}-ff", 1),  # of the flags only `sampled` is known
        (f"cc-{TRACE}-{PARENT}-01", 1),  # a version of the future, read as 00
        (f"cc-{TRACE}-{PARENT}-01-what-comes-then", 1),
    ],
)
def test_what_is_valid_beyond_the_usual_is_taken(given, flags):
    assert (trace(given).trace_id, trace(given).flags) == (TRACE, flags)


# The cases of https://github.com/w3c/trace-context/blob/main/test/test.py
@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "00",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}-01.",
        f"cc-{TRACE}-{PARENT}-01.what",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}0-01",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}-0x",
        f"0.-{TRACE}-{PARENT}-01",
        f"00_{TRACE}_{PARENT}_01",
        f"00-{TRACE}-{PARENT}-01\n00-{TRACE}-{PARENT}-01",
        f"{VALID},{VALID}",
    ],
)
def test_what_is_not_valid_begins_a_new_trace_and_forgets_the_state(given):
    found = trace(given, "vendor=x")
    assert found.trace_id != TRACE
    assert len(found.trace_id) == 32
    assert len(found.span_id) == 16
    assert int(found.trace_id, 16)
    assert (found.parent_id, found.state) == ("", "")
    assert found.headers() == {"traceparent": f"00-{found.trace_id}-{found.span_id}-01"}
    assert trace(given).trace_id != found.trace_id


@pytest.mark.parametrize("state", ["x" * 513, "a=1\r\nX-Evil: 1", "ü=1"])
def test_a_state_that_is_no_header_is_not_handed_on(state):
    assert "tracestate" not in trace(VALID, state).headers()


def test_whom_a_request_calls_gets_its_trace(app, caplog):
    caplog.set_level("INFO", "walnut.request")
    seen = []
    app.add_url_rule("/calls", "calls", lambda: seen.append(observe.trace_headers()) or "x")
    Caller(app).client.get("/calls", headers={"traceparent": VALID, "tracestate": "vendor=x"})
    line = [record for record in caplog.records if record.name == "walnut.request"][-1]
    assert seen == [{"traceparent": f"00-{TRACE}-{line.span_id}-01", "tracestate": "vendor=x"}]
    assert line.trace_id == TRACE


def test_outside_of_a_request_there_is_no_trace():
    assert observe.trace_headers() == {}
