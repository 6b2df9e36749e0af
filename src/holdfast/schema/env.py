"""Alembic's environment. Migrations are plain SQL, so Alembic only orders them and writes the script: no connection."""

from alembic import context

context.configure(dialect_name="postgresql", literal_binds=True, version_table_schema="public")
context.run_migrations()
