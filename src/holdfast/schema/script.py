"""What a revision does: it runs the SQL that stands beside it."""

from pathlib import Path

from alembic import op
from sqlalchemy import DDL


def run_script(revision_file: str) -> None:
    """Runs `0001_name.sql` for `m0001_name.py`."""
    file = Path(revision_file)
    script = file.with_name(f"{file.stem.removeprefix('m')}.sql").read_text("utf-8")
    # As DDL, since in a text statement SQLAlchemy takes every `:word` for a parameter; DDL only wants `%` doubled.
    op.execute(DDL(script.replace("%", "%%")))  # type: ignore[no-untyped-call]
