"""GET /events/{event_id}/sales: what an event's organiser, and administrators, are told of its sale."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Query, Response

from holdfast import ids
from holdfast.auth.actors import Actor, Callers, IsAdministrator
from holdfast.auth.tokens import Verifier
from holdfast.errors import refuse
from holdfast.stats.sales import (
    CURSOR_LENGTH,
    DAYS_DEFAULT,
    DAYS_MAX,
    LIMIT_DEFAULT,
    LIMIT_MAX,
    MOMENT_LENGTH_MAX,
    Sales,
    SalesReader,
    read_cursor,
    read_span,
)

_FROM = f"RFC 3339; {DAYS_DEFAULT * 24} hours before `to` where it is not given, and at most {DAYS_MAX} days before it."
From = Annotated[str | None, Query(alias="from", description=_FROM, max_length=MOMENT_LENGTH_MAX)]
To = Annotated[str | None, Query(description="RFC 3339; now, where it is not given.", max_length=MOMENT_LENGTH_MAX)]
Limit = Annotated[int, Query(ge=1, le=LIMIT_MAX)]
Cursor = Annotated[str | None, Query(description="The next_cursor of the page before.", max_length=CURSOR_LENGTH)]


def sales_routes(sales: SalesReader, tokens: Verifier, is_administrator: IsAdministrator) -> APIRouter:
    """The route."""
    router = APIRouter()
    callers = Callers(tokens, is_administrator)

    @router.get("/events/{event_id}/sales", response_model=Sales, tags=["organisers"])
    async def read_sales(
        event_id: str,
        actor: Annotated[Actor, Depends(callers.organiser)],
        from_: From = None,
        to: To = None,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Response:
        """The sales of each tier and minute, and their totals; some moments behind the sale itself."""
        event = ids.decode(ids.EVENT, event_id)
        if event is None:
            raise refuse("not_found")
        page = await sales.page(actor, event, read_span(from_, to), read_cursor(cursor), limit)
        return Response(msgspec.json.encode(page), media_type="application/json", headers={"Cache-Control": "no-store"})

    return router
