"""One server process: an ASGI app behind uvicorn."""

import asyncio
import contextlib
import os
import socket

import uvicorn
from starlette.types import ASGIApp

from holdfast.door.protocol import door_protocol
from holdfast.settings import Settings

_BACKLOG = 4096
_KEEP_ALIVE_SECONDS = 30


def serve(
    app: ASGIApp, settings: Settings, *, host: str, port: int, fd: int | None = None, parent_pipe: int | None = None
) -> None:
    """Serves until SIGTERM, SIGINT or the end of `parent_pipe`; what is under way then has `drain_seconds` to finish.

    With `fd`, an inherited listening socket is used and `host` and `port` are not. `parent_pipe` is the reading end of
    a pipe whose writing end the parent alone holds: its end means that the parent is gone.

    An app that has an `entry` when it has started is asked for the hot routes of that without ASGI in between.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="uvloop",
        http=door_protocol(settings, lambda: getattr(app, "entry", None)),
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
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.drain_seconds,
    )
    sockets = None if fd is None else [socket.socket(fileno=fd)]
    # uvicorn raises a SIGINT it has handled once more, when everything has ended.
    with contextlib.suppress(KeyboardInterrupt):
        _Server(config, parent_pipe).run(sockets)


class _Server(uvicorn.Server):
    """uvicorn's server, which also ends when its parent does."""

    def __init__(self, config: uvicorn.Config, parent_pipe: int | None) -> None:
        super().__init__(config)
        self._parent_pipe = parent_pipe

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._parent_pipe is not None:
            os.set_blocking(self._parent_pipe, False)
            asyncio.get_running_loop().add_reader(self._parent_pipe, self._parent_spoke, self._parent_pipe)

    def _parent_spoke(self, parent_pipe: int) -> None:
        with contextlib.suppress(BlockingIOError):
            if not os.read(parent_pipe, 4096):
                asyncio.get_running_loop().remove_reader(parent_pipe)
                self.should_exit = True
