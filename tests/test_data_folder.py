"""The data folder: made once, for its owner alone, locked by one `up`, and refused undamaged where it cannot serve."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from holdfast.engines.data_folder import DataFolder, Running, running_beside, settings_of
from holdfast.engines.processes import Process, identify
from holdfast.errors import Mendable
from holdfast.settings import Settings

STRANGER_UID = 54_321


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("HOLDFAST_"):
            monkeypatch.delenv(name)


@contextmanager
def opened(path: Path) -> Iterator[DataFolder]:
    folder = DataFolder(path)
    folder.open()
    try:
        yield folder
    finally:
        folder.close()


def snapshot(path: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_folder_is_for_its_owner_alone(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as folder:
        folder.secrets()
        folder.note(Running())
        folders = [folder.path, *(part for part in folder.path.iterdir() if part.is_dir())]
        files = [part for part in folder.path.iterdir() if part.is_file()]
    assert {mode(part) for part in folders} == {0o700}
    assert {mode(part) for part in files} == {0o600}
    assert len(files) == 3


def test_an_open_folder_is_closed_to_others_again(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    with opened(tmp_path / "data") as folder:
        assert mode(folder.path) == 0o700


def test_the_secrets_are_kept(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as folder:
        first = folder.secrets()
    with opened(tmp_path / "data") as folder:
        assert folder.secrets() == first
    assert first.postgres_password != first.valkey_password


def test_one_up_at_a_time(tmp_path: Path) -> None:
    with opened(tmp_path / "data"), pytest.raises(Mendable, match="Another `holdfast up` runs on"):
        DataFolder(tmp_path / "data").open()
    with opened(tmp_path / "data"):
        pass


def test_a_process_started_meanwhile_does_not_keep_the_lock(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    folder.open()
    program = [sys.executable, "-c", "print(flush=True); input()"]
    child = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        folder.close()
        with opened(tmp_path / "data"):
            assert child.poll() is None
    finally:
        child.communicate(b"\n")


def test_a_file_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("mine")
    for look in (lambda: DataFolder(tmp_path / "data").is_new, DataFolder(tmp_path / "data").open):
        with pytest.raises(Mendable, match="is not a folder"):
            look()
    assert (tmp_path / "data").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("thesis.tex", "mine", "holds files that are not Holdfast's"),
        ("holdfast.json", '{"theme": "dark"}', "is not Holdfast's or is damaged"),
        ("holdfast.json", '{"format": 2}', "format 2 of a newer Holdfast"),
    ],
)
def test_a_foreign_or_newer_folder_is_left_as_it_is(tmp_path: Path, name: str, content: str, sentence: str) -> None:
    (tmp_path / name).write_text(content)
    (tmp_path / name).chmod(0o644)
    before = snapshot(tmp_path)
    with pytest.raises(Mendable, match=sentence):
        DataFolder(tmp_path).open()
    assert snapshot(tmp_path) == before
    assert [part.name for part in tmp_path.iterdir()] == [name]


def test_an_empty_marker_among_foreign_files_makes_no_folder_ours(tmp_path: Path) -> None:
    (tmp_path / "holdfast.json").touch()
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(Mendable, match="is not Holdfast's"):
        DataFolder(tmp_path).open()


def test_a_first_start_that_was_cut_off_at_once_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "holdfast.json").touch()
    assert DataFolder(tmp_path).is_new
    with opened(tmp_path):
        assert (tmp_path / "holdfast.json").read_bytes()


def test_data_of_another_postgresql(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as folder:
        folder.cluster.mkdir()
        (folder.cluster / "PG_VERSION").write_text("12\n")
    with pytest.raises(Mendable, match="data of PostgreSQL 12, and PostgreSQL 18 is"):
        DataFolder(tmp_path / "data").open()


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    # Root may write anywhere but where nobody can: no file is made in /proc.
    with pytest.raises(Mendable, match="cannot be used as the data folder"):
        DataFolder(Path("/proc/self/holdfast-data")).open()
    tmp_path.chmod(0o500)
    if os.geteuid() != 0:
        with pytest.raises(Mendable, match="cannot be used as the data folder"):
            DataFolder(tmp_path / "data").open()
    tmp_path.chmod(0o700)


def test_the_folder_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path / "data"):
        pass
    before = snapshot(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER_UID)
    with pytest.raises(Mendable, match="belongs to another user"):
        DataFolder(tmp_path / "data").open()
    assert snapshot(tmp_path) == before


def test_a_lost_password_is_not_made_up(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as folder:
        folder.secrets()
        folder.cluster.mkdir()
        (folder.path / "secrets.json").unlink()
        with pytest.raises(Mendable, match="put it back from a copy"):
            folder.secrets()


def test_a_damaged_state_file_is_as_good_as_none(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as folder:
        folder.note(Running(url="http://127.0.0.1:8000"))
        assert folder.running().url
        (folder.path / "engines.json").write_bytes(b'{"url": "http')
        assert folder.running() == Running()


def with_supervisor(path: Path, supervisor: Process | None) -> None:
    settings = {"database_url": "postgresql:///beside", "public_url": "http://127.0.0.1:1234"}
    with opened(path) as folder:
        folder.note(Running(supervisor=supervisor, settings=settings))


def test_a_command_beside_up_has_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_supervisor(tmp_path / "data", identify(os.getpid()))
    assert settings_of(tmp_path / "data").database_url.get_secret_value() == "postgresql:///beside"
    monkeypatch.setenv("HOLDFAST_DATABASE_URL", "postgresql:///given")
    settings = settings_of(tmp_path / "data")
    assert settings.database_url.get_secret_value() == "postgresql:///given"
    assert settings.public_url == "http://127.0.0.1:1234"


def test_where_no_up_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Mendable, match="No `holdfast up` runs on"):
        settings_of(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    monkeypatch.setenv("HOLDFAST_DATABASE_URL", "postgresql:///given")
    given: Settings = settings_of(tmp_path / "nowhere")
    assert given.database_url.get_secret_value() == "postgresql:///given"


def test_an_up_that_was_killed_does_not_run_though_another_process_has_its_pid(tmp_path: Path) -> None:
    ours = identify(os.getpid())
    assert ours is not None
    for gone in (None, ours._replace(started_ticks=ours.started_ticks - 1), ours._replace(boot_id="another boot")):
        with_supervisor(tmp_path / "data", gone)
        with pytest.raises(Mendable, match="No `holdfast up` runs on"):
            running_beside(tmp_path / "data")
