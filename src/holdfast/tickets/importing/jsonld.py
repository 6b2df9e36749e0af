"""schema.org events in a JSON-LD document: where they stand in it, whatever is wrapped around them.

An event is an object whose @type ends in Event, or is Festival, Hackathon or CourseInstance. Objects around events
(@graph, ItemList, WebPage, a venue with its programme) are searched; of an event only its subEvents are, which are
events of their own.
"""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NoReturn

from holdfast.tickets.importing.outcomes import Place

Node = dict[str, Any]

_PREFIXES = ("", "schema:", "https://schema.org/", "http://schema.org/")
_EVENT_TYPES = frozenset({"Festival", "Hackathon", "CourseInstance"})
_NO_EVENTS = frozenset({"EventReservation", "PlanEvent"})
_SUB_EVENTS = ("subEvent", "subEvents")
_NOT_DOWN = frozenset(f"{prefix}superEvent" for prefix in _PREFIXES)


NODES_MAX = 1_000_000


class Document:
    """A JSON-LD document, its nodes findable by their @id. Raises NotJson for more than NODES_MAX objects and lists."""

    def __init__(self, root: object) -> None:
        self.root = root
        self._nodes: dict[str, Node] = {}
        for node in _nodes(root):
            name = node.get("@id")
            if isinstance(name, str) and not _is_reference(node):
                self._nodes.setdefault(name, node)

    def events(self, place: Place) -> Iterator[tuple[Place, Node]]:
        """Every event of the document with its place, in the order they stand in."""
        levels = [iter([(place, self.root)])]
        while levels:
            here, value = next(levels[-1], (None, None))
            if here is None:
                levels.pop()
                continue
            if isinstance(value, dict) and is_of_event_type(value) and not _is_reference(value):
                yield here, value
            levels.append(_below(here, value))

    def resolved(self, node: Node) -> Node:
        """The node that a mere reference, `{"@id": …}`, points to, where the document has it."""
        return self._nodes.get(node["@id"], node) if _is_reference(node) and isinstance(node["@id"], str) else node


class NotJson(ValueError):
    """A text is not JSON, for a reason and from a line of it on."""

    def __init__(self, reason: str, line: int = 1) -> None:
        self.line = line
        super().__init__(f"is not JSON{reason}")


def parse_json(text: str) -> object:
    """The JSON of a text. Raises NotJson.

    Real pages break lines within strings, which JSON forbids; these are taken. Numbers keep their decimals.
    """
    try:
        return json.loads(text, strict=False, parse_float=Decimal, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise NotJson(f": {error.msg}, column {error.colno}", error.lineno) from error
    except (ValueError, ArithmeticError) as error:
        raise NotJson(": a number in it is none") from error
    except RecursionError as error:
        raise NotJson(" that can be read: it is nested too deep") from error


def prop(node: Node, name: str) -> tuple[str, object]:
    """A property under the key that the document has it under: (key, value); (name, None) where there is none."""
    for prefix in _PREFIXES:
        if prefix + name in node:
            return prefix + name, _unwrapped(node[prefix + name])
    return name, None


def text_of(value: object) -> str | None:
    """The text of a value: a string, a number, the first of a list, or an object's @value, name or @id."""
    for _ in range(4):
        if isinstance(value, list):
            value = next((item for item in value if item not in (None, "")), None)
        elif isinstance(value, dict):
            value = next((value[key] for key in ("@value", "name", "schema:name", "@id") if key in value), None)
        else:
            break
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return str(value) if not isinstance(value, int) or value.bit_length() < 256 else None
    return value if isinstance(value, str) and value.strip() else None


def only(value: object) -> object:
    """The one item of a list of one; any other value as it is."""
    return _unwrapped(value[0]) if isinstance(value, list) and len(value) == 1 else value


def nodes_of(value: object, place: Place) -> list[tuple[Place, object]]:
    """The items of a list with their places, or the one value with its own."""
    if isinstance(value, list):
        return [(place.at(index), item) for index, item in enumerate(value)]
    return [] if value is None else [(place, value)]


def types_of(node: Node) -> set[str]:
    """The local names of a node's types."""
    value = node.get("@type", node.get("type"))
    return {_local(item) for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)}


def is_of_event_type(node: Node) -> bool:
    """Whether a node is an event."""
    return any(name in _EVENT_TYPES or (name.endswith("Event") and name not in _NO_EVENTS) for name in types_of(node))


def local_name(value: object) -> str | None:
    """The last part of an enumeration's member: `https://schema.org/SoldOut` is SoldOut."""
    text = text_of(value["@id"] if isinstance(value, dict) and "@id" in value else value)
    return None if text is None else _local(text.strip())


def is_true(value: object) -> bool:
    """Whether a value says yes."""
    return value is True or (local_name(value) or "").lower() == "true"


def _below(place: Place, value: object) -> Iterator[tuple[Place, object]]:
    """What stands in an object or a list and may have events in it."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, dict | list):
                yield place.at(index), item
    elif isinstance(value, dict):
        is_event = is_of_event_type(value)
        for key, item in value.items():
            if isinstance(item, dict | list) and (_local(key) in _SUB_EVENTS if is_event else key not in _NOT_DOWN):
                yield place.at(key), item


def _nodes(root: object) -> Iterator[Node]:
    waiting = [root]
    count = 0
    while waiting:
        value = waiting.pop()
        if not isinstance(value, dict | list):
            continue
        count += 1
        if count > NODES_MAX:
            raise NotJson(f" that can be read: it has more than {NODES_MAX} objects and lists")
        if isinstance(value, dict):
            yield value
            waiting += value.values()
        else:
            waiting += value


def _is_reference(node: Node) -> bool:
    return "@id" in node and node.keys() <= {"@id", "@type"}


def _unwrapped(value: object) -> object:
    """Without what expanded JSON-LD puts around a value."""
    while isinstance(value, dict) and value.keys() & {"@value", "@list", "@set"}:
        value = next(value[key] for key in ("@value", "@list", "@set") if key in value)
    return value


def _local(name: str) -> str:
    return name.rpartition("/")[2].rpartition("#")[2].rpartition(":")[2]


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)
