"""What Alembic runs for each migration. The connection comes from api/migrations/upgrade.py, inside its transaction."""

from alembic import context

from api.tables import metadata

# What compares these tables with a database leaves out the search index, which is no table of ours.
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    include_name=lambda name, kind, _parents: kind != "table" or not str(name).startswith("tasks_search"),
    render_as_batch=True,
)
context.run_migrations()
