"""`holdfast doctor`: OK where all is well, FAIL for each kind of damage, OK again once it is mended."""

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from box_office import Desk, Event, put_on_sale
from conftest import free_port
from holdfast import clock, ids
from holdfast.doctor.checks import Check
from holdfast.doctor.examine import examine
from holdfast.errors import Mendable
from holdfast.gate.gate import Gate, hold_key, hold_of
from holdfast.gate.load import load_gate
from holdfast.schema.migrate import known_revisions
from holdfast.settings import Settings
from running_up import command


class Ward(NamedTuple):
    """A database with a sale in all its states, and its gate."""

    desk: Desk
    event: Event

    async def failing(
        self, patience_seconds: float = 0, *, repair: bool = False, **changed: object
    ) -> dict[str, Check]:
        """The checks that are not OK."""
        settings = Settings(**{**self.desk.settings.model_dump(), **changed})
        found = await examine(settings, patience_seconds, repair=repair)
        assert all(check.mend for check in found.checks if not check.ok), "what fails says what mends it"
        return {check.name: check for check in found.checks if not check.ok}

    async def execute(self, statement: str, *arguments: object) -> None:
        """Damage, or its undoing, written into the database."""
        await self.desk.pool.execute(statement, *arguments)


@pytest.fixture
async def ward(desk: Desk) -> Ward:
    event = await put_on_sale(desk.pool, 10)
    await load_gate(desk.pool, desk.gate, event.id)
    for who, end in (("confirmed", desk.try_confirm), ("cancelled", desk.try_cancel)):
        order, _ = await desk.buy(ids.new_id(), who, event, 2)
        assert await end(order) == who
    await desk.buy(ids.new_id(), "reserved", event, 1)
    await desk.relay()
    await desk.reserve.drain()
    return Ward(desk, event)


async def test_where_all_is_well_everything_is_ok(ward: Ward) -> None:
    assert await ward.failing() == {}


@pytest.mark.parametrize(
    ("damage", "undo", "names"),
    [
        ("UPDATE tickets.stock SET held = held + 1", "UPDATE tickets.stock SET held = held - 1", {"stock counters"}),
        ("UPDATE tickets.stock SET sold = sold - 1", "UPDATE tickets.stock SET sold = sold + 1", {"stock counters"}),
        (
            "UPDATE orders.user_tickets SET tickets = tickets + 1",
            "UPDATE orders.user_tickets SET tickets = tickets - 1",
            {"people's counters"},
        ),
        (
            "UPDATE orders.orders SET expires_at = now() - interval '1 minute' WHERE status = 'reserved'",
            "UPDATE orders.orders SET expires_at = now() + interval '1 minute' WHERE status = 'reserved'",
            {"overdue holds"},
        ),
        (
            "INSERT INTO outbox.dead_letters (consumer, event_id, content, reason) VALUES ('stats', 'x', '', 'no')",
            "DELETE FROM outbox.dead_letters",
            {"dead letters"},
        ),
        (
            "UPDATE orders.payments SET state = 'pending', updated_at = now() - interval '1 minute'",
            "UPDATE orders.payments SET state = 'captured'",
            {"payments", "money"},
        ),
        (
            "UPDATE orders.payments SET state = 'voided'",
            "UPDATE orders.payments SET state = 'captured'",
            {"money"},
        ),
        (
            "CREATE TABLE kept AS TABLE orders.tickets; DELETE FROM orders.tickets",
            "INSERT INTO orders.tickets TABLE kept",
            {"issued tickets"},
        ),
        (
            "ALTER TABLE tickets.stock DROP CONSTRAINT stock_not_oversold",
            "ALTER TABLE tickets.stock ADD CONSTRAINT stock_not_oversold CHECK (held + sold <= capacity)",
            {"guards"},
        ),
        (
            "DROP INDEX orders.payments_one_live",
            "CREATE UNIQUE INDEX payments_one_live ON orders.payments (order_id)",
            {"guards"},
        ),
        (
            "UPDATE public.alembic_version SET version_num = '9999'",
            f"UPDATE public.alembic_version SET version_num = '{known_revisions()[-1]}'",
            {"schema"},
        ),
    ],
    ids=[
        "held", "sold", "people", "overdue", "letters", "unresolved", "unpaid", "no tickets", "no check", "no index",
        "schema",
    ],
)  # fmt: skip
async def test_damage_in_the_database_is_seen_until_it_is_undone(
    ward: Ward, damage: str, undo: str, names: set[str]
) -> None:
    await ward.execute(damage)
    # A counter that is off puts the gate in the wrong as well.
    assert set(await ward.failing()) - {"gate against PostgreSQL"} == names
    await ward.execute(undo)
    assert await ward.failing() == {}


async def test_an_oversold_tier_is_seen(ward: Ward) -> None:
    await ward.execute("ALTER TABLE tickets.stock DROP CONSTRAINT stock_not_oversold")
    await ward.execute("UPDATE tickets.stock SET capacity = 2")
    assert {"oversold", "guards"} <= set(await ward.failing())


async def test_a_gate_that_differs_is_seen_and_repaired(ward: Ward) -> None:
    epoch = await ward.desk.pool.fetchval("SELECT epoch FROM tickets.gates WHERE event_id = $1", ward.event.id)
    hold = hold_of(ids.new_id(), [ward.event.tiers[0]], [3])
    await ward.desk.gate.finish(ward.event.id, epoch, settle=[("nobody:x", hold)])
    failing = await ward.failing(1)
    assert set(failing) == {"gate against PostgreSQL"}
    assert "-3 free" in failing["gate against PostgreSQL"].detail
    assert await ward.failing(repair=True) == {}
    assert await ward.failing() == {}


async def test_a_gate_of_another_epoch_is_seen_and_repaired(ward: Ward) -> None:
    await ward.execute("UPDATE tickets.gates SET epoch = epoch + 1")
    assert "epoch" in (await ward.failing())["gate against PostgreSQL"].detail
    assert await ward.failing(repair=True) == {}


async def test_a_lease_that_nobody_ends_is_seen(ward: Ward) -> None:
    gate = Gate(Settings(**{**ward.desk.settings.model_dump(), "lease_seconds": 1, "journal_seconds_max": 0.5}))
    await gate.open()
    epoch = await ward.desk.pool.fetchval("SELECT epoch FROM tickets.gates WHERE event_id = $1", ward.event.id)
    want: list[str | int] = [4, ward.event.tiers[0].hex, 1]
    assert await gate.reserve(ward.event.id, epoch, [want], [], [(hold_key(ids.new_id(), "lost"), 0)]) == ["held"]
    assert await ward.failing() == {}, "its order may still be on the way"
    while not await gate.lapsed(ward.event.id, epoch, 1):
        await asyncio.sleep(0.05)
    await gate.close()
    failing = await ward.failing()
    assert "1 leases" in failing["leases"].detail


async def test_a_consumer_that_stands_still_is_seen(ward: Ward) -> None:
    await ward.execute(
        "INSERT INTO outbox.events (kind, subject, version, scope, occurred_at) "
        "VALUES ('event.changed', $1, 2, $1, $2)",
        ward.event.id,
        clock.utc_now() - timedelta(minutes=1),
    )
    failing = await ward.failing()
    assert set(failing) == {"outbox: cancellations", "outbox: gate", "outbox: payments", "outbox: stats"}
    assert "1 unread, the oldest for 60 s" in failing["outbox: gate"].detail
    assert "`holdfast work stats` runs" in str(failing["outbox: stats"])
    await ward.desk.relay()
    assert await ward.failing() == {}


async def test_what_is_mended_while_it_looks_is_ok(ward: Ward) -> None:
    await ward.execute("UPDATE tickets.stock SET held = held + 1")
    looking = asyncio.create_task(ward.failing(10))
    await asyncio.sleep(0.2)
    await ward.execute("UPDATE tickets.stock SET held = held - 1")
    assert await looking == {}


async def test_engines_that_are_away_are_seen(ward: Ward) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    assert set(await ward.failing(gate_url=f"valkey://{nowhere}")) == {"gate"}
    assert set(await ward.failing(database_url=f"postgresql://u:p@{nowhere}/x")) == {
        "PostgreSQL",
        "gate against PostgreSQL",
    }
    with pytest.raises(Mendable, match="cannot be loaded"):
        await ward.failing(repair=True, gate_url=f"valkey://{nowhere}")


async def test_without_a_gate_there_is_nothing_wrong(ward: Ward) -> None:
    assert await ward.failing(gate_url="") == {}


async def test_careless_settings_are_seen(ward: Ward, tmp_path: Path) -> None:
    assert set(await ward.failing(trusted_proxies="0.0.0.0/0")) == {"trusted proxies"}
    assert set(await ward.failing(trusted_proxies="the-proxy")) == {"trusted proxies"}
    assert await ward.failing(trusted_proxies="10.0.0.0/8, ::1") == {}
    assert set(await ward.failing(signing_key_file=None)) == {"signing keys"}
    file = ward.desk.settings.signing_key_file
    assert file is not None
    readable = tmp_path / "keys.json"
    readable.write_bytes(file.read_bytes())
    readable.chmod(0o644)
    assert "may read" in (await ward.failing(signing_key_file=readable))["signing keys"].detail
    await ward.execute("ALTER DATABASE %s SET synchronous_commit = off" % await name_of_database(ward))
    assert "synchronous_commit = off" in (await ward.failing())["PostgreSQL"].detail


async def name_of_database(ward: Ward) -> str:
    name: str = await ward.desk.pool.fetchval("SELECT current_database()")
    return name


async def test_the_command_reports_and_ends_with_0_1_or_2(ward: Ward, tmp_path: Path) -> None:
    settings = ward.desk.settings
    environment = {
        "HOLDFAST_DATABASE_URL": settings.database_url.get_secret_value(),
        "HOLDFAST_GATE_URL": settings.gate_url.get_secret_value(),
        "HOLDFAST_SIGNING_KEY_FILE": str(settings.signing_key_file),
    }
    home = tmp_path / "home"
    fine = command("doctor", "--json", home=home, **environment)
    answer: dict[str, Any] = json.loads(fine.stdout)
    assert answer["ok"] is True
    assert {tuple(sorted(check)) for check in answer["checks"]} == {("detail", "mend", "name", "ok")}
    assert fine.returncode == 0

    await ward.execute("UPDATE tickets.stock SET held = held + 1")
    broken = command("doctor", "--patience", "0", home=home, **environment)
    lines = broken.stdout.splitlines()
    assert any(line.startswith("FAIL  stock counters") and " -> " in line for line in lines)
    assert any(line.startswith("OK    PostgreSQL") for line in lines)
    assert "\x1b" not in broken.stdout
    assert broken.returncode == 1

    nothing = command("doctor", "--data", str(tmp_path / "none"), home=home)
    assert "No `holdfast up` runs on" in nothing.stderr
    assert nothing.returncode == 2
