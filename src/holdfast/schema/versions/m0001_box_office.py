"""The box office: users, events with their stock, orders with their payments and tickets, the outbox. Rollout: pre."""

from holdfast.schema.script import run_script

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Runs the SQL beside this file."""
    run_script(__file__)
