"""Measures in turns, so that what else the machine does meets everyone alike.

In each round every route has its stretch, with the bare route before and after it: its ratio of that round is against
the mean of its two neighbours. What counts is the median of all rounds.
"""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import mean, median

from bench import machine
from bench.load import Request, Sample, send
from bench.servers import workers
from tests.system.processes import PROJECT, HttpServer

Say = Callable[[str], None]
Servers = dict[str, tuple[HttpServer, Request]]


@dataclasses.dataclass(frozen=True)
class Spread:
    """The middle of what several rounds gave, and its ends."""

    middle: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Return the spread of some values."""
        found = list(values)
        return cls(median(found), min(found), max(found))


@dataclasses.dataclass(frozen=True)
class Result:
    """One route over all rounds. Latencies in milliseconds, `cpu` in microseconds of the worker's time a request.

    `ratio` is of requests per second, `cpu_ratio` of processor time: it says the same when the worker has its core for
    itself, and stays true when it has not.
    """

    name: str
    rate: Spread
    p50: Spread
    p99: Spread
    cpu: Spread
    ratio: Spread
    cpu_ratio: Spread
    requests: int
    refused: int
    broken: int


def measure(servers: Servers, rounds: int, seconds: int, say: Say, *, quick: bool = False) -> list[Result]:
    """Return a result for each server's request, the bare route's first. `quick`: nothing warm, few neighbours."""
    routes = [name for name in servers if name != "bare"]
    for name in [] if quick else servers:
        _stretch(servers, name, 1)  # to warm up
    found: dict[str, list[Sample]] = {name: [] for name in servers}
    neighbours: dict[str, list[tuple[float, float]]] = {name: [] for name in routes}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        before = _stretch(servers, "bare", 1)
        found["bare"].append(before)
        for name in routes:
            found[name].append(_stretch(servers, name, seconds))
            after = before if quick else _stretch(servers, "bare", 1)
            neighbours[name].append((mean([before.rate, after.rate]), mean([before.cpu, after.cpu])))
            found["bare"] += [] if quick else [after]
            before = after
    return [_result(name, samples, neighbours.get(name)) for name, samples in found.items()]


def writes(folder: Path, rounds: int, seconds: float) -> dict[str, Spread]:
    """Return the writes per second without HTTP: "alone", "together", and their "ratio" round by round."""
    command = [sys.executable, "-m", "bench.writes", str(folder), str(rounds), str(seconds)]
    folder.mkdir()
    with machine.on_core(machine.server_core()):
        done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    rates = {name: Spread.of(one[name] for one in found) for name in ("alone", "together")}
    return rates | {"ratio": Spread.of(one["together"] / one["alone"] for one in found)}


def _stretch(servers: Servers, name: str, seconds: int) -> Sample:
    """Send load from the last core, where the server is not, and see what the server's worker used."""
    server, request = servers[name]
    pids = workers(server)
    used = machine.cpu_seconds(pids)
    with machine.on_core(machine.generator_core()):
        sample = send(request, seconds)
    used = machine.cpu_seconds(pids) - used
    return dataclasses.replace(sample, cpu=used * 1e6 / max(sample.requests, 1))


def _result(name: str, samples: list[Sample], neighbours: list[tuple[float, float]] | None) -> Result:
    beside = neighbours or [(sample.rate, sample.cpu) for sample in samples]
    pairs = list(zip(samples, beside, strict=True))
    return Result(
        name=name,
        rate=Spread.of(sample.rate for sample in samples),
        p50=Spread.of(sample.p50 for sample in samples),
        p99=Spread.of(sample.p99 for sample in samples),
        cpu=Spread.of(sample.cpu for sample in samples),
        ratio=Spread.of(sample.rate / rate for sample, (rate, _) in pairs),
        cpu_ratio=Spread.of(cpu / sample.cpu if sample.cpu else 0.0 for sample, (_, cpu) in pairs),
        requests=sum(sample.requests for sample in samples),
        refused=sum(sample.refused for sample in samples),
        broken=sum(sample.broken for sample in samples),
    )
