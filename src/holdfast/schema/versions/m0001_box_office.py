"""The box office: users, events with their stock, orders with their payments and tickets, the outbox. Rollout: pre."""

from pathlib import Path

from alembic import op
from sqlalchemy import DDL

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Runs the SQL beside this file."""
    script = Path(__file__).with_name("0001_box_office.sql").read_text("utf-8")
    # As DDL, since in a text statement SQLAlchemy takes every `:word` for a parameter; DDL only wants `%` doubled.
    op.execute(DDL(script.replace("%", "%%")))  # type: ignore[no-untyped-call]
