"""Auth, tickets, orders and the workers as processes of their own, and more than one of each: one sale across them."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from holdfast import ids
from holdfast.auth.signing_keys import create_signing_keys
from holdfast.engines.database import Connection
from holdfast.settings import Settings
from house import asking, done, refused, tier
from running_up import wait_until
from service_roles import Logins, logins
from split_house import Person, Process, Split, environment_given, split_house
from test_roles_at_work import comes_to_be, make_administrator


@pytest.fixture
async def roles(settings: Settings) -> AsyncIterator[Logins]:
    async with logins(settings) as made:
        await make_administrator(made.settings("auth"), "ada@house.example")
        yield made


@pytest.mark.parametrize("replicas", [1, pytest.param(2, marks=pytest.mark.slow)])
async def test_a_sale_across_processes(roles: Logins, tmp_path: Path, replicas: int) -> None:
    async with roles.connected("owner") as owner:
        with split_house(roles, tmp_path / "split") as split:
            auths = [split.serve("auth") for _ in range(replicas)]
            split.jwks_url = ",".join([f"{(await in_thread(one))}/.well-known/jwks.json" for one in auths])
            tickets = [split.serve("tickets") for _ in range(replicas)]
            orders = [split.serve("orders") for _ in range(2)]
            workers = [split.work("all", expiry_poll_seconds="0.1") for _ in range(2)]
            for one in (*tickets, *orders, *workers):
                assert str(split.signing_key_file) not in environment_given(one)
            await asyncio.to_thread(sell, auths, tickets, orders)
            paid = "SELECT count(*) FROM orders.payments WHERE state = 'captured'"
            await comes_to_be(lambda: owner.fetchval(paid), 1)
            await comes_to_be(lambda: owner.fetchval("SELECT count(*) FROM outbox.events"), 0)
            # One worker of each pair is enough.
            assert await asyncio.to_thread(workers[0].stop) == 0
            await owner.execute("UPDATE orders.orders SET expires_at = clock_timestamp() WHERE status = 'reserved'")
            await comes_to_be(lambda: statuses(owner), "confirmed expired")
            await comes_to_be(lambda: owner.fetchval("SELECT count(*) FROM outbox.events"), 0)
            held = "SELECT sum(held) * 10 + sum(sold) FROM tickets.stock"
            assert await owner.fetchval(held) == 1


def sell(auths: list[Process], tickets: list[Process], orders: list[Process]) -> None:
    """Each step at another replica."""
    ada, alice, olga = (
        Person(auths[0].url, "ada", register=False),
        Person(auths[0].url, "alice"),
        Person(auths[-1].url, "olga"),
    )
    olga_id = done(olga.ask("GET", f"{auths[0].url}/users/me"))["id"]
    done(ada.ask("POST", f"{auths[-1].url}/users/{olga_id}/role", json={"role": "organiser"}))
    olga.log_in()
    body = {"name": "Concert", "starts_at": "2099-03-01T19:30:00+08:00", "tiers": [tier()]}
    event = done(olga.ask("POST", f"{tickets[0].url}/events", json=body), 201)
    event = done(olga.ask("POST", f"{tickets[-1].url}/events/{event['id']}/publish"))
    # A service offers its own routes alone.
    assert alice.ask("GET", f"{tickets[0].url}/users/me").status_code == 404
    assert alice.ask("GET", f"{orders[0].url}/events").status_code == 404

    order = done(alice.ask("POST", f"{orders[0].url}/orders/create", "key", json=asking(event)), 201)
    again = done(alice.ask("POST", f"{orders[1].url}/orders/create", "key", json=asking(event)))
    assert again["id"] == order["id"]
    spare = done(alice.ask("POST", f"{orders[1].url}/orders/create", "spare", json=asking(event)), 201)
    path = f"/orders/{order['id']}/confirm"
    paid = done(alice.ask("POST", f"{orders[1].url}{path}", "pay", json={"payment_token": "tok_ok"}))
    assert paid["status"] == "confirmed"
    same = done(alice.ask("POST", f"{orders[0].url}{path}", "pay", json={"payment_token": "tok_ok"}))
    assert same["tickets"] == paid["tickets"]
    alice_id = done(alice.ask("GET", f"{auths[-1].url}/users/me"))["id"]
    found = done(ada.ask("GET", f"{orders[0].url}/orders/{alice_id}"))["data"]
    assert [one["id"] for one in found] == [spare["id"], order["id"]]
    assert refused(olga.ask("GET", f"{orders[0].url}/orders/{alice_id}")) == "404 not_found"
    (shown,) = done(httpx.get(f"{tickets[0].url}/events/{event['id']}/tickets"))["data"]
    assert (shown["held"], shown["sold"]) == (1, 1)


async def test_orders_go_on_while_auth_is_away_and_keys_change(roles: Logins, tmp_path: Path) -> None:
    with split_house(roles, tmp_path / "split") as split:
        split.signing_key_file = tmp_path / "keys.json"
        create_signing_keys(split.signing_key_file)
        await asyncio.to_thread(outlive_auth, split, tmp_path)


def outlive_auth(split: Split, folder: Path) -> None:
    auth = split.serve("auth")
    split.jwks_url = f"{auth.url}/.well-known/jwks.json"
    port = auth.url.rpartition(":")[2]
    before, nobodys = split.serve("orders"), f"/orders/{ids.encode(ids.ORDER, ids.new_id())}"
    alice = Person(auth.url, "alice")
    assert refused(alice.ask("GET", before.url + nobodys)) == "404 not_found"

    # Auth is away: whom it let in stays in, and a replica that starts now says that it does not know.
    auth.kill()
    late = split.serve("orders")
    assert refused(alice.ask("GET", before.url + nobodys)) == "404 not_found"
    assert refused(alice.ask("GET", late.url + nobodys)) == "503 busy"

    # It comes back with a new key in front: its first token is good everywhere, and the old one still is.
    old = json.loads(split.signing_key_file.read_text())["keys"] if split.signing_key_file else []
    create_signing_keys(folder / "new.json")
    new = json.loads((folder / "new.json").read_text())["keys"]
    assert split.signing_key_file is not None
    split.signing_key_file.write_text(json.dumps({"keys": new + old}))
    auth = split.serve("auth", port=port)
    assert auth.url in split.jwks_url
    wait_until(lambda: alice.ask("GET", late.url + nobodys).status_code == 404)
    earlier = dict(alice.headers)
    alice.log_in(auth.url)
    assert alice.headers != earlier
    assert refused(alice.ask("GET", before.url + nobodys)) == "404 not_found"
    assert refused(httpx.get(before.url + nobodys, headers=earlier)) == "404 not_found"


async def test_a_set_up_that_cannot_work_is_told_in_a_sentence(roles: Logins, tmp_path: Path) -> None:
    with split_house(roles, tmp_path / "split") as split:
        folder = tmp_path / "split"
        cases = {
            "HOLDFAST_JWKS_URL": split.serve("orders", jwks_url=""),
            "HOLDFAST_SIGNING_KEY_FILE": split.serve("auth", signing_key_file=str(folder / "none.json")),
        }
        for said, process in cases.items():
            assert await asyncio.to_thread(process.process.wait, 60) == 2, process.log.read_text()
            last = process.log.read_text().strip().splitlines()[-1]
            assert said in last
            assert last.endswith(".")


async def statuses(owner: Connection) -> Any:
    return await owner.fetchval("SELECT string_agg(DISTINCT status, ' ' ORDER BY status) FROM orders.orders")


async def in_thread(process: Process) -> str:
    """Where it serves, without holding the loop up."""
    return await asyncio.to_thread(lambda: process.url)
