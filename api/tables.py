"""Every table on one page: the map of our data. Read this first.

Ids are UUIDv7 strings. Times are integers: milliseconds since 1970 (`db.now()`). `seq` is SQLite's own row number: it
never leaves the server, but for the audit trail's, which counts its entries. What these tables cannot say (the search
index, triggers) is in migrations/versions/.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Bytes(LargeBinary):
    """Bytes that go to the driver and come back as they are: to wrap them costs as much as to store them."""

    def bind_processor(self, dialect: Dialect) -> None:
        """Wrap nothing on the way in."""

    def result_processor(self, dialect: Dialect, coltype: object) -> None:
        """Wrap nothing on the way out."""


Seq = BigInteger().with_variant(Integer, "sqlite")
Id = String(36)

users = Table(
    "users",
    metadata,
    Column("id", Id, primary_key=True),
    Column("username", String(64), nullable=False),
    Column("username_key", String(256), nullable=False, unique=True),  # NFKC and case folded: what must be unique
    Column("email", String(254), nullable=False),
    Column("email_key", String(1016), nullable=False, unique=True),
    Column("password_hash", String(60), nullable=False),
    Column("role", String(16), nullable=False),
    Column("active", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("version", Integer, nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Id, primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
)

refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("hash", String(64), primary_key=True),  # SHA-256 in hex: the token itself is kept nowhere
    Column("session_id", ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("created_at", BigInteger, nullable=False),
    Column("spent_at", BigInteger),
)

tasks = Table(
    "tasks",
    metadata,
    Column("seq", Seq, primary_key=True),
    Column("id", Id, nullable=False, unique=True),
    Column("title", String(200), nullable=False),
    Column("description", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("tags", JSON, nullable=False),
    Column("due_at", BigInteger),
    Column("assignee_id", ForeignKey("users.id", ondelete="SET NULL")),
    Column("created_by", ForeignKey("users.id", ondelete="SET NULL"), index=True),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("version", Integer, nullable=False),
    # Each order a list can be asked for, with the id to settle ties, so that a page is found without sorting.
    Index(None, "created_at", "id"),
    Index(None, "updated_at", "id"),
    Index(None, "priority", "id"),
    Index(None, "due_at", "id"),
    Index("ix_tasks_due_first", text("due_at IS NULL"), "due_at", "id"),  # those without a due date come last
    Index(None, "status", "created_at", "id"),
    Index(None, "assignee_id", "created_at", "id"),
)

# `tasks.tags` once more, one row a tag, so that a tag can be looked up.
task_tags = Table(
    "task_tags",
    metadata,
    Column("task_seq", ForeignKey("tasks.seq", ondelete="CASCADE"), primary_key=True),
    Column("tag", String(50), primary_key=True),
    Index(None, "tag", "task_seq"),
)

# What kept answers depend on. Triggers count `n` up in the transaction that changes the table, so that no way of
# writing can forget it (docs/decisions/0009-cache.md).
generations = Table(
    "generations",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("n", BigInteger, nullable=False),
)

# Who changed what: api/audit_trail.py says how its rows are chained. Triggers let nobody change or remove one.
audit_entries = Table(
    "audit_entries",
    metadata,
    Column("seq", Seq, primary_key=True, autoincrement=False),  # 1, 2, 3, ...: the order of the chain
    Column("at", BigInteger, nullable=False),  # never earlier than the entry before
    Column("action", String(64), nullable=False),  # "task.created": the kind of its subject, and what was done
    Column("actor_id", String(64)),  # no foreign keys: who is gone was there nevertheless
    Column("subject_id", String(64), nullable=False),
    Column("request_id", String(64), nullable=False),
    # Two parts can be blanked, with their salts, when a person is forgotten: what is hashed is their digests.
    Column("address", String(64)),
    Column("address_salt", Bytes(16)),
    Column("address_digest", Bytes(32), nullable=False),
    Column("change", Text),  # JSON: before and after
    Column("change_salt", Bytes(16)),
    Column("change_digest", Bytes(32), nullable=False),
    Column("hash", Bytes(32), nullable=False),
    Index(None, "subject_id", "seq"),
    Index(None, "actor_id", "seq"),
    Index(None, "action", "seq"),
    Index(None, "at", "seq"),
)

# The end of the chain, signed: one row, so that a cut-off end is seen.
audit_head = Table(
    "audit_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("hash", Bytes(32), nullable=False),
    Column("signature", Bytes(32), nullable=False),
)

# The answers to requests that came with an Idempotency-Key.
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("seq", Seq, primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("key", Bytes(32), nullable=False),  # SHA-256 of method, path and key: the key itself is kept nowhere
    Column("fingerprint", Bytes(32), nullable=False),  # SHA-256 of the request
    Column("status", SmallInteger, nullable=False),
    Column("headers", JSON, nullable=False),
    Column("body", Bytes, nullable=False),
    Column("expires_at", BigInteger, nullable=False, index=True),
    UniqueConstraint("user_id", "key"),
)
