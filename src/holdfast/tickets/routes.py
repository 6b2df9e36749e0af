"""The ticket service's routes, but for live availability, which the hot table serves.

buyers       GET /events, GET /events/{event_id}
organisers   GET /organiser/events, POST /events, PATCH /events/{event_id}, POST …/publish, POST …/cancel,
             POST /events/{event_id}/tiers, PATCH and DELETE /events/{event_id}/tiers/{tier_id},
             POST /events/import
"""

from typing import Annotated, Any
from uuid import UUID

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response

from holdfast import ids
from holdfast.auth.actors import Actor, Callers, IsAdministrator
from holdfast.auth.position import Since
from holdfast.auth.tokens import Verifier
from holdfast.errors import Busy, refuse
from holdfast.tickets.catalogue import Catalogue
from holdfast.tickets.event_fields import CAPACITY_MAX
from holdfast.tickets.event_fields.bodies import EventBody, EventChange, TierBody, TierChange
from holdfast.tickets.importing import Format
from holdfast.tickets.importing.writer import import_catalogue
from holdfast.tickets.search import LIMIT_DEFAULT, LIMIT_MAX, read_cursor, read_search
from holdfast.tickets.views import Event, EventPage, ImportReport, ManagedEvent, ManagedTier

Limit = Annotated[int, Query(ge=1, le=LIMIT_MAX)]
Cursor = Annotated[str | None, Query(description="The next_cursor of the page before.", max_length=64)]
Words = Annotated[str | None, Query(description="Words that must all be found, in any case.")]
Day = Annotated[str | None, Query(description="RFC 3339; a date alone is meant in the house's zone.", max_length=64)]

_MEDIA_TYPES: dict[str, Format] = {
    "application/json": "json",
    "application/ld+json": "json",
    "text/html": "html",
    "application/xhtml+xml": "html",
    "text/csv": "csv",
}


def ticket_routes(catalogue: Catalogue, tokens: Verifier, is_administrator: IsAdministrator) -> APIRouter:
    """All routes of this service."""
    router = APIRouter()
    caller = Callers(tokens, is_administrator)
    _add_reading(router, catalogue, caller)
    _add_events(router, catalogue, caller)
    _add_tiers(router, catalogue, caller)
    _add_import(router, catalogue, caller)
    return router


def _add_reading(router: APIRouter, catalogue: Catalogue, caller: Callers) -> None:
    zone = catalogue.settings.house_time_zone

    @router.get("/events", response_model=EventPage, tags=["events"])
    async def list_events(
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
        q: Words = None,
        place: Words = None,
        from_: Annotated[Day, Query(alias="from")] = None,
        to: Day = None,
        *,
        since: Since,
    ) -> Response:
        """Published events in the order of their start, and what of them a search finds."""
        found = read_search(q, place, from_, to, zone)
        return _json(await catalogue.published(found, read_cursor(cursor), limit, since))

    @router.get("/organiser/events", response_model=EventPage, tags=["organisers"])
    async def list_own_events(
        actor: Annotated[Actor, Depends(caller.organiser)],
        since: Since,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Response:
        """The caller's events, drafts and cancelled ones too."""
        return _json(await catalogue.of_organiser(actor.user_id, read_cursor(cursor), limit, since))

    @router.get("/events/{event_id}", response_model=ManagedEvent | Event, tags=["events"])
    async def read_event(
        event_id: str, actor: Annotated[Actor | None, Depends(caller.anyone)], since: Since
    ) -> Response:
        """One event. Its organiser and administrators see its tiers too, and it while it is a draft."""
        return _json(await catalogue.event(_event(event_id), actor, since))


def _add_events(router: APIRouter, catalogue: Catalogue, caller: Callers) -> None:
    @router.post("/events", response_model=ManagedEvent, status_code=201, tags=["organisers"])
    async def create_event(body: EventBody, actor: Annotated[Actor, Depends(caller.organiser)]) -> Response:
        """Makes a draft."""
        return _json(await catalogue.create(actor, body), status=201)

    @router.patch("/events/{event_id}", response_model=ManagedEvent, tags=["organisers"])
    async def change_event(
        event_id: str, change: EventChange, actor: Annotated[Actor, Depends(caller.organiser)]
    ) -> Response:
        """Changes an event; what is not given stays."""
        return _json(await catalogue.change(actor, _event(event_id), change))

    @router.post("/events/{event_id}/publish", response_model=ManagedEvent, tags=["organisers"])
    async def publish_event(event_id: str, actor: Annotated[Actor, Depends(caller.organiser)]) -> Response:
        """Shows a draft to everyone and opens its sale."""
        return _json(await catalogue.publish(actor, _event(event_id)))

    @router.post("/events/{event_id}/cancel", response_model=ManagedEvent, tags=["organisers"])
    async def cancel_event(event_id: str, actor: Annotated[Actor, Depends(caller.organiser)]) -> Response:
        """Cancels an event for good: its sale ends and its holds are released."""
        return _json(await catalogue.cancel(actor, _event(event_id)))


def _add_tiers(router: APIRouter, catalogue: Catalogue, caller: Callers) -> None:
    @router.post("/events/{event_id}/tiers", response_model=ManagedTier, status_code=201, tags=["organisers"])
    async def add_tier(event_id: str, body: TierBody, actor: Annotated[Actor, Depends(caller.organiser)]) -> Response:
        """Adds a tier."""
        return _json(await catalogue.add_tier(actor, _event(event_id), body), status=201)

    @router.patch("/events/{event_id}/tiers/{tier_id}", response_model=ManagedTier, tags=["organisers"])
    async def change_tier(
        event_id: str,
        tier_id: str,
        change: TierChange,
        actor: Annotated[Actor, Depends(caller.organiser)],
    ) -> Response:
        """Changes a tier. Its capacity may shrink to what is held and sold (else 409 capacity_in_use)."""
        return _json(await catalogue.change_tier(actor, _event(event_id), _tier(tier_id), change))

    @router.delete("/events/{event_id}/tiers/{tier_id}", status_code=204, tags=["organisers"])
    async def delete_tier(event_id: str, tier_id: str, actor: Annotated[Actor, Depends(caller.organiser)]) -> Response:
        """Takes a tier of a draft away."""
        await catalogue.delete_tier(actor, _event(event_id), _tier(tier_id))
        return Response(status_code=204)


def _add_import(router: APIRouter, catalogue: Catalogue, caller: Callers) -> None:
    text = {"schema": {"type": "string"}}
    takes: dict[str, Any] = {media_type: text for media_type in _MEDIA_TYPES if not media_type.endswith("json")}
    takes |= {media_type: {"schema": {}} for media_type in _MEDIA_TYPES if media_type.endswith("json")}
    under_way = False

    @router.post(
        "/events/import",
        response_model=ImportReport,
        tags=["organisers"],
        openapi_extra={"requestBody": {"required": True, "content": takes}},
    )
    async def import_events(
        request: Request,
        actor: Annotated[Actor, Depends(caller.organiser)],
        default_capacity: Annotated[int | None, Query(ge=0, le=CAPACITY_MAX)] = None,
    ) -> Response:
        """Takes a catalogue: schema.org events as JSON-LD or in a saved HTML page, or CSV with a header row."""
        nonlocal under_way
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type not in _MEDIA_TYPES:
            raise refuse("unsupported_media_type", f"Send one of {', '.join(_MEDIA_TYPES)}.")
        # One at a time in a process: reading a catalogue takes a processor and many times its size in memory.
        if under_way:
            raise Busy("Another import is under way.")
        under_way = True
        try:
            report = await import_catalogue(
                catalogue, await request.body(), _MEDIA_TYPES[media_type], actor, default_capacity
            )
        finally:
            under_way = False
        return _json(report)


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _event(text: str) -> UUID:
    return _known(ids.EVENT, text)


def _tier(text: str) -> UUID:
    return _known(ids.TIER, text)


def _known(prefix: str, text: str) -> UUID:
    """The UUID of a typed id. What is no id is as unknown as an id that nothing has."""
    value = ids.decode(prefix, text)
    if value is None:
        raise refuse("not_found")
    return value
