"""Generations: what kept answers depend on, counted up by triggers in the transaction of the change."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TRIGGER = """CREATE TRIGGER {table}_generation_{change} AFTER {change} ON {table} BEGIN
    UPDATE generations SET n = n + 1 WHERE name = 'tasks';
END"""


def upgrade() -> None:
    op.create_table(
        "generations",
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("n", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_generations"),
    )
    # Not from 0: two databases that share a Redis, or one that was made anew, must not count through the same numbers.
    op.execute("INSERT INTO generations(name, n) VALUES ('tasks', abs(random() % 1000000000000))")
    for table in ("tasks", "task_tags"):
        for change in ("INSERT", "UPDATE", "DELETE"):
            op.execute(TRIGGER.format(table=table, change=change))
