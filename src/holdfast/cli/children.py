"""The supervisor's side of its children: they are asked of the nursery, watched, and asked for again."""

import asyncio
import os
import socket
from collections import deque
from collections.abc import Mapping
from pathlib import Path

import msgspec

from holdfast.cli.nursery import PACKET_BYTES_MAX, Born, Ended, Request
from holdfast.cli.nursery_launch import Launched, launch_nursery
from holdfast.engines.processes import Process, identify
from holdfast.engines.watching import ended

_answers = msgspec.json.Decoder(Born | Ended)


class NurseryGone(Exception):
    """The nursery ended before it had answered."""


class NurseryClient:
    """The nursery that was launched, and another whenever one has ended."""

    def __init__(self, launched: Launched) -> None:
        self._launched: Launched | None = launched
        self._requested: deque[asyncio.Future[int]] = deque()
        self._statuses: dict[int, asyncio.Future[int | None]] = {}
        self._reading = False

    async def bear(self, request: Request, descriptors: list[int]) -> Process | None:
        """Has a child born; None where it has ended already. Raises NurseryGone."""
        self._launched = self._launched or launch_nursery()
        control = self._launched.control
        loop = asyncio.get_running_loop()
        if not self._reading:
            self._reading = True
            loop.add_reader(control, self._hear, control)
        born = loop.create_future()
        self._requested.append(born)
        try:
            socket.send_fds(control, [msgspec.json.encode(request)], descriptors)
        except OSError:
            self._lose()
        return identify(await born)

    async def status(self, process: Process) -> int | None:
        """Waits until the child has ended; its exit status, or None where the nursery did not live to tell."""
        await ended(process)
        if process.pid not in self._statuses:
            return None
        status = await self._statuses[process.pid]
        del self._statuses[process.pid]
        return status

    def close(self) -> None:
        """Ends the nursery. Its children, if there are any left, live on."""
        self._lose()

    def _hear(self, control: socket.socket) -> None:
        try:
            packet = control.recv(PACKET_BYTES_MAX)
        except OSError:
            packet = b""
        if not packet:
            self._lose()
            return
        answer = _answers.decode(packet)
        if isinstance(answer, Born):
            self._statuses[answer.pid] = asyncio.get_running_loop().create_future()
            self._requested.popleft().set_result(answer.pid)
        elif not self._statuses[answer.pid].done():
            self._statuses[answer.pid].set_result(answer.status)

    def _lose(self) -> None:
        if self._launched is None:
            return
        if self._reading:
            self._reading = False
            asyncio.get_running_loop().remove_reader(self._launched.control)
        self._launched.kill()
        self._launched = None
        while self._requested:
            self._requested.popleft().set_exception(NurseryGone())
        for status in self._statuses.values():
            if not status.done():
                status.set_result(None)


class Child:
    """A server or the worker, born again whenever it ends."""

    def __init__(
        self, nursery: NurseryClient, kind: str, name: str, environment: Mapping[str, str], log: Path, *passed: int
    ) -> None:
        self.name = name
        self.log = log
        self.process: Process | None = None
        self._nursery = nursery
        self._request = Request(kind, f"holdfast-{name}", dict(environment))
        self._passed = passed

    async def begin(self) -> None:
        """Starts the process. Raises NurseryGone."""
        output = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self.process = await self._nursery.bear(self._request, [output, *self._passed])
        finally:
            os.close(output)

    async def end(self) -> str:
        """Waits until the process has ended; says how."""
        if self.process is None:
            return "ended at once"
        status = await self._nursery.status(self.process)
        if status is None:
            return "has ended"
        return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
