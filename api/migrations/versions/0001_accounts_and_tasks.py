"""Accounts, sessions and tasks, with the search index over tasks."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Seq = sa.BigInteger().with_variant(sa.Integer, "sqlite")

# https://sqlite.org/fts5.html#external_content_tables: the index holds no copy of the text, and triggers keep it in
# step, so that no way of writing a task can forget it. secure-delete: what is deleted leaves no trace in the index.
SEARCH = (
    """CREATE VIRTUAL TABLE tasks_search USING fts5(
        title, description, content='tasks', content_rowid='seq',
        tokenize='unicode61 remove_diacritics 2')""",
    "INSERT INTO tasks_search(tasks_search, rank) VALUES ('secure-delete', 1)",
    """CREATE TRIGGER tasks_search_insert AFTER INSERT ON tasks BEGIN
        INSERT INTO tasks_search(rowid, title, description) VALUES (new.seq, new.title, new.description);
    END""",
    """CREATE TRIGGER tasks_search_delete AFTER DELETE ON tasks BEGIN
        INSERT INTO tasks_search(tasks_search, rowid, title, description)
        VALUES ('delete', old.seq, old.title, old.description);
    END""",
    """CREATE TRIGGER tasks_search_update AFTER UPDATE OF title, description ON tasks BEGIN
        INSERT INTO tasks_search(tasks_search, rowid, title, description)
        VALUES ('delete', old.seq, old.title, old.description);
        INSERT INTO tasks_search(rowid, title, description) VALUES (new.seq, new.title, new.description);
    END""",
)


def upgrade() -> None:
    accounts()
    tasks()
    for statement in SEARCH:
        op.execute(statement)


def accounts() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("username", sa.String(64), nullable=False),
        sa.Column("username_key", sa.String(256), nullable=False),
        sa.Column("email", sa.String(254), nullable=False),
        sa.Column("email_key", sa.String(1016), nullable=False),
        sa.Column("password_hash", sa.String(60), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("username_key", name="uq_users_username_key"),
        sa.UniqueConstraint("email_key", name="uq_users_email_key"),
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("user_id", sa.String(36), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_sessions"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_sessions_user_id", ondelete="CASCADE"),
    )
    op.create_index("ix_sessions_user_id", "sessions", ["user_id"])
    op.create_table(
        "refresh_tokens",
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("session_id", sa.String(36), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("spent_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("hash", name="pk_refresh_tokens"),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name="fk_refresh_tokens_session_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_refresh_tokens_session_id", "refresh_tokens", ["session_id"])


def tasks() -> None:
    op.create_table(
        "tasks",
        sa.Column("seq", Seq, nullable=False),
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("priority", sa.SmallInteger, nullable=False),
        sa.Column("tags", sa.JSON, nullable=False),
        sa.Column("due_at", sa.BigInteger),
        sa.Column("assignee_id", sa.String(36)),
        sa.Column("created_by", sa.String(36)),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_tasks"),
        sa.UniqueConstraint("id", name="uq_tasks_id"),
        sa.ForeignKeyConstraint(["assignee_id"], ["users.id"], name="fk_tasks_assignee_id", ondelete="SET NULL"),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name="fk_tasks_created_by", ondelete="SET NULL"),
    )
    for columns in (
        ["created_by"],
        ["created_at", "id"],
        ["updated_at", "id"],
        ["priority", "id"],
        ["due_at", "id"],
        ["status", "created_at", "id"],
        ["assignee_id", "created_at", "id"],
    ):
        op.create_index(f"ix_tasks_{'_'.join(columns)}", "tasks", columns)
    op.create_index("ix_tasks_due_first", "tasks", [sa.text("due_at IS NULL"), "due_at", "id"])
    op.create_table(
        "task_tags",
        sa.Column("task_seq", Seq, nullable=False),
        sa.Column("tag", sa.String(50), nullable=False),
        sa.PrimaryKeyConstraint("task_seq", "tag", name="pk_task_tags"),
        sa.ForeignKeyConstraint(["task_seq"], ["tasks.seq"], name="fk_task_tags_task_seq", ondelete="CASCADE"),
    )
    op.create_index("ix_task_tags_tag_task_seq", "task_tags", ["tag", "task_seq"])
