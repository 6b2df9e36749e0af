"""The links of a cluster, in a process of their own: what passes by them must not wait for the buyers' client.

As a program this file is that process. It reads commands from standard input, a JSON object a line, answers each with a
line, and ends with its input, and so with whoever started it.
"""

import asyncio
import sys
from typing import Self

import msgspec

from holdfast.drill.cuts.proxy import Cut, Link
from holdfast.errors import Mendable

_ANSWER_SECONDS_MAX = 30.0
_HOST = "127.0.0.1"


class Command(msgspec.Struct):
    """Opens a link (`target_port` given), or does something to one that is open."""

    name: str
    cut: Cut = Cut.NONE
    port: int = 0
    """Where the link listens; 0: anywhere."""
    target_port: int = 0


class Links:
    """The other process, seen from here. Entered before the first link is opened."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "holdfast.drill.cuts.links",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()

    async def open(self, name: str, target_port: int, port: int = 0) -> int:
        """Makes a link to a loopback port: the port that it listens on."""
        return await self._ask(Command(name, port=port, target_port=target_port))

    async def apply(self, name: str, cut: Cut) -> None:
        """Does this to everything that passes by a link, from now on."""
        await self._ask(Command(name, cut))

    async def _ask(self, command: Command) -> int:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        async with self._turn, asyncio.timeout(_ANSWER_SECONDS_MAX):
            process.stdin.write(msgspec.json.encode(command) + b"\n")
            answer = await process.stdout.readline()
        if not answer.strip().isdigit():
            raise Mendable(f"The link {command.name} cannot be opened: {answer.decode().strip() or 'it has ended'}.")
        return int(answer)


async def _serve() -> None:
    """The process of the links."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    links: dict[str, Link] = {}
    while line := await reader.readline():
        command = msgspec.json.decode(line, type=Command)
        answer = "0"
        if command.target_port:
            links[command.name] = link = Link((_HOST, command.target_port))
            try:
                answer = str(await link.open(command.port))
            except OSError as error:
                answer = str(error)
        else:
            links[command.name].apply(command.cut)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()
    for link in links.values():
        await link.close()


if __name__ == "__main__":
    import signal

    import uvloop

    # Ctrl-C is for whoever started us; members still need their links while they are stopped.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    uvloop.run(_serve())
