"""Bad input to every route: a problem of the right status and code, never a 5xx, and nothing half-written."""

import json
import re
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import httpx
import pytest

from holdfast import ids
from holdfast.auth import tokens as tokens_module
from holdfast.clock import unix_seconds
from holdfast.engines.database import Pool
from holdfast.settings import Settings
from house import PASSWORD, House, asking, open_house, refused, tier

KEY = {"Idempotency-Key": "a key of its own"}
BODY_BYTES_MAX = 16 * 1024
LONG = "x" * 10_000


class Taking(NamedTuple):
    """A route that takes a body: who sends it, and a body that is right. {names} are filled with real ids."""

    who: str | None
    path: str
    body: dict[str, Any]
    may_be: tuple[tuple[str, str], ...] = ()
    """Values that look wrong and are not: a pointer and JSON, or a pointer and `*` for any text."""

    @property
    def wants_key(self) -> bool:
        return self.path.startswith("/orders/")


NEW_USER = {"email": "carol@example.com", "password": PASSWORD}
TIER = tier("Floor", sale_starts_at="2098-01-01", sale_ends_at="2098-02-01")
EVENT = {
    "name": "Concert",
    "description": "Loud",
    "venue": {"name": "Hall", "address": "Here"},
    "starts_at": "2099-03-01T19:30:00+08:00",
    "ends_at": "2099-03-01T22:30:00+08:00",
    "time_zone": "Asia/Taipei",
    "url": "https://example.com/concert",
    "hold_seconds": 300,
    "tickets_per_user_max": 4,
    "tiers": [TIER],
}
EVENT_CHANGE = {name: value for name, value in EVENT.items() if name != "tiers"}
NULLABLE_TIER = ((r"/sale_(starts|ends)_at", "null"), (r"/price/currency", "null"))
PRICES = ((r"/price/amount", "0"), (r"/price/amount", "2147483648"), (r"/capacity", "0"))
NULLABLE_EVENT = ((r"/(ends_at|url)", "null"),)
NEW_EVENT_MAY_BE = (
    *NULLABLE_EVENT,
    (r"/(time_zone|hold_seconds|tickets_per_user_max)", "null"),
    (r"/tiers", "[]"),
    (r"/venue", "{}"),
    (r"/description", f'"{LONG}"'),
    *((f"/tiers/0{pointer}", value) for pointer, value in (*NULLABLE_TIER, *PRICES)),
)

TAKING = {
    "POST /users/register": Taking(None, "/users/register", NEW_USER | {"name": "Carol"}, ((r"/name", "null"),)),
    "POST /users/login": Taking(None, "/users/login", NEW_USER),
    "POST /users/refresh": Taking(None, "/users/refresh", {"refresh_token": "x" * 43}),
    "POST /users/logout": Taking(None, "/users/logout", {"refresh_token": "x" * 43}),
    "POST /users/administrator": Taking(None, "/users/administrator", NEW_USER | {"token": "x" * 43}),
    "POST /users/{user_id}/role": Taking("ada", "/users/{user_id}/role", {"role": "organiser"}),
    "POST /events": Taking("olga", "/events", EVENT, NEW_EVENT_MAY_BE),
    "PATCH /events/{event_id}": Taking(
        "olga",
        "/events/{event_id}",
        EVENT_CHANGE,
        (*NULLABLE_EVENT, (r"/venue", "{}"), (r"/description", f'"{LONG}"')),
    ),
    "POST /events/{event_id}/tiers": Taking("olga", "/events/{event_id}/tiers", TIER, (*NULLABLE_TIER, *PRICES)),
    "PATCH /events/{event_id}/tiers/{tier_id}": Taking(
        "olga", "/events/{event_id}/tiers/{tier_id}", TIER | {"paused": True}, (*NULLABLE_TIER, *PRICES)
    ),
    "POST /orders/create": Taking(
        "alice", "/orders/create", {"event_id": "{event_id}", "lines": [{"tier_id": "{tier_id}", "quantity": 1}]}
    ),
    "POST /orders/{order_id}/confirm": Taking("alice", "/orders/{order_id}/confirm", {"payment_token": "tok_ok"}),
    "POST /orders/{order_id}/cancel": Taking("alice", "/orders/{order_id}/cancel", {}),
}
TAKING_NOTHING = {"POST /events/{event_id}/publish", "POST /events/{event_id}/cancel"}
TAKING_FILES = {"POST /events/import"}

STRINGS = [r'"\u0000"', r'"a\u0000b"', r'"\ud800"', r'"\udc00x"', f'"{LONG}"', "7", "true", "null", "[]", "{}", '["a"]']
INTEGERS = ["0", "-1", "1.5", '"1"', "true", "null", "[]", "{}", "1e400", str(2**31), str(2**63), str(2**64), "9" * 400]
OBJECTS = ["[]", "null", "7", '"x"', "true", "[{}]", '{"surprise": 1}', "{" + '"a":{' * 200 + "}" * 201]
LISTS = ["{}", "null", "7", '"x"', "[[]]", "[null]", "[7]", "[" * 200 + "]" * 200, f"[{'{},' * 150}{{}}]"]


class Ids(NamedTuple):
    """The real ones."""

    user_id: str
    event_id: str
    tier_id: str
    order_id: str


@pytest.fixture
async def house(settings: Settings, pool: Pool) -> AsyncIterator[House]:
    many = {"user_purchases_burst": 100_000, "address_sign_ins_burst": 100_000, "account_failures_burst": 100}
    async with open_house(
        settings, pool, body_bytes_max=BODY_BYTES_MAX, import_bytes_max=2 * BODY_BYTES_MAX, **many
    ) as opened:
        yield opened


@pytest.fixture
async def real(house: House) -> Ids:
    event = await house.event(tickets_per_user_max=1000)
    order = await house.order("alice", "key", event)
    return Ids(house.id("bob"), event["id"], event["tiers"][0]["id"], order["id"])


def filled(text: str, real: Ids) -> str:
    """A path or a body with real ids."""
    return re.sub(r"\{(\w+_id)\}", lambda match: str(getattr(real, match[1])), text)


async def send(house: House, name: str, real: Ids, content: str | bytes, **headers: str) -> httpx.Response:
    """One request to a route of TAKING with this body."""
    taking = TAKING[name]
    given = {"Content-Type": "application/json"} | (KEY if taking.wants_key else {}) | headers
    method = name.partition(" ")[0]
    return await house.ask(taking.who, method, filled(taking.path, real), content=content, headers=given)


class Wrongs:
    """Collects every reply that was not as expected, so that one run shows them all; and compares the rows."""

    def __init__(self, house: House, before: dict[str, int]) -> None:
        self._house = house
        self._before = before
        self._found: list[str] = []

    def expect(self, reply: httpx.Response, expected: str, what: object) -> None:
        """`expected` is a pattern of `status code`."""
        answer = f"{reply.status_code} success" if reply.status_code < 400 else refused(reply)
        if not re.fullmatch(expected, answer):
            self._found.append(f"{answer} instead of {expected}: {str(what)[:150]}")

    async def none(self) -> None:
        """There were none, and nothing was written."""
        assert not self._found, "\n".join(self._found)
        assert await self._house.rows() == self._before


async def watching(house: House) -> Wrongs:
    """Begins to watch."""
    return Wrongs(house, await house.rows())


async def test_every_route_that_takes_something_is_here(house: House) -> None:
    document = (await house.client.get("/openapi.json")).json()
    taking = {
        f"{method.upper()} {path}"
        for path, operations in document["paths"].items()
        for method in operations
        if method in ("post", "patch", "put")
    }
    assert taking == TAKING.keys() | TAKING_NOTHING | TAKING_FILES


async def test_a_body_that_is_not_json(house: House, real: Ids) -> None:
    wrongs = await watching(house)
    for name in TAKING:
        for content in (
            b"{",
            b'{"a":}',
            b"{'a': 1}",
            b'{"a": 1,}',
            b"{} {}",
            b'{"a": NaN}',
            b'{"a": -Infinity}',
            b'{"a": 01}',
            b'{"a": "\xff"}',
            b'{"a": "raw\x00nul"}',
            b"\xef\xbb\xbf{}",
            b"\x00",
            b"   ",
            "{}".encode("utf-16"),
            b"[" * 10_000,
            b'{"a":' * 3_000,
            b'{"email": 1, "role": 1, "name": 1, "event_id": 1, "payment_token": 1',
        ):
            wrongs.expect(await send(house, name, real, content), "400 broken_json", (name, content))
        if name != "POST /orders/{order_id}/cancel":
            wrongs.expect(await send(house, name, real, b""), "400 broken_json", (name, "empty"))
    await wrongs.none()


async def test_a_body_that_is_not_an_object_or_has_more_in_it(house: House, real: Ids) -> None:
    wrongs = await watching(house)
    for name, taking in TAKING.items():
        for content in ("[]", "7", '"text"', "null", "true", "[{}]", "1e400", "[" * 500 + "]" * 500):
            wrongs.expect(await send(house, name, real, content), "422 validation", (name, content))
        for field in ("surprise", "id", "user_id", "__proto__", "a/b~c", "😀", "x" * 5_000, ""):
            body = json.loads(filled(json.dumps(taking.body), real)) | {field: {"deep": [1]}}
            reply = await send(house, name, real, json.dumps(body))
            wrongs.expect(reply, "422 validation", (name, field))
            escaped = field.replace("~", "~0").replace("/", "~1")
            assert [fault["pointer"] for fault in reply.json()["errors"]] == [f"/{escaped}"[:200]]
    await wrongs.none()


async def test_a_body_that_is_too_large(house: House, real: Ids) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(BODY_BYTES_MAX):
            yield b"[" * 100

    wrongs = await watching(house)
    for name in TAKING:
        wrongs.expect(await send(house, name, real, b" " * (BODY_BYTES_MAX + 1)), "413 too_large", name)
        wrongs.expect(await send(house, name, real, b"[" * 100_000), "413 too_large", name)
        wrongs.expect(await send(house, name, real, chunks()), "413 too_large", (name, "chunks"))  # type: ignore[arg-type]
        for length in (str(BODY_BYTES_MAX + 1), "9" * 18, "9" * 5_000):
            reply = await send(house, name, real, b"{}", **{"Content-Length": length})
            wrongs.expect(reply, "413 too_large", (name, length))
    await wrongs.none()


async def test_a_body_of_another_type(house: House, real: Ids) -> None:
    wrongs = await watching(house)
    types = (
        "text/plain",
        "",
        "json",
        "application/jsonx",
        "application/json, text/plain",
        "application/x-www-form-urlencoded",
    )
    for name, taking in TAKING.items():
        body = filled(json.dumps(taking.body), real)
        for value in (*types, "application/json; charset=utf-16", "application/json;charset=big5", "\xff"):
            reply = await send(house, name, real, body, **{"Content-Type": value.encode("latin-1")})  # type: ignore[arg-type]
            wrongs.expect(reply, "415 unsupported_media_type", (name, value))
        reply = await send(house, name, real, body, **{"Content-Encoding": "gzip"})
        wrongs.expect(reply, "415 unsupported_media_type", (name, "gzip"))
    await wrongs.none()


def values_of(body: Any, pointer: str = "") -> list[tuple[str, str]]:
    """Every pointer into a body with each bad value for what stands there, as JSON."""
    bad = {str: STRINGS, int: INTEGERS, dict: OBJECTS, list: LISTS, bool: ["0", '"true"', "null", "[]"]}[type(body)]
    found = [(pointer, value) for value in bad] if pointer else []
    if isinstance(body, dict):
        for name, value in body.items():
            found += values_of(value, f"{pointer}/{name}")
    elif isinstance(body, list):
        found += values_of(body[0], f"{pointer}/0")
    return found


def with_value(body: Any, pointer: str, value: str) -> str:
    """The body's JSON with this JSON in the place of a pointer."""
    copy = json.loads(json.dumps(body))
    *steps, last = pointer[1:].split("/")
    inner = copy
    for step in steps:
        inner = inner[int(step) if isinstance(inner, list) else step]
    inner[int(last) if isinstance(inner, list) else last] = "@here@"
    return json.dumps(copy).replace('"@here@"', value)


@pytest.mark.parametrize("name", [name for name, taking in TAKING.items() if taking.body])
async def test_a_value_that_cannot_be(house: House, real: Ids, name: str) -> None:
    taking = TAKING[name]
    body = json.loads(filled(json.dumps(taking.body), real))
    wrongs = await watching(house)
    tried = 0
    for pointer, value in values_of(taking.body):
        if any(re.fullmatch(where, pointer) and value == what for where, what in taking.may_be):
            continue
        reply = await send(house, name, real, with_value(body, pointer, value))
        # Half a surrogate pair is JSON to one reader and none to the other.
        wrongs.expect(
            reply, "422 validation|400 broken_json" if r"\ud" in value else "422 validation", (pointer, value)
        )
        if reply.status_code == 422:
            faults = [fault["pointer"] for fault in reply.json()["errors"]]
            assert all(fault.startswith(pointer) or pointer.startswith(fault) for fault in faults), (pointer, faults)
        tried += 1
    assert tried >= 4
    await wrongs.none()


@pytest.mark.parametrize("name", [name for name, taking in TAKING.items() if taking.body])
async def test_a_number_that_is_none(house: House, real: Ids, name: str) -> None:
    body = json.loads(filled(json.dumps(TAKING[name].body), real))
    wrongs = await watching(house)
    for pointer, _ in values_of(TAKING[name].body):
        for value in ("NaN", "Infinity", "-Infinity", "0x10", "1_000", "+1", "."):
            wrongs.expect(await send(house, name, real, with_value(body, pointer, value)), "400 broken_json", pointer)
    await wrongs.none()


async def test_odd_texts_are_taken_whole_or_refused(house: House, real: Ids) -> None:
    texts = [
        "😀",
        "é",
        "e\u0301",
        "漢字",
        "\u202e",
        "\ufeff",
        "\uffff",
        "\U0010ffff",
        "<script>",
        "'; DROP TABLE x; --",
        "%00",
    ]
    for name, taking in TAKING.items():
        body = json.loads(filled(json.dumps(taking.body), real))
        pointers = {pointer for pointer, value in values_of(taking.body) if value == STRINGS[0]}
        for pointer in pointers:
            for text in texts:
                reply = await send(house, name, real, with_value(body, pointer, json.dumps(text)))
                if reply.status_code >= 400:
                    assert refused(reply)[:3] in ("401", "404", "409", "410", "422"), (name, pointer, text, reply.text)


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
        (b"x" * (2 * BODY_BYTES_MAX + 1), "text/csv", "413 too_large"),
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
