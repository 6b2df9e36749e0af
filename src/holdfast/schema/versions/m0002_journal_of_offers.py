"""The journal takes what many orders of a batch have in common only once. Rollout: pre."""

from holdfast.schema.script import run_script

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Runs the SQL beside this file."""
    run_script(__file__)
