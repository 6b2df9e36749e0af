"""Bad ids, headers, tokens and queries to every route: a problem of the right status and code, never a 5xx."""

import json
import re
from collections.abc import AsyncIterator

import pytest

from bad_input import (
    IMPORT_BYTES_MAX,
    KEY,
    TAKING,
    Ids,
    bounded_house,
    filled,
    real_ids,
    send,
    watching,
)
from holdfast import ids
from holdfast.auth import tokens as tokens_module
from holdfast.clock import unix_seconds
from holdfast.engines.database import Pool
from holdfast.settings import Settings
from house import House, asking, refused, tier


@pytest.fixture
async def house(settings: Settings, pool: Pool) -> AsyncIterator[House]:
    async with bounded_house(settings, pool) as opened:
        yield opened


@pytest.fixture
async def real(house: House) -> Ids:
    return await real_ids(house)


# Ids


def odd_ids(prefix: str, other: str) -> list[str]:
    """What is no id of this type, or of nothing that there is, as it stands in a URL."""
    unknown = ids.encode(prefix, ids.new_id())
    return [
        unknown,
        unknown.upper(),
        unknown + "0",
        unknown[:-1],
        unknown.replace("_", "-"),
        f"{prefix}_",
        f"{prefix}_{'z' * 26}",
        f"{prefix}_{'u' * 26}",
        other,
        "0",
        "-1",
        "null",
        "me",
        "x" * 5_000,
        "%00",
        f"{unknown}%00",
        f"{unknown}%20",
        f"%20{unknown}",
        "%F0%9F%98%80",
        "%FF",
        "%ED%A0%80",
        "%2F",
        "%2e%2e",
        "a%2Fb",
        "%0D%0AX-Evil:%201",
        "%E2%80%AE",
        "*",
        "%7Bevent_id%7D",
        "%25",
        "%",
    ]


async def test_an_id_that_is_none(house: House, real: Ids) -> None:
    document = (await house.client.get("/openapi.json")).json()
    wrongs = await watching(house)
    bodies = {name: filled(json.dumps(taking.body), real) for name, taking in TAKING.items()}
    tried = 0
    for template, operations in document["paths"].items():
        for parameter, method in [
            (parameter, method) for parameter in re.findall(r"\{(\w+)\}", template) for method in operations
        ]:
            name = f"{method.upper()} {template}"
            prefix = {"id": "ord"}.get(
                parameter, {"event_id": "evt", "user_id": "usr", "order_id": "ord"}.get(parameter, "tier")
            )
            other = real.order_id if prefix != "ord" else real.event_id
            who = TAKING[name].who if name in TAKING else "olga" if template.startswith("/events") else "alice"
            for odd in odd_ids(prefix, other):
                path = filled(template.replace(f"{{{parameter}}}", odd), real)
                headers = {"Content-Type": "application/json"} | KEY if name in bodies else {}
                reply = await house.ask(who, method.upper(), path, content=bodies.get(name), headers=headers)
                expected = "404 not_found"
                if parameter == "event_id" and template == "/events/{event_id}" and odd == "%2e%2e":
                    expected = r"404 not_found|405 method_not_allowed"
                wrongs.expect(reply, expected, (name, odd))
                tried += 1
    assert tried > 300
    await wrongs.none()


async def test_an_order_of_what_there_is_not(house: House, real: Ids) -> None:
    other = await house.event(tiers=[tier(), tier("Seat")])
    own = {"tier_id": real.tier_id, "quantity": 1}
    unknown_event, unknown_tier = ids.encode(ids.EVENT, ids.new_id()), ids.encode(ids.TIER, ids.new_id())
    wrongs = await watching(house)
    for body, expected in (
        ({"event_id": unknown_event, "lines": [own]}, "404 not_found"),
        ({"event_id": real.event_id, "lines": [own, {"tier_id": unknown_tier, "quantity": 1}]}, "404 not_found"),
        ({"event_id": real.event_id, "lines": asking(other, 1)["lines"]}, "404 not_found"),
        ({"event_id": real.event_id, "lines": [own, *asking(other, 1)["lines"]]}, "404 not_found"),
        ({"event_id": real.event_id, "lines": [own, own]}, "422 validation"),
        ({"event_id": real.event_id, "lines": []}, "422 validation"),
        ({"event_id": real.event_id}, "422 validation"),
        ({"lines": [own]}, "422 validation"),
        ({"event_id": real.event_id, "lines": [{"tier_id": real.tier_id}]}, "422 validation"),
        ({"event_id": real.event_id, "lines": [{"quantity": 1}]}, "422 validation"),
        ({"event_id": real.event_id, "lines": [own] * 21}, "422 validation"),
        ({"event_id": real.event_id, "lines": [own] * 101}, "422 validation"),
        ({"event_id": real.event_id, "lines": [own | {"quantity": 1001}]}, "422 validation"),
        ({"event_id": real.event_id, "lines": [own | {"quantity": 1000}]}, "409 sold_out"),
        *(({"event_id": odd, "lines": [own]}, "422 validation") for odd in odd_ids("evt", real.tier_id)[1:]),
        *(
            ({"event_id": real.event_id, "lines": [own | {"tier_id": odd}]}, "422 validation")
            for odd in odd_ids("tier", real.event_id)[1:]
        ),
    ):
        reply = await send(house, "POST /orders/create", real, json.dumps(body))
        wrongs.expect(reply, expected, body)
    await wrongs.none()


# Headers


async def test_a_key_that_is_none(house: House, real: Ids) -> None:
    wrongs = await watching(house)
    for name, taking in TAKING.items():
        if not taking.wants_key:
            continue
        path, body = filled(taking.path, real), filled(json.dumps(taking.body), real)
        for value in (
            b"x" * 256,
            b"a\tb",
            b"a\x00b",
            b"a\x7fb",
            b"\x80",
            b"\xff",
            "😀".encode(),
            b"\r\nx",
            b"x" * 30_000,
        ):
            headers = [(b"Idempotency-Key", value), (b"Content-Type", b"application/json")]
            headers += [(name.encode(), text.encode()) for name, text in house.headers(taking.who).items()]
            reply = await house.client.post(path, content=body, headers=headers)
            wrongs.expect(reply, "400 bad_request", (name, value))
        headers = [(b"Idempotency-Key", b"a"), (b"Idempotency-Key", b"b"), (b"Content-Type", b"application/json")]
        headers += [(name.encode(), text.encode()) for name, text in house.headers(taking.who).items()]
        wrongs.expect(await house.client.post(path, content=body, headers=headers), "400 bad_request", (name, "two"))
    await wrongs.none()


async def test_a_header_that_comes_twice(house: House, real: Ids) -> None:
    wrongs = await watching(house)
    for name, taking in TAKING.items():
        path, body = filled(taking.path, real), filled(json.dumps(taking.body), real).encode()
        once = [(b"Content-Type", b"application/json")] + [(key.encode(), value.encode()) for key, value in KEY.items()]
        once += [(key.encode(), value.encode()) for key, value in house.headers(taking.who).items()]
        method = name.partition(" ")[0]
        twice = [*once, (b"Content-Type", b"text/plain")]
        reply = await house.client.request(method, path, content=body, headers=twice)
        wrongs.expect(reply, "415 unsupported_media_type", (name, "Content-Type"))
        twice = [(b"Content-Type", b"text/plain"), *once]
        reply = await house.client.request(method, path, content=body, headers=twice)
        wrongs.expect(reply, "415 unsupported_media_type", (name, "Content-Type first"))
        if taking.who is not None:
            token = house.headers(taking.who)["Authorization"].encode()
            reply = await house.client.request(method, path, content=body, headers=[*once, (b"Authorization", token)])
            wrongs.expect(reply, "401 token_invalid", (name, "Authorization"))
    await wrongs.none()


async def test_a_token_that_is_none(house: House, real: Ids, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(tokens_module, "unix_seconds", lambda: unix_seconds() - 3600)
        old = house.headers("ada")["Authorization"]
        patched.setattr(tokens_module, "unix_seconds", lambda: unix_seconds() + 3600)
        early = house.headers("ada")["Authorization"]
    good = house.headers("ada")["Authorization"]
    head, claims, signature = good.removeprefix("Bearer ").split(".")
    other = house.headers("bob")["Authorization"].removeprefix("Bearer ").split(".")
    none = "eyJhbGciOiJub25lIn0"
    tokens = {
        old: "token_expired",
        early: "token_invalid",
        good + "x": "token_invalid",
        good[:-1]: "token_invalid",
        f"Bearer {head}.{other[1]}.{signature}": "token_invalid",
        f"Bearer {none}.{claims}.": "token_invalid",
        f"Bearer {none}.{claims}.{signature}": "token_invalid",
        f"Basic {good}": "token_invalid",
        good.removeprefix("Bearer "): "token_invalid",
        "Bearer": "token_invalid",
        "Bearer ": "token_invalid",
        "Bearer a.b.c": "token_invalid",
        "Bearer " + "x" * 20_000: "token_invalid",
        "\x00": "token_invalid",
        "\xff": "token_invalid",
        "": "token_missing",
    }
    document = (await house.client.get("/openapi.json")).json()
    wrongs = await watching(house)
    secured = 0
    for template, operations in document["paths"].items():
        for method, operation in operations.items():
            if not operation.get("security"):
                continue
            secured += 1
            name = f"{method.upper()} {template}"
            path = filled(template.replace("{id}", real.order_id), real)
            body = filled(json.dumps(TAKING[name].body), real) if name in TAKING else "[]"
            for token, code in tokens.items():
                headers = {"Content-Type": "application/json", "Authorization": token.encode("latin-1")} | KEY
                reply = await house.client.request(method.upper(), path, content=body, headers=headers)  # type: ignore[arg-type]
                wrongs.expect(reply, f"401 {code}", (name, token))
    assert secured > 10
    await wrongs.none()


async def test_many_headers_are_no_matter(house: House, real: Ids) -> None:
    for number in (100, 5_000):
        headers = {f"X-{index}": "x" for index in range(number)}
        assert (await house.ask("alice", "GET", f"/orders/{real.order_id}", headers=headers)).status_code == 200
        assert (await house.client.get("/events", headers=headers)).status_code == 200


# Queries


async def test_a_parameter_that_cannot_be(house: House, real: Ids) -> None:
    orders = f"/orders/{house.id('alice')}"
    wrongs = await watching(house)
    for path, who in ((orders, "alice"), ("/events", None), ("/organiser/events", "olga")):
        for query in (
            *(
                f"limit={value}"
                for value in ("0", "-1", "101", "x", "1.5", "", "%C2%B2", "1e1", str(2**64), "%00", "9" * 5_000)
            ),
            *(
                f"cursor={value}"
                for value in ("x", "", "%00", "%FF", "%F0%9F%98%80", "=" * 22, "A" * 43, "x" * 5_000, "../..")
            ),
        ):
            wrongs.expect(await house.ask(who, "GET", f"{path}?{query}"), "422 validation", (path, query))
    for query in (
        "q=%00",
        "place=a%00b",
        "q=" + "x" * 300,
        "q=" + "x+" * 50,
        "from=x",
        "to=2026-13-01",
        "from=%00",
        "to=" + "9" * 99,
        "limit=1&q=x&limit=2",
    ):
        wrongs.expect(await house.ask(None, "GET", f"/events?{query}"), "422 validation", query)
    for path, who in (
        (orders, "alice"),
        (f"/orders/{real.order_id}", "alice"),
        (f"/events/{real.event_id}/tickets", None),
    ):
        for query in ("surprise=1", "limit=1&limit=2" if path == orders else "limit=1", "=", "%00=1", "%FF=%FF"):
            wrongs.expect(await house.ask(who, "GET", f"{path}?{query}"), "422 validation", (path, query))
        many = "&".join(f"x{number}=1" for number in range(1_000))
        wrongs.expect(await house.ask(who, "GET", f"{path}?{many}"), "400 bad_request", (path, "many"))
    wrongs.expect(
        await house.ask("ada", "POST", "/events/import?default_capacity=-1", content=b"[]"), "422 validation", "-1"
    )
    await wrongs.none()


async def test_a_cursor_of_another_list_is_harmless(house: House, real: Ids) -> None:
    for number in range(2):
        await house.order("alice", f"key {number}", await house.event())
    orders = (await house.ask("alice", "GET", f"/orders/{house.id('alice')}?limit=1")).json()["next_cursor"]
    events = (await house.client.get("/events?limit=1")).json()["next_cursor"]
    assert refused(await house.client.get(f"/events?cursor={orders}")) == "422 validation"
    assert refused(await house.ask("alice", "GET", f"/orders/{house.id('alice')}?cursor={events}")) == "422 validation"
    bobs = await house.ask("bob", "GET", f"/orders/{house.id('bob')}?cursor={orders}")
    assert bobs.json() == {"data": [], "next_cursor": None}


async def test_a_file_that_is_no_catalogue(house: House, real: Ids) -> None:
    wrongs = await watching(house)
    for content, content_type, expected in (
        (b"x" * (IMPORT_BYTES_MAX + 1), "text/csv", "413 too_large"),
        (b"[]", "application/pdf", "415 unsupported_media_type"),
        (b"[]", "", "415 unsupported_media_type"),
        (b"", "application/json", "200 success"),
        (b"\x00\xff\xfe", "text/csv", "200 success"),
        (b"\x00", "text/html", "200 success"),
        (b"[" * 20_000, "application/json", "200 success"),
        (b'{"@type": "Event", "name": "\\u0000\\ud800", "startDate": 1e400}', "application/ld+json", "200 success"),
    ):
        reply = await house.ask(
            "olga", "POST", "/events/import", content=content, headers={"Content-Type": content_type}
        )
        wrongs.expect(reply, expected, content[:20])
        if reply.status_code == 200:
            assert not reply.json().get("created"), reply.text
    await wrongs.none()
