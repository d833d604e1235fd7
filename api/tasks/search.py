"""Full-text search over tasks: the one place where the databases differ. SQLite: https://sqlite.org/fts5.html."""

from itertools import islice

from sqlalchemy import ColumnElement, column, select, table

from api.tables import tasks

WORDS = 8
INDEX = table("tasks_search", column("rowid"), column("tasks_search"))


def matches(words: ColumnElement[str]) -> ColumnElement[bool]:
    """Return the condition that a task holds what `expression` made of the words."""
    return tasks.c.seq.in_(select(INDEX.c.rowid).where(INDEX.c.tasks_search.op("MATCH")(words)))


def expression(words: str) -> str:
    """Return the words in the index's language: each the beginning of a word, all of them, nothing special.

    A single letter stands for itself only, and WORDS is the most that counts: other searches would take seconds.
    """
    quoted = (f'"{word.replace(chr(34), chr(34) * 2)}"{"*" * (len(word) > 1)}' for word in dict.fromkeys(words.split()))
    return " ".join(islice(quoted, WORDS))
