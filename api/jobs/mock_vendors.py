"""Two vendors to try the gateway with: `sync` answers at once, `async` calls back. MOCK_VENDORS says whether they are.

They live in the worker's process, behind real HTTP, and check signatures as a vendor should. What the payload holds
under `mock` makes them difficult, each of these or several: {"mock": {"delay": 2}} answers after two seconds,
{"status": 400} answers so, {"fail_times": 2} fails twice and then succeeds, {"hang": true} never answers,
{"drip": true} sends a byte now and then, {"twice": true} calls back twice, {"silent": true} never calls back.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import gevent
import orjson
from flask import Flask
from gevent.pywsgi import WSGIServer
from marshmallow import Schema, ValidationError, fields
from marshmallow.validate import Range

from api import db
from api.errors import Refusal
from api.outgoing.calls import post
from api.outgoing.failures import CallFailed
from api.settings import Settings
from api.statements import Row
from api.vendors import keys
from api.vendors import queries as vendors

SCHEME = "mock:"
DELAY_SECONDS = 0.1  # long enough to see `processing`
CALLBACK_SECONDS = 0.2
DRIP_SECONDS = 0.5
HANG_SECONDS = 330  # nobody waits longer than a vendor's longest timeout, and each call holds a file until then

Answer = tuple[str, Iterable[bytes]]

log = logging.getLogger(__name__)
_here = ""  # where this process serves them


def address(vendor: Row) -> str:
    """Return where a vendor is: the mock ones are wherever this process serves them."""
    url: str = vendor["url"]
    if not url.startswith(SCHEME):
        return url
    if not _here:
        raise CallFailed("address", "The mock vendors are switched off: MOCK_VENDORS=true has them.")
    return f"{_here}/{vendor['name']}"


def is_here(url: str) -> bool:
    """Tell whether an address is one of a mock vendor."""
    return bool(_here) and url.startswith(f"{_here}/")


def own_address(url: str, settings: Settings) -> str:
    """Return how a vendor reaches this server: by PUBLIC_URL; the mock ones, and without one, where it listens."""
    if settings.public_url and not url.startswith(SCHEME):
        return settings.public_url.rstrip("/")
    return f"http://{settings.local_address}"


def start(app: Flask) -> WSGIServer:
    """Serve the mock vendors in this process, on a free port of this machine."""
    global _here
    server = WSGIServer(("127.0.0.1", 0), MockVendors(app), log=None, error_log=log)
    server.start()
    _here = f"http://127.0.0.1:{server.server_port}"
    return server


class Orders(Schema):
    """How difficult a mock vendor is to be."""

    delay = fields.Float(load_default=DELAY_SECONDS, validate=Range(0, HANG_SECONDS))
    status = fields.Integer(load_default=None, validate=Range(200, 599))
    fail_times = fields.Integer(load_default=0, validate=Range(0, 50))
    hang = fields.Boolean(load_default=False)
    drip = fields.Boolean(load_default=False)
    twice = fields.Boolean(load_default=False)
    silent = fields.Boolean(load_default=False)


class MockVendors:
    """WSGI: the two vendors."""

    def __init__(self, app: Flask) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one call."""
        body = environ["wsgi.input"].read()
        name = environ["PATH_INFO"].lstrip("/")
        with self._app.app_context():
            status, answer = self._answer(name, environ, body)
        start_response(status, [("Content-Type", "application/json")])
        return answer

    def _answer(self, name: str, environ: dict[str, Any], body: bytes) -> Answer:
        with db.reading(snapshot=False) as conn:
            vendor = vendors.by_name(conn, name)
        if vendor is None:
            return "404 Not Found", [b""]
        try:
            keys.verify(vendor, _headers(environ), body, db.now())
        except Refusal as refusal:
            return "401 Unauthorized", [refusal.detail.encode()]
        asked = orjson.loads(body)
        try:
            orders = _orders(asked["payload"])
        except ValidationError as error:
            return "400 Bad Request", [orjson.dumps({"status": "error", "mock": error.messages})]
        gevent.sleep(HANG_SECONDS if orders["hang"] else orders["delay"])
        if refused := _refused(orders, int(environ.get("HTTP_WALNUT_ATTEMPT", "1"))):
            return refused, [b'{"status":"error","reason":"You asked for it."}']
        return self._accepted(vendor, asked, orders)

    def _accepted(self, vendor: dict[str, Any], asked: dict[str, Any], orders: dict[str, Any]) -> Answer:
        result = _result(vendor["mode"], asked["payload"])
        if vendor["mode"] == "async":
            if not orders["silent"]:
                for _ in range(2 if orders["twice"] else 1):
                    gevent.spawn_later(CALLBACK_SECONDS, self._call_back, vendor, asked, result)
            return "202 Accepted", [b'{"status":"accepted"}']
        text = orjson.dumps(result)
        return "200 OK", _dripping(text) if orders["drip"] else [text]

    def _call_back(self, vendor: dict[str, Any], asked: dict[str, Any], result: Any) -> None:
        body = orjson.dumps({"request_id": asked["request_id"], "status": "complete", "result": result})
        with self._app.app_context():
            headers = {"Content-Type": "application/json", **keys.sign(vendor, db.new_id(), db.now(), body)}
            try:
                reply = post(asked["callback_url"], body, headers, seconds=10, private=True)
            except CallFailed as failure:
                log.warning("the mock vendor cannot call back", extra={"reason": str(failure)})
            else:
                log.debug("the mock vendor called back", extra={"status": reply.status})


def _orders(payload: Any) -> dict[str, Any]:
    """Return what the payload wants. Raises ValidationError for what there is not: a typo is no success."""
    given = payload.get("mock", {}) if isinstance(payload, dict) else {}
    orders: dict[str, Any] = Orders().load(given)
    return orders


def _refused(orders: dict[str, Any], attempt: int) -> str:
    if attempt <= orders["fail_times"]:
        return "503 Service Unavailable"
    return f"{orders['status']} As Asked" if orders["status"] else ""


def _result(mode: str, payload: Any) -> dict[str, Any]:
    """Return what the two vendors answer: who it was for is the first id in the payload."""
    given = payload if isinstance(payload, dict) else {}
    subject = next((value for name, value in given.items() if name.endswith("Id")), "nobody")
    more = {name: value for name, value in given.items() if name != "mock" and isinstance(value, str)}
    data = {"data": f"Processed {mode} data for {subject}", "received": more, "processed_at": db.now()}
    return {"status": "success", "vendor": f"{mode}Vendor", **data}


def _dripping(text: bytes) -> Iterator[bytes]:
    for byte in text:
        gevent.sleep(DRIP_SECONDS)
        yield bytes([byte])


def _headers(environ: dict[str, Any]) -> dict[str, str]:
    return {
        name.removeprefix("HTTP_").replace("_", "-").lower(): value
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }
