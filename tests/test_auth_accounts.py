"""Registering, logging in, refreshing and logging out, with Mallory at every door."""

import asyncio
import hashlib
import statistics
from collections import Counter
from time import perf_counter

import pytest
from argon2 import PasswordHasher

from auth_house import PASSWORD, auth_house, bearer, code
from holdfast import ids
from holdfast.auth import accounts as accounts_module
from holdfast.auth.workers import forget_sessions
from holdfast.engines.database import Pool
from holdfast.settings import Settings


async def test_alice_registers_and_logs_in(settings: Settings, pool: Pool) -> None:
    async with auth_house(settings, pool) as house:
        reply = await house.client.post(
            "/users/register", json={"email": "Alice@Example.com", "password": PASSWORD, "name": " 愛麗絲 "}
        )
        assert reply.status_code == 201
        user = reply.json()
        assert list(user) == ["id", "email", "name", "role", "created_at"]
        assert (user["email"], user["name"], user["role"]) == ("Alice@Example.com", "愛麗絲", "buyer")
        assert ids.decode(ids.USER, user["id"])
        assert user["created_at"].endswith("Z")
        assert reply.headers["cache-control"] == "no-store"
        assert reply.headers["ratelimit-policy"] == '"sign-in";q=1000;w=5'
        assert reply.headers["ratelimit"].startswith('"sign-in";r=')

        session = await house.log_in(" alice@EXAMPLE.com ")
        assert list(session) == ["access_token", "token_type", "expires_in", "refresh_token"]
        assert (session["token_type"], session["expires_in"]) == ("Bearer", 900)
        mine = await house.client.get("/users/me", headers=bearer(session))
        assert mine.json() == user


async def test_nothing_secret_is_stored(settings: Settings, pool: Pool) -> None:
    async with auth_house(settings, pool) as house:
        await house.register("alice@example.com")
        session = await house.log_in("alice@example.com")
        stored = await pool.fetchval("SELECT string_agg(u::text, ' ') FROM auth.users u")
        assert PASSWORD not in stored
        assert "$argon2id$v=19$m=19456,t=2,p=1$" in stored
        (row,) = await pool.fetch("SELECT * FROM auth.refresh_tokens")
        assert row["token_hash"] == hashlib.sha256(session["refresh_token"].encode()).digest()


@pytest.mark.parametrize(
    "other", ["ALICE@example.com", "alice@EXAMPLE.COM", "ａｌｉｃｅ@example.com", " alice@example.com"]
)
async def test_one_address_is_one_account(settings: Settings, pool: Pool, other: str) -> None:
    async with auth_house(settings, pool) as house:
        await house.register("alice@example.com")
        reply = await house.client.post("/users/register", json={"email": other, "password": "mallory's own"})
        assert (reply.status_code, code(reply)) == (409, "email_taken")
        await house.log_in("alice@example.com")


async def test_two_who_register_one_address_at_once(settings: Settings, pool: Pool) -> None:
    async with auth_house(settings, pool) as house:
        body = {"email": "alice@example.com", "password": PASSWORD}
        replies = await asyncio.gather(*[house.client.post("/users/register", json=body) for _ in range(6)])
        assert sorted(reply.status_code for reply in replies) == [201, 409, 409, 409, 409, 409]
        assert await pool.fetchval("SELECT count(*) FROM auth.users") == 1


async def test_nobody_registers_as_more_than_a_buyer(settings: Settings, pool: Pool) -> None:
    async with auth_house(settings, pool) as house:
        for extra in ({"role": "admin"}, {"is_admin": True}, {"id": ids.encode(ids.USER, ids.new_id())}):
            body = {"email": "mallory@example.com", "password": PASSWORD, **extra}
            reply = await house.client.post("/users/register", json=body)
            assert (reply.status_code, code(reply)) == (422, "validation")
        assert await pool.fetchval("SELECT count(*) FROM auth.users") == 0


async def test_unknown_user_and_wrong_password_answer_alike(settings: Settings, pool: Pool) -> None:
    async with auth_house(settings, pool) as house:
        await house.register("alice@example.com")
        await pool.execute(
            "INSERT INTO auth.users (id, email, email_key, role) VALUES ($1, 'house@x.tw', 'house@x.tw', 'organiser')",
            ids.new_id(),
        )
        replies = [
            await house.client.post("/users/login", json={"email": email, "password": "wrong password"})
            for email in ("alice@example.com", "nobody@example.com", "house@x.tw")
        ]
        bodies = [{**reply.json(), "request_id": ""} for reply in replies]
        assert bodies[0] == bodies[1] == bodies[2]
        assert [(reply.status_code, code(reply)) for reply in replies] == [(401, "credentials_invalid")] * 3
        names = [sorted(set(reply.headers) - {"x-request-id"}) for reply in replies]
        assert names[0] == names[1] == names[2]
        assert replies[0].headers["www-authenticate"] == "Bearer"


async def _ratio(settings: Settings, pool: Pool, *, dummy: bool) -> float:
    """How much longer a wrong password takes than an unknown user, by the medians of interleaved tries."""
    generous = settings.model_copy(update={"account_failures_burst": 100})
    async with auth_house(generous, pool) as house:
        email = f"alice{dummy}@example.com"
        await house.register(email)
        if not dummy:
            # The negative control: an unknown user is answered without a hash being computed.
            check = house.auth.passwords.check

            async def hasty(encoded: str | None, password: str) -> bool:
                return encoded is not None and await check(encoded, password)

            house.auth.passwords.check = hasty  # type: ignore[method-assign]
        times: dict[str, list[float]] = {email: [], f"nobody{dummy}@example.com": []}
        for _ in range(25):
            for each, taken in times.items():
                begun = perf_counter()
                await house.client.post("/users/login", json={"email": each, "password": "wrong password"})
                taken.append(perf_counter() - begun)
        known, unknown = (statistics.median(taken) for taken in times.values())
        return known / unknown


async def test_unknown_user_and_wrong_password_take_alike(settings: Settings, pool: Pool) -> None:
    assert 0.7 < await _ratio(settings, pool, dummy=True) < 1.4


async def test_negative_control_without_the_dummy_hash_the_time_tells(settings: Settings, pool: Pool) -> None:
    assert await _ratio(settings, pool, dummy=False) > 1.8


async def test_a_log_in_renews_an_outdated_hash(settings: Settings, pool: Pool) -> None:
    async with auth_house(settings, pool) as house:
        await house.register("alice@example.com")
        await pool.execute("UPDATE auth.users SET password_hash = $1", PasswordHasher(1, 8192, 1).hash(PASSWORD))
        wrong = await house.client.post("/users/login", json={"email": "alice@example.com", "password": "wrong one"})
        assert wrong.status_code == 401
        assert "m=8192,t=1" in await pool.fetchval("SELECT password_hash FROM auth.users")
        await house.log_in("alice@example.com")
        assert "m=19456,t=2" in await pool.fetchval("SELECT password_hash FROM auth.users")
        await house.log_in("alice@example.com")


async def test_a_password_changed_while_it_is_checked_does_not_get_in(settings: Settings, pool: Pool) -> None:
    async with auth_house(settings, pool) as house:
        await house.register("alice@example.com")
        check = house.auth.passwords.check

        async def slow(encoded: str | None, password: str) -> bool:
            matches = await check(encoded, password)
            await pool.execute("UPDATE auth.users SET password_hash = 'another'")
            return matches

        house.auth.passwords.check = slow  # type: ignore[method-assign]
        reply = await house.client.post("/users/login", json={"email": "alice@example.com", "password": PASSWORD})
        assert (reply.status_code, code(reply)) == (401, "credentials_invalid")
        assert await pool.fetchval("SELECT count(*) FROM auth.refresh_tokens") == 0


async def test_a_refresh_token_is_used_once(settings: Settings, pool: Pool) -> None:
    async with auth_house(settings, pool) as house:
        await house.register("alice@example.com")
        first = await house.log_in("alice@example.com")
        second = await house.refresh(first["refresh_token"])
        assert second.status_code == 200
        assert list(second.json()) == ["access_token", "token_type", "expires_in", "refresh_token"]
        assert second.json()["refresh_token"] != first["refresh_token"]
        assert (await house.client.get("/users/me", headers=bearer(second.json()))).status_code == 200
        assert (await house.refresh(second.json()["refresh_token"])).status_code == 200


async def test_a_stolen_refresh_token_ends_the_session(settings: Settings, pool: Pool) -> None:
    """Mallory uses Alice's token first; when Alice shows it too, neither goes on. Her other session is untouched."""
    async with auth_house(settings, pool) as house:
        await house.register("alice@example.com")
        stolen = (await house.log_in("alice@example.com"))["refresh_token"]
        elsewhere = (await house.log_in("alice@example.com"))["refresh_token"]
        mallorys = (await house.refresh(stolen)).json()["refresh_token"]
        reply = await house.refresh(stolen)
        assert (reply.status_code, code(reply)) == (401, "refresh_token_invalid")
        assert (await house.refresh(mallorys)).status_code == 401
        assert (await house.refresh(elsewhere)).status_code == 200


class _Forgetful(Counter[bytes]):
    """Does not know what is under way."""

    def __getitem__(self, key: bytes) -> int:
        return 0


async def _refresh_at_once(
    settings: Settings, pool: Pool, times: int, *, forgetful: bool = False
) -> tuple[list[int], int]:
    """The statuses of so many uses of one token at the same time, and of the winner's next refresh."""
    async with auth_house(settings, pool) as house:
        if forgetful:
            house.auth.accounts._refreshing = _Forgetful()
        await house.register("alice@example.com")
        token = (await house.log_in("alice@example.com"))["refresh_token"]
        replies = await asyncio.gather(*[house.refresh(token) for _ in range(times)])
        won = [reply.json()["refresh_token"] for reply in replies if reply.status_code == 200]
        return sorted(reply.status_code for reply in replies), (await house.refresh(won[0])).status_code


async def test_of_refreshes_at_the_same_time_one_wins(settings: Settings, pool: Pool) -> None:
    """And keeps its session, since a double click is no theft. There are more than the pool has connections, so that
    some come to the database long after the winner."""
    for _ in range(3):
        statuses, next_status = await _refresh_at_once(settings, pool, 20)
        assert statuses == [200] + [401] * 19
        assert next_status == 200
        await pool.execute("TRUNCATE auth.users CASCADE")


async def test_negative_control_without_the_condition_many_win(
    settings: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    statement = accounts_module._STATEMENTS["refresh"]
    guard = "t.used_at IS NULL AND "
    assert guard in statement
    monkeypatch.setitem(accounts_module._STATEMENTS, "refresh", statement.replace(guard, ""))
    statuses, _ = await _refresh_at_once(settings, pool, 20)
    assert statuses.count(200) > 1


async def test_negative_control_without_knowing_what_overlaps_a_double_click_ends_the_session(
    settings: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts_module, "monotonic_seconds", lambda: 0.0)
    statuses, next_status = await _refresh_at_once(settings, pool, 20, forgetful=True)
    assert statuses == [200] + [401] * 19
    assert next_status == 401


async def test_nothing_is_kept_of_a_refresh(settings: Settings, pool: Pool) -> None:
    async with auth_house(settings, pool) as house:
        await asyncio.gather(*[house.refresh(f"token {number % 3}") for number in range(12)])
        assert not house.auth.accounts._refreshing


async def test_an_expired_refresh_token_is_refused(settings: Settings, pool: Pool) -> None:
    async with auth_house(settings, pool) as house:
        await house.register("alice@example.com")
        token = (await house.log_in("alice@example.com"))["refresh_token"]
        await pool.execute("UPDATE auth.refresh_tokens SET expires_at = clock_timestamp()")
        assert (await house.refresh(token)).status_code == 401


async def test_log_out_ends_the_session(settings: Settings, pool: Pool) -> None:
    async with auth_house(settings, pool) as house:
        await house.register("alice@example.com")
        first = (await house.log_in("alice@example.com"))["refresh_token"]
        second = (await house.refresh(first)).json()["refresh_token"]
        other = (await house.log_in("alice@example.com"))["refresh_token"]
        for token in (second, second, "unknown"):
            reply = await house.client.post("/users/logout", json={"refresh_token": token})
            assert (reply.status_code, reply.content) == (204, b"")
        assert (await house.refresh(second)).status_code == 401
        assert (await house.refresh(other)).status_code == 200


async def test_a_refresh_that_overlaps_a_log_out_does_not_survive_it(settings: Settings, pool: Pool) -> None:
    """The log-out's statement cannot see a token that is issued while it runs."""
    async with auth_house(settings, pool) as house:
        await house.register("alice@example.com")
        for _ in range(10):
            token = (await house.log_in("alice@example.com"))["refresh_token"]
            refreshed, _ = await asyncio.gather(
                house.refresh(token), house.client.post("/users/logout", json={"refresh_token": token})
            )
            if refreshed.status_code == 200:
                assert (await house.refresh(refreshed.json()["refresh_token"])).status_code == 401


async def test_a_deleted_user_is_nobody(settings: Settings, pool: Pool) -> None:
    async with auth_house(settings, pool) as house:
        await house.register("alice@example.com")
        session = await house.log_in("alice@example.com")
        await pool.execute("DELETE FROM auth.users")
        assert code(await house.client.get("/users/me", headers=bearer(session))) == "token_invalid"
        assert (await house.refresh(session["refresh_token"])).status_code == 401


async def test_stale_rows_are_forgotten(settings: Settings, pool: Pool) -> None:
    async with auth_house(settings, pool) as house:
        await house.register("alice@example.com")
        kept = (await house.log_in("alice@example.com"))["refresh_token"]
        await house.log_in("alice@example.com")
        await pool.execute(
            "UPDATE auth.refresh_tokens SET expires_at = now() - interval '31 days' WHERE token_hash <> $1",
            hashlib.sha256(kept.encode()).digest(),
        )
        await pool.execute("INSERT INTO auth.login_failures VALUES ('old', now() - interval '1 s')")
        await pool.execute("INSERT INTO auth.login_failures VALUES ('new', now() + interval '1 min')")
        stop = asyncio.Event()
        worker = asyncio.create_task(forget_sessions(settings, pool, stop))
        left = "SELECT (SELECT count(*) FROM auth.refresh_tokens) + (SELECT count(*) FROM auth.login_failures)"
        async with asyncio.timeout(10):
            while await pool.fetchval(left) > 2:
                await asyncio.sleep(0.01)
        stop.set()
        await worker
        assert await pool.fetchval(left) == 2
        assert (await house.refresh(kept)).status_code == 200
