"""What proves who somebody is: confirmed addresses, links in mails, API keys, second factors; where sessions are."""

import sqlalchemy as sa
from alembic import op

from api.auth.names import folded

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    users()
    names()
    sessions()
    tokens()
    keys()


def users() -> None:
    for column in (
        sa.Column("new_email", sa.String(254)),
        sa.Column("email_confirmed_at", sa.BigInteger),
        sa.Column("totp_secret", sa.Text),
        sa.Column("totp_enabled_at", sa.BigInteger),
        sa.Column("totp_step", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("mails_since", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("mails_sent", sa.Integer, nullable=False, server_default=sa.text("0")),
    ):
        op.add_column("users", column)
    op.create_index("ix_users_created_at_id", "users", ["created_at", "id"])
    op.create_table(
        "recovery_codes",
        sa.Column("user_id", sa.String(36), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "hash", name="pk_recovery_codes"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_recovery_codes_user_id", ondelete="CASCADE"),
    )


def names() -> None:
    """Make the keys of names anew: since this version, letters that look alike are the same (api/auth/names.py).

    Of two accounts that clash now, the second keeps its old key, and both can go on.
    """
    conn = op.get_bind()
    for user_id, username, email in conn.execute(sa.text("SELECT id, username, email FROM users")).fetchall():
        for column, name in (("username", username), ("email", email)):
            if not name.isascii():
                conn.execute(
                    sa.text(
                        f"UPDATE users SET {column}_key = :key WHERE id = :id"  # noqa: S608 (one of two words)
                        f" AND NOT EXISTS (SELECT 1 FROM users WHERE {column}_key = :key)"
                    ),
                    {"key": folded(name), "id": user_id},
                )


def sessions() -> None:
    for column in (
        sa.Column("absolute_expires_at", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("last_seen_at", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("address", sa.String(64)),
        sa.Column("device", sa.String(200)),
    ):
        op.add_column("sessions", column)
    op.execute("UPDATE sessions SET absolute_expires_at = expires_at, last_seen_at = created_at")


def tokens() -> None:
    op.create_table(
        "one_time_tokens",
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(36), nullable=False),
        sa.Column("purpose", sa.String(16), nullable=False),
        sa.Column("email", sa.String(254), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("hash", name="pk_one_time_tokens"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_one_time_tokens_user_id", ondelete="CASCADE"),
    )
    for column in ("user_id", "expires_at"):
        op.create_index(f"ix_one_time_tokens_{column}", "one_time_tokens", [column])


def keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("user_id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("hint", sa.String(16), nullable=False),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("last_used_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("hash", name="uq_api_keys_hash"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_api_keys_user_id", ondelete="CASCADE"),
    )
    op.create_index("ix_api_keys_user_id_created_at_id", "api_keys", ["user_id", "created_at", "id"])
