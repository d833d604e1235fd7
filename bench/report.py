"""Says what was found: a table, and for each goal whether it was reached. A goal missed is no error; an error is."""

import dataclasses
from typing import Any

from bench.rounds import Result, Spread

LABELS = {
    "bare": "bare Flask route",
    "ours": "the same on Walnut's worker",
    "live": "/health/live",
    "health": "/health",
    "list": "list of 20 tasks, made anew",
    "one": "one task, made anew",
    "cached-list": "list of 20 tasks, kept",
    "cached-one": "one task, kept",
    "create": "create a task",
    "full": "the same with all its fields",
    "keyed": "create with a key",
    "mix": "9 reads to each change",
}
RATIOS = {
    "one": 0.5,
    "list": 0.35,
    "cached-list": 0.8,
    "cached-one": 0.8,
    "create": 0.4,
    "keyed": 0.3,
}  # of the bare route's requests per second
P99 = 60.0  # milliseconds, with 64 connections
TOGETHER = 3.0  # times the writes per second of one by one


@dataclasses.dataclass(frozen=True)
class Goal:
    """A goal, and what was found. `text` is for people."""

    name: str
    found: float
    goal: float
    reached: bool
    text: str


def table(results: list[Result]) -> str:
    """Return the routes as a Markdown table."""
    lines = [
        "| route | requests/s | p50 ms | p99 ms | CPU us | of bare | rounds | of bare, by CPU |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in results:
        ratio = f"{one.ratio.middle:.2f} | {span(one.ratio)}" if one.name != "bare" else "1 | "
        lines.append(
            f"| {LABELS[one.name]} | {one.rate.middle:,.0f} | {one.p50.middle:.1f} | {one.p99.middle:.1f} "
            f"| {one.cpu.middle:.0f} | {ratio} | {one.cpu_ratio.middle:.2f} |"
        )
    return aligned(lines)


def aligned(lines: list[str]) -> str:
    """Return the lines of a Markdown table with their columns under each other."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = [cell.endswith(":") for cell in rows[1]]
    rows[1] = ["-" * (width - 1) + (":" if to_right else "-") for width, to_right in zip(widths, right, strict=True)]
    return "\n".join(
        "| "
        + " | ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        )
        + " |"
        for row in rows
    )


def goals(results: list[Result], writes: dict[str, Spread] | None) -> list[Goal]:
    """Return each goal that was measured."""
    found = []
    for one in results:
        if goal := RATIOS.get(one.name):
            text = f"{LABELS[one.name]}: {one.ratio.middle:.2f} of the bare route ({span(one.ratio)}), goal {goal}"
            found.append(Goal(f"{one.name} ratio", one.ratio.middle, goal, one.ratio.middle >= goal, text))
        if one.name != "bare":
            bare = f"the bare route beside it: {results[0].p99.middle:.1f}"
            text = f"{LABELS[one.name]}: p99 {one.p99.middle:.1f} ms ({span(one.p99, 1)}; {bare}), goal {P99:.0f}"
            found.append(Goal(f"{one.name} p99", one.p99.middle, P99, one.p99.middle < P99, text))
    if writes:
        ratio = writes["ratio"]
        text = f"writes in groups: {ratio.middle:.1f} times one by one ({span(ratio, 1)}), goal {TOGETHER:.0f}"
        found.append(Goal("writes ratio", ratio.middle, TOGETHER, ratio.middle >= TOGETHER, text))
    return found


def faults(results: list[Result]) -> list[str]:
    """Return what went wrong: answers that refuse, connections that break, routes that were never answered."""
    return [
        f"{LABELS[one.name]}: {one.refused} of {one.requests} answers were errors, {one.broken} connections failed"
        for one in results
        if one.refused or one.broken or not one.requests
    ]


def text(results: list[Result], writes: dict[str, Spread] | None, wrong: list[str]) -> str:
    """Return the report for people."""
    parts = [table(results)] if results else []
    if writes:
        parts.append(
            f"Writes without HTTP: {writes['together'].middle:,.0f}/s from 32 greenlets in groups, "
            f"{writes['alone'].middle:,.0f}/s one by one."
        )
    verdicts = [f"{'reached' if goal.reached else 'missed '}  {goal.text}" for goal in goals(results, writes)]
    parts.append("\n".join(verdicts))
    parts += [f"ERROR  {fault}" for fault in wrong]
    return "\n\n".join(parts)


def facts(results: list[Result], writes: dict[str, Spread] | None, wrong: list[str]) -> dict[str, Any]:
    """Return the same for programs."""
    return {
        "routes": {one.name: dataclasses.asdict(one) for one in results},
        "writes": {name: dataclasses.asdict(spread) for name, spread in (writes or {}).items()},
        "goals": [dataclasses.asdict(goal) for goal in goals(results, writes)],
        "faults": wrong,
    }


def span(spread: Spread, digits: int = 2) -> str:
    """Return the ends of a spread."""
    return f"{spread.least:.{digits}f} to {spread.most:.{digits}f}"
