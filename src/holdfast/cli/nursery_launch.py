"""Starts the nursery. Next to nothing is imported here, so that it is the first thing `up` does."""

import socket
import subprocess
import sys
from typing import NamedTuple

from holdfast import clock


class Launched(NamedTuple):
    """A nursery that is making its imports, and the supervisor's end of the socket to it."""

    process: "subprocess.Popen[bytes]"
    control: socket.socket
    at_seconds: float
    """When, by the monotonic clock."""

    def kill(self) -> None:
        """Ends it, whatever it is doing. Ending it again does nothing."""
        self.control.close()
        self.process.kill()
        self.process.wait()


def launch_nursery() -> Launched:
    """A new nursery. It ends by itself when the socket does, but not before its imports are made."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # -P: what lies in the folder that `up` was started in is none of our modules.
    command = [sys.executable, "-P", "-m", "holdfast.cli.nursery", str(theirs.fileno())]
    with theirs:
        process = subprocess.Popen(  # noqa: S603
            command,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the supervisor, which ends everything in order
        )
    return Launched(process, ours, clock.monotonic_seconds())
