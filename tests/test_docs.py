"""What the documents name is there: links, files, commands with their options, settings, tables and functions."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from holdfast.cli.main import build_app
from holdfast.settings import ENV_PREFIX, Settings

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "holdfast"
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
GUIDES = ("README", "ARCHITECTURE", "CONTRIBUTING", "CHANGELOG", "docs/performance", "docs/drills", "docs/scaling")
DOCUMENTS = [*(ROOT / f"{name}.md" for name in GUIDES), *DECISIONS]

SCHEMA = "\n".join(path.read_text("utf-8") for path in sorted((PACKAGE / "schema" / "versions").glob("*.sql")))

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"```[a-z]*\n(.*?)```|`([^`\n]+)`", re.DOTALL)
_COMMAND = re.compile(r"(?:^|[/\s])holdfast ((?:[a-zA-Z][\w-]*|--?[a-z][\w-]*)(?:[ ]+[^\s;|#]+)*)", re.MULTILINE)
_FILE = re.compile(r"(?:[\w.-]+/)*[\w.-]+\.(?:py|sql|lua|md|toml|html)|(?:[\w.]+/)+")
_MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|tmp|work|opt|var|mnt|srv|usr|Users|private)(?:/|\b)")

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def code_of(document: Path) -> Iterator[str]:
    """Everything that is set as code, block by block and span by span."""
    for block, span in _CODE.findall(document.read_text("utf-8")):
        yield block or span


def anchors_of(document: Path) -> set[str]:
    """The anchors of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_document
def test_every_link_leads_somewhere_in_the_project(document: Path) -> None:
    for link in _LINK.findall(document.read_text("utf-8")):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


@every_document
def test_no_path_of_a_machine_and_no_long_line(document: Path) -> None:
    text = document.read_text("utf-8")
    assert not _MACHINE_PATH.search(text)
    lines = text.splitlines()
    if document.stem == "drills":
        # The rows that `holdfast drill --markdown` prints have sixteen columns.
        lines = [line for line in lines if line.count(" | ") < 15]
    assert not [line for line in lines if len(line) > 120]


def test_the_control_a_path_of_a_machine_is_seen() -> None:
    assert _MACHINE_PATH.search("data in /home/alice/.holdfast")
    assert not _MACHINE_PATH.search("GET /users/me and tests/conftest.py")


def command_of(words: list[str]) -> tuple[TyperGroup | TyperCommand, list[str]]:
    """The command that these words begin with, and the words after it."""
    command: object = get_command(build_app([]))
    while words and isinstance(command, TyperGroup) and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    assert isinstance(command, TyperGroup | TyperCommand)
    return command, words


@every_document
def test_every_command_is_there_with_its_options(document: Path) -> None:
    for text in code_of(document):
        for line in _COMMAND.findall(text):
            words = line.replace("…", "").split()
            command, rest = command_of(words)
            assert len(rest) < len(words), f"there is no command `holdfast {line}`"
            options = {name for parameter in command.params for name in parameter.opts + parameter.secondary_opts}
            for word in rest:
                assert not word.startswith("--") or word in {*options, "--help"}, line


def test_readme_names_every_command() -> None:
    group, _ = command_of([])
    readme = (ROOT / "README.md").read_text("utf-8")
    assert isinstance(group, TyperGroup)
    for name, command in group.commands.items():
        names = [f"{name} {part}" for part in getattr(command, "commands", {})] or [name]
        assert all(f"`holdfast {each}`" in readme for each in names), name


@every_document
def test_every_setting_is_one(document: Path) -> None:
    text = document.read_text("utf-8")
    for name in re.findall(rf"{ENV_PREFIX}([A-Z_]+[A-Z])", text):
        assert name.lower() in Settings.model_fields, name


def test_readme_tells_the_settings_defaults() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    told = re.findall(rf"^\| `{ENV_PREFIX}(\w+)` \| (`?)([^|`]+?)`? \|", readme, re.MULTILINE)
    assert len(told) > 10
    for name, is_value, default in told:
        field = Settings.model_fields[name.lower()]
        assert field.default is not PydanticUndefined
        if not is_value:
            # Told in words: nothing by itself.
            assert not field.default or not field.default.get_secret_value(), name
        elif isinstance(field.default, int | float):
            assert float(default) == field.default, name
        else:
            assert default == field.default, name


def test_the_limits_in_settings_have_their_defaults() -> None:
    """ARCHITECTURE.md's table of limits: `name` value, with a unit or thousands' commas."""
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    told = re.findall(r"`([a-z]+_[a-z_]+)` ([\d.,]*\d)(?: (KiB|MiB|days))?", text)
    units = {"": 1.0, "KiB": 1024.0, "MiB": 1024.0 * 1024}
    checked = [name for name, _, _ in told if name in Settings.model_fields]
    assert len(checked) > 10
    for name, value, unit in told:
        if name in Settings.model_fields:
            assert float(value.replace(",", "")) * units[unit] == Settings.model_fields[name].default, name


@every_document
def test_every_file_is_there(document: Path) -> None:
    generated = {".venv/", ".holdfast/", "keys/"}
    future = {"schema/versions/0003_what_it_does.sql", "m0003_what_it_does.py"}
    for text in code_of(document):
        if "\n" in text or text in generated | future or not _FILE.fullmatch(text):
            continue
        places = [base / text for base in (ROOT, ROOT / "tests", PACKAGE, PACKAGE / "schema" / "versions")]
        assert any(place.exists() for place in places), text


def test_the_tree_of_the_path_names_files_that_are_there() -> None:
    blocks = [text for text in code_of(ROOT / "ARCHITECTURE.md") if "\n" in text and ".py" in text]
    assert len(blocks) == 2
    for block in blocks:
        folder = ""
        for name in re.findall(r"[\w/]+\.(?:py|lua)", block):
            path = PACKAGE / name
            if not path.exists():
                path = PACKAGE / folder / name
            assert path.exists(), name
            folder = str(Path(name).parent) if "/" in name else folder


@every_document
def test_every_table_function_and_constraint_is_in_the_schema(document: Path) -> None:
    for text in code_of(document):
        for schema, name in re.findall(r"\b(auth|tickets|orders|outbox)\.([a-z_]+)(?![\w./])", text):
            if name not in ("py", "sql"):
                assert re.search(rf"\b(TABLE|FUNCTION) {schema}\.{name}\b", SCHEMA), f"{schema}.{name}"
        for name in re.findall(r"^(?:stock|orders|user_tickets|payments)_[a-z_]+$", text):
            if name not in Settings.model_fields:
                assert re.search(rf"\b(CONSTRAINT|INDEX) {name}\b", SCHEMA), name


def test_decisions_are_numbered_and_have_their_parts() -> None:
    assert [path.name[:4] for path in DECISIONS] == [f"{number:04}" for number in range(1, len(DECISIONS) + 1)]
    for path in DECISIONS:
        text = path.read_text("utf-8")
        assert text.startswith(f"# {int(path.name[:4])}. ")
        parts = re.findall(r"^## (.+)$", text, re.MULTILINE)
        assert parts == ["Context", "Decision", "Consequences", "What would change our mind"]
