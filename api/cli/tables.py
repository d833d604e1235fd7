"""What a person at a terminal reads: aligned columns, times in UTC, and how far something is."""

import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click

LONGEST = 2000  # characters of a value
FOR_MACHINES = click.option("--json", "as_json", is_flag=True, help="The same as JSON, for programs.")


def show(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """Print rows under the headings of their columns. The last column is as wide as it likes."""
    lines = [list(columns.values()), *([cell(name, row[name]) for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def cell(name: str, value: Any) -> str:
    """Return a value as people read it. What others wrote can command no terminal."""
    if value is None:
        return "-"
    if name == "at" or name.endswith("_at"):
        return datetime.fromtimestamp(value / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    return short(str(value))


def short(text: str) -> str:
    """Return a text that fits, on one line, in which nothing is invisible."""
    plain = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text[:LONGEST])
    return plain if len(text) <= LONGEST else f"{plain}... (--json shows all of it)"


def a_person_looks() -> bool:
    """Tell whether a terminal shows what is said meanwhile."""
    return sys.stderr.isatty()


def _nothing(_count: int) -> None:
    pass


@contextmanager
def progress(total: int, label: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that says how many more are done: to a person who looks, by a bar; otherwise to nobody."""
    if not total or not a_person_looks():
        yield _nothing
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)  # so that Ctrl-C gives the cursor back
    with click.progressbar(length=total, label=label, file=sys.stderr, show_pos=True) as bar:
        yield bar.update
