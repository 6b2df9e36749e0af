"""GET /events/{event_id}/sales: what an organiser is told of their own sale."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from box_office import consume_all
from holdfast import ids
from holdfast.engines.database import Pool
from holdfast.settings import Settings
from holdfast.stats.record import stats_consumer
from holdfast.stats.sales import LIMIT_DEFAULT, LIMIT_MAX, Position, read_cursor, write_cursor
from house import House, done, open_house, refused, tier

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture
async def house(settings: Settings, pool: Pool) -> AsyncIterator[House]:
    async with open_house(settings, pool) as opened:
        yield opened


async def sales(house: House, event: dict[str, Any], **parameters: object) -> dict[str, Any]:
    """What Olga is told."""
    return done(await house.ask("olga", "GET", f"/events/{event['id']}/sales", params=parameters))


async def minutes_of(house: House, event: dict[str, Any], *minutes: datetime) -> None:
    """Lets one ticket of each tier have been sold in each of these minutes."""
    for tier_ in event["tiers"]:
        await house.pool.executemany(
            "INSERT INTO stats.sales VALUES ($1, $2, $3, 'TWD', 2, 1, 1, 0, 80000)",
            [(uuid_of(event), minute, ids.decode(ids.TIER, tier_["id"])) for minute in minutes],
        )


def uuid_of(event: dict[str, Any]) -> UUID:
    found = ids.decode(ids.EVENT, event["id"])
    assert found is not None
    return found


async def test_an_organiser_sees_what_was_held_released_and_sold(house: House) -> None:
    event = await house.event(tiers=[tier("Floor", 80_000), tier("Balcony", 50_000)])
    assert await sales(house, event) == {"event_id": event["id"], "totals": [], "data": [], "next_cursor": None}
    kept = await house.order("alice", "one", event, 2, 1)
    away = await house.order("bob", "two", event, 1)
    assert done(await house.confirm("alice", "pay", kept))["status"] == "confirmed"
    assert done(await house.cancel("bob", "away", away))["status"] == "cancelled"
    await consume_all(house.pool, stats_consumer())
    told = await sales(house, event)
    by_tier = {total["tier_id"]: total for total in told["totals"]}
    floor, balcony = (by_tier[tier_["id"]] for tier_ in event["tiers"])
    expected = {"held": 3, "released": 1, "sold": 2, "sold_late": 0, "revenue": {"amount": 160_000, "currency": "TWD"}}
    assert floor == {"tier_id": event["tiers"][0]["id"]} | expected
    expected = {"held": 1, "released": 0, "sold": 1, "sold_late": 0, "revenue": {"amount": 50_000, "currency": "TWD"}}
    assert balcony == {"tier_id": event["tiers"][1]["id"]} | expected
    # The minute may have changed in between.
    assert sum(row["sold"] for row in told["data"]) == 3
    assert all(row["minute"].endswith(":00.000Z") for row in told["data"])


async def test_pages_go_on_where_the_one_before_ended(house: House) -> None:
    event = await house.event(tiers=[tier("Floor"), tier("Balcony")])
    await minutes_of(house, event, *(NOON + timedelta(minutes=n) for n in range(5)))
    span = {"from": "2026-11-22T12:00:00Z", "to": "2026-11-22T21:00:00+08:00"}
    found, cursor, pages = [], None, 0
    while cursor is not None or pages == 0:
        page = await sales(house, event, limit=3, **span, **({} if cursor is None else {"cursor": cursor}))
        assert page["totals"] == (await sales(house, event, **span))["totals"]
        found += page["data"]
        cursor, pages = page["next_cursor"], pages + 1
    assert pages == 4
    assert found == (await sales(house, event, **span))["data"]
    assert len({(row["minute"], row["tier_id"]) for row in found}) == 10
    assert [row["minute"] for row in found] == sorted(row["minute"] for row in found)


async def test_the_span_begins_with_from_and_ends_before_to(house: House) -> None:
    event = await house.event()
    await minutes_of(house, event, *(NOON + timedelta(minutes=n) for n in range(5)))
    # An unescaped + in a query is a space.
    reply = await house.ask(
        "ada", "GET", f"/events/{event['id']}/sales?from=2026-11-22T20:01:00+08:00&to=2026-11-22T12:04:00Z"
    )
    told = done(reply)
    assert [row["minute"][11:16] for row in told["data"]] == ["12:01", "12:02", "12:03"]
    assert [total["sold"] for total in told["totals"]] == [3]
    assert reply.headers["cache-control"] == "no-store"


async def test_without_from_it_is_a_day_and_without_to_it_is_until_now(house: House) -> None:
    event = await house.event()
    now = (await house.pool.fetchval("SELECT date_trunc('minute', now())")) - timedelta(minutes=1)
    await minutes_of(house, event, now, now - timedelta(hours=23), now - timedelta(hours=25))
    assert len((await sales(house, event))["data"]) == 2
    assert len((await sales(house, event, to=now.isoformat()))["data"]) == 1
    assert len((await sales(house, event, **{"from": (now - timedelta(days=2)).isoformat()}))["data"]) == 3


@pytest.mark.parametrize(
    "query",
    [
        "from=yesterday",
        "from=0",
        "from=2026-11-22",
        "from=2026-11-22T12:00:00",
        "to=2026-02-30T12:00:00Z",
        "to=9999-12-31T23:59:59-10:00",
        "from=0001-01-01T00:00:00%2B10:00&to=0001-01-01T00:00:00Z",
        "from=2026-11-22T12:00:00Z&to=2026-11-22T11:59:59Z",
        "from=2026-11-22T12:00:00Z&to=2026-12-23T12:00:01Z",
        "from=2026-11-22T12:00:00+24:00&to=2026-11-22T13:00:00Z",
        "from=" + "x" * 65,
        "limit=0",
        f"limit={LIMIT_MAX + 1}",
        "limit=many",
        "cursor=guess",
        "cursor=" + "_" * 32,
        "cursor=" + "A" * 32,
    ],
)
async def test_what_is_no_span_is_refused(house: House, query: str) -> None:
    event = await house.event()
    assert refused(await house.ask("olga", "GET", f"/events/{event['id']}/sales?{query}")) == "422 validation"


async def test_a_span_of_the_longest_kind_is_taken(house: House) -> None:
    event = await house.event()
    query = "from=2026-11-22T12:00:00Z&to=2026-12-23T12:00:00Z"
    done(await house.ask("olga", "GET", f"/events/{event['id']}/sales?{query}"))


async def test_a_page_is_bounded(house: House) -> None:
    event = await house.event()
    await minutes_of(house, event, *(NOON + timedelta(minutes=n) for n in range(LIMIT_DEFAULT + 1)))
    told = await sales(house, event, **{"from": "2026-11-22T12:00:00Z", "to": "2026-11-23T12:00:00Z"})
    assert (len(told["data"]), told["next_cursor"] is None) == (LIMIT_DEFAULT, False)
    assert told["totals"][0]["sold"] == LIMIT_DEFAULT + 1


async def test_what_is_not_hers_is_as_unknown_as_what_is_not_there(house: House) -> None:
    olgas = await house.event()
    for path in (olgas["id"], ids.encode(ids.EVENT, ids.new_id()), "evt_nothing", olgas["tiers"][0]["id"]):
        assert refused(await house.ask("mallory", "GET", f"/events/{path}/sales")) == "404 not_found"


def test_a_cursor_comes_back_as_it_was() -> None:
    position = Position(NOON, ids.new_id(), "TWD")
    assert read_cursor(write_cursor(position)) == position
    assert read_cursor(None) is None
