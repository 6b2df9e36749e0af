"""Guessing is slow: per account, known or not, in PostgreSQL; and per network address, in each process."""

import asyncio

import httpx
import pytest

from auth_house import PASSWORD, House, auth_house, code
from holdfast.auth.addresses import Address, parse_address
from holdfast.auth.sign_ins import _network
from holdfast.engines.database import Pool
from holdfast.rates import Rate
from holdfast.settings import Settings


@pytest.fixture
def strict(settings: Settings) -> Settings:
    return settings.model_copy(update={"account_failures_burst": 3, "account_failure_seconds": 600.0})


async def _guess(house: House, email: str = "alice@example.com", password: str = "a wrong guess") -> httpx.Response:
    return await house.client.post("/users/login", json={"email": email, "password": password})


async def test_failures_are_throttled_also_for_the_right_password(strict: Settings, pool: Pool) -> None:
    async with auth_house(strict, pool) as house:
        await house.register("alice@example.com")
        assert [code(await _guess(house)) for _ in range(3)] == ["credentials_invalid"] * 3
        for password in ("a wrong guess", PASSWORD):
            reply = await _guess(house, " ALICE@example.com", password)
            assert (reply.status_code, code(reply)) == (429, "rate_limited")
            assert 590 < int(reply.headers["retry-after"]) <= 600
        # Bob does not pay for Mallory's guesses about Alice.
        await house.register("bob@example.com")
        await house.log_in("bob@example.com")


async def test_an_unknown_account_is_throttled_alike(strict: Settings, pool: Pool) -> None:
    async with auth_house(strict, pool) as house:
        replies = [await _guess(house, "nobody@example.com") for _ in range(4)]
        assert [reply.status_code for reply in replies] == [401, 401, 401, 429]


async def test_another_process_counts_too(strict: Settings, pool: Pool) -> None:
    for status in (401, 401, 401, 429):
        async with auth_house(strict, pool) as house:
            assert (await _guess(house)).status_code == status


async def test_waiting_gives_one_more_try(strict: Settings, pool: Pool) -> None:
    async with auth_house(strict, pool) as house:
        await house.register("alice@example.com")
        for _ in range(3):
            await _guess(house)
        await pool.execute("UPDATE auth.login_failures SET arrival_at = arrival_at - interval '600 s'")
        assert [(await _guess(house)).status_code for _ in range(2)] == [401, 429]
        await pool.execute("UPDATE auth.login_failures SET arrival_at = arrival_at - interval '600 s'")
        await house.log_in("alice@example.com")


async def test_success_is_never_counted(strict: Settings, pool: Pool) -> None:
    async with auth_house(strict, pool) as house:
        await house.register("alice@example.com")
        await asyncio.gather(*[house.log_in("alice@example.com") for _ in range(20)])
        assert await pool.fetchval("SELECT count(*) FROM auth.login_failures") == 0


async def _checked_at_once(settings: Settings, pool: Pool, *, guarded: bool) -> int:
    """How many of 30 guesses at the same time reach the password."""
    async with auth_house(settings, pool) as house:
        if not guarded:
            address = parse_address("alice@example.com")
            assert address is not None
            before_any_failure = await house.auth.accounts._look_up(address)

            async def blind(email: Address) -> object:
                return before_any_failure

            house.auth.accounts._look_up = blind  # type: ignore[method-assign]
        replies = await asyncio.gather(*[_guess(house) for _ in range(30)])
        return sum(reply.status_code == 401 for reply in replies)


async def test_guesses_at_the_same_time_are_throttled(strict: Settings, pool: Pool) -> None:
    assert 3 <= await _checked_at_once(strict, pool, guarded=True) <= 3 + strict.password_threads


async def test_negative_control_without_the_look_every_guess_is_checked(strict: Settings, pool: Pool) -> None:
    assert await _checked_at_once(strict, pool, guarded=False) == 30


async def test_an_address_has_its_limit(settings: Settings, pool: Pool) -> None:
    few = settings.model_copy(update={"address_sign_ins_per_second": 0.01, "address_sign_ins_burst": 3})
    async with auth_house(few, pool) as house:
        await house.register("alice@example.com")
        await house.log_in("alice@example.com")
        assert (await house.refresh("unknown")).status_code == 401
        for path in ("/users/login", "/users/register", "/users/refresh", "/users/administrator"):
            reply = await house.client.post(path, json={"email": "a@b.tw", "password": PASSWORD})
            assert (reply.status_code, code(reply)) == (429, "rate_limited"), path
            assert 90 < int(reply.headers["retry-after"]) <= 100
            assert reply.headers["ratelimit-policy"] == '"sign-in";q=3;w=300'
            assert reply.headers["ratelimit"].startswith('"sign-in";r=0;t=')
        # What a spoofed header says is not asked: the server alone decides what the address is.
        spoofed = await house.client.post(
            "/users/refresh", json={"refresh_token": "x"}, headers={"X-Forwarded-For": "203.0.113.9"}
        )
        assert spoofed.status_code == 429
    async with auth_house(settings, pool, "198.51.100.8") as house:
        await house.log_in("alice@example.com")


async def test_negative_control_the_limit_is_what_refuses(
    settings: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = settings.model_copy(update={"address_sign_ins_per_second": 0.01, "address_sign_ins_burst": 3})
    monkeypatch.setattr(Rate, "take", lambda *_: 0.0)
    async with auth_house(few, pool) as house:
        assert [(await house.refresh("unknown")).status_code for _ in range(10)] == [401] * 10


async def test_a_campus_passes(settings: Settings, pool: Pool) -> None:
    """Fifty a second from one address."""
    async with auth_house(settings, pool) as house:
        assert [(await house.refresh("unknown")).status_code for _ in range(200)] == [401] * 200


async def test_a_full_queue_is_busy(settings: Settings, pool: Pool) -> None:
    narrow = settings.model_copy(update={"password_threads": 1, "password_queue_max": 1})
    async with auth_house(narrow, pool) as house:
        replies = await asyncio.gather(*[_guess(house, f"user{number}@example.com") for number in range(20)])
        busy = [reply for reply in replies if reply.status_code == 503]
        assert {reply.status_code for reply in replies} == {401, 503}
        assert all(code(reply) == "busy" and reply.headers["retry-after"] == "1" for reply in busy)


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("x" * 30000, "x" * 64),
    ],
)
def test_what_counts_as_one_address(host: str, network: str) -> None:
    assert _network(host) == network
