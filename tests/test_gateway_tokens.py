"""Tokens at the gateway: what is refused there is refused in the services' own words, and never reaches them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import httpx
import pytest
import pytest_asyncio
from joserfc.jwk import OKPKey

from holdfast import ids
from holdfast.auth.signing_keys import create_signing_keys, load_signing_keys
from holdfast.auth.tokens import Tokens
from holdfast.errors import Refusal
from holdfast.settings import Settings
from house import refused
from running_gateway import Doubles, doubled
from test_tokens import _claims, _signed

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALICE = ids.new_id()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Doubles]:
    folder = tmp_path_factory.mktemp("tokens")
    create_signing_keys(folder / "keys.json")
    async with doubled(Settings(signing_key_file=folder / "keys.json"), folder) as opened:
        yield opened


@pytest.fixture(autouse=True)
def afresh(house: Doubles) -> None:
    for some in house.processes.values():
        for process in some:
            process.asked.clear()


def _key(house: Doubles) -> OKPKey:
    return load_signing_keys(house.gateway.plan.settings.signing_key_file)[0]


async def _buys(house: Doubles, authorization: bytes | str | None) -> httpx.Response:
    headers = {} if authorization is None else {"Authorization": authorization}
    return await house.client.post("/orders/create", headers=headers)  # type: ignore[arg-type]


async def test_a_token_of_our_own_is_good(house: Doubles) -> None:
    """The control: without it, the refusals below could all have one harmless cause."""
    for spelling in ("Bearer", "bearer", "BEARER"):
        token = house.tokens.issue(ALICE, "buyer")
        assert (await _buys(house, f"{spelling} {token}")).status_code == 200
        (asked,) = house.asked("orders")
        # The service verifies it too.
        assert asked.headers["authorization"] == f"{spelling} {token}"
        assert asked.headers["x-holdfast-subject"] == ids.encode(ids.USER, ALICE)
        for process in house.processes["orders"]:
            process.asked.clear()


def _bad(house: Doubles) -> dict[str, bytes | str | None]:
    key, mallorys = _key(house), OKPKey.generate_key("Ed25519", auto_kid=True)
    good = house.tokens.issue(ALICE, "buyer")
    return {
        "none": None,
        "empty": "",
        "no bearer": "Basic YWxpY2U6c2VjcmV0",
        "no token": "Bearer x",
        "two parts": "Bearer a.b",
        "another's key": _signed(mallorys, _claims()),
        "another's key of our name": _signed(mallorys, _claims(), kid=key.kid),
        "another issuer": _signed(key, _claims(iss="mallory")),
        "no algorithm": f"Bearer {good.rpartition('.')[0]}.",
        "expired": _signed(key, _claims(iat=1, exp=900)),
        "never expires": _signed(key, _claims(exp=None)),
        "changed": f"Bearer {good[:-10]}{'A' if good[-10] != 'A' else 'B'}{good[-9:]}",
    }


async def test_a_bad_token_is_refused_as_the_service_would(house: Doubles) -> None:
    for what, authorization in _bad(house).items():
        reply = await _buys(house, authorization)
        given = authorization.encode() if isinstance(authorization, str) else authorization
        with pytest.raises(Refusal) as caught:
            house.tokens.verify(given)
        assert refused(reply) == f"401 {caught.value.code}", what
        assert reply.headers["www-authenticate"] == caught.value.headers["WWW-Authenticate"], what
        assert set(reply.json()) == {"type", "title", "status", "code", "request_id"}, what
    assert not house.asked("orders")


async def test_where_a_token_may_come_a_bad_one_may_not(house: Doubles) -> None:
    path = f"/events/{ids.encode(ids.EVENT, ids.new_id())}"
    assert (await house.client.get(path)).status_code == 200
    assert (await house.client.get(path, headers=house.headers())).status_code == 200
    reply = await house.client.get(path, headers={"Authorization": "Bearer x.y.z"})
    assert refused(reply) == "401 token_invalid"
    assert len(house.asked("tickets")) == 2


async def test_where_none_is_asked_for_none_is_looked_at(house: Doubles) -> None:
    for path in ("/events", "/users/login", "/setup", "/openapi.json"):
        method = "POST" if path == "/users/login" else "GET"
        reply = await house.client.request(method, path, headers={"Authorization": "Bearer x.y.z"})
        assert reply.status_code == 200, path


async def test_a_token_comes_in_its_header_alone(house: Doubles) -> None:
    token = house.tokens.issue(ALICE, "buyer")
    reply = await house.client.post("/orders/create", params={"access_token": token})
    assert refused(reply) == "401 token_missing"


async def test_mallory_cannot_say_who_they_are(house: Doubles) -> None:
    forged = {"X-Holdfast-Subject": ids.encode(ids.USER, ALICE)}
    mallory = ids.new_id()
    await house.client.post("/orders/create", headers=house.headers(mallory) | forged)
    await house.client.get("/events", headers=forged)
    assert house.asked("orders")[0].headers["x-holdfast-subject"] == ids.encode(ids.USER, mallory)
    assert "x-holdfast-subject" not in house.asked("tickets")[0].headers


async def test_all_requests_of_a_user_meet_in_one_process(house: Doubles) -> None:
    users = [ids.new_id() for _ in range(16)]
    met: dict[UUID, set[str]] = {user: set() for user in users}
    for _ in range(3):
        for user in users:
            # Each time another token: it is the user who counts.
            met[user].add((await house.buy(user)).json()["by"])
    assert all(len(names) == 1 for names in met.values())
    assert set.union(*met.values()) == {"orders 1", "orders 2"}


async def test_the_auth_service_away_stops_nobody_who_has_a_token(house: Doubles) -> None:
    for process in house.processes["auth"]:
        await process.stop()
    try:
        await house.until_healthy("auth", 0)
        # For longer than the keys are fetched anew, they stay good.
        failed = "cluster.auth.upstream_rq_5xx"
        before = house.gateway.metric(failed)
        while house.gateway.metric(failed) == before:
            await asyncio.sleep(0.05)
        assert (await house.buy()).status_code == 200
        assert refused(await house.client.get("/setup")) == "503 busy"
    finally:
        for process in house.processes["auth"]:
            await process.start()
        await house.until_healthy("auth", 2)


async def test_new_keys_are_learnt(house: Doubles, tmp_path: Path) -> None:
    create_signing_keys(tmp_path / "new.json")
    tokens = Tokens(Settings(signing_key_file=tmp_path / "new.json"))
    headers = {"Authorization": f"Bearer {tokens.issue(ALICE, 'buyer')}"}
    assert refused(await house.client.post("/orders/create", headers=headers)) == "401 token_invalid"
    both = {"keys": [*house.tokens.jwks()["keys"], *tokens.jwks()["keys"]]}
    for process in house.processes["auth"]:
        process.keys = both
    while (await house.client.post("/orders/create", headers=headers)).status_code != 200:
        await asyncio.sleep(0.05)
    # The old ones are good still.
    assert (await house.buy()).status_code == 200


async def test_without_keys_it_is_not_the_tokens_fault(tmp_path: Path) -> None:
    create_signing_keys(tmp_path / "keys.json")

    settings = Settings(signing_key_file=tmp_path / "keys.json")
    async with doubled(settings, tmp_path, keys_are_known=False) as house:
        reply = await house.buy()
        # Envoy leaves its challenge there, of which a 503 has no need.
        assert (reply.status_code, reply.json()["code"], reply.headers["retry-after"]) == (503, "busy", "1")
