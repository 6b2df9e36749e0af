"""The process that `up` forks its servers and its worker from.

Their imports cost more than everything else in a start, so they are made once, here, while the engines start; after
that a server is there in some hundredths of a second, also when it is started again. No thread and no event loop
ever runs in this process, so that forking it is safe.

Requests and answers are JSON, one a packet, on the socket whose number is the only argument: a `Request` with the
descriptors of its log, of a pipe that ends with the supervisor and, for a server, of the listening socket; then a
`Born`, and when the child has ended an `Ended`.
"""

import gc
import os
import select
import socket
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

import msgspec

from holdfast.errors import Mendable

PACKET_BYTES_MAX = 64 * 1024
DESCRIPTORS_MAX = 3
EXIT_MENDABLE = 2


class Request(msgspec.Struct, tag=True):
    """A child to be born: what it is to be, and the environment it has beyond ours."""

    kind: str
    name: str
    environment: dict[str, str]


class Born(msgspec.Struct, tag=True):
    """The child of the oldest request without an answer."""

    pid: int


class Ended(msgspec.Struct, tag=True):
    """A child has ended, with this status; negative for a signal."""

    pid: int
    status: int


Kinds = Mapping[str, Callable[[Sequence[int]], None]]
"""What a child can be: a function of the descriptors that it was given beyond its log."""


class Nursery:
    """Forks what it is asked to until its socket ends."""

    def __init__(self, control: socket.socket, kinds: Kinds) -> None:
        self._control = control
        self._kinds = kinds
        self._children: dict[int, int] = {}
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)

    def run(self) -> None:
        """Serves requests; returns when the supervisor is gone. What was born lives on, as long as it wants to."""
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor != self._control.fileno():
                    self._bury(descriptor)
                elif not self._serve():
                    return

    def _serve(self) -> bool:
        packet, descriptors, _, _ = socket.recv_fds(self._control, PACKET_BYTES_MAX, DESCRIPTORS_MAX)
        if not packet:
            return False
        request = msgspec.json.decode(packet, type=Request)
        pid = os.fork()
        if pid == 0:
            self._live(request, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        handle = os.pidfd_open(pid)
        self._children[handle] = pid
        self._poll.register(handle, select.POLLIN)
        self._control.send(msgspec.json.encode(Born(pid)))
        return True

    def _bury(self, handle: int) -> None:
        self._poll.unregister(handle)
        os.close(handle)
        pid = self._children.pop(handle)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self._control.send(msgspec.json.encode(Ended(pid, status)))

    def _live(self, request: Request, descriptors: Sequence[int]) -> NoReturn:
        """The whole life of a child. It never returns into the nursery's own code."""
        status = 1
        try:
            self._settle(request, descriptors[0])
            self._kinds[request.kind](descriptors[1:])
            status = 0
        except Mendable as error:
            sys.stderr.write(f"{error}\n")
            status = EXIT_MENDABLE
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _settle(self, request: Request, log: int) -> None:
        os.setsid()
        self._control.close()
        for handle in self._children:
            os.close(handle)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.close(log)
        os.environ.update(request.environment)
        with open("/proc/self/comm", "w", encoding="utf-8") as shown_by_ps:
            shown_by_ps.write(request.name)


def main() -> None:
    """Imports what servers and workers need, then serves requests."""
    # Nothing is garbage while modules are made; and collected objects would be copied in every child.
    gc.disable()
    # structlog imports rich where there is one, for tracebacks in a terminal. No child shows any.
    sys.modules["rich"] = None  # type: ignore[assignment]
    from holdfast.cli.offspring import KINDS

    gc.freeze()
    gc.enable()
    Nursery(socket.socket(fileno=int(sys.argv[1])), KINDS).run()


if __name__ == "__main__":
    main()
