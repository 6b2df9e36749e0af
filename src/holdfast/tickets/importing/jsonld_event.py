"""One schema.org Event as a candidate."""

from datetime import datetime
from urllib.parse import urlsplit

from holdfast.tickets.event_fields import EventFields
from holdfast.tickets.event_fields.moments import Moment, end_of_day, read_moment
from holdfast.tickets.event_fields.texts import (
    ADDRESS_LENGTH_MAX,
    DESCRIPTION_LENGTH_MAX,
    NAME_LENGTH_MAX,
    web_address,
)
from holdfast.tickets.importing.jsonld import Document, Node, local_name, nodes_of, only, prop, text_of, types_of
from holdfast.tickets.importing.jsonld_offers import Sale, read_tiers
from holdfast.tickets.importing.outcomes import Candidate, Found, House, Place, Standing, Untakable, key_of_content
from holdfast.tickets.importing.texts import cut, plain_line, plain_lines

_STANDINGS: dict[str, Standing] = {
    "eventscheduled": "scheduled",
    "scheduled": "scheduled",
    # The new date is its startDate.
    "eventrescheduled": "scheduled",
    "rescheduled": "scheduled",
    "eventmovedonline": "scheduled",
    "eventpostponed": "postponed",
    "postponed": "postponed",
    "eventcancelled": "cancelled",
    "eventcanceled": "cancelled",
    "cancelled": "cancelled",
    "canceled": "cancelled",
}
_ADDRESS_PARTS = ("streetAddress", "addressLocality", "addressRegion", "postalCode", "addressCountry")
_KEY_LENGTH_MAX = 2_000


def read_event(document: Document, node: Node, place: Place, house: House, found: Found) -> None:
    """Adds the event to what was found, as a candidate or as refused; a mere frame around subEvents as neither."""
    if _is_frame(node):
        return
    try:
        found.take(_candidate(document, node, place, house, found))
    except Untakable as error:
        found.refuse(error.place, error.reason)


def read_standing(text: str, place: Place) -> Standing:
    """What an event's status says of it. One that is unknown is refused: it might mean that it does not take place."""
    standing = _STANDINGS.get(text.lower())
    if standing is None:
        raise Untakable(place, f"has the status {text[:50]!r}, which is unknown")
    return standing


def _is_frame(node: Node) -> bool:
    has_events = any(prop(node, name)[1] for name in ("subEvent", "subEvents"))
    return has_events and ("EventSeries" in types_of(node) or prop(node, "offers")[1] is None)


def _candidate(document: Document, node: Node, place: Place, house: House, found: Found) -> Candidate:
    name = _name(node, place)
    standing = _standing(node, place)
    venue_name, venue_address = _venue(document, node)
    try:
        start: Moment | None = _moment(node, "startDate", place, house.time_zone)
    except Untakable:
        if standing == "scheduled":
            raise
        # It is not going on sale anyway; when it would have been need not be known to stop it.
        start = None
    key = _key(node) or key_of_content(name, start.at if start else None, venue_name)
    if standing != "scheduled" or start is None:
        return Candidate(place=place, key=key, name=name, starts_at=start.at if start else None, standing=standing)
    zone = start.stated_zone or house.time_zone
    ends_at = _end(node, place, start, zone, found)
    fields = EventFields(
        name=name,
        description=_description(node),
        venue_name=venue_name,
        venue_address=venue_address,
        url=_url(node),
        starts_at=start.at,
        ends_at=ends_at,
        time_zone=zone,
        hold_seconds=house.hold_seconds,
        tickets_per_user_max=house.tickets_per_user_max,
    )
    closes_at = ends_at or (end_of_day(start, zone) if start.is_date else start.at)
    tiers = read_tiers(document, node, place, Sale(name, zone, closes_at), house, found)
    return Candidate(place=place, key=key, name=name, starts_at=start.at, fields=fields, tiers=tuple(tiers))


def _name(node: Node, place: Place) -> str:
    key, value = prop(node, "name")
    try:
        name = plain_line(text_of(value) or "")
    except ValueError as error:
        raise Untakable(place.at(key), f"name {error}") from error
    if not name:
        raise Untakable(place, "has no name")
    if len(name) > NAME_LENGTH_MAX:
        raise Untakable(place.at(key), f"name has more than {NAME_LENGTH_MAX} characters")
    return name


def _standing(node: Node, place: Place) -> Standing:
    key, value = prop(node, "eventStatus")
    standings = [
        read_standing(name, place.at(key))
        for _, item in nodes_of(value, place)
        if (name := local_name(item)) is not None
    ]
    # Rescheduled and cancelled at once: the worse one counts.
    worst: tuple[Standing, ...] = ("cancelled", "postponed")
    return next((each for each in worst if each in standings), "scheduled")


def _key(node: Node) -> str | None:
    """What the catalogue itself knows the event by. A relative or blank @id is only good within its own page."""
    name = node.get("@id")
    is_absolute = isinstance(name, str) and _scheme(name) and not name.startswith("_:")
    identifier = only(prop(node, "identifier")[1])
    if isinstance(identifier, dict):
        identifier = prop(identifier, "value")[1]
    known_by = (("id", name if is_absolute else None), ("url", _url(node)), ("identifier", text_of(identifier)))
    keys = (_bounded(f"{kind}:{text.strip()}") for kind, text in known_by if text)
    return next(filter(None, keys), None)


def _bounded(key: str) -> str | None:
    storable = "\0" not in key and not any("\ud800" <= letter <= "\udfff" for letter in key)
    return key if storable and len(key) <= _KEY_LENGTH_MAX else None


def _scheme(text: str) -> str:
    """The scheme of an absolute address, empty for everything else."""
    try:
        return urlsplit(text).scheme
    except ValueError:
        return ""


def _url(node: Node) -> str | None:
    text = text_of(prop(node, "url")[1])
    try:
        return web_address(text) if text else None
    except ValueError:
        return None


def _description(node: Node) -> str:
    try:
        return cut(plain_lines(text_of(prop(node, "description")[1]) or ""), DESCRIPTION_LENGTH_MAX)
    except ValueError:
        return ""


def _moment(node: Node, name: str, place: Place, zone: str) -> Moment:
    key, value = prop(node, name)
    text = text_of(value)
    if text is None:
        raise Untakable(place, f"has no {name}")
    try:
        return read_moment(text, zone)
    except ValueError as error:
        raise Untakable(place.at(key), f"{name} {error}") from error


def _end(node: Node, place: Place, start: Moment, zone: str, found: Found) -> datetime | None:
    if text_of(prop(node, "endDate")[1]) is None:
        return None
    try:
        end = _moment(node, "endDate", place, zone)
        ends_at = end_of_day(end, zone) if end.is_date else end.at
        if ends_at < start.at:
            raise Untakable(place.at("endDate"), "endDate is before startDate")
    except Untakable as error:
        found.note(error.place, f"taken without its end: {error.reason}")
        return None
    return ends_at


def _venue(document: Document, node: Node) -> tuple[str, str]:
    """Name and address: of the first place that is one, else of the first that is online."""
    value = prop(node, "location")[1]
    places = [item for _, item in nodes_of(value, Place())]
    resolved = [document.resolved(item) if isinstance(item, dict) else item for item in places]
    real = [item for item in resolved if not (isinstance(item, dict) and "VirtualLocation" in types_of(item))]
    chosen = next(iter(real or resolved), None)
    if not isinstance(chosen, dict):
        return _line(text_of(chosen), NAME_LENGTH_MAX), ""
    name = _line(text_of(prop(chosen, "name")[1]), NAME_LENGTH_MAX)
    if "VirtualLocation" in types_of(chosen):
        return name or "Online", ""
    return name, _address(document, prop(chosen, "address")[1])


def _address(document: Document, value: object) -> str:
    if isinstance(value, list):
        value = value[0] if value else None
    if not isinstance(value, dict):
        return _line(text_of(value), ADDRESS_LENGTH_MAX)
    address = document.resolved(value)
    parts = (_line(text_of(prop(address, part)[1]), ADDRESS_LENGTH_MAX) for part in _ADDRESS_PARTS)
    return cut(", ".join(filter(None, parts)), ADDRESS_LENGTH_MAX)


def _line(text: str | None, length_max: int) -> str:
    try:
        return cut(plain_line(text or ""), length_max)
    except ValueError:
        return ""
