"""Alembic's folder: each change of the database's shape, and what runs them."""
