"""What the orders service has ready before a sale opens: connections, statements, the sale's snapshot and the gate."""

from collections.abc import Sequence
from uuid import UUID

import structlog

from holdfast.gate.gate import GateAway
from holdfast.orders.cancel import Cancel
from holdfast.orders.confirm import Confirm
from holdfast.orders.reserve import Reserve
from holdfast.tickets.warm import GetReady

_log = structlog.get_logger(__name__)


def orders_ready(reserve: Reserve, confirm: Confirm, cancel: Cancel) -> GetReady:
    """Gets one process's orders ready for some events."""

    async def get_ready(event_ids: Sequence[UUID]) -> None:
        for one in (reserve, confirm, cancel):
            await one.rehearse()
        for event_id in event_ids:
            try:
                await reserve.get_ready(event_id)
            except GateAway:
                _log.info("gate not ready", event_id=str(event_id))

    return get_ready
