"""Bad bodies to every route: a problem of the right status and code, never a 5xx, and nothing half-written."""

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bad_input import (
    BODY_BYTES_MAX,
    LONG,
    TAKING,
    TAKING_FILES,
    TAKING_NOTHING,
    Ids,
    bounded_house,
    filled,
    real_ids,
    send,
    watching,
)
from holdfast.engines.database import Pool
from holdfast.settings import Settings
from house import House, refused

STRINGS = [r'"\u0000"', r'"a\u0000b"', r'"\ud800"', r'"\udc00x"', f'"{LONG}"', "7", "true", "null", "[]", "{}", '["a"]']
INTEGERS = ["0", "-1", "1.5", '"1"', "true", "null", "[]", "{}", "1e400", str(2**31), str(2**63), str(2**64), "9" * 400]
OBJECTS = ["[]", "null", "7", '"x"', "true", "[{}]", '{"surprise": 1}', "{" + '"a":{' * 200 + "}" * 201]
LISTS = ["{}", "null", "7", '"x"', "[[]]", "[null]", "[7]", "[" * 200 + "]" * 200, f"[{'{},' * 150}{{}}]"]


@pytest.fixture
async def house(settings: Settings, pool: Pool) -> AsyncIterator[House]:
    async with bounded_house(settings, pool) as opened:
        yield opened


@pytest.fixture
async def real(house: House) -> Ids:
    return await real_ids(house)


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
