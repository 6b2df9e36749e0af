"""Bad input to the auth routes: a problem of the right code, never a 500, nothing half-written, nothing echoed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth_house import PASSWORD, auth_house, code
from holdfast.auth.addresses import parse_address
from holdfast.engines.database import Pool
from holdfast.settings import Settings

GOOD = {"email": "alice@example.com", "password": PASSWORD}
PATHS = ["/users/register", "/users/login", "/users/refresh", "/users/logout", "/users/administrator"]


@pytest.mark.parametrize("path", PATHS)
async def test_a_body_that_is_no_json_object(settings: Settings, pool: Pool, path: str) -> None:
    async with auth_house(settings, pool) as house:
        for content, status, name in (
            (b"", 400, "broken_json"),
            (b"  ", 400, "broken_json"),
            (b"{", 400, "broken_json"),
            (b'{"email": NaN}', 400, "broken_json"),
            (b'{"email": "\xff"}', 400, "broken_json"),
            (b'\xef\xbb\xbf{"email": "a@b.tw"}', 400, "broken_json"),
            (b'{"email": "raw\x00nul"}', 400, "broken_json"),
            ('{"email": "a@b.tw"}'.encode("utf-16"), 400, "broken_json"),
            (b"[" * 60_000, 400, "broken_json"),
            (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, 400, "broken_json"),
            (b"1" * 5_000, 400, "broken_json"),
            (b"[]", 422, "validation"),
            (b"7", 422, "validation"),
            (b'"text"', 422, "validation"),
            (b"null", 422, "validation"),
            (b"{}", 422, "validation"),
            (b"[" * 500 + b"]" * 500, 422, "validation"),
        ):
            reply = await house.client.post(path, content=content, headers={"Content-Type": "application/json"})
            assert (reply.status_code, code(reply)) == (status, name), content[:40]


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"email": 7}, "/email"),
        ({"email": None}, "/email"),
        ({"email": ["alice@example.com"]}, "/email"),
        ({"email": "alice"}, "/email"),
        ({"email": "a" * 300 + "@example.com"}, "/email"),
        ({"email": "nul\0@example.com"}, "/email"),
        ({"email": "half\ud800@example.com"}, "/email"),
        ({"password": 12345678}, "/password"),
        ({"password": True}, "/password"),
        ({"password": "short"}, "/password"),
        ({"password": "x" * 129}, "/password"),
        ({"password": "nul\0nul\0nul\0"}, "/password"),
        ({"password": "half\udfff pair"}, "/password"),
        ({"name": ""}, "/name"),
        ({"name": "x" * 201}, "/name"),
        ({"name": "two\nlines"}, "/name"),
        ({"name": 7}, "/name"),
        ({"name": "\0"}, "/name"),
        ({"extra": 1}, "/extra"),
        ({"a/b~c": 1}, "/a~1b~0c"),
        ({"\0": 1}, ""),
        ({"\ud800": 1}, ""),
        ({"x" * 1000: 1}, "/" + "x" * 199),
        ({"email": ...}, "/email"),
        ({"password": ...}, "/password"),
    ],
)
async def test_a_wrong_field_is_pointed_at(
    settings: Settings, pool: Pool, changes: dict[str, Any], pointer: str
) -> None:
    body = {name: value for name, value in {**GOOD, **changes}.items() if value is not ...}
    async with auth_house(settings, pool) as house:
        reply = await house.client.post(
            "/users/register", content=json.dumps(body), headers={"Content-Type": "application/json"}
        )
        assert (reply.status_code, code(reply)) == (422, "validation")
        assert [error["pointer"] for error in reply.json()["errors"]] == [pointer]
        assert await pool.fetchval("SELECT count(*) FROM auth.users") == 0


async def test_errors_never_echo_what_was_sent(settings: Settings, pool: Pool) -> None:
    secret = "hunter2-hunter2"
    async with auth_house(settings, pool) as house:
        for body in (
            {"email": secret, "password": [secret]},
            {"email": 7, "password": {"value": secret}},
            {"email": "alice@example.com", "password": secret * 20},
            {"email": "alice@example.com", "password": secret + "\0"},
            [secret],
        ):
            for path in PATHS:
                assert secret not in (await house.client.post(path, json=body)).text


async def test_many_faults_are_cut_short(settings: Settings, pool: Pool) -> None:
    async with auth_house(settings, pool) as house:
        reply = await house.client.post("/users/register", json={**GOOD, **{f"x{number}": 1 for number in range(500)}})
        assert len(reply.json()["errors"]) == 20


@pytest.mark.parametrize("role", [None, 7, "", "root", "Admin", ["admin"], {"role": "admin"}, True, 10**30, "buyer\0"])
async def test_an_odd_role_is_refused(settings: Settings, pool: Pool, role: object) -> None:
    async with auth_house(settings, pool) as house:
        root = await house.administrator()
        alice = await house.register("alice@example.com")
        reply = await house.client.post(f"/users/{alice['id']}/role", json={"role": role}, headers=root)
        assert (reply.status_code, code(reply)) == (422, "validation")


@pytest.mark.parametrize(
    "text",
    [
        "alice@example.com",
        "a.b+tag@sub.example.co.uk",
        "愛麗絲@例子.台灣",
        "o'brien@example.ie",
        "x@localhost",
        "a@xn--fiqs8s.cn",
        "A" * 64 + "@example.com",
    ],
)
def test_an_address_is_one(text: str) -> None:
    assert parse_address(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        "alice",
        "alice@",
        "@example.com",
        "alice@example",
        "a@b@c.com",
        "a b@example.com",
        "alice@exa mple.com",
        ".a@example.com",
        "a.@example.com",
        "a..b@example.com",
        "a@-x.com",
        "a@x-.com",
        "a@.com",
        "a@x..com",
        "a@x.com.",
        '"a"@example.com',
        "a@[127.0.0.1]",
        "a\n@example.com",
        "a\u200b@example.com",
        "a\u202e@example.com",
        "<a@example.com>",
        "a＠b＠example.com",
        "A" * 65 + "@example.com",
        "a@" + "x" * 64 + ".com",
        "a@" + "x.com" * 60,
        "\ufdfa" * 4 + "@example.com",
    ],
)
def test_an_address_is_none(text: str) -> None:
    assert parse_address(text) is None


@given(st.text(max_size=300))
def test_any_text_is_an_address_or_none_and_its_key_is_stable(text: str) -> None:
    for candidate in (text, f"{text}@example.com"):
        address = parse_address(candidate)
        if address is not None:
            again = parse_address(address.shown)
            assert again == address
            assert "\0" not in address.shown + address.key
            (address.shown + address.key).encode("utf-8")
