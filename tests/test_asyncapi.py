"""docs/asyncapi.yaml names everything that is published, its references lead somewhere, and events are as it says."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import msgspec
import pytest
import yaml
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from holdfast import ids
from holdfast.outbox.consume import OutboxRow
from holdfast.outbox.events import (
    EVENT_KINDS,
    INVENTORY,
    ORDER_STATUSES,
    ORDERS,
    STOCK_CHANGED,
    TOPICS,
    EventData,
    Message,
    Money,
    OrderData,
    OrderLine,
    StockData,
    TierStock,
    decode,
    decode_stock,
    published,
    schema,
    stock_changed,
)
from holdfast.outbox.topics import topics_of
from holdfast.settings import Settings

FILE = Path(__file__).parent.parent / "docs" / "asyncapi.yaml"
DOCUMENT: dict[str, Any] = yaml.safe_load(FILE.read_text("utf-8"))


def payload_validator(type_name: str) -> jsonschema.Draft202012Validator:
    """Checks an event as the document describes its type, references to other files included."""

    def retrieve(uri: str) -> Resource[Any]:
        content = msgspec.json.decode(Path(urlsplit(uri).path).read_bytes())
        return Resource.from_contents(content, default_specification=DRAFT202012)

    registry: Registry[Any] = Registry(retrieve=retrieve)  # type: ignore[call-arg]
    document = Resource.from_contents(DOCUMENT, default_specification=DRAFT202012)
    (name,) = [name for name, message in DOCUMENT["components"]["messages"].items() if message["name"] == type_name]
    return jsonschema.Draft202012Validator(
        {"$ref": f"{FILE.as_uri()}#/components/messages/{name}/payload"},
        registry=registry.with_resource(FILE.as_uri(), document),
        format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER,
    )


def events() -> list[tuple[str, Message]]:
    """One message of every kind."""
    event_id, order_id = ids.new_id(), ids.new_id()
    now = datetime.now(UTC)
    event, tier = ids.encode(ids.EVENT, event_id), ids.encode(ids.TIER, ids.new_id())

    def row(kind: str) -> OutboxRow:
        subject = order_id if TOPICS[kind] == ORDERS else event_id
        return OutboxRow(("7123456789", 42), kind, subject, 3, event_id, now)

    def order(status: str) -> OrderData:
        order, user = ids.encode(ids.ORDER, order_id), ids.encode(ids.USER, ids.new_id())
        lines = [OrderLine(tier, 2, 120_000)]
        return OrderData(order, user, event, status, 3, lines, Money(240_000, "TWD"), now, now)

    stock = StockData(event, "1F/A0", [TierStock(tier, 10, 3, 4, 3)])
    about = EventData(event, 3, "cancelled", "Concert", now, "Asia/Taipei")
    return [
        *((kind, published(row(kind), order(status))) for kind, status in ORDER_STATUSES.items()),
        *((kind, published(row(kind), about)) for kind in EVENT_KINDS),
        (STOCK_CHANGED, stock_changed(row("event.changed")._replace(kind=STOCK_CHANGED), stock)),
    ]


@pytest.mark.parametrize(("kind", "message"), events())
def test_an_event_of_every_kind_is_as_the_document_says(kind: str, message: Message) -> None:
    event = msgspec.json.decode(message.value, type=dict[str, Any])
    validator = payload_validator(f"holdfast.{kind}.v1")
    validator.validate(event)
    assert datetime.fromisoformat(event["time"]).tzinfo is not None
    jsonschema.Draft202012Validator.check_schema(schema(kind))
    for spoilt in (
        event | {"data": {}},
        event | {"type": "holdfast.other.kind.v1"},
        {name: value for name, value in event.items() if name != "sequence"},
    ):
        assert not validator.is_valid(spoilt)


@pytest.mark.parametrize(("kind", "message"), events())
def test_a_consumer_reads_the_row_that_was_published(kind: str, message: Message) -> None:
    row = decode(message.value, (kind,))
    assert row is not None
    assert (row.position, row.kind, row.version) == (("7123456789", 42), kind, 3)
    assert decode(message.value, ("another",)) is None
    event = msgspec.json.decode(message.value, type=dict[str, Any])
    if kind == STOCK_CHANGED:
        assert event["id"] == f"{event['subject']}@1F/A0", "another id for other counters"
        stock = decode_stock(message.value)
        assert stock is not None
        assert stock.tiers[0].available == 3
    else:
        assert event["id"] == row.event_id == "7123456789-42"
        assert decode_stock(message.value) is None


def test_the_document_names_every_topic_type_and_schema() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    channels = {channel["address"]: channel for channel in DOCUMENT["channels"].values()}
    partitions = {address: channel["bindings"]["kafka"]["partitions"] for address, channel in channels.items()}
    assert partitions == topics_of(Settings()), "what they have by default"
    for topic in (ORDERS, INVENTORY):
        names = {resolve(reference["$ref"])["name"] for reference in channels[topic]["messages"].values()}
        assert names == {f"holdfast.{kind}.v1" for kind, of in TOPICS.items() if of == topic}
    shipped = {file.name for file in (FILE.parent.parent / "src/holdfast/outbox/schemas").iterdir()}
    assert shipped == {f"{kind}.v1.json" for kind in TOPICS}


def test_every_reference_leads_somewhere() -> None:
    found = list(references(DOCUMENT))
    assert len(found) > 20
    for reference in found:
        assert resolve(reference) if reference.startswith("#") else (FILE.parent / reference).is_file()
    sent = {resolve(operation["channel"]["$ref"])["address"] for operation in DOCUMENT["operations"].values()}
    assert sent == set(topics_of(Settings()))


def resolve(reference: str) -> Any:
    node: Any = DOCUMENT
    for name in reference.removeprefix("#/").split("/"):
        node = node[name]
    return node


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if "$ref" in node else []
        return own + [one for child in node.values() for one in references(child)]
    return [one for child in node for one in references(child)] if isinstance(node, list) else []
