"""`holdfast rush`: lets a crowd loose on an event of its own, and audits what it leaves behind."""

import logging
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import SplitResult, urlsplit

import typer

from holdfast.cli.output import DATA_DEFAULT, DataOption, JsonOption, report
from holdfast.engines.data_folder import running_beside, settings_of
from holdfast.errors import Mendable

if TYPE_CHECKING:
    from holdfast.rush.run import Result

EXIT_BROKEN = 1


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(rush)


def rush(
    buyers: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many people come.")] = 2000,
    tickets: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many tickets there are.")] = 500,
    url: Annotated[str | None, typer.Option(help="The servers.", show_default="the `up` of the data folder")] = None,
    data: DataOption = DATA_DEFAULT,
    as_json: JsonOption = False,
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="After so long, what is unsold has leaked.")] = 120,
    rest_seconds: Annotated[
        float, typer.Option(min=0, max=600, help="How long outbox, payments and gate may take to come to rest.")
    ] = 60,
    connections: Annotated[int, typer.Option(min=1, max=20_000, help="Connections that the buyers share.")] = 256,
    seed: Annotated[int | None, typer.Option(help="How the buyers behave.", show_default="random")] = None,
) -> None:
    """Sell out an event of its own to a crowd, then audit the database.

    The buyers retry, click twice, cancel, let holds run out, hang up and pay late. Their accounts and the event are
    made in the database beforehand and stay there. Latency is that of create requests, from sending to the answer.

    The exit status is 1 if oversold, lost_acks, duplicate_orders or leaked is not 0.
    """
    import uvloop

    from holdfast.cli.logs import log_to_standard_error
    from holdfast.rush.run import Plan, run_rush
    from holdfast.rush.view import open_view

    log_to_standard_error(logging.ERROR)
    settings = settings_of(data)
    plan = Plan(
        url=_server(url, data),
        buyers=buyers,
        tickets=tickets,
        seconds_max=seconds,
        rest_seconds_max=rest_seconds,
        connections_max=connections,
        seed=secrets.randbits(32) if seed is None else seed,
    )
    result = uvloop.run(run_rush(settings, plan, open_view()))
    report(result.as_json(), _lines(result), as_json=as_json)
    if not result.verdict.is_sound:
        raise typer.Exit(EXIT_BROKEN)


def _server(url: str | None, data: Path) -> SplitResult:
    text = url or running_beside(data).url
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise Mendable(f"{text!r} is not the URL of a server: give one such as http://127.0.0.1:8000 with --url.")
    return urlsplit(text)


def _lines(result: "Result") -> list[str]:
    answer, verdict = result.as_json(), result.verdict
    rows = [
        ("buyers", f"{result.plan.buyers:,} on {verdict.capacity:,} tickets"),
        ("time", f"{result.seconds:.1f} s, at rest {result.rest_seconds:.1f} s later"),
        ("attempts", f"{answer['attempts']:,} create requests, {answer['sold_out']:,} of them told sold out"),
        ("accepted", f"{answer['accepted']:,} orders, {answer['cancelled']:,} cancelled"),
        ("confirmed", f"{answer['confirmed']:,} orders"),
        ("tried again", _tried_again(result)),
        ("errors", f"{answer['errors']:,} purchases without a definite answer"),
        ("latency", f"p50 {answer['p50_ms']} ms, p99 {answer['p99_ms']} ms"),
        ("", ""),
        ("sold", f"{verdict.sold:,} of {verdict.capacity:,}"),
        ("oversold", f"{verdict.oversold:,}"),
        ("lost_acks", f"{verdict.lost_acks:,}"),
        ("duplicate_orders", f"{verdict.duplicate_orders:,}"),
        ("leaked", f"{verdict.leaked:,}"),
    ]
    lines = [f"{name:<18}{value}".rstrip() for name, value in rows]
    lines += [f"  {what}: {count}" for what, count in result.ledger.unexpected.items()]
    lines += [f"  {finding}" for finding in verdict.findings]
    return [*lines, "", "OK" if verdict.is_sound else f"FAIL (seed {result.plan.seed})"]


def _tried_again(result: "Result") -> str:
    ledger = result.ledger
    counts = {
        "busy": ledger.busy,
        "in flight": ledger.in_flight,
        "rate limited": ledger.rate_limited,
        "unanswered": ledger.connection_errors,
        "server errors": ledger.server_errors,
    }
    return ", ".join(f"{count:,} {what}" for what, count in counts.items())
