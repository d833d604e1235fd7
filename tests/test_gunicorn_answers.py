"""The bytes are Gunicorn's own, whatever the headers and the pieces of the body; and so are the refusals."""

from types import SimpleNamespace

import pytest
from gunicorn.http.wsgi import InvalidResponseHeader, InvalidResponseHeaderName
from hypothesis import given
from hypothesis import strategies as st

from api import gunicorn_answers
from api.gunicorn_answers import ONE_PIECE, Original, Response

NAMES = st.sampled_from([
    "ETag", "Vary", "Content-Type", "Content-Length", "content-length", "Connection", "Upgrade", "Transfer-Encoding",
    "X-Request-ID", "bad name", "", "X:Y",
])  # fmt: skip
VALUES = st.sampled_from(
    ["", "4", " 4 ", "close", "upgrade", "websocket", "chunked", "a, b", "ü", "\u20ac", "a\r\nX: b", "\x00", "\t"]
)
BODIES = st.lists(st.sampled_from([b"", b"abcd", b"ab", b"cd", b"x" * (ONE_PIECE + 1)]), max_size=3)


class Socket:
    def __init__(self):
        self.pieces = []

    def sendall(self, data):
        self.pieces.append(data)


def answered(kind, method, status, headers, body, version=(1, 1)):
    """Return the bytes of an answer, its date left out, or what was raised; and the pieces they were sent in."""
    socket = Socket()
    request = SimpleNamespace(method=method, version=version, should_close=lambda: False)
    response = kind(request, socket, SimpleNamespace(is_ssl=False))
    try:
        response.start_response(status, headers)
        for piece in body:
            response.write(piece)
        response.close()
    except Exception as error:
        return type(error), str(error)
    lines = b"".join(socket.pieces).split(b"\r\n")
    return [line for line in lines if not line.startswith(b"Date: ")], response.should_close()


@given(
    method=st.sampled_from(["GET", "HEAD", "POST"]),
    status=st.sampled_from(["200 OK", "201 CREATED", "204 NO CONTENT", "304 NOT MODIFIED", "nonsense"]),
    headers=st.lists(st.tuples(NAMES, VALUES), max_size=6),
    body=BODIES,
    version=st.sampled_from([(1, 1), (1, 0)]),
)
def test_the_bytes_are_gunicorns(method, status, headers, body, version):
    for _ in range(2):  # the second time it remembers
        ours = answered(Response, method, status, headers, body, version)
        assert ours == answered(Original, method, status, headers, body, version)


@pytest.mark.parametrize(("header", "error"), [
    (("X", "a\r\nSet-Cookie: b"), InvalidResponseHeader), (("X\r\nY", "a"), InvalidResponseHeaderName),
    (("X", b"a"), TypeError), ((b"X", "a"), TypeError),
])  # fmt: skip
def test_a_header_that_may_not_go_out_is_refused_each_time(header, error):
    for _ in range(3):
        with pytest.raises(error):
            Response(None, None, None).process_headers([header])


def test_a_small_answer_is_one_piece_and_a_large_one_is_not_copied():
    for length, pieces in ((5, 1), (ONE_PIECE + 1, 2)):
        socket, request = Socket(), SimpleNamespace(method="GET", version=(1, 1), should_close=lambda: False)
        response = Response(request, socket, None)
        response.start_response("200 OK", [("Content-Length", str(length))])
        response.write(b"x" * length)
        response.close()
        assert len(socket.pieces) == pieces


def test_the_date_is_of_its_second(monkeypatch):
    for second, expected in ((0, "Thu, 01 Jan 1970 00:00:00 GMT"), (1.9, "Thu, 01 Jan 1970 00:00:01 GMT")):
        monkeypatch.setattr(gunicorn_answers, "time", lambda second=second: second)
        assert gunicorn_answers.http_date() == gunicorn_answers.http_date(second) == expected
