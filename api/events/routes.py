"""Events over HTTP."""

from typing import Any

from flask import Response, request

from api.errors import Invalid
from api.events.hub import hub
from api.events.listeners import Ear, Listener
from api.events.queries import Position, parsed
from api.events.schemas import Event, ListenQuery
from api.events.stream import Stream
from api.web import SIGNED_IN, Resource, caller, may, presented

HEADER = "Last-Event-ID"
HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}

events = Resource("events", __name__)


@events.get("/events", query=ListenQuery(), returns=Event(), streams=True, allow=SIGNED_IN, storable=False,
            transaction=False)  # fmt: skip
def listen(query: dict[str, Any]) -> Any:
    """Listen to tasks and jobs as they change: an event for each that you may see."""
    since, socket = last_heard(query), request.environ.get("gunicorn.socket")
    if request.method == "HEAD":
        return Response(iter(()), headers=HEADERS)
    listener = listener_of_caller()
    start = hub().join(listener, since)
    return Response(Stream(hub(), listener, since, start, socket), headers=HEADERS, direct_passthrough=True)


def listener_of_caller() -> Listener:
    """Return who is about to listen, with what he may hear of."""
    person = caller()
    ear = Ear(
        person["id"],
        tasks=may(person, "tasks:read"),
        own_jobs=may(person, "jobs:submit"),
        all_jobs=may(person, "jobs:manage"),
    )
    return Listener(ear, person["session_id"], person["rights"], presented().expires_at)


def last_heard(query: dict[str, Any]) -> Position | None:
    """Return the last event that the client has, if he says so: a browser that reconnects says it in the header."""
    given = request.headers.get(HEADER)
    if not given:
        return parsed(query.get("last_event_id", ""))
    if (found := parsed(given)) is None:
        fault = "Is no id of an event: send the last one you got, as in 17-204, or leave it out."
        raise Invalid(f"{HEADER}: {fault}", fields=[(f"/{HEADER}", fault)])
    return found
