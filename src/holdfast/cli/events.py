"""`holdfast events`: the catalogue from the command line, beside a running `up`."""

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar
from uuid import UUID

import msgspec
import typer

from holdfast.cli.output import DATA_DEFAULT, DataOption, JsonOption, report
from holdfast.engines.data_folder import settings_of
from holdfast.errors import Mendable, Refusal
from holdfast.settings import Settings

if TYPE_CHECKING:
    from holdfast.tickets.catalogue import Catalogue
    from holdfast.tickets.importing import Format
    from holdfast.tickets.importing.writer import Report

EXIT_NOTHING_TAKEN = 1
_REMARKS_SHOWN = 50

_FORMATS: dict[str, "Format"] = {
    ".json": "json",
    ".jsonld": "json",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".csv": "csv",
    ".tsv": "csv",
}

Answer = TypeVar("Answer")


def register(app: typer.Typer) -> None:
    """Adds the group."""
    group = typer.Typer(no_args_is_help=True, help="The catalogue.", rich_markup_mode=app.rich_markup_mode)
    group.callback()(_events)
    group.command("import")(import_file)
    group.command("list")(list_events)
    group.command("redrive")(redrive)
    group.command("warm")(warm_events)
    app.add_typer(group, name="events")


def _events() -> None:
    """The catalogue."""


def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON-LD, a saved HTML page, or CSV.")],
    data: DataOption = DATA_DEFAULT,
    default_capacity: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="The tickets of a tier that says nowhere how many it has.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Import a catalogue: schema.org events as JSON-LD, alone or in a saved HTML page, or CSV.

    Its events are published and belong to the house. Importing the same again changes nothing. What cannot be taken is
    reported, and the rest goes in; exit status 1 when nothing could be taken.
    """
    settings = settings_of(data)
    content = _read(file, settings.import_bytes_max)
    kind = _FORMATS.get(file.suffix.lower())

    async def run(catalogue: "Catalogue") -> "Report":
        from holdfast.auth.actors import Actor
        from holdfast.tickets.event_rows import HOUSE_ORGANISER
        from holdfast.tickets.importing.writer import import_catalogue

        actor = Actor(HOUSE_ORGANISER, is_administrator=True)
        return await import_catalogue(catalogue, content, kind, actor, default_capacity)

    answer = _with_catalogue(settings, run)
    report(msgspec.to_builtins(answer), _lines(answer), as_json=as_json)
    if answer.refused and not answer.taken:
        sys.exit(EXIT_NOTHING_TAKEN)


def list_events(data: DataOption = DATA_DEFAULT, as_json: JsonOption = False) -> None:
    """List all events with their tickets, drafts and cancelled ones too."""

    async def run(catalogue: "Catalogue") -> list[dict[str, object]]:
        return await catalogue.all_events()

    events = _with_catalogue(settings_of(data), run)
    lines = [
        f"{event['id']}  {event['starts_at']}  {event['status']:9}  "
        f"{event['sold']}+{event['held']}/{event['capacity']}  {event['name']}"
        for event in events
    ]
    report({"data": events}, lines or ["There are no events yet: `holdfast events import FILE`."], as_json=as_json)


def redrive(
    data: DataOption = DATA_DEFAULT,
    consumer: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only the dead letters of this consumer.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what there is.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Hand dead letters to their consumers again.

    A dead letter is a change that a consumer could not handle. Each is handed over within seconds, to that consumer
    alone; what fails again stays a dead letter.
    """
    settings = settings_of(data)

    async def body() -> list[dict[str, object]]:
        from holdfast.engines.database import open_pool
        from holdfast.outbox.dead_letters import count_letters, want_letters

        pool = await open_pool(settings)
        try:
            if not dry_run:
                await want_letters(pool, consumer)
            return [one._asdict() for one in await count_letters(pool, consumer)]
        finally:
            await pool.close()

    from holdfast.engines.database import AWAY

    try:
        found = asyncio.run(body())
    except AWAY as error:
        raise Mendable("The database does not answer: look whether it is well, and run this again.") from error
    lines = [f"{one['consumer']}: {one['letters']} dead letters, the reason of one: {one['reason']}" for one in found]
    if found and not dry_run:
        lines.append("They are handed over again; --dry-run tells what is left.")
    report({"data": found, "dry_run": dry_run}, lines or ["There are no dead letters."], as_json=as_json)


def warm_events(
    events: Annotated[list[str], typer.Argument(metavar="EVENT...", help="The events' ids (evt_…).")],
    seconds: Annotated[
        float, typer.Option(min=1, max=86400, metavar="SECONDS", help="How long the servers keep ready at least.")
    ] = 600,
    data: DataOption = DATA_DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Get ready for the sale of these events: load the gate, and have every server open what it will need.

    Servers do so by themselves some minutes before a sale opens (HOLDFAST_WARM_SECONDS).
    """
    from holdfast.cli.logs import log_to_standard_error

    log_to_standard_error(logging.ERROR)
    event_ids = list(dict.fromkeys(map(_event_id, events)))
    settings = settings_of(data)
    gates = _run(_warm(settings, event_ids, seconds))
    lines = [f"{event}  gate {gate}; the servers keep ready for {seconds:g} s" for event, gate in gates.items()]
    report({"data": [{"id": event, "gate": gate} for event, gate in gates.items()]}, lines, as_json=as_json)


def _event_id(text: str) -> UUID:
    from holdfast import ids

    event_id = ids.decode(ids.EVENT, text)
    if event_id is None:
        raise Mendable(f"{text!r} is not an event's id (evt_…): `holdfast events list` names them.")
    return event_id


async def _warm(settings: Settings, event_ids: list[UUID], seconds: float) -> dict[str, str]:
    """What became of each event's gate."""
    from holdfast import ids
    from holdfast.engines.database import open_pool
    from holdfast.gate.gate import Gate, GateAway, GateStale
    from holdfast.gate.load import load_gate
    from holdfast.tickets.warm import ask_to_warm

    pool, gate = await open_pool(settings), Gate(settings)
    said: dict[str, str] = {}
    try:
        await ask_to_warm(pool, event_ids, seconds)
        await gate.open()
        for event_id in event_ids:
            try:
                # Where another process is at it, or overtakes us, it is loaded all the same.
                await load_gate(pool, gate, event_id, unless_open=True)
                what = "loaded"
            except GateStale:
                what = "loaded"
            except GateAway:
                what = "none" if gate.is_absent else "away (PostgreSQL sells alone)"
            said[ids.encode(ids.EVENT, event_id)] = what
    finally:
        await gate.close()
        await pool.close()
    return said


def _with_catalogue(settings: Settings, run: Callable[["Catalogue"], Awaitable[Answer]]) -> Answer:
    async def body() -> Answer:
        from holdfast.engines.database import open_pool
        from holdfast.tickets.catalogue import open_catalogue

        pool = await open_pool(settings)
        try:
            return await run(await open_catalogue(settings, pool))
        finally:
            await pool.close()

    return _run(body())


def _run(work: Coroutine[object, object, Answer]) -> Answer:
    from holdfast.engines.database import AWAY

    try:
        return asyncio.run(work)
    except Refusal as refusal:
        detail = (refusal.detail or refusal.kind.title).rstrip(".")
        raise Mendable(f"{detail}: look whether `holdfast up` is well, and run this again.") from refusal
    except AWAY as error:
        raise Mendable(
            f"The database does not answer ({type(error).__name__}): see that it runs (`holdfast doctor`)."
        ) from error


def _read(file: Path, bytes_max: int) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(bytes_max + 1)
    except OSError as error:
        raise Mendable(f"{file} cannot be read ({error.strerror}): name a file that can.") from error
    if len(content) > bytes_max:
        raise Mendable(f"{file} has more than {bytes_max} bytes: split it, or raise HOLDFAST_IMPORT_BYTES_MAX.")
    return content


def _lines(answer: "Report") -> list[str]:
    counts = f"{answer.created} created, {answer.updated} updated, {answer.unchanged} unchanged"
    lines = [f"{answer.taken} events taken: {counts}; {len(answer.refused)} things refused."]
    for title, remarks in (("refused", answer.refused), ("note", answer.notes)):
        for remark in remarks[:_REMARKS_SHOWN]:
            line = f"line {remark.line} " if remark.line is not None else ""
            lines.append(f"{title}: {line}{remark.pointer or ''}".rstrip() + f": {remark.reason}")
        if len(remarks) > _REMARKS_SHOWN:
            lines.append(f"{title}: and {len(remarks) - _REMARKS_SHOWN} more; --json tells all.")
    return lines
