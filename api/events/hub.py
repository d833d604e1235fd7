"""Looks for everyone at once what has happened, and hands each listener what he may hear.

One greenlet of a process does it, and only while somebody listens. It asks twenty times a second whether anything was
committed, by whichever process, and reads the logs only then. Who waits holds no connection and no snapshot.
"""

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

import gevent
from flask import Flask, current_app
from gevent.lock import BoundedSemaphore
from sqlalchemy import Connection

from api import db, metrics, sqlite
from api.errors import TooManyRequests, Unavailable
from api.events import queries
from api.events.listeners import HEARTBEAT_SECONDS, Ear, Listener
from api.events.queries import Event, Position
from api.settings import Settings
from api.web import rights_of

LOOK_SECONDS = 0.05
PART = 500  # of each log, read at once: a millisecond or two, in which nobody else is served
TURN, TURN_SECONDS = 50, 0.001  # so many are handed something, then others of the process have a turn
MOST_HERE, MOST_EACH = 2_000, 20  # listeners of a process, and of a user in it
MOST_BEHIND = 10_000  # numbers of a log: who was away for longer than that begins anew
LAST_WORDS_SECONDS = 0.5  # for who is being sent something when the server ends

log = logging.getLogger(__name__)


def init_app(app: Flask, settings: Settings) -> None:
    """Give the app its hub."""
    draining = lambda: bool(app.extensions.get("draining", bool)())  # noqa: E731
    app.extensions["events"] = Hub(app.extensions["database"], draining, strict=settings.require_admin_totp)


def hub() -> "Hub":
    """Return the hub of the current app."""
    found: Hub = current_app.extensions["events"]
    return found


class Hub:
    """All who listen to this process. `position` is what has been handed out. `strict`: as guard.rights has it."""

    def __init__(self, database: db.Database, draining: Callable[[], bool], *, strict: bool) -> None:
        self.position = Position(0, 0)
        self._database = database
        self._draining = draining
        self._strict = strict
        self._listeners: set[Listener] = set()
        self._looking = BoundedSemaphore()
        self._running: Any = None

    def join(self, listener: Listener, since: Position | None = None) -> Position:
        """Let somebody listen, and return from where on: all he has heard of `since` is not after that, if it is ours.

        Raises TooManyRequests or Unavailable if there are too many already, or this process is about to end.
        """
        self._refuse(listener)
        with self._looking:
            if self._running is None:
                with db.Reading(self._database, snapshot=True) as conn:
                    self.position = queries.last(conn)
                self._running = gevent.spawn(self._run)
            elif since:
                self._look()  # another process may have told him more than this one has seen
            self._listeners.add(listener)
            metrics.EVENT_LISTENERS.set(len(self._listeners))
            return self.position

    def leave(self, listener: Listener) -> None:
        """Let somebody listen no longer."""
        listener.leave()
        self._listeners.discard(listener)
        metrics.EVENT_LISTENERS.set(len(self._listeners))

    def missed(self, after: Position, until: Position) -> tuple[list[Event], Position] | None:
        """Return a part of what happened after one position until another, and how far it goes; None if it is lost."""
        if not 0 <= after.behind(until) <= MOST_BEHIND:
            return None
        with db.Reading(self._database, snapshot=True) as conn:
            if not queries.is_whole(conn, after, until):
                return None
            return queries.between(conn, after, until, PART)

    def _refuse(self, listener: Listener) -> None:
        if self._draining():
            raise Unavailable("This process is about to end. Another one listens already.", retry_after=1)
        if len(self._listeners) >= MOST_HERE:
            raise Unavailable("Too many listen already. Try again later, or ask for what you need.", retry_after=30)
        if sum(other.ear.user_id == listener.ear.user_id for other in self._listeners) >= MOST_EACH:
            detail = f"You listen {MOST_EACH} times already. Close one of them, then listen again."
            raise TooManyRequests(detail, policy="listeners", retry_after=5)

    def _run(self) -> None:
        reader = self._database.reader()
        try:
            self._watch(reader)
        except Exception:
            log.exception("events")
        finally:
            self._database.keep(reader)
            self._running, gone, self._listeners = None, self._listeners, set()
            _dismiss(gone)

    def _watch(self, reader: db.Reader) -> None:
        """Look whenever something was committed, and now and then for what ends by itself: sessions."""
        reader.watch.until = float("inf")  # its steps add up over all the times it is asked
        seen, looked = -1, 0.0
        while self._listeners and not self._draining():
            try:
                version = _data_version(reader)
                if version != seen or time.monotonic() - looked > HEARTBEAT_SECONDS:
                    with self._looking:
                        self._dismiss_who_may_not()
                        self._look()
                    seen, looked = version, time.monotonic()
            except Unavailable as fault:  # the next look may find it mended, and nothing is lost meanwhile
                log.warning("events wait: %s", fault.detail)
            gevent.sleep(LOOK_SECONDS)

    def _dismiss_who_may_not(self) -> None:
        with db.Reading(self._database, snapshot=False) as conn:
            rights = self._rights(conn)
        for listener in self._listeners:
            if not listener.is_good(rights.get(listener.session_id)):
                listener.dismiss()

    def _rights(self, conn: Connection) -> dict[str, frozenset[str]]:
        return rights_of(conn, {listener.session_id for listener in self._listeners}, strict=self._strict)

    def _look(self) -> None:
        """Hand out all that has been committed, part by part, each to those who may hear it at this moment."""
        while True:
            with db.Reading(self._database, snapshot=True) as conn:
                there = queries.last(conn)
                until = Position(*map(max, there, self.position))  # the end of a log may have been removed
                events, reached = queries.between(conn, self.position, until, PART)
                rights = self._rights(conn) if events else {}
            _hand_out(events, [one for one in self._listeners if one.is_good(rights.get(one.session_id))])
            self.position = reached
            if reached == until:
                return
            gevent.sleep(0)  # they send it, and others are served


def _data_version(reader: db.Reader) -> int:
    with sqlite.naming_faults():
        return sqlite.patiently(lambda: queries.data_version(reader.conn))


def _hand_out(events: list[Event], listeners: Iterable[Listener]) -> None:
    """Give each listener his own of the events. Those who hear the same share the same bytes."""
    owners = {event.owner for event in events}
    pieces: dict[Ear, bytes] = {}
    for number, listener in enumerate(listeners, 1):
        if number % TURN == 0:
            gevent.sleep(TURN_SECONDS)
        ear = listener.ear
        if ear.all_jobs or ear.user_id not in owners:
            ear = ear._replace(user_id="")
        if ear not in pieces:
            pieces[ear] = b"".join(event.text for event in events if ear.hears(event.owner, event.is_task))
        if pieces[ear]:
            listener.put(pieces[ear])


def _dismiss(listeners: set[Listener]) -> None:
    """End it for all of them; who is still being sent something has a moment for it."""
    for listener in listeners:
        listener.end()
    gevent.sleep(LAST_WORDS_SECONDS)
    for listener in listeners:
        listener.cut_off()
