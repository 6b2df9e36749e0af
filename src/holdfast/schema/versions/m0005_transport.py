"""How far the consumers of a log have come; what was handed to one again. Rollout: pre."""

from holdfast.schema.script import run_script

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Runs the SQL beside this file."""
    run_script(__file__)
