"""What a service may do with the tables of another goes through functions. Rollout: pre."""

from holdfast.schema.script import run_script

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Runs the SQL beside this file."""
    run_script(__file__)
