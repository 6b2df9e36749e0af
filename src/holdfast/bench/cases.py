"""Every case, as data and a small function. One entry adds a case."""

import secrets
from collections.abc import Callable
from typing import NamedTuple

from holdfast import ids
from holdfast.auth.addresses import parse_address
from holdfast.auth.passwords import Passwords
from holdfast.bench import crowd
from holdfast.bench.crowd import Crowd, Sale
from holdfast.bench.ledger import Drive
from holdfast.bench.seed import seed, seeded_users
from holdfast.bench.trial import BUYERS, BUYERS_MIN, Pace, Trial
from holdfast.engines.database import load_statements

CONNECTIONS_MANY = 256
SWEEP = (1, 4, 16, 64, 256)
EVENTS_AT_ONCE = 100
OPEN_RATE = 5_000
OPEN_PURCHASES = 1_500
OPEN_SECONDS = 60.0
OPEN_BUYERS = 20_000
HISTORY_RATE = 500
HISTORY_ORDERS = 5_000_000

_SWEEP_SECONDS = 3.0
_LOGIN_CONNECTIONS = 16
_ACCOUNTS = 2_000
_MEMORY_HOLD_SECONDS = 10
_MEMORY_SECONDS_MAX = 3_000.0
_COLD_TOKENS_MAX = 400_000
_AUTH_SQL = load_statements("holdfast.auth", "auth.sql")

_RESERVED: dict[tuple[int, int], str | None] = {(0, 201): "reserved"}


class Case(NamedTuple):
    """One case, or a few that belong together."""

    name: str
    what: str
    run: Callable[[Trial, str], None]
    """Measures, under the name that is given."""
    workers: int | None = None
    """Server processes, where they are not as many as `up` takes."""
    is_full: bool = False
    """Whether it belongs on the database of the past orders, which the other cases are spared."""
    is_standard: bool = True


def all_cases(workers: int) -> list[Case]:
    """Every case, in the order in which they are run, where `up` takes so many server processes."""
    other = 2 if workers == 1 else 1
    return [
        Case("noop", "a POST that does nothing: the ceiling", noop),
        Case("reserve", "accepted, committed orders", reserve),
        Case("reserve-256", f"the same over {CONNECTIONS_MANY} connections", reserve_many),
        Case("reserve-cold", "every token one that was never seen before", reserve_cold),
        Case("reserve-open", f"{OPEN_RATE:,} orders a second offered, whatever comes back", reserve_open),
        Case("sold-out", "refusals of an event that is sold out", sold_out),
        Case("confirm", "orders paid for", confirm),
        Case("purchase", "orders made and paid for: two calls", purchase),
        Case(
            "purchase-open",
            f"{OPEN_PURCHASES:,} orders a second offered, made and paid for, whatever comes back",
            purchase_open,
            is_standard=False,
        ),
        Case("cancel", "orders cancelled", cancel),
        Case("availability", "looks at an event of 10 tiers", availability),
        Case("login", "log-ins, each a password checked", login),
        Case("login-reserve", "orders while log-ins take all that they are given", login_reserve),
        Case("spread", f"orders of {EVENTS_AT_ONCE} events at once", spread),
        Case("multi-line", "orders of 5 tiers at once", multi_line),
        Case("connections", f"orders over {', '.join(map(str, SWEEP))} connections", connections),
        Case(f"reserve-{other}w", f"orders with {_servers(other)}", reserve, workers=other),
        Case(f"reserve-{other}w-256", f"the same over {CONNECTIONS_MANY} connections", reserve_many, workers=other),
        Case("growth-0", "orders on an empty database", growth(0), is_full=True),
        Case("growth-1m", "orders with 1 million there already", growth(1_000_000), is_full=True),
        Case("growth-5m", "orders with 5 million there already", growth(5_000_000), is_full=True),
        Case("history", f"a user's orders, {HISTORY_RATE}/s, 5 million orders there", history, is_full=True),
        Case("memory", "private memory over 2 million orders that expire (--orders)", memory, is_standard=False),
    ]


def noop(trial: Trial, name: str) -> None:
    nowhere = Sale(ids.new_id(), (ids.new_id(),))
    trial.measure(name, Drive([crowd.noop_request(nowhere)], trial.buyers, [], {(0, 200): None}), trial.pace())


def reserve(trial: Trial, name: str) -> None:
    trial.measure(name, _reserving(trial.open_sale(), trial.buyers), trial.pace())


def reserve_many(trial: Trial, name: str) -> None:
    trial.measure(name, _reserving(trial.open_sale(), trial.buyers), trial.pace(CONNECTIONS_MANY))


def reserve_cold(trial: Trial, name: str) -> None:
    sale, pace = trial.open_sale(), trial.pace()
    warm = _reserving(sale, trial.buyers)
    # With known tokens it is faster, so these are more than enough.
    count = trial.warm_up(warm, pace).rate() * pace.seconds * 1.1
    trial.say("minting tokens")
    strangers = trial.crowd(min(trial.options.scaled(int(count), BUYERS_MIN), _COLD_TOKENS_MAX))
    trial.measure(name, _reserving(sale, strangers), pace._replace(once=True), before=lambda: trial.warm_up(warm, pace))


def reserve_open(trial: Trial, name: str) -> None:
    _measure_open(trial, name, _reserving(trial.open_sale(), _many(trial)), OPEN_RATE)


def _many(trial: Trial) -> Crowd:
    return trial.crowd(trial.options.scaled(OPEN_BUYERS, 100))


def _measure_open(trial: Trial, name: str, drive: Drive, rate: int) -> None:
    pace = Pace(CONNECTIONS_MANY, trial.options.seconds or OPEN_SECONDS, rate=trial.options.scaled(rate))
    # Everyone once: their tokens are known when it counts.
    everyone = pace._replace(seconds=60.0, orders=len(drive.crowd.users))
    trial.measure(name, drive, pace, before=lambda: trial.run(drive, everyone))


def sold_out(trial: Trial, name: str) -> None:
    sale = trial.open_sale(capacity=100)
    trial.run(_reserving(sale, trial.buyers), Pace(4, 60.0, orders=100))
    drive = Drive([crowd.reserve_request(sale)], trial.buyers, [sale], {(0, 409): None})
    trial.measure(name, drive, trial.pace())


def confirm(trial: Trial, name: str) -> None:
    _move_orders(trial, name, crowd.confirm_request("@2@"), "confirmed")


def cancel(trial: Trial, name: str) -> None:
    _move_orders(trial, name, crowd.cancel_request("@2@"), "cancelled")


def purchase(trial: Trial, name: str) -> None:
    trial.measure(name, _purchasing(trial.open_sale(), trial.buyers), trial.pace())


def purchase_open(trial: Trial, name: str) -> None:
    _measure_open(trial, name, _purchasing(trial.open_sale(), _many(trial)), OPEN_PURCHASES)


def availability(trial: Trial, name: str) -> None:
    request = crowd.availability_request(trial.open_sale(tiers=10))
    trial.measure(name, Drive([request], trial.buyers, [], {(0, 200): None}), trial.pace())


def login(trial: Trial, name: str) -> None:
    trial.measure(name, _logging_in(trial), trial.pace(_LOGIN_CONNECTIONS))


def login_reserve(trial: Trial, name: str) -> None:
    drive, pace = _reserving(trial.open_sale(), trial.buyers), trial.pace()
    alone = trial.measure(f"{name}, alone", drive, pace)
    trial.figures.remove(alone)
    # A little longer than warm-up and run, so that not a moment of the run is without them.
    logins = Pace(_LOGIN_CONNECTIONS, pace.seconds + 2 * pace.warm_up_seconds)
    figure = trial.measure(name, drive, pace, beside=(_logging_in(trial), logins))
    figure.share = _share(figure.rate, alone.rate)


def spread(trial: Trial, name: str) -> None:
    sales = [trial.open_sale() for _ in range(EVENTS_AT_ONCE)]
    requests = [crowd.reserve_request(sale) for sale in sales]
    trial.measure(name, Drive(requests, trial.buyers, sales, _RESERVED), trial.pace())


def multi_line(trial: Trial, name: str) -> None:
    trial.measure(name, _reserving(trial.open_sale(tiers=5), trial.buyers), trial.pace())


def connections(trial: Trial, name: str) -> None:
    drive = _reserving(trial.open_sale(), trial.buyers)
    seconds = min(_SWEEP_SECONDS, trial.options.run_seconds)
    for count in SWEEP:
        trial.measure(f"{name}-{count}", drive, trial.pace(count, seconds))


def growth(orders: int) -> Callable[[Trial, str], None]:
    """Reserve, with so many orders there already, by people who made them."""

    def run(trial: Trial, name: str) -> None:
        there = trial.ground.wait_for(seed(trial.ground.pool, trial.options.scaled(orders, 0), trial.say))
        # The people of the first step: they stand all over the key space, and are the same every time.
        people = seeded_users(len(trial.buyers.users), there or trial.options.scaled(1_000_000))
        trial.measure(name, _reserving(trial.open_sale(), crowd.mint(trial.settings, people)), trial.pace())

    return run


def history(trial: Trial, name: str) -> None:
    there = trial.ground.wait_for(seed(trial.ground.pool, trial.options.scaled(HISTORY_ORDERS), trial.say))
    rate, seconds = trial.options.scaled(HISTORY_RATE), trial.options.run_seconds
    people = seeded_users(int(rate * seconds) + BUYERS, there)
    minted = crowd.mint(trial.settings, people)
    lines = [f"{token}\t{ids.encode(ids.USER, user_id)}" for user_id, token in zip(*minted, strict=True)]
    asking = Crowd(people, lines)
    first, others = asking.part(0, BUYERS), asking.part(min(BUYERS, len(people) // 2))
    drive = Drive([crowd.history_request()], others, [], {(0, 200): None})
    pace = Pace(trial.options.connections, seconds, rate=rate)
    trial.measure(name, drive, pace, before=lambda: trial.warm_up(drive._replace(crowd=first), pace))


def memory(trial: Trial, name: str) -> None:
    drive = Drive([], trial.buyers, [sale := trial.open_sale(hold_seconds=_MEMORY_HOLD_SECONDS)], {(0, 201): "made"})
    drive = drive._replace(templates=[crowd.reserve_request(sale)])
    orders = trial.options.scaled(trial.options.orders, 1_000)
    # The gate remembers holds that have ended for two minutes: only after that has it all that it will ever have.
    before = orders // 3
    pace = Pace(trial.options.connections, _MEMORY_SECONDS_MAX, orders=orders - before)
    house = trial.ground.house
    early: dict[str, int] = {}

    def first_third() -> None:
        trial.run(drive, pace._replace(orders=before))
        early.update(house.private_kib())

    figure = trial.measure(name, drive, pace, before=first_third)
    late = house.private_kib()
    figure.memory = {
        process: {
            "early_mib": _mib(kib),
            "late_mib": _mib(late.get(process, 0)),
            "growth": _share(late.get(process, 0) - kib, kib),
        }
        for process, kib in early.items()
    }


def _servers(count: int) -> str:
    return "one server process" if count == 1 else f"{count} server processes"


def _purchasing(sale: Sale, buyers: Crowd) -> Drive:
    return Drive(
        [crowd.reserve_request(sale)],
        buyers,
        [sale],
        {(0, 201): "reserved", (1, 200): "confirmed"},
        then=crowd.confirm_request("@id@"),
    )


def _reserving(sale: Sale, buyers: Crowd) -> Drive:
    return Drive([crowd.reserve_request(sale)], buyers, [sale], _RESERVED)


def _move_orders(trial: Trial, name: str, request: str, promise: str) -> None:
    """Makes orders, unmeasured, then moves each of them once; some of them as the warm-up."""
    sale, pace = trial.open_sale(), trial.pace()
    trial.say("making the orders")
    making = _reserving(sale, trial.buyers)
    # As long as the measured run and its warm-up: nothing here is faster than making them.
    made = trial.run(making, pace._replace(seconds=pace.seconds * 1.2 + pace.warm_up_seconds)).ids()
    people, tokens = trial.buyers
    orders = Crowd([people[line] for line, _ in made], [f"{tokens[line]}\t{order}" for line, order in made])
    first = min(len(made) // 6, 2 * BUYERS)
    drive = Drive([request], orders.part(first), [sale], {(0, 200): promise})
    once = pace._replace(once=True)
    trial.measure(name, drive, once, before=lambda: trial.warm_up(drive._replace(crowd=orders.part(0, first)), once))


def _logging_in(trial: Trial) -> Drive:
    """Accounts of their own, all with one password, whose hash was made once."""
    password, party = secrets.token_urlsafe(16), secrets.token_hex(4)
    addresses = [f"bench-{party}-{number}@holdfast.example" for number in range(trial.options.scaled(_ACCOUNTS, 100))]

    async def register() -> None:
        passwords = Passwords(trial.settings)
        try:
            async with passwords.turn():
                encoded = await passwords.hash(password)
        finally:
            passwords.close()
        parsed = [parse_address(address) for address in addresses]
        rows = [(ids.new_id(), one.shown, one.key, "Bench", encoded) for one in parsed if one is not None]
        await trial.ground.pool.executemany(_AUTH_SQL["register"], rows)

    trial.ground.wait_for(register())
    nobody = [ids.new_id()] * len(addresses)
    return Drive([crowd.login_request(password)], Crowd(nobody, addresses), [], {(0, 200): None})


def _share(part: float, whole: float) -> float:
    return round(part / whole, 4) if whole else 0.0


def _mib(kib: int) -> float:
    return round(kib / 1024, 1)
