"""SQL stands in .sql files, as named statements."""

from importlib.resources import files


def load_statements(package: str, name: str) -> dict[str, str]:
    """The named statements of a .sql file: each begins with a line `-- name: …`, its description under it."""
    statements: dict[str, str] = {}
    for block in (files(package) / name).read_text("utf-8").split("-- name:")[1:]:
        title, _, body = block.partition("\n")
        statements[title.strip()] = body.strip()
    return statements
