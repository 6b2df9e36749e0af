"""What is published: CloudEvents 1.0 in structured JSON, one type and version for each kind of state change.

`docs/asyncapi.yaml` describes it for those who read it, `schemas/` holds a JSON schema of each type's data. A type's
data may gain members; anything else is a new version, `holdfast.order.reserved.v2`, published beside the old one until
nobody reads that.
"""

import re
from collections.abc import Collection
from datetime import datetime
from importlib.resources import files
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from holdfast import ids
from holdfast.outbox.consume import OutboxRow

ORDERS = "holdfast.orders"
INVENTORY = "holdfast.inventory"
DEAD_LETTERS = "holdfast.dead-letters"

LANES = 4
"""What is written by one owner at a time: what is about ids with the same last two bits. The number of partitions of a
topic is a multiple of it, so that each partition belongs to one lane."""
LANE_NAMES = tuple(f"relay-{lane}" for lane in range(LANES))
"""The lanes, as readers of the outbox."""

SOURCE = "urn:holdfast:outbox"
CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
VERSION = 1

ORDER_STATUSES = {
    "order.reserved": "reserved",
    "order.confirmed": "confirmed",
    "order.cancelled": "cancelled",
    "order.expired": "expired",
    # The order took tickets that its gate does not know of; it is about the gate, whatever has become of the order.
    "gate.missed": "reserved",
}
EVENT_KINDS = ("event.changed", "event.cancelled")
STOCK_CHANGED = "stock.changed"
TOPICS = {
    **dict.fromkeys(ORDER_STATUSES, ORDERS),
    **dict.fromkeys((*EVENT_KINDS, STOCK_CHANGED), INVENTORY),
}
"""The topic of each kind that is published."""

_TYPE = re.compile(r"holdfast\.([a-z]+\.[a-z]+)\.v([0-9]{1,4})")


class Money(msgspec.Struct):
    """Minor units of an ISO 4217 currency."""

    amount: int
    currency: str


class OrderLine(msgspec.Struct):
    """Some tickets of one tier."""

    tier_id: str
    quantity: int
    unit_price: int


class OrderData(msgspec.Struct):
    """An order as it stood after the change: `status` and `version` are those of this event."""

    order_id: str
    user_id: str
    event_id: str
    status: str
    version: int
    lines: list[OrderLine]
    total: Money
    created_at: datetime
    expires_at: datetime


class EventData(msgspec.Struct):
    """An event that was published, changed or cancelled: its state when this was published, of `version` or later."""

    event_id: str
    version: int
    status: str
    name: str
    starts_at: datetime
    time_zone: str


class TierStock(msgspec.Struct):
    """The counters of one tier: `available = capacity - held - sold`."""

    tier_id: str
    capacity: int
    held: int
    sold: int
    available: int


class StockData(msgspec.Struct):
    """The counters of all tiers of an event, of one moment. `as_of` is a position in the database's log (pg_lsn): what
    was committed before it is in the counters."""

    event_id: str
    as_of: str
    tiers: list[TierStock]


class CloudEvent(msgspec.Struct):
    """The envelope. `sequence` orders the events of one subject and of one partition, compared as text; `entityversion`
    is the version of the subject; `partitionkey` is the key of the message."""

    id: str
    type: str
    subject: str
    time: datetime
    dataschema: str
    partitionkey: str
    sequence: str
    entityversion: int
    data: OrderData | EventData | StockData
    specversion: str = "1.0"
    source: str = SOURCE
    datacontenttype: str = "application/json"


class Message(NamedTuple):
    """What goes to Kafka."""

    topic: str
    slot: int
    """0 to 255. As many partitions as a topic has share the slots evenly: what is of one slot stays in order."""
    key: bytes
    value: bytes


def published(row: OutboxRow, data: OrderData | EventData) -> Message:
    """The message about one row. Its id is the row's, however often it is published."""
    return _message(row.kind, row.event_id, row, data)


def stock_changed(row: OutboxRow, data: StockData) -> Message:
    """The message with an event's counters, after the changes up to `row`, which is about that event."""
    return _message(STOCK_CHANGED, f"{data.event_id}@{data.as_of}", row, data)


def lane_of(subject: UUID) -> int:
    """The lane that publishes what is about this order or event."""
    return subject.bytes[15] % LANES


def decode(content: bytes | None, kinds: Collection[str] | None = None) -> OutboxRow | None:
    """The row that a message tells of; None where it is of none of `kinds` (None: all kinds are wanted).

    Raises ValueError, which says why, for what is no event, or of a version that is not known here.
    """
    try:
        kind, version = _kind_of(_heads.decode(content or b"").type)
        if kinds is not None and kind not in kinds:
            return None
        if kind not in TOPICS or version != VERSION:
            raise ValueError(f"version {version} of {kind} is not known here")
        event = _thin.decode(content or b"")
        subject = ids.decode(ids.ORDER if TOPICS[kind] == ORDERS else ids.EVENT, event.subject)
        scope = ids.decode(ids.EVENT, event.data.event_id)
        if subject is None or scope is None:
            raise ValueError("its subject or event_id is no id of that type")
        xid, _, number = event.sequence.partition(".")
        return OutboxRow((str(int(xid)), int(number)), kind, subject, event.entityversion, scope, event.time)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from error


def decode_stock(content: bytes | None) -> StockData | None:
    """The counters that a message tells of; None where it is about something else, or cannot be read."""
    try:
        kind, version = _kind_of(_heads.decode(content or b"").type)
        if kind != STOCK_CHANGED or version != VERSION:
            return None
        return _stocks.decode(content or b"").data
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError):
        return None


def schema(kind: str) -> dict[str, Any]:
    """The JSON schema of a kind's data."""
    text = (files("holdfast.outbox") / "schemas" / f"{kind}.v{VERSION}.json").read_bytes()
    return msgspec.json.decode(text, type=dict[str, Any])


class _Head(msgspec.Struct):
    type: str


class _Scope(msgspec.Struct):
    event_id: str


class _Thin(msgspec.Struct):
    """What a consumer reads of an event: no more than it has of a row of the outbox."""

    subject: str
    time: datetime
    sequence: str
    entityversion: int
    data: _Scope


class _Stock(msgspec.Struct):
    data: StockData


_heads = msgspec.json.Decoder(_Head)
_thin = msgspec.json.Decoder(_Thin)
_stocks = msgspec.json.Decoder(_Stock)
_encoder = msgspec.json.Encoder()


def _message(kind: str, event_id: str, row: OutboxRow, data: OrderData | EventData | StockData) -> Message:
    if isinstance(data, OrderData):
        subject, slot = data.order_id, row.subject.bytes[15]
    else:
        subject, slot = data.event_id, row.scope.bytes[15]
    event = CloudEvent(
        id=event_id,
        type=f"holdfast.{kind}.v{VERSION}",
        subject=subject,
        time=row.occurred_at,
        dataschema=f"urn:holdfast:schema:{kind}:v{VERSION}",
        partitionkey=subject,
        # As long as the largest numbers of their kinds, so that it is compared as text.
        sequence=f"{int(row.position[0]):020}.{row.position[1]:019}",
        entityversion=row.version,
        data=data,
    )
    return Message(TOPICS[kind], slot, subject.encode(), _encoder.encode(event))


def _kind_of(type_name: str) -> tuple[str, int]:
    match = _TYPE.fullmatch(type_name)
    if match is None:
        raise ValueError(f"{type_name[:100]!r} is no type of ours")
    return match[1], int(match[2])
