"""Who may do what: every route of the auth service for every role, and roles that change under a token."""

import asyncio
from typing import Any

import pytest

from auth_house import PASSWORD, auth_house, bearer, code
from holdfast import ids
from holdfast.door.api import build_api
from holdfast.engines.database import Pool
from holdfast.errors import Invalid
from holdfast.settings import Settings

ROUTES: list[tuple[str, str, dict[str, Any] | None]] = [
    ("GET", "/users/me", None),
    ("POST", "/users/{user_id}/role", {"role": "organiser"}),
]


async def test_every_route_for_every_role(settings: Settings, pool: Pool) -> None:
    expected: dict[str, list[int | str]] = {
        "nobody": ["token_missing", "token_missing"],
        "mallory": ["token_invalid", "token_invalid"],
        "buyer": [200, "forbidden"],
        "organiser": [200, "forbidden"],
        "admin": [200, 200],
    }
    async with auth_house(settings, pool) as house:
        root = await house.administrator()
        subject = await house.register("subject@example.com")
        await house.register("buyer@example.com")
        organiser = await house.register("organiser@example.com")
        made = await house.client.post(f"/users/{organiser['id']}/role", json={"role": "organiser"}, headers=root)
        assert made.json() == {**organiser, "role": "organiser"}
        headers = {
            "nobody": {},
            "mallory": {"Authorization": "Bearer mallory"},
            "buyer": bearer(await house.log_in("buyer@example.com")),
            "organiser": bearer(await house.log_in("organiser@example.com")),
            "admin": root,
        }
        for who, outcomes in expected.items():
            for (method, path, body), outcome in zip(ROUTES, outcomes, strict=True):
                path = path.format(user_id=subject["id"])
                reply = await house.client.request(method, path, json=body, headers=headers[who])
                seen = reply.status_code if reply.status_code == 200 else code(reply)
                assert seen == outcome, (who, method, path)


async def test_the_document_says_which_routes_want_a_token(settings: Settings, pool: Pool) -> None:
    async with auth_house(settings, pool) as house:
        document = build_api(settings, [house.auth.router]).openapi()
    wanting = {
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if operation.get("security") == [{"access_token": []}]
    }
    assert wanting == {(method, path) for method, path, _ in ROUTES}


async def test_an_organiser_is_one_from_the_next_token_on(settings: Settings, pool: Pool) -> None:
    async with auth_house(settings, pool) as house:
        root = await house.administrator()
        olga = await house.register("olga@example.com")
        session = await house.log_in("olga@example.com")
        await house.client.post(f"/users/{olga['id']}/role", json={"role": "organiser"}, headers=root)
        refreshed = (await house.refresh(session["refresh_token"])).json()
        verify = house.auth.tokens.verify
        assert verify(bearer(session)["Authorization"].encode()).role == "buyer"
        assert verify(bearer(refreshed)["Authorization"].encode()).role == "organiser"


async def test_an_administrators_role_is_checked_in_the_database(settings: Settings, pool: Pool) -> None:
    async with auth_house(settings, pool) as house:
        root = await house.administrator()
        second = await house.administrator("second@house.example")
        alice = await house.register("alice@example.com")
        path = f"/users/{alice['id']}/role"
        assert (await house.client.post(path, json={"role": "buyer"}, headers=second)).status_code == 200
        me = (await house.client.get("/users/me", headers=second)).json()
        await house.client.post(f"/users/{me['id']}/role", json={"role": "buyer"}, headers=root)
        # The token still says admin.
        reply = await house.client.post(path, json={"role": "admin"}, headers=second)
        assert (reply.status_code, code(reply)) == (403, "forbidden")


async def test_the_database_is_asked_each_time(settings: Settings, pool: Pool) -> None:
    async with auth_house(settings, pool) as house:
        root = await house.administrator()
        alice = await house.register("alice@example.com")
        await pool.execute("UPDATE auth.users SET role = 'buyer'")
        path = f"/users/{alice['id']}/role"
        assert (await house.client.post(path, json={"role": "admin"}, headers=root)).status_code == 403
        await pool.execute("UPDATE auth.users SET role = 'admin' WHERE email_key = 'root@house.example'")
        assert (await house.client.post(path, json={"role": "admin"}, headers=root)).status_code == 200


async def test_an_old_token_does_not_rise_with_its_account(settings: Settings, pool: Pool) -> None:
    """Mallory registers the address that the operator is about to make an administrator's."""
    async with auth_house(settings, pool) as house:
        await house.register("root@house.example", "mallory's own")
        mallorys = await house.log_in("root@house.example", "mallory's own")
        user = await house.auth.accounts.create_administrator("ROOT@house.example", PASSWORD)
        assert user.role == "admin"
        path = f"/users/{ids.encode(ids.USER, user.id)}/role"
        assert code(await house.client.post(path, json={"role": "admin"}, headers=bearer(mallorys))) == "forbidden"
        assert (await house.refresh(mallorys["refresh_token"])).status_code == 401
        body = {"email": "root@house.example", "password": "mallory's own"}
        assert (await house.client.post("/users/login", json=body)).status_code == 401
        await house.log_in("root@house.example")


async def test_the_last_administrator_stays(settings: Settings, pool: Pool) -> None:
    async with auth_house(settings, pool) as house:
        root = await house.administrator()
        me = (await house.client.get("/users/me", headers=root)).json()
        reply = await house.client.post(f"/users/{me['id']}/role", json={"role": "buyer"}, headers=root)
        assert (reply.status_code, code(reply)) == (409, "invalid_state")


async def test_two_administrators_cannot_unmake_each_other(settings: Settings, pool: Pool) -> None:
    async with auth_house(settings, pool) as house:
        headers = [await house.administrator(f"root{number}@house.example") for number in (0, 1)]
        users = [(await house.client.get("/users/me", headers=each)).json()["id"] for each in headers]
        for _ in range(5):
            await asyncio.gather(
                house.client.post(f"/users/{users[1]}/role", json={"role": "buyer"}, headers=headers[0]),
                house.client.post(f"/users/{users[0]}/role", json={"role": "buyer"}, headers=headers[1]),
            )
            assert await pool.fetchval("SELECT count(*) FROM auth.users WHERE role = 'admin'") == 1
            await pool.execute("UPDATE auth.users SET role = 'admin'")


@pytest.mark.parametrize("user_id", ["me", "usr_x", "evt_01h455vb4pex5vsknk084sn02q", "%00", "..", "usr_" + "0" * 26])
async def test_an_unknown_user_is_not_found(settings: Settings, pool: Pool, user_id: str) -> None:
    async with auth_house(settings, pool) as house:
        root = await house.administrator()
        reply = await house.client.post(f"/users/{user_id}/role", json={"role": "buyer"}, headers=root)
        assert (reply.status_code, code(reply)) in [(404, "not_found"), (405, "method_not_allowed")]


async def test_an_administrator_needs_an_address_and_a_password(settings: Settings, pool: Pool) -> None:
    async with auth_house(settings, pool) as house:
        with pytest.raises(Invalid, match="not an e-mail address"):
            await house.auth.accounts.create_administrator("root", PASSWORD)
        with pytest.raises(Invalid, match="8 to 128"):
            await house.auth.accounts.create_administrator("root@house.example", "short")
        assert await pool.fetchval("SELECT count(*) FROM auth.users") == 0
