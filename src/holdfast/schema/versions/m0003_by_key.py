"""Confirm and cancel find their orders by id alone. Rollout: pre."""

from pathlib import Path

from alembic import op
from sqlalchemy import DDL

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Runs the SQL beside this file."""
    script = Path(__file__).with_name("0003_by_key.sql").read_text("utf-8")
    # As DDL, since in a text statement SQLAlchemy takes every `:word` for a parameter; DDL only wants `%` doubled.
    op.execute(DDL(script.replace("%", "%%")))  # type: ignore[no-untyped-call]
