"""A gate knows which node it was loaded into, and until when it is kept warm. Rollout: pre."""

from holdfast.schema.script import run_script

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Runs the SQL beside this file."""
    run_script(__file__)
