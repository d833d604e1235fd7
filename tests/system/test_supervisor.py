import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from api import settings, supervisor
from api.errors import SettingsError
from tests.conftest import ended, start_python

SUPERVISE = """
import sys
from api import settings, supervisor
from api.supervisor import Program, Supervisor
supervisor.BOOT_SECONDS = float(sys.argv[1])
sleep, supervisor.time.sleep = supervisor.time.sleep, lambda seconds: sleep(seconds / 20)
sys.exit(Supervisor([Program(f"number {n}", ["-c", code]) for n, code in enumerate(sys.argv[2:])]).run())
"""
GRACEFUL = """
import os, signal, sys, time
supervisor = os.getppid()
def end(*_):
    os.write(1, b'ended well\\n')  # the signal may come in the middle of a print
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print('up\\n', end='', flush=True)
while os.getppid() == supervisor:
    time.sleep(0.05)
"""
STUBBORN = GRACEFUL.replace("signal.SIGTERM, end", "signal.SIGTERM, signal.SIG_IGN")


@pytest.fixture
def supervise():
    """Return a function that starts a supervisor over the programs given as code."""
    started = []

    def start(*codes, boot=5.0):
        started.append(start_python(SUPERVISE, boot, *codes))
        return started[-1]

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            process.kill()
        process.communicate()


def wait_for_line(process, line="up"):
    for found in process.stdout:
        if found.strip() == line:
            return
    pytest.fail(f"ended without a line {line!r}: {process.stderr.read()}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_that_is_asked_for_ends_every_program_well(supervise, number):
    process = supervise(GRACEFUL, GRACEFUL)
    wait_for_line(process)
    wait_for_line(process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=10)
    assert output.count("ended well") == 2
    assert process.returncode == 0


def test_who_does_not_end_is_killed_when_asked_a_second_time(supervise):
    process = supervise(STUBBORN)
    wait_for_line(process)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 0


def test_a_program_that_ends_is_started_anew(supervise, tmp_path):
    mark = tmp_path / "mark"
    once = (
        f"import pathlib, sys\nmark = pathlib.Path({str(mark)!r})\nif not mark.exists():\n mark.touch(); sys.exit(7)\n"
    )
    process = supervise(once + GRACEFUL, boot=0.0)
    wait_for_line(process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "number 0 ended (exit status 7) and is started anew" in said


def test_a_program_that_is_killed_is_started_anew(supervise):
    process = supervise("import os\nprint(os.getpid(), flush=True)\n" + GRACEFUL, boot=0.0)
    first = int(process.stdout.readline())
    wait_for_line(process)
    os.kill(first, signal.SIGKILL)
    assert int(process.stdout.readline()) != first
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=10)
    assert "(killed by SIGKILL)" in said


def test_a_program_that_never_starts_ends_the_others_and_says_so(supervise):
    process = supervise("raise SystemExit(3)", GRACEFUL)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "number 0 does not start (exit status 3)" in said
    assert "started anew" not in said


def test_a_program_that_fails_thrice_is_given_up(supervise):
    process = supervise("raise SystemExit(5)")  # waits one second, then two
    _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert said.count("started anew") == 2
    assert "does not start (exit status 5)" in said


def test_a_child_that_is_not_ours_disturbs_nobody(tmp_path):
    """As process 1 of a container it inherits orphans, whose end the kernel then tells it."""
    adopt = "import ctypes; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n"  # PR_SET_CHILD_SUBREAPER
    leave_an_orphan_once = (
        f"import pathlib, subprocess, sys\nmark = pathlib.Path({str(tmp_path / 'mark')!r})\n"
        "if not mark.exists():\n mark.touch()\n"
        " subprocess.Popen([sys.executable, '-c', ''], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        " sys.exit(7)\n"
    )
    process = start_python(adopt + SUPERVISE, 0.0, leave_an_orphan_once + GRACEFUL)
    try:
        wait_for_line(process)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=10)
        assert (process.returncode, "Traceback" in said) == (0, False), said
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.communicate()


def test_a_hangup_is_passed_on(supervise):
    process = supervise(
        "import signal, time\nsignal.signal(signal.SIGHUP, lambda *_: print('again', flush=True))\n"
        "print('up\\n', end='', flush=True)\nwhile True: time.sleep(0.05)"
    )
    wait_for_line(process)
    time.sleep(0.2)  # the program is up before the supervisor has noted that it is
    process.send_signal(signal.SIGHUP)
    wait_for_line(process, "again")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)


END_WITH_PARENT = """
import os, subprocess, sys, time
from api import settings, supervisor
if len(sys.argv) > 1:
    supervisor.end_with_parent(sys.argv[1])
    print("ready", flush=True)
    time.sleep(60)
child = subprocess.Popen([sys.executable, "-c", open("/proc/self/cmdline").read().split("\\0")[4], str(os.getpid())])
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_program_ends_with_its_supervisor_however_that_ends():
    parent = start_python(END_WITH_PARENT)
    assert parent.stdout
    lines = {parent.stdout.readline().strip(), parent.stdout.readline().strip()}
    (child,) = (int(line) for line in lines - {"ready"})
    parent.kill()
    deadline = time.monotonic() + 5
    while lives(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not lives(child)
    parent.communicate()


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_program_whose_supervisor_is_gone_already_ends_at_once():
    process = start_python("from api import supervisor; import time; supervisor.end_with_parent('1'); time.sleep(60)")
    try:
        assert process.wait(10) == -signal.SIGTERM
    finally:
        process.communicate()


def test_without_a_supervisor_nothing_is_asked_of_the_kernel():
    assert ended(start_python("from api import supervisor; supervisor.end_with_parent(None); print('on')")) == "on\n"


@pytest.mark.parametrize(
    ("host", "port", "written"),
    [("127.0.0.1", 3000, "127.0.0.1:3000"), ("::1", 80, "[::1]:80"), ("localhost", 1, "localhost:1")],
)
def test_an_address_is_written_as_in_a_url(host, port, written):
    assert settings.address(host, port) == written


def test_a_port_in_use_is_refused_in_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"^PORT: .*127.0.0.1:{port}"):
            supervisor.refuse_port_in_use("127.0.0.1", port)
    supervisor.refuse_port_in_use("127.0.0.1", port)


def test_an_address_of_another_machine_is_refused():
    for host in ("192.0.2.1", "nowhere.invalid"):
        with pytest.raises(SettingsError, match=host):
            supervisor.refuse_port_in_use(host, 3000)


def test_what_is_said_goes_to_standard_error(capfd):
    supervisor.say("a line")
    assert capfd.readouterr() == ("", "a line\n")


def test_a_port_in_use_ends_the_start_before_anything_is_made(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process = start_python(
            "from api.__main__ import main; main()", "serve", INSTANCE_PATH=str(tmp_path), PORT=port, APP_ENV="testing"
        )
        try:
            output, said = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == 1
    assert said.strip().splitlines()[-1].startswith(f"Error: PORT: cannot listen on 127.0.0.1:{port}")
    assert "Traceback" not in said
    assert output == ""
