"""The command: python -m bench [--quick] [--redis] [--only NAME] [--json FILE]."""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import CalledProcessError

from bench import machine, report
from bench.rounds import measure, writes
from bench.servers import running
from tests.system.processes import Redis, program

NAMES = (
    "ours",
    "live",
    "health",
    "list",
    "one",
    "cached-list",
    "cached-one",
    "create",
    "full",
    "keyed",
    "mix",
    "writes",
)
WITH_REDIS = ("cached-list", "cached-one", "list", "keyed", "mix")


def main() -> int:
    """Measure, print, and return the exit status: 1 only if something went wrong; a goal missed is no fault."""
    given = _arguments()
    names = set(given.only or (WITH_REDIS if given.redis else NAMES))
    rounds, seconds = (1, 1) if given.quick else (given.rounds, 2)
    try:
        program("wrk", "wrk")
    except RuntimeError as error:
        say(str(error))
        return 1
    started, before = time.monotonic(), machine.ticks()
    results, written = [], None
    faults: list[str] = []
    with machine.folder_on_disk() as folder:
        about = f"{time.strftime('%Y-%m-%d %H:%M')}, {machine.description(folder)}{', with Redis' * given.redis}"
        if names - {"writes"}:
            say("starting the servers")
            with _redis(folder, given.redis) as url, running(folder, names - {"writes"}, url) as servers:
                results = measure(servers, rounds, seconds, say, quick=given.quick)
        if "writes" in names:
            say("writes without HTTP")
            try:
                written = writes(folder / "writes", rounds, 0.5 if given.quick else 1.0)
            except CalledProcessError as error:  # what was measured before is still shown
                faults.append(f"writes without HTTP: {error}")
    faults += report.faults(results)
    say(f"{time.monotonic() - started:.0f} s; the machine was {machine.busy_since(before):.0%} busy")
    print(f"{about}\n\n{report.text(results, written, faults)}", flush=True)
    if given.json:
        given.json.write_text(json.dumps({"about": about} | report.facts(results, written, faults), indent=2) + "\n")
    return 1 if faults else 0


@contextmanager
def _redis(folder: Path, wanted: bool) -> Iterator[str]:
    """Yield the URL of a Redis, or nothing. It shares the core of the servers, as on a small machine."""
    if not wanted:
        yield ""
        return
    with machine.on_core(machine.server_core()):
        redis = Redis(folder / "redis").start()
    try:
        yield redis.url
    finally:
        redis.stop()


def say(line: str) -> None:
    """Tell the person who waits; standard output is for the report."""
    print(line, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure Walnut against a bare Flask route.")
    parser.add_argument("--quick", action="store_true", help="one round of 1 s: shows that it runs, not how fast")
    parser.add_argument("--only", action="append", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--redis", action="store_true", help="let Redis share cache and limits")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of 2 s a route (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write what was found to a file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
