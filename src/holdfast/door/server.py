"""One server process: an ASGI app behind uvicorn."""

import asyncio
import contextlib
import os
import socket
from types import FrameType

import structlog
import uvicorn
from starlette.types import ASGIApp

from holdfast.clock import monotonic_seconds
from holdfast.door.protocol import DoorProtocol, door_protocol
from holdfast.settings import Settings

KEEP_ALIVE_SECONDS = 30
"""How long a connection may rest between two requests. Whoever keeps a pool of them must give them up earlier."""

_BACKLOG = 4096
# Of `drain_seconds`, what requests under way may take; the rest is for what the app has to finish after them.
_REQUESTS_SHARE = 0.8

_log = structlog.get_logger(__name__)


def serve(
    app: ASGIApp, settings: Settings, *, host: str, port: int, fd: int | None = None, parent_pipe: int | None = None
) -> None:
    """Serves until SIGTERM, SIGINT or the end of `parent_pipe`, and then drains.

    At once /readyz says no and every answer closes its connection; for `drain_notice_seconds` more, new connections are
    still taken. Then it stops listening, closes what rests, answers what is under way and closes the app, within
    `drain_seconds` or not at all. A second signal ends the process at once.

    With `fd`, an inherited listening socket is used and `host` and `port` are not. `parent_pipe` is the reading end of
    a pipe whose writing end the parent alone holds: its end means that the parent is gone.

    An app that has an `entry` when it has started is asked for the hot routes of that without ASGI in between.
    """
    protocol = door_protocol(settings, lambda: getattr(app, "entry", None))
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="uvloop",
        http=protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        # Not a line for every piece of nonsense that comes in from outside.
        log_level="error",
        access_log=False,
        server_header=False,
        # A forwarded address is believed from these alone; with none configured the header is not even looked at.
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        backlog=_BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.drain_seconds * _REQUESTS_SHARE,  # type: ignore[arg-type]  # it may be a fraction
    )
    sockets = None if fd is None else [socket.socket(fileno=fd)]
    # uvicorn raises a SIGINT it has handled once more, when everything has ended.
    with contextlib.suppress(KeyboardInterrupt):
        _Server(config, parent_pipe, protocol, settings).run(sockets)


class _Server(uvicorn.Server):
    """uvicorn's server, which also ends when its parent does, gives notice before it ends, and ends in time."""

    def __init__(
        self, config: uvicorn.Config, parent_pipe: int | None, protocol: type[DoorProtocol], settings: Settings
    ) -> None:
        super().__init__(config)
        self._parent_pipe = parent_pipe
        self._protocol = protocol
        self._settings = settings
        self._was_told = False
        self._accepts_until: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._parent_pipe is not None:
            os.set_blocking(self._parent_pipe, False)
            asyncio.get_running_loop().add_reader(self._parent_pipe, self._parent_spoke, self._parent_pipe)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal: the first one begins the end, the next one is the end."""
        if self._was_told:
            # As good as a kill: whoever sends two has waited long enough.
            os._exit(128 + sig)
        self._was_told = True
        super().handle_exit(sig, frame)
        self._give_notice()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to stop listening now."""
        if not await super().on_tick(counter):
            return False
        return monotonic_seconds() >= self._give_notice()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stops listening, lets what is under way finish, and closes the app."""
        self._give_notice()
        too_late = asyncio.get_running_loop().call_later(self._settings.drain_seconds, self._give_up)
        await super().shutdown(sockets)
        too_late.cancel()

    def _give_notice(self) -> float:
        """Lets everyone know that this process is ending; until when it goes on accepting."""
        if self._accepts_until is None:
            self._accepts_until = monotonic_seconds() + self._settings.drain_notice_seconds
            self._protocol.give_notice()
        return self._accepts_until

    def _give_up(self) -> None:
        _log.error("not drained in time", drain_seconds=self._settings.drain_seconds)
        # Not an exception: it would cancel the writers' queries, commits among them.
        os._exit(1)

    def _parent_spoke(self, parent_pipe: int) -> None:
        with contextlib.suppress(BlockingIOError):
            if not os.read(parent_pipe, 4096):
                asyncio.get_running_loop().remove_reader(parent_pipe)
                self.should_exit = True
