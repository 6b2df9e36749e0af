"""The data folder of `holdfast up`: all that the one-machine shape keeps, and who works in it now.

    holdfast.json     what makes a folder ours, its format, and the lock of the `up` that works in it
    secrets.json      the engines' passwords and the demo buyer's, made once
    engines.json      the addresses, settings and processes of the running (or last) `up`
    keys/  postgres/  valkey/  logs/

Everything is for its owner alone. A folder that cannot be used is refused before anything in it is touched.
"""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

import msgspec

from holdfast.engines import postgres_server
from holdfast.engines.processes import Process, is_alive
from holdfast.errors import Mendable
from holdfast.settings import ENV_PREFIX, Settings, load_settings

FORMAT = 1

_MARKER = "holdfast.json"
_STATE = "engines.json"
_NOT_FOREIGN = {_MARKER, "lost+found"}  # the second is a mounted file system's own


class Shape(StrEnum):
    """What a folder is kept by."""

    ONE_MACHINE = "up"
    CLUSTER = "cluster"


class _Marker(msgspec.Struct, omit_defaults=True):
    format: int
    shape: Shape = Shape.ONE_MACHINE


class Secrets(msgspec.Struct):
    """What only the owner of the folder may read."""

    postgres_password: str
    valkey_password: str
    demo_email: str | None = None
    demo_password: str | None = None
    passwords: dict[str, str] = {}
    """Of a cluster's parts, by name."""


class Running(msgspec.Struct):
    """What an `up` leaves for the commands beside it, and for the next `up` if it is killed."""

    supervisor: Process | None = None
    children: list[Process] = []
    settings: dict[str, str] = {}
    """Settings by name, as the environment would have them: a command beside `up` works with the same."""
    url: str = ""
    valkey_port: int | None = None
    postgres_port: int | None = None
    prepared: bool = False
    """Whether the first run has made what it makes once."""


class DataFolder:
    """One data folder. `open` it before anything else."""

    def __init__(self, path: Path, shape: Shape = Shape.ONE_MACHINE) -> None:
        self.path = path.absolute()
        self.shape = shape
        self.signing_key_file = self.path / "keys" / "signing-keys.json"
        self.cluster = self.path / "postgres" / "cluster"
        self.sockets = self.path / "postgres"
        self.valkey = self.path / "valkey"
        self.logs = self.path / "logs"
        self._lock: int | None = None

    @property
    def is_new(self) -> bool:
        """Whether nothing is there yet, so that nothing of ours can be running in it."""
        with self._usable():
            self._check_place()
            return not self.path.exists() or not set(os.listdir(self.path)) - _NOT_FOREIGN

    def open(self) -> None:
        """Makes the folder or checks it, and locks it until `close`. Raises Mendable, with nothing changed."""
        with self._usable():
            self._check_place()
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            strangers = set(os.listdir(self.path)) - _NOT_FOREIGN
            if strangers and not (self.path / _MARKER).exists():
                raise Mendable(
                    f"{self.path} holds files that are not Holdfast's: give an empty or a new folder with --data."
                )
            self._lock = marker = os.open(self.path / _MARKER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                self._take_lock(marker)
                self._check_marker(marker, strangers)
                self._check_cluster()
                self.path.chmod(0o700)
                parts = [self.signing_key_file.parent, self.logs]
                if self.shape is Shape.ONE_MACHINE:
                    parts += [self.sockets, self.valkey]
                for part in parts:
                    part.mkdir(mode=0o700, exist_ok=True)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Lets the folder go."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def secrets(self) -> Secrets:
        """The folder's secrets, made when there are none yet."""
        file = self.path / "secrets.json"
        if not file.exists():
            if self.cluster.exists():
                raise Mendable(f"{file} is missing, and with it PostgreSQL's password: put it back from a copy.")
            # Only letters and digits: they go into a URL and a configuration file as they are.
            self.keep(Secrets(postgres_password=secrets.token_hex(24), valkey_password=secrets.token_hex(24)))
        try:
            return msgspec.json.decode(file.read_bytes(), type=Secrets)
        except msgspec.MsgspecError as error:
            raise Mendable(f"{file} is damaged ({error}): put it back from a copy.") from error

    def passwords(self, *names: str) -> dict[str, str]:
        """The passwords of these parts of a cluster, made where there are none yet."""
        kept = self.secrets()
        if missing := [name for name in names if name not in kept.passwords]:
            kept.passwords.update((name, secrets.token_hex(24)) for name in missing)
            self.keep(kept)
        return kept.passwords

    def keep(self, kept: Secrets) -> None:
        """Writes the secrets."""
        write_whole(self.path / "secrets.json", kept)

    def running(self) -> Running:
        """What the running or last `up` left; nothing where none did, or where it can no longer be read."""
        try:
            return msgspec.json.decode((self.path / _STATE).read_bytes(), type=Running)
        except (FileNotFoundError, msgspec.MsgspecError):
            return Running()

    def note(self, running: Running) -> None:
        """Writes what the commands beside `up`, and the next `up`, have to know."""
        write_whole(self.path / _STATE, running)

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Mendable(
                f"{self.path} cannot be used as the data folder ({error.strerror or error}): "
                "give one that you may write with --data."
            ) from error

    def _check_place(self) -> None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return
        if not self.path.is_dir():
            raise Mendable(f"{self.path} is not a folder: give another place with --data.")
        if found.st_uid != os.geteuid():
            raise Mendable(
                f"{self.path} belongs to another user (uid {found.st_uid}): run as that user, "
                "or give a folder of your own with --data."
            )

    def _take_lock(self, marker: int) -> None:
        try:
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Mendable(
                f"Another `holdfast {self.shape}` runs on {self.path}: stop that one first, "
                "or give another folder with --data."
            ) from None

    def _check_marker(self, marker: int, strangers: set[str]) -> None:
        text = os.pread(marker, 4096, 0)
        # An empty one is left by a first start that was cut off at once: then nothing else is there either.
        if not text and not strangers:
            os.pwrite(marker, msgspec.json.encode(_Marker(FORMAT, self.shape)) + b"\n", 0)
            os.fsync(marker)
            return
        try:
            made = msgspec.json.decode(text, type=_Marker)
        except msgspec.MsgspecError as error:
            raise Mendable(
                f"{self.path / _MARKER} is not Holdfast's or is damaged: give another folder with --data."
            ) from error
        if made.format > FORMAT:
            raise Mendable(
                f"{self.path} has format {made.format} of a newer Holdfast; this one knows {FORMAT} at most: "
                "install that release, or give another folder with --data."
            )
        if made.shape != self.shape:
            raise Mendable(
                f"{self.path} is a folder of `holdfast {made.shape}`: run that, or give another folder with --data."
            )

    def _check_cluster(self) -> None:
        version = self.cluster / "PG_VERSION"
        if version.exists() and (found := version.read_text("ascii").strip()) != postgres_server.major_version():
            raise Mendable(
                f"{self.path} has data of PostgreSQL {found}, and PostgreSQL {postgres_server.major_version()} is "
                "installed: install the release that made it, or give another folder with --data."
            )


def running_beside(data: Path) -> Running:
    """What the `up` that runs on this folder left. Raises Mendable where none runs."""
    folder = DataFolder(data)
    try:
        running = folder.running()
    except OSError as error:
        raise Mendable(f"{folder.path / _STATE} cannot be read ({error.strerror}): run as its owner.") from error
    if running.supervisor is None or not is_alive(running.supervisor):
        raise Mendable(
            f"No `holdfast up` runs on {folder.path}: start it, name its folder with --data, "
            f"or set {ENV_PREFIX}DATABASE_URL."
        )
    return running


def settings_of(data: Path) -> Settings:
    """The settings of the `up` that runs on this folder; the environment's own take precedence.

    With HOLDFAST_DATABASE_URL in the environment no `up` has to run. Raises Mendable where neither is there.
    """
    try:
        running = running_beside(data)
    except Mendable:
        if os.environ.get(f"{ENV_PREFIX}DATABASE_URL"):
            return load_settings()
        raise
    given = {name: value for name, value in running.settings.items() if not os.environ.get(ENV_PREFIX + name.upper())}
    return load_settings(**given)


def write_whole(file: Path, content: msgspec.Struct) -> None:
    """Replaces the file whole, so that a reader or a power cut never meets half of one."""
    unfinished = file.with_name(f"{file.name}.new")
    handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as written:
        written.write(msgspec.json.format(msgspec.json.encode(content)) + b"\n")
        written.flush()
        os.fsync(written.fileno())
    unfinished.replace(file)
