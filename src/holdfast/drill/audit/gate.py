"""What the gate holds of some events, asked in RESP of the server that has them: of one, or of a cluster's masters."""

import asyncio
import binascii
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit
from uuid import UUID

import hiredis

_SLOTS = 16384
_SECONDS_MAX = 2.0


class GateAwayError(Exception):
    """The gate does not answer, or has no master for an event."""


class GateFound(NamedTuple):
    """The gate's content of one event."""

    epoch: int
    is_open: bool
    free: dict[UUID, int]
    users: dict[UUID, int]
    """Tickets per person, without those who have none."""
    leases: int


class Node(NamedTuple):
    """A master and the slots that it has."""

    host: str
    port: int
    first: int
    last: int


def slot_of(event_id: UUID) -> int:
    """The slot of an event's keys: that of its hash tag, as the cluster specification counts it (CRC16/XMODEM)."""
    return binascii.crc_hqx(event_id.hex.encode(), 0) % _SLOTS


class GateReader:
    """Asks the gate at a valkey:// URL, of which each host is tried; `gate_url` of the settings is such a one."""

    def __init__(self, url: str) -> None:
        where, _, hosts = url.partition("://")[2].rpartition("@")
        user, _, password = where.partition(":")
        self._login = [unquote(part) for part in (user, password) if part]
        self._seeds = [_address(host) for host in hosts.partition("/")[0].split(",") if host]

    @property
    def is_absent(self) -> bool:
        """Whether this deployment has no gate."""
        return not self._seeds

    async def masters(self) -> list[Node]:
        """The masters of the cluster; of a single server, that one. Raises GateAwayError."""
        for host, port in self._seeds:
            try:
                found = await self._ask(host, port, [("CLUSTER", "SLOTS")])
            except GateAwayError:
                continue
            if isinstance(found[0], hiredis.ReplyError):
                return [Node(host, port, 0, _SLOTS - 1)]
            return [Node(row[2][0] or host, row[2][1], row[0], row[1]) for row in found[0]]
        raise GateAwayError("no server of the gate answers")

    async def found(self, events: Sequence[UUID]) -> dict[UUID, GateFound | None]:
        """What the gate has of each event, None where it has nothing. Raises GateAwayError."""
        nodes = await self.masters()
        answers = await asyncio.gather(*(self._found(nodes, event) for event in events))
        return dict(zip(events, answers, strict=True))

    async def _found(self, nodes: list[Node], event: UUID) -> GateFound | None:
        slot, tag = slot_of(event), "{" + event.hex + "}"
        node = next((node for node in nodes if node.first <= slot <= node.last), None)
        if node is None:
            raise GateAwayError(f"no master has slot {slot}")
        asked = [("HGETALL", f"{tag}:gate"), ("HGETALL", f"{tag}:users"), ("ZCARD", f"{tag}:leases")]
        answers = await self._ask(node.host, node.port, asked)
        wrong = next((answer for answer in answers if isinstance(answer, hiredis.ReplyError)), None)
        if wrong is not None:
            raise GateAwayError(str(wrong))
        gate, users = _pairs(answers[0]), _pairs(answers[1])
        if not gate:
            return None
        return GateFound(
            epoch=int(gate.get("epoch", 0)),
            is_open=gate.get("state") == "open",
            free={UUID(name[5:]): int(count) for name, count in gate.items() if name.startswith("free:")},
            users={UUID(user): int(count) for user, count in users.items() if int(count)},
            leases=int(answers[2]),
        )

    async def _ask(self, host: str, port: int, commands: Sequence[tuple[str, ...]]) -> list[Any]:
        """The replies of one server, errors among them."""
        logins = [("AUTH", *self._login)] if self._login else []
        reader = hiredis.Reader(encoding="utf-8")
        replies: list[Any] = []
        writer = None
        try:
            async with asyncio.timeout(_SECONDS_MAX):
                incoming, writer = await asyncio.open_connection(host, port)
                for command in (*logins, *commands):
                    writer.write(hiredis.pack_command(command))  # type: ignore[arg-type]  # its stub wants one
                while len(replies) < len(logins) + len(commands):
                    data = await incoming.read(1 << 16)
                    if not data:
                        raise GateAwayError("the connection was closed")
                    reader.feed(data)
                    while (reply := reader.gets()) is not False:
                        replies.append(reply)
        except (OSError, TimeoutError, hiredis.ProtocolError) as error:
            raise GateAwayError(f"{host}:{port}: {type(error).__name__}") from error
        finally:
            if writer is not None:
                writer.close()
        return replies[len(logins) :]


def _address(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    return parts.hostname or "", parts.port or 6379


def _pairs(flat: list[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
