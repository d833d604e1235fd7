import json
import logging
import os
import stat
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from api import logs, metrics
from api.dated_files import DatedFile
from api.logs import Discreet, Json
from tests.conftest import PROJECT, Caller, ended, start_python

MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
DAY = 86_400


def record(message="x", level=logging.INFO, created=MIDNIGHT, **facts):
    found = logging.makeLogRecord({"name": "api.x", "levelno": level, "levelname": logging.getLevelName(level)} | facts)
    found.msg, found.created = message, created
    return found


@pytest.fixture
def handler(tmp_path):
    """A handler on LOG_DIR whose standard output is a file: `printed` reads it."""
    (tmp_path / "logs").mkdir()
    made = logs.Lines(str(tmp_path / "logs"))
    made._out = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    made.setFormatter(Json())
    yield made
    made.close()
    os.close(made._out)


@pytest.fixture
def printed(tmp_path):
    """Return a function that gives what was written to standard output."""
    return lambda: [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]


def messages(path):
    return [json.loads(line)["message"] for line in path.read_text().splitlines()]


WRITE = """
import sys
from pathlib import Path
from api.dated_files import DatedFile
folder, process, began, lines = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
file = DatedFile(folder, "application", 14)
print("ready", flush=True)
sys.stdin.readline()
for number in range(lines):
    line = f"{process} {number} {'x' * (number % 300)} end\\n".encode()
    assert file.write(line, began + number * 0.01) == ""
"""


def test_no_line_is_lost_or_torn_with_four_processes_across_midnight(tmp_path):
    """The standard library's handlers lose 17,104 of these 24,000."""
    began = MIDNIGHT - 30  # 60 s of lines: half before, half after
    writers = [start_writing(tmp_path, process, began, 6000) for process in range(4)]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        ended(writer, within=60)
    found = {path.name: path.read_text().splitlines() for path in tmp_path.iterdir()}
    assert set(found) == {"application-2026-02-28.log", "application-2026-03-01.log"}
    assert [len(lines) for lines in found.values()] == [12_000, 12_000]
    expected = {f"{process} {n} {'x' * (n % 300)} end" for process in range(4) for n in range(6000)}
    assert {line for lines in found.values() for line in lines} == expected


def start_writing(folder, *arguments):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", WRITE, str(folder), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("name", "days"), logs.KEPT_DAYS.items())
def test_files_are_kept_as_long_as_said_and_no_longer(tmp_path, name, days):
    file = DatedFile(tmp_path, name, days)
    for day in range(40):
        assert file.write(b"x\n", MIDNIGHT + day * DAY) == ""
    newest_first = sorted((path.name for path in tmp_path.iterdir()), reverse=True)
    dates = [datetime.fromtimestamp(MIDNIGHT + (39 - day) * DAY, UTC).date() for day in range(days)]
    assert newest_first == [f"{name}-{date}.log" for date in dates]
    file.close()


def test_what_is_not_a_log_by_date_is_left_alone(tmp_path):
    for name in ("application-2001-01-01.log.gz", "application-notes.log", "error-2001-01-01.log", "x.log"):
        (tmp_path / name).touch()
    file = DatedFile(tmp_path, "application", 14)
    (tmp_path / "application-2001-01-01.log").touch()
    file.write(b"x\n", MIDNIGHT)
    assert not (tmp_path / "application-2001-01-01.log").exists()
    assert len(list(tmp_path.iterdir())) == 5
    file.close()


def test_files_are_for_their_owner_only_whatever_the_umask(tmp_path):
    os.umask(0)
    file = DatedFile(tmp_path, "application", 14)
    file.write(b"x\n", MIDNIGHT)
    (path,) = tmp_path.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    file.close()


def test_a_file_that_was_removed_is_made_anew(tmp_path):
    file = DatedFile(tmp_path, "application", 14)
    file.write(b"one\n", MIDNIGHT)
    (path,) = tmp_path.iterdir()
    path.unlink()
    file.write(b"two\n", MIDNIGHT + 10)
    assert path.read_text() == "two\n"
    file.close()


def test_the_number_of_the_open_file_never_changes(tmp_path):
    """A thread about to write into a number that was closed would write into whatever has it next: a database."""
    file = DatedFile(tmp_path, "application", 14)
    numbers = []
    for day in range(3):
        file.write(b"x\n", MIDNIGHT + day * DAY)
        numbers.append(file._file)
    assert len(set(numbers)) == 1
    file.close()


def test_after_a_full_disk_lines_are_whole_again(tmp_path, monkeypatch):
    """What a full disk does: takes a part of a line, then nothing, then has room again."""
    real, room = os.write, [5]

    def write(file, data):
        if not room[0]:
            raise OSError(28, "No space left on device")
        taken = data[: room[0]]
        room[0] -= len(taken)
        return real(file, taken)

    file = DatedFile(tmp_path, "application", 14)
    monkeypatch.setattr("api.dated_files.os.write", write)
    assert "space" in file.write(b"0123456789\n", MIDNIGHT)
    assert "space" in file.write(b"lost\n", MIDNIGHT)
    room[0] = 1000
    assert file.write(b"whole\n", MIDNIGHT) == ""
    assert file.write(b"again\n", MIDNIGHT) == ""
    (path,) = tmp_path.iterdir()
    assert path.read_text() == "01234\nwhole\nagain\n"
    file.close()


def test_errors_are_in_both_files_and_the_rest_in_one(tmp_path, handler):
    handler.handle(record("fine"))
    handler.handle(record("bad", logging.ERROR))
    found = {path.name: messages(path) for path in (tmp_path / "logs").iterdir()}
    assert found == {"application-2026-03-01.log": ["fine", "bad"], "error-2026-03-01.log": ["bad"]}


def test_a_folder_that_is_gone_costs_no_request_its_answer_and_is_said_once(make_app, tmp_path, handler, printed):
    app, lost = make_app(), metrics.LOG_LINES_LOST._value.get()
    handler._files = [(DatedFile(tmp_path / "gone", "application", 14), 0)]
    logger = logging.getLogger("walnut.request")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        assert [Caller(app)("GET", "/health/live").status_code for _ in range(3)] == [200, 200, 200]
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    lines = printed()
    assert [line["message"] for line in lines] == ["request", "LOG_DIR takes no lines", "request", "request"]
    assert (lines[1]["level"], lines[1]["reason"]) == ("ERROR", "No such file or directory")
    assert metrics.LOG_LINES_LOST._value.get() == lost + 3


def test_a_full_disk_under_log_dir_is_no_fault_of_a_request(handler, printed):
    """/dev/full is a disk that is always full."""
    for file, _ in handler._files:
        file._open = lambda _day, file=file: setattr(file, "_file", os.open("/dev/full", os.O_WRONLY))
    handler.handle(record("bad", logging.ERROR))
    assert [line["message"] for line in printed()] == ["bad", "LOG_DIR takes no lines"]


def test_standard_output_may_be_full_too(handler):
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, handler._out)
    os.close(full)
    handler.handle(record("bad", logging.ERROR))


@pytest.mark.parametrize(
    "text",
    [
        'x\n{"level":"ERROR","message":"forged"}',
        "x\r\ny",
        "x\x1b[31mred\x1b[0m",
        "x\x9b31m",  # a terminal's commands, in one byte
        "x\x85y\u2028z\u2029",  # line ends in Unicode
        "\ud800",
        "\x00",
        "ü😀",
    ],
)
def test_nothing_a_client_sends_begins_a_line_or_commands_a_terminal(text):
    line = Json().format(record("said", path=text, more={text: [text]}))
    assert line.isascii()
    assert all(character >= " " for character in line)
    assert json.loads(line)["path"] == text
    assert json.loads(line)["more"] == {text: [text]}


def test_a_value_that_json_does_not_know_is_written_as_text():
    assert json.loads(Json().format(record(what=object, number=2**70)))["number"] == 2**70
    assert "object" in json.loads(Json().format(record(what=object)))["what"]


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_libraries_are_silent_below_warnings_whatever_the_level(level):
    found = logs.config(level)
    assert found["root"]["level"] in ("WARNING", "ERROR")
    assert found["loggers"]["gunicorn.error"]["level"] != "DEBUG"
    assert found["loggers"]["api"]["level"] == level.upper()


def test_gunicorns_lines_hold_nothing_of_a_request():
    try:
        raise LookupError("GET /?token=secret")
    except LookupError:
        refused = record("Invalid request from ip=192.0.2.1: Invalid HTTP request line: 'GET /?token=secret'")
        unanswered = record("Error handling request %s %s", args=("GET", "/?token=secret"))
        for one in (refused, unanswered):
            assert Discreet().filter(one)
    assert "secret" not in Json().format(refused) + Json().format(unanswered)
    assert (refused.address, refused.reason) == ("192.0.2.1", "LookupError")


def test_what_is_logged_during_a_request_carries_its_id(app):
    found = []

    def view():
        found.append(json.loads(Json().format(record("inside"))))
        return "x"

    app.add_url_rule("/inside", "inside", view)
    answer = Caller(app).client.get("/inside")
    assert found[0]["request_id"] == answer.headers["X-Request-ID"]
    assert len(found[0]["trace_id"]) == 32


CONFIGURED = """
import logging, logging.config, sys
from api import logs
logging.config.dictConfig(logs.config("debug", sys.argv[1]))
logging.getLogger("urllib3").debug("a library's secret")
logging.getLogger("api.x").debug("one")
logging.getLogger("api.x").error("two")
logging.config.dictConfig(logs.config("debug", sys.argv[1]))  # as Gunicorn does on SIGHUP
logging.getLogger("api.x").error("three")
"""


def test_the_configuration_writes_each_line_once_to_each_place(tmp_path):
    printed = [json.loads(line)["message"] for line in ended(start_python(CONFIGURED, tmp_path)).splitlines()]
    assert printed == ["one", "two", "three"]
    (application,) = tmp_path.glob("application-*.log")
    (error,) = tmp_path.glob("error-*.log")
    assert messages(application) == printed
    assert messages(error) == ["two", "three"]
