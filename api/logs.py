"""The log: JSON objects, one a line, on standard output and, with LOG_DIR, in files by date.

Lines are ASCII: whatever a client sends, it can neither begin a line nor command a terminal. What a disk refuses is
counted, and no request hears of it.
"""

import json
import logging
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from flask import has_request_context, request
from pythonjsonlogger.orjson import OrjsonFormatter

from api import gunicorn_answers, metrics
from api.dated_files import DatedFile, write_whole
from api.exchange import names

KEPT_DAYS = {"application": 14, "error": 30}
COMPLAIN_SECONDS = 60.0
NOT_EXTRA = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def config(level: str, folder: str = "") -> dict[str, Any]:
    """Return the `logging.config` of every process.

    The level is ours. Libraries say warnings only, whatever it is: at DEBUG they would tell paths and values.
    """
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"discreet": {"()": Discreet}},
        "formatters": {"json": {"()": Json}},
        "handlers": {"lines": {"()": Lines, "formatter": "json", "folder": folder}},
        "root": {"level": "ERROR" if level == "error" else "WARNING", "handlers": ["lines"]},
        "loggers": {
            "api": {"level": level.upper()},
            "walnut": {"level": level.upper()},
            "gunicorn.error": {
                "level": "INFO" if level == "debug" else level.upper(),
                "propagate": True,
                "handlers": [],
                "filters": ["discreet"],
            },
        },
    }


class Discreet(logging.Filter):
    """Takes out of Gunicorn's lines what a client sent: paths and headers hold tokens. Address and kind stay."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the two messages that quote a request."""
        if record.msg.startswith("Invalid request from ip="):
            record.address = record.msg.removeprefix("Invalid request from ip=").partition(": ")[0]
            record.reason = getattr(sys.exc_info()[0], "__name__", "unknown")
            record.request_id = gunicorn_answers.refused[0] if gunicorn_answers.refused else ""
            record.msg, record.args = "a request was refused before it reached the app", ()
        elif record.msg.startswith("Error handling request"):
            record.msg, record.args = "a request was not answered", ()
        return True


class Json(OrjsonFormatter):
    """Makes a line of a record: time, level, logger, message, then what else is known."""

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Take in what the line says."""
        log_data["time"] = datetime.fromtimestamp(record.created, UTC)
        log_data["level"] = record.levelname
        log_data["logger"] = record.name
        log_data["message"] = record.message
        log_data.update([fact for fact in vars(record).items() if fact[0] not in NOT_EXTRA])
        if "request_id" not in log_data and has_request_context():
            log_data.update(names(request.environ))
        log_data.update(message_dict)

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        """Return the line in ASCII, without its end."""
        try:
            line = orjson.dumps(log_data, default=str, option=orjson.OPT_NON_STR_KEYS)
        except TypeError:  # half of a surrogate pair, or an integer of more than 64 bits
            return json.dumps(log_data, default=str)
        return line.decode() if line.isascii() else json.dumps(orjson.loads(line))


class Lines(logging.Handler):
    """Writes each record once to standard output, and to the files of its level.

    Without a lock: nothing is shared but the number of an open file. So it may be called from anywhere.
    """

    def __init__(self, folder: str = "") -> None:
        super().__init__()
        self._out = sys.stdout.fileno()
        self._files = [
            (DatedFile(Path(folder), name, days), logging.ERROR if name == "error" else logging.NOTSET)
            for name, days in KEPT_DAYS.items()
            if folder
        ]
        self._quiet_until = 0.0

    def createLock(self) -> None:
        """Make none."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """Write a record that no filter keeps back."""
        passed = bool(self.filter(record))
        if passed:
            self.emit(record)
        return passed

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record. Never raises: a disk that is full harms nobody's request."""
        line = self.format(record).encode() + b"\n"
        with suppress(OSError):
            write_whole(self._out, line)
        for file, level in self._files:
            if record.levelno >= level and (fault := file.write(line, record.created)):
                self._complain(file, fault)

    def close(self) -> None:
        """Close the files."""
        for file, _ in self._files:
            file.close()
        super().close()

    def _complain(self, file: DatedFile, fault: str) -> None:
        """Say on standard output that a file takes no lines: once a minute, or the complaint would be the storm."""
        metrics.LOG_LINES_LOST.inc()
        if time.monotonic() < self._quiet_until:
            return
        self._quiet_until = time.monotonic() + COMPLAIN_SECONDS
        facts = {"name": __name__, "levelname": "ERROR", "msg": "LOG_DIR takes no lines", "file": file.name}
        with suppress(OSError):
            write_whole(self._out, self.format(logging.makeLogRecord(facts | {"reason": fault})).encode() + b"\n")
