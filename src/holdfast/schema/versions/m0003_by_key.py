"""Confirm and cancel find their orders by id alone. Rollout: pre."""

from holdfast.schema.script import run_script

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Runs the SQL beside this file."""
    run_script(__file__)
