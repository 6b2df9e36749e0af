"""Finding events: pages that neither repeat nor miss one while others are made, words, dates and places."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from holdfast.engines.database import Pool
from holdfast.settings import Settings
from ticket_house import TicketHouse, ticket_house


@pytest.fixture
async def house(settings: Settings, pool: Pool) -> AsyncIterator[TicketHouse]:
    async with ticket_house(settings, pool) as opened:
        yield opened


async def test_pages_are_stable_while_events_are_made(house: TicketHouse) -> None:
    # Half of them begin at the same moment, so that the id has to decide.
    there = {
        (await house.event(starts_at="2027-03-01T12:00:00Z" if n % 2 else f"2027-03-{n + 1:02}", tiers=[]))["id"]
        for n in range(14)
    }
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        parameters = {"limit": "3"} | ({"cursor": cursor} if cursor else {})
        page, _, _ = await asyncio.gather(
            house.ask(None, "GET", "/events", params=parameters),
            house.event(starts_at="2027-03-01T12:00:00Z", tiers=[]),
            house.event(starts_at="2027-02-01", tiers=[]),
        )
        seen += [event["id"] for event in page.json()["data"]]
        cursor = page.json()["next_cursor"]
    assert len(seen) == len(set(seen))
    assert there <= set(seen)


async def test_the_organisers_own_pages(house: TicketHouse) -> None:
    made = [(await house.event(published=False, starts_at=f"2027-03-{day:02}", tiers=[]))["id"] for day in (3, 1, 2)]
    first = (await house.ask("olga", "GET", "/organiser/events", params={"limit": 2})).json()
    second = (
        await house.ask("olga", "GET", "/organiser/events", params={"limit": 2, "cursor": first["next_cursor"]})
    ).json()
    assert [event["id"] for event in first["data"] + second["data"]] == [made[1], made[2], made[0]]
    assert second["next_cursor"] is None


@pytest.mark.parametrize(
    "parameters",
    [
        {"limit": "0"},
        {"limit": "101"},
        {"limit": "many"},
        {"cursor": ""},
        {"cursor": "x"},
        {"cursor": "_" * 32},
        {"cursor": "A" * 31 + "="},
        {"cursor": "A" * 64},
        {"q": "x" * 201},
        {"q": "a b c d e f g h i j k"},
        {"q": "nul\0"},
        {"place": "nul\0"},
        {"from": "yesterday"},
        {"to": "2027-02-30"},
        {"to": "9999-12-31"},
    ],
)
async def test_a_bad_parameter_is_said(house: TicketHouse, parameters: dict[str, str]) -> None:
    reply = await house.ask(None, "GET", "/events", params=parameters)
    assert (reply.status_code, reply.json()["code"]) == (422, "validation")
    assert reply.json()["errors"][0]["pointer"] == next(iter(parameters))


async def test_words_and_places(house: TicketHouse) -> None:
    await house.event(
        name="海風之夜 Sea Wind", description="爵士 & soul", venue={"name": "流行音樂中心", "address": "高雄"}
    )
    await house.event(name="100% ÉTÉ_Fest", venue={"name": "Zénith", "address": "Paris"})
    for q, names in {
        "海風": ["海風之夜 Sea Wind"],
        "wind 爵士": ["海風之夜 Sea Wind"],
        "SEA　高雄": ["海風之夜 Sea Wind"],
        "wind paris": [],
        "%": ["100% ÉTÉ_Fest"],
        "_": ["100% ÉTÉ_Fest"],
        "\\": [],
        "0% é": ["100% ÉTÉ_Fest"],
        "e\u0301te\u0301": ["100% ÉTÉ_Fest"],
        "'; DROP TABLE tickets.events; --": [],
    }.items():
        assert await house.listed(q=q) == names, q
    assert await house.listed(place="高雄") == ["海風之夜 Sea Wind"]
    assert await house.listed(place="sea") == []
    assert await house.listed(place="zénith PARIS", q="été") == ["100% ÉTÉ_Fest"]


async def test_dates_are_the_houses(house: TicketHouse) -> None:
    # 00:30 in Taipei on the second is still the first in UTC.
    await house.event(name="Early", starts_at="2027-03-02T00:30:00+08:00")
    await house.event(name="Late", starts_at="2027-03-02T23:59:59.999+08:00")
    assert await house.listed(**{"from": "2027-03-02", "to": "2027-03-02"}) == ["Early", "Late"]
    assert await house.listed(to="2027-03-01") == []
    assert await house.listed(**{"from": "2027-03-03"}) == []
    assert await house.listed(**{"from": "2027-03-01T16:30:00Z", "to": "2027-03-01T16:30:00Z"}) == ["Early"]
    # A plus that was not escaped arrives as a space.
    assert await house.listed(to="2027-03-02T00:30:00 08:00") == ["Early"]
