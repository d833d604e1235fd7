"""Jobs: vendors, the queue, its history and its counts, and who works on it."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

Seq = sa.BigInteger().with_variant(sa.Integer, "sqlite")
PENDING = sa.text("status = 'pending'")
PROCESSING = sa.text("status = 'processing'")
ACTIVE = sa.text("status IN ('pending', 'processing') AND dedup_key IS NOT NULL")

COUNTED = """INSERT INTO job_counts(owner_id, lane, status, n)
    VALUES (coalesce(new.owner_id, ''), new.lane, new.status, 1)
    ON CONFLICT (owner_id, lane, status) DO UPDATE SET n = n + 1;"""
DISCOUNTED = """UPDATE job_counts SET n = n - 1
    WHERE owner_id = coalesce(old.owner_id, '') AND lane = old.lane AND status = old.status;"""
TRIGGERS = (
    f"CREATE TRIGGER jobs_count_insert AFTER INSERT ON jobs BEGIN {COUNTED} END",
    f"CREATE TRIGGER jobs_count_delete AFTER DELETE ON jobs BEGIN {DISCOUNTED} END",
    f"""CREATE TRIGGER jobs_count_update AFTER UPDATE OF owner_id, lane, status ON jobs
        WHEN new.status <> old.status OR new.owner_id IS NOT old.owner_id OR new.lane <> old.lane
        BEGIN {DISCOUNTED} {COUNTED} END""",
)


def upgrade() -> None:
    vendors()
    jobs()
    history()
    counts()
    work()
    op.create_index("ix_sessions_expires_at", "sessions", ["expires_at"])  # for who removes the expired
    for trigger in TRIGGERS:
        op.execute(trigger)


def vendors() -> None:
    op.create_table(
        "vendors",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("url", sa.String(2000), nullable=False),
        sa.Column("mode", sa.String(8), nullable=False),
        sa.Column("limit", sa.String(64)),
        sa.Column("concurrency", sa.Integer, nullable=False),
        sa.Column("timeout", sa.Integer, nullable=False),
        sa.Column("callback_timeout", sa.Integer, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("secrets", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_vendors"),
        sa.UniqueConstraint("name", name="uq_vendors_name"),
    )


def jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("seq", Seq, nullable=False),
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("lane", sa.String(64), nullable=False),
        sa.Column("owner_id", sa.String(36)),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("priority", sa.SmallInteger, nullable=False),
        sa.Column("run_at", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("max_attempts", sa.Integer, nullable=False),
        sa.Column("worker_id", sa.String(36)),
        sa.Column("dedup_key", sa.String(255)),
        sa.Column("payload", sa.JSON, nullable=False),
        sa.Column("result", sa.JSON),
        sa.Column("error", sa.Text),
        sa.Column("traceparent", sa.String(55)),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_jobs"),
        sa.UniqueConstraint("id", name="uq_jobs_id"),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name="fk_jobs_owner_id", ondelete="SET NULL"),
    )
    for columns in (["owner_id", "status", "seq"], ["owner_id", "seq"], ["status", "seq"], ["lane", "seq"]):
        op.create_index(f"ix_jobs_{'_'.join(columns)}", "jobs", columns)
    op.create_index("ix_jobs_finished_at", "jobs", ["finished_at"])
    pending, processing = ["lane", "priority", "run_at", "seq"], ["worker_id", "run_at", "lane"]
    op.create_index("ix_jobs_pending", "jobs", pending, sqlite_where=PENDING, postgresql_where=PENDING)
    op.create_index("ix_jobs_processing", "jobs", processing, sqlite_where=PROCESSING, postgresql_where=PROCESSING)
    op.create_index(
        "uq_jobs_dedup_key", "jobs", ["dedup_key"], unique=True, sqlite_where=ACTIVE, postgresql_where=ACTIVE
    )


def history() -> None:
    op.create_table(
        "job_history",
        sa.Column("seq", Seq, nullable=False),
        sa.Column("job_seq", Seq, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("event", sa.String(16), nullable=False),
        sa.Column("detail", sa.String(500)),
        sa.PrimaryKeyConstraint("seq", name="pk_job_history"),
        sa.ForeignKeyConstraint(["job_seq"], ["jobs.seq"], name="fk_job_history_job_seq", ondelete="CASCADE"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_job_history_job_seq", "job_history", ["job_seq"])


def counts() -> None:
    op.create_table(
        "job_counts",
        sa.Column("owner_id", sa.String(36), nullable=False),
        sa.Column("lane", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("n", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("owner_id", "lane", "status", name="pk_job_counts"),
        sqlite_with_rowid=False,
    )


def work() -> None:
    op.create_table(
        "lanes",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("level", sa.BigInteger, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("closed_until", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_lanes"),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("beat", sa.BigInteger, nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("seen_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
    )
    op.create_table(
        "webhook_ids",
        sa.Column("vendor", sa.String(64), nullable=False),
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("vendor", "id", name="pk_webhook_ids"),
    )
    op.create_index("ix_webhook_ids_at", "webhook_ids", ["at"])
