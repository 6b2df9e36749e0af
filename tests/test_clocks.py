"""Clocks five minutes apart: the sale goes on, and somebody is told."""

from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from box_office import open_desk, put_on_sale
from conftest import Engines
from holdfast import ids
from holdfast.auth import tokens as tokens_module
from holdfast.auth.tokens import Tokens
from holdfast.clock import unix_seconds
from holdfast.engines.database import Pool
from holdfast.errors import Refusal
from holdfast.settings import Settings
from holdfast.tickets import sale as sale_module

MINUTES = pytest.mark.parametrize("minutes", [-5, 5])


def off_by(minutes: float) -> Callable[[], float]:
    """A clock that is so far ahead."""
    return lambda: unix_seconds() + 60 * minutes


async def try_to_buy(settings: Settings, pool: Pool) -> str:
    """One purchase while the sale is open, by PostgreSQL's clock, for a minute either way."""
    event = await put_on_sale(pool, 10)
    await pool.execute(
        "UPDATE tickets.stock SET opens_at = clock_timestamp() - interval '1 minute', "
        "closes_at = clock_timestamp() + interval '1 minute'"
    )
    async with open_desk(settings, pool, gate_url="") as desk:
        return await desk.try_buy(ids.new_id(), "key", event, 1)


@MINUTES
async def test_a_server_with_a_wrong_clock_sells(
    settings: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    monkeypatch.setattr(sale_module, "unix_seconds", off_by(minutes))
    assert await try_to_buy(settings, pool) == "made"


@MINUTES
async def test_the_control_by_its_own_clock_it_would_refuse(
    settings: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    monkeypatch.setattr(sale_module, "unix_seconds", off_by(minutes))
    monkeypatch.setattr(sale_module, "_clock_behind", lambda *_: 0)
    assert await try_to_buy(settings, pool) == ("sale_not_open" if minutes < 0 else "sale_closed")


async def test_a_right_clock_is_left_alone(settings: Settings, pool: Pool) -> None:
    event = await put_on_sale(pool, 10)
    async with open_desk(settings, pool, gate_url="") as desk:
        sale = await desk.sales.get(event.id)
        assert sale is not None
        assert sale.clock_behind == 0


@MINUTES
def test_tokens_of_an_auth_service_with_another_clock_are_good(
    engines: Engines, monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    settings, alice = Settings(signing_key_file=engines.signing_key_file), ids.new_id()
    auth, orders = Tokens(settings), Tokens(settings)
    with monkeypatch.context() as patched:
        patched.setattr(tokens_module, "unix_seconds", off_by(minutes))
        issued = [f"Bearer {auth.issue(alice, 'buyer')}".encode() for _ in range(3)]
    with capture_logs() as logs:
        for token in issued:
            assert orders.verify(token).user_id == alice
    # One sentence, and only where it can be seen.
    assert len(logs) == (1 if minutes > 0 else 0)
    assert all("s behind that of an auth service" in line["event"] for line in logs)


def test_a_token_from_far_in_the_future_is_not(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = Tokens(Settings(signing_key_file=engines.signing_key_file))
    with monkeypatch.context() as patched:
        patched.setattr(tokens_module, "unix_seconds", off_by(15))
        issued = f"Bearer {tokens.issue(ids.new_id(), 'buyer')}".encode()
    with pytest.raises(Refusal, match="token_invalid"):
        tokens.verify(issued)
