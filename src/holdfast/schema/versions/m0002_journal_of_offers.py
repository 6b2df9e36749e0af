"""The journal takes what many orders of a batch have in common only once. Rollout: pre."""

from pathlib import Path

from alembic import op
from sqlalchemy import DDL

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Runs the SQL beside this file."""
    script = Path(__file__).with_name("0002_journal_of_offers.sql").read_text("utf-8")
    # As DDL, since in a text statement SQLAlchemy takes every `:word` for a parameter; DDL only wants `%` doubled.
    op.execute(DDL(script.replace("%", "%%")))  # type: ignore[no-untyped-call]
