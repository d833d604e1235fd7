"""The audit trail: a chain of entries that can only grow, and its signed end."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

Seq = sa.BigInteger().with_variant(sa.Integer, "sqlite")

KEPT = (
    *("seq", "at", "action", "actor_id", "subject_id", "request_id"),
    *("address_digest", "change_digest", "hash"),
)
UNCHANGED = " AND ".join(f"new.{column} IS old.{column}" for column in KEPT)
UNCHANGED_OR_BLANKED = " AND ".join(
    f"(new.{part} IS old.{part} AND new.{part}_salt IS old.{part}_salt"
    f" OR new.{part} IS NULL AND new.{part}_salt IS NULL)"
    for part in ("address", "change")
)
TRIGGERS = (
    f"""CREATE TRIGGER audit_entries_update BEFORE UPDATE ON audit_entries
        WHEN NOT ({UNCHANGED} AND {UNCHANGED_OR_BLANKED}) BEGIN
        SELECT RAISE(ABORT, 'an audit entry is never changed, only a personal part of it blanked');
    END""",
    """CREATE TRIGGER audit_entries_delete BEFORE DELETE ON audit_entries BEGIN
        SELECT RAISE(ABORT, 'an audit entry is never removed');
    END""",
    """CREATE TRIGGER audit_head_delete BEFORE DELETE ON audit_head BEGIN
        SELECT RAISE(ABORT, 'the end of the audit trail is never removed');
    END""",
    """CREATE TRIGGER audit_head_insert BEFORE INSERT ON audit_head BEGIN
        SELECT RAISE(ABORT, 'the audit trail has one end');
    END""",
)


def upgrade() -> None:
    entries()
    head()
    for trigger in TRIGGERS:
        op.execute(trigger)


def entries() -> None:
    op.create_table(
        "audit_entries",
        sa.Column("seq", Seq, nullable=False, autoincrement=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("actor_id", sa.String(64)),
        sa.Column("subject_id", sa.String(64), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("address", sa.String(64)),
        sa.Column("address_salt", sa.LargeBinary(16)),
        sa.Column("address_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("change", sa.Text),
        sa.Column("change_salt", sa.LargeBinary(16)),
        sa.Column("change_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("hash", sa.LargeBinary(32), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_audit_entries"),
    )
    for column in ("subject_id", "actor_id", "action", "at"):
        op.create_index(f"ix_audit_entries_{column}_seq", "audit_entries", [column, "seq"])


def head() -> None:
    table = op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.LargeBinary(32), nullable=False),
        sa.Column("signature", sa.LargeBinary(32), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_head"),
    )
    op.bulk_insert(table, [{"id": 1, "seq": 0, "at": 0, "hash": bytes(32), "signature": b""}])
