"""The OpenAPI 3.1 document of every route: FastAPI's own, and the hot ones in front of it."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from holdfast.door.exchange import JSON, NO_CACHE, Answer, Handler, Request
from holdfast.door.problems import Problem
from holdfast.orders.order import CancelOrder, ConfirmOrder, CreateOrder, Order, OrderPage
from holdfast.tickets.availability import Availability
from holdfast.tickets.importing.writer import Report


class Status(msgspec.Struct):
    """The body of GET /livez and GET /readyz."""

    status: Literal["ok"]


_REF = "#/components/schemas/{name}"
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": True,
    "description": "A new one for each purchase, the same one on a retry.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
}
_LIMIT = {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}}
_IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "description": "The ETag of the answer that is at hand.",
    "schema": {"type": "string"},
}
_POSITION = "Holdfast-Position"
_POSITION_MARK = {
    "description": "Where the database's log ended when it was done, where there are replicas: a read that brings it "
    "along sees this, whichever of them answers. Without it whoever is signed in sees what they did all the same.",
    "schema": {"type": "string"},
}
_POSITION_ASKED = {
    "name": _POSITION,
    "in": "header",
    "description": "What the reply to a write carried.",
    "schema": {"type": "string", "pattern": "^[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}$"},
}
_CURSOR = {"name": "cursor", "in": "query", "schema": {"type": "string"}}


def openapi_handler(routed: Callable[[], dict[str, Any]], roles: frozenset[str]) -> Handler:
    """GET /openapi.json: FastAPI's own document, and the hot routes of these roles. It is made when first asked for."""
    document: list[bytes] = []

    def openapi(_: Request) -> Answer:
        if not document:
            document.append(msgspec.json.encode(_document(routed(), roles)))
        return Answer(200, JSON + NO_CACHE, document[0])

    return openapi


def _document(own: dict[str, Any], roles: frozenset[str]) -> dict[str, Any]:
    types = [CreateOrder, ConfirmOrder, CancelOrder, Order, OrderPage, Availability, Report, Problem, Status]
    _, schemas = msgspec.json.schema_components(types, ref_template=_REF)
    for name in ("CreateOrder", "LineAsked", "ConfirmOrder", "CancelOrder"):
        schemas[name]["additionalProperties"] = False
    components = own.setdefault("components", {})
    components["schemas"] = {**components.get("schemas", {}), **schemas}
    components.setdefault("securitySchemes", {})["access_token"] = {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
    }
    paths = own.setdefault("paths", {})
    paths.update(_PROCESS_PATHS)
    if "orders" in roles:
        paths.update(_ORDER_PATHS)
    if "tickets" in roles:
        paths.update(_TICKET_PATHS)
        # A msgspec struct, of which FastAPI has no picture.
        paths["/events/import"]["post"]["responses"]["200"]["content"] = _content("application/json", "Report")
    return own


def _operation(
    operation_id: str,
    summary: str,
    tag: str,
    answers: dict[str, tuple[str, str | None]],
    *,
    parameters: Sequence[dict[str, Any]] = (),
    body: str | None = None,
    body_required: bool = True,
    signed_in: bool = True,
) -> dict[str, Any]:
    responses: dict[str, Any] = {
        status: {"description": text, **({"content": _content("application/json", name)} if name else {})}
        for status, (text, name) in answers.items()
    }
    problem = {"description": "A problem (RFC 9457)", "content": _content("application/problem+json", "Problem")}
    responses |= {"4XX": problem, "5XX": problem}
    operation: dict[str, Any] = {
        "operationId": operation_id,
        "summary": summary,
        "tags": [tag],
        "parameters": list(parameters),
        "responses": responses,
    }
    if signed_in:
        operation["security"] = [{"access_token": []}]
    if body is not None:
        operation["requestBody"] = {"required": body_required, "content": _content("application/json", body)}
    return operation


def _content(media_type: str, name: str) -> dict[str, Any]:
    return {media_type: {"schema": {"$ref": _REF.format(name=name)}}}


def _id(name: str, text: str, prefixes: str) -> dict[str, Any]:
    pattern = f"^({prefixes})_[0-9a-hjkmnp-tv-z]{{26}}$"
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": text,
        "schema": {"type": "string", "pattern": pattern},
    }


_ORDER_ID = _id("order_id", "The order.", "ord")
_ORDER_PATHS: dict[str, Any] = {
    "/orders/create": {
        "post": _operation(
            "create_order",
            "Hold tickets: one event, one line or more. The hold ends at expires_at unless it is confirmed.",
            "orders",
            {"201": ("The new order", "Order"), "200": ("The order that this key made before", "Order")},
            parameters=[_KEY],
            body="CreateOrder",
        )
    },
    "/orders/{order_id}/confirm": {
        "post": _operation(
            "confirm_order",
            "Pay for held tickets. Sandbox tokens: tok_ok, tok_declined, tok_timeout, tok_late.",
            "orders",
            {"200": ("Confirmed, with its tickets", "Order"), "202": ("The payment is pending", "Order")},
            parameters=[_ORDER_ID, _KEY],
            body="ConfirmOrder",
        )
    },
    "/orders/{order_id}/cancel": {
        "post": _operation(
            "cancel_order",
            "Give held tickets back.",
            "orders",
            {"200": ("Cancelled", "Order")},
            parameters=[_ORDER_ID, _KEY],
            body="CancelOrder",
            body_required=False,
        )
    },
    "/orders/{id}": {
        "get": {
            **_operation(
                "read_orders",
                "An order (ord_…), or a user's orders, newest first (usr_…). One's own, or any for an administrator.",
                "orders",
                {"200": ("The order, or a page of orders", None)},
                parameters=[_id("id", "An order or a user.", "ord|usr"), _LIMIT, _CURSOR, _POSITION_ASKED],
            ),
        }
    },
}
_ORDER_PATHS["/orders/{id}"]["get"]["responses"]["200"]["content"] = {
    "application/json": {"schema": {"oneOf": [{"$ref": _REF.format(name=name)} for name in ("Order", "OrderPage")]}}
}
for _path in ("/orders/create", "/orders/{order_id}/confirm", "/orders/{order_id}/cancel"):
    for _status, _response in _ORDER_PATHS[_path]["post"]["responses"].items():
        if _status.startswith("2"):
            _response["headers"] = {_POSITION: _POSITION_MARK}
_TICKET_PATHS: dict[str, Any] = {
    "/events/{event_id}/tickets": {
        "get": _operation(
            "read_tickets",
            "The tiers of an event with their prices and live availability.",
            "events",
            {"200": ("The tiers", "Availability"), "304": ("Nothing has changed (If-None-Match)", None)},
            parameters=[_id("event_id", "The event.", "evt"), _IF_NONE_MATCH],
            signed_in=False,
        )
    },
}
_PROCESS_PATHS: dict[str, Any] = {
    f"/{name}": {
        "get": _operation(name, text, "process", {"200": ("Yes. It is 503 otherwise.", "Status")}, signed_in=False)
    }
    for name, text in (
        ("livez", "Whether this process is alive."),
        ("readyz", "Whether this process takes requests. It looks at itself alone, never at an engine."),
    )
}
_PROCESS_PATHS["/livez"]["post"] = _operation(
    "do_nothing",
    "Reads a body and does nothing: what a request costs by itself.",
    "process",
    {"200": ("Done", "Status")},
    signed_in=False,
)
