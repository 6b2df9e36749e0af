"""Sales per tier and minute, and when an order was told of. Rollout: pre."""

from holdfast.schema.script import run_script

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Runs the SQL beside this file."""
    run_script(__file__)
