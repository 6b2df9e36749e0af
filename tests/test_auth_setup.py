"""The link that makes the first administrator: once, for a while, and to nobody who did not see it."""

import asyncio
import re

import pytest

from auth_house import PASSWORD, House, auth_house, bearer, code
from holdfast.auth import setup
from holdfast.auth.setup import new_setup_link
from holdfast.engines.database import Pool
from holdfast.settings import Settings


async def _token(settings: Settings, pool: Pool) -> str:
    link = await new_setup_link(settings, pool)
    assert link is not None
    address, _, token = link.partition("#")
    assert address == "http://127.0.0.1:8000/setup"
    assert len(token) == 43
    return token


def _body(token: str, email: str = "root@house.example") -> dict[str, str]:
    return {"token": token, "email": email, "password": PASSWORD}


async def test_a_link_works_once(settings: Settings, pool: Pool) -> None:
    token = await _token(settings, pool)
    assert token not in str(await pool.fetch("SELECT * FROM auth.setup_links"))
    async with auth_house(settings, pool) as house:
        reply = await house.client.post("/users/administrator", json=_body(token))
        assert reply.status_code == 201
        assert (reply.json()["email"], reply.json()["role"]) == ("root@house.example", "admin")
        session = await house.log_in("root@house.example")
        assert (await house.client.get("/users/me", headers=bearer(session))).json()["role"] == "admin"
        again = await house.client.post("/users/administrator", json=_body(token, "mallory@example.com"))
        assert (again.status_code, code(again)) == (410, "setup_link_invalid")
    assert await new_setup_link(settings, pool) is None


async def _claim_at_once(house: House, token: str) -> list[int]:
    replies = await asyncio.gather(
        *[house.client.post("/users/administrator", json=_body(token, f"root{number}@x.tw")) for number in range(6)]
    )
    return sorted(reply.status_code for reply in replies)


async def test_of_two_who_claim_it_at_once_one_wins(settings: Settings, pool: Pool) -> None:
    token = await _token(settings, pool)
    async with auth_house(settings, pool) as house:
        assert await _claim_at_once(house, token) == [201, 410, 410, 410, 410, 410]
    assert await pool.fetchval("SELECT count(*) FROM auth.users") == 1


async def test_negative_control_without_its_end_a_link_makes_many(
    settings: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await _token(settings, pool)
    for name in ("use_setup_link", "setup_link_works"):
        unguarded = setup._STATEMENTS[name].replace("used_at IS NULL AND ", "")
        assert unguarded != setup._STATEMENTS[name]
        monkeypatch.setitem(setup._STATEMENTS, name, unguarded)
    async with auth_house(settings, pool) as house:
        assert await _claim_at_once(house, token) == [201] * 6


async def test_a_link_expires(settings: Settings, pool: Pool) -> None:
    token = await _token(settings, pool)
    await pool.execute("UPDATE auth.setup_links SET expires_at = clock_timestamp()")
    async with auth_house(settings, pool) as house:
        assert code(await house.client.post("/users/administrator", json=_body(token))) == "setup_link_invalid"
    assert await pool.fetchval("SELECT count(*) FROM auth.users") == 0


async def test_a_later_link_ends_an_earlier_one(settings: Settings, pool: Pool) -> None:
    earlier, later = await _token(settings, pool), await _token(settings, pool)
    async with auth_house(settings, pool) as house:
        assert (await house.client.post("/users/administrator", json=_body(earlier))).status_code == 410
        assert (await house.client.post("/users/administrator", json=_body(later))).status_code == 201


async def test_an_administrator_made_otherwise_ends_it(settings: Settings, pool: Pool) -> None:
    token = await _token(settings, pool)
    async with auth_house(settings, pool) as house:
        await house.administrator()
        assert (await house.client.post("/users/administrator", json=_body(token, "m@x.tw"))).status_code == 410


@pytest.mark.parametrize("token", ["x", "é", "a" * 512])
async def test_an_unknown_link_is_refused_before_any_password_is_hashed(
    settings: Settings, pool: Pool, token: str
) -> None:
    async with auth_house(settings, pool) as house:
        house.auth.passwords.close()
        assert code(await house.client.post("/users/administrator", json=_body(token))) == "setup_link_invalid"


async def test_a_mistake_does_not_use_it_up(settings: Settings, pool: Pool) -> None:
    token = await _token(settings, pool)
    async with auth_house(settings, pool) as house:
        for wrong in ({"email": "root"}, {"password": "short"}, {"role": "admin"}):
            reply = await house.client.post("/users/administrator", json={**_body(token), **wrong})
            assert reply.status_code == 422
        assert (await house.client.post("/users/administrator", json=_body(token))).status_code == 201


async def test_the_page_runs_its_own_script_alone(settings: Settings, pool: Pool) -> None:
    async with auth_house(settings, pool) as house:
        reply = await house.client.get("/setup")
        assert reply.status_code == 200
        assert reply.headers["content-type"] == "text/html; charset=utf-8"
        assert reply.headers["cache-control"] == "no-store"
        assert reply.headers["referrer-policy"] == "no-referrer"
        policy = dict(part.strip().split(" ", 1) for part in reply.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
        assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", policy["script-src"])
        assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", policy["style-src"])
        assert "unsafe" not in reply.headers["content-security-policy"]
        # Nothing of a third party, and nothing inline that the policy would stop.
        assert "//" not in re.sub(r"^\s*//.*$", "", reply.text, flags=re.MULTILINE)
        assert not re.search(r"\s(on\w+|style)=", reply.text)
