"""A catalogue's bytes to what was found in them: the encoding, the format, and the events that are there twice."""

import codecs
from itertools import islice

from holdfast.tickets.importing import Format
from holdfast.tickets.importing.csv_rows import read_csv
from holdfast.tickets.importing.html_pages import json_scripts
from holdfast.tickets.importing.jsonld import Document, NotJson, parse_json
from holdfast.tickets.importing.jsonld_event import read_event
from holdfast.tickets.importing.outcomes import Candidate, Found, House, Place, Remark, TooMany

# A page has a handful.
_SCRIPTS_MAX = 10_000
_NO_EVENT = "there is no schema.org Event in it"


def read_catalogue(data: bytes, kind: Format | None, house: House) -> Found:
    """Everything that a catalogue's bytes come to; its format is sniffed where None is given. Never raises."""
    found = Found()
    text = _decoded(data)
    try:
        if kind is None:
            kind = _sniffed(text)
        if kind == "json":
            _read_json(text, Place(pointer=""), house, found)
        elif kind == "html":
            _read_page(text, house, found)
        else:
            read_csv(text, house, found)
    except TooMany as limit:
        found.refused.append(Remark(f"after {limit} the rest was not read"))
    _once_each(found)
    return found


def _decoded(data: bytes) -> str:
    """UTF-8, or UTF-16 with its mark. What is not becomes surrogates, which every text refuses where it stands."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace")
    return data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")


def _sniffed(text: str) -> Format:
    first = text.lstrip()[:1]
    return "json" if first in ("{", "[") else "html" if first == "<" else "csv"


def _read_page(text: str, house: House, found: Found) -> None:
    scripts = list(islice(json_scripts(text), _SCRIPTS_MAX))
    if not scripts:
        found.refuse(Place(line=1), "the page has no script of type application/ld+json")
    events = len(found.candidates) + len(found.refused)
    for script in scripts:
        _read_json(script.text, Place(script.line, ""), house, found, may_be_other=True)
    if scripts and len(found.candidates) + len(found.refused) == events:
        found.refuse(Place(line=1), _NO_EVENT)


def _read_json(text: str, place: Place, house: House, found: Found, *, may_be_other: bool = False) -> None:
    if not _is_text(text):
        found.refuse(place, "is not in UTF-8")
        return
    try:
        document = Document(parse_json(text))
    except NotJson as error:
        found.refuse(Place((place.line or 1) + error.line - 1), str(error))
        return
    events = len(found.candidates) + len(found.refused)
    for here, node in document.events(place):
        read_event(document, node, here, house, found)
    if len(found.candidates) + len(found.refused) == events and not may_be_other:
        found.refuse(place, _NO_EVENT)


def _once_each(found: Found) -> None:
    """Leaves out what says the same again; refuses what tells two things about one event."""
    kept: dict[tuple[str, object], Candidate] = {}
    for candidate in found.candidates:
        first = kept.setdefault((candidate.key, candidate.starts_at), candidate)
        if first is not candidate and first.digest() != candidate.digest():
            reason = f"is the same event as the one at {_spoken(first.place)}, but says otherwise"
            found.refused.append(Remark(reason, candidate.place.line, candidate.place.pointer))
    found.candidates = list(kept.values())


def _spoken(place: Place) -> str:
    parts = [f"line {place.line}"] if place.line is not None else []
    return " ".join([*parts, place.pointer or ""]).strip() or "the beginning"


def _is_text(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
