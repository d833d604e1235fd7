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
    Column("new_email", String(254)),  # the address to be, once it is confirmed
    Column("email_confirmed_at", BigInteger),
    Column("password_hash", String(60), nullable=False),
    Column("totp_secret", Text),  # sealed (api/secret_box.py)
    Column("totp_enabled_at", BigInteger),  # none: the secret is not in use yet
    Column("totp_step", BigInteger, nullable=False, server_default=text("0")),  # of the last code: none works twice
    Column("mails_since", BigInteger, nullable=False, server_default=text("0")),  # how many he was sent from then on:
    Column("mails_sent", Integer, nullable=False, server_default=text("0")),  # api/auth/mails.py
    Column("role", String(16), nullable=False),
    Column("active", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("version", Integer, nullable=False),
    Index(None, "created_at", "id"),
)

# What lets somebody in who has lost the device that makes the codes: each works once.
recovery_codes = Table(
    "recovery_codes",
    metadata,
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("hash", String(64), primary_key=True),  # SHA-256 in hex: the code itself is kept nowhere
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Id, primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False, index=True),  # later with each refresh, up to the next
    Column("absolute_expires_at", BigInteger, nullable=False, server_default=text("0")),
    Column("last_seen_at", BigInteger, nullable=False, server_default=text("0")),  # the last refresh
    Column("address", String(64)),  # of the last refresh
    Column("device", String(200)),  # what it said of itself: its User-Agent
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

# What mails carry in their links: good once, and not for long.
one_time_tokens = Table(
    "one_time_tokens",
    metadata,
    Column("hash", String(64), primary_key=True),  # SHA-256 in hex: the token itself is kept nowhere
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("purpose", String(16), nullable=False),
    Column("email", String(254), nullable=False),  # where it was sent: it is of no use for another address
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False, index=True),
)

# What programs show instead of an access token.
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Id, primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("name", String(100), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),  # SHA-256 in hex: the key itself is kept nowhere
    Column("hint", String(16), nullable=False),  # its beginning, to tell one from another
    Column("scopes", JSON, nullable=False),  # permissions: what it may do of what its owner may
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("last_used_at", BigInteger),
    Index(None, "user_id", "created_at", "id"),
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

# Outside parties that jobs are for, and how to deal with them.
vendors = Table(
    "vendors",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("url", String(2000), nullable=False),
    Column("mode", String(8), nullable=False),  # sync: its answer is the result; async: a webhook brings it
    Column("limit", String(64)),  # as in settings; none: as fast as its jobs come
    Column("concurrency", Integer, nullable=False),  # calls at once, over all workers
    Column("timeout", Integer, nullable=False),  # seconds for a call
    Column("callback_timeout", Integer, nullable=False),  # seconds for its webhook after that
    Column("attempts", Integer, nullable=False),  # of a job, at the most
    Column("active", Boolean, nullable=False),  # false: its jobs wait
    Column("secrets", Text, nullable=False),  # sealed (api/secret_box.py): the keys that sign, the newest first
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("version", Integer, nullable=False),
)

# The queue. A job waits (pending), is being worked on or waited for (processing), or has ended.
jobs = Table(
    "jobs",
    metadata,
    Column("seq", Seq, primary_key=True),
    Column("id", Id, nullable=False, unique=True),
    Column("kind", String(32), nullable=False),  # who carries it out: api/jobs/kinds.py
    Column("lane", String(64), nullable=False),  # those who wait for one another: a vendor's name, otherwise the kind
    Column("owner_id", ForeignKey("users.id", ondelete="SET NULL")),
    Column("status", String(16), nullable=False),
    Column("priority", SmallInteger, nullable=False),  # 1 is the most urgent
    Column("run_at", BigInteger, nullable=False),  # not before; while a webhook is waited for: not after
    Column("attempts", Integer, nullable=False),  # how often it was claimed: what a worker must know to end it
    Column("max_attempts", Integer, nullable=False),
    Column("worker_id", Id),  # who is at it; none while a webhook is waited for
    Column("dedup_key", String(255)),
    Column("payload", JSON, nullable=False),
    Column("result", JSON(none_as_null=True)),
    Column("error", Text),
    Column("traceparent", String(55)),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger, index=True),
    Column("version", Integer, nullable=False),
    Index(None, "owner_id", "status", "seq"),
    Index(None, "owner_id", "seq"),
    Index(None, "status", "seq"),
    Index(None, "lane", "seq"),
)
# Only what is not over yet, so that the queue stays as quick as it is short.
Index(
    "ix_jobs_pending", jobs.c.lane, jobs.c.priority, jobs.c.run_at, jobs.c.seq,
    sqlite_where=text("status = 'pending'"), postgresql_where=text("status = 'pending'"),
)  # fmt: skip
Index(
    "ix_jobs_processing", jobs.c.worker_id, jobs.c.run_at, jobs.c.lane,
    sqlite_where=text("status = 'processing'"), postgresql_where=text("status = 'processing'"),
)  # fmt: skip
Index(
    "uq_jobs_dedup_key", jobs.c.dedup_key, unique=True,
    sqlite_where=text("status IN ('pending', 'processing') AND dedup_key IS NOT NULL"),
    postgresql_where=text("status IN ('pending', 'processing') AND dedup_key IS NOT NULL"),
)  # fmt: skip

# What happened to each job, in the order of the commits: GET /jobs/{id} shows it, GET /events goes along it.
job_history = Table(
    "job_history",
    metadata,
    Column("seq", Seq, primary_key=True),
    Column("job_seq", ForeignKey("jobs.seq", ondelete="CASCADE"), nullable=False, index=True),
    Column("at", BigInteger, nullable=False),
    Column("event", String(16), nullable=False),
    Column("detail", String(500)),
    sqlite_autoincrement=True,  # a number is never given twice: clients ask for what came after the last they saw
)

# How many jobs there are, so that nobody has to count a million. Triggers keep it.
job_counts = Table(
    "job_counts",
    metadata,
    Column("owner_id", String(36), primary_key=True),  # '' of those without one
    Column("lane", String(64), primary_key=True),
    Column("status", String(16), primary_key=True),
    Column("n", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# What all workers must know of a lane to keep its limit, and to leave a vendor alone that fails.
lanes = Table(
    "lanes",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("level", BigInteger, nullable=False),  # the two numbers of api/rates.py
    Column("at", BigInteger, nullable=False),
    Column("failures", Integer, nullable=False),  # one after the other
    Column("closed_until", BigInteger, nullable=False),
)

# Who works on jobs. `beat` counts up while it lives: others compare it with their own clocks, which may be apart.
workers = Table(
    "workers",
    metadata,
    Column("id", Id, primary_key=True),
    Column("beat", BigInteger, nullable=False),
    Column("host", String(255), nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
)

# Webhooks that were taken in, so that none acts twice.
webhook_ids = Table(
    "webhook_ids",
    metadata,
    Column("vendor", String(64), primary_key=True),
    Column("id", String(255), primary_key=True),
    Column("at", BigInteger, nullable=False, index=True),
)
