"""The one error tree: what can be said to a caller, and under which status and code.

    Refusal                    an answer of ours that is not success (RFC 9457 problem+json)
    ├── Invalid                422, with a JSON pointer for each thing that is wrong
    └── Busy                   503 + Retry-After: nothing was done, or a retry with the same key will tell

    Mendable                   a command cannot go on: one sentence says what to do; exit status 2

A service raises `refuse("sold_out")`; the door alone turns it into HTTP. Everything else that escapes is a bug of ours
and is answered with 500 `internal`, with its trace in the log and nothing of it in the reply.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec


class Kind(NamedTuple):
    """What a code means on the wire."""

    status: int
    title: str


KINDS: dict[str, Kind] = {
    "bad_request": Kind(400, "The request cannot be read"),
    "broken_json": Kind(400, "The body is not JSON"),
    "idempotency_key_missing": Kind(400, "An Idempotency-Key header is required"),
    "token_missing": Kind(401, "An access token is required"),
    "token_invalid": Kind(401, "The access token is not valid"),
    "token_expired": Kind(401, "The access token has expired"),
    "credentials_invalid": Kind(401, "E-mail or password is wrong"),
    "refresh_token_invalid": Kind(401, "The refresh token is not valid"),
    "payment_declined": Kind(402, "The payment was declined"),
    "forbidden": Kind(403, "Your role does not allow this"),
    "not_found": Kind(404, "There is no such thing here"),
    "method_not_allowed": Kind(405, "This path does not take this method"),
    "email_taken": Kind(409, "This e-mail address is already registered"),
    "sold_out": Kind(409, "Not enough tickets are left"),
    "user_limit_reached": Kind(409, "You have reached the limit of tickets per person"),
    "sale_not_open": Kind(409, "The sale has not opened"),
    "sale_closed": Kind(409, "The sale has closed"),
    "event_cancelled": Kind(409, "The event was cancelled"),
    "invalid_state": Kind(409, "This is not possible in the present state"),
    "payment_pending": Kind(409, "Another payment of this order is still pending"),
    "capacity_in_use": Kind(409, "More tickets than that are held or sold"),
    "idempotency_key_in_flight": Kind(409, "A request with this Idempotency-Key is still being answered"),
    "hold_expired": Kind(410, "The hold has expired"),
    "setup_link_invalid": Kind(410, "This link was used already, has expired or never existed"),
    "too_large": Kind(413, "The body is too large"),
    "unsupported_media_type": Kind(415, "The body must be application/json"),
    "validation": Kind(422, "The request is not valid"),
    "idempotency_key_mismatch": Kind(422, "This Idempotency-Key was used with another request"),
    "rate_limited": Kind(429, "Too many requests"),
    "headers_too_large": Kind(431, "The header fields are too large"),
    "internal": Kind(500, "Something went wrong on our side"),
    "busy": Kind(503, "Too busy, or an engine is away, right now"),
}


class Fault(msgspec.Struct, frozen=True):
    """One thing that is wrong with a request: where (a JSON pointer into the body, or a parameter) and what."""

    pointer: str
    detail: str


class Refusal(Exception):
    """An answer that is not success. `code` is one of KINDS and is stable; `detail` is for people."""

    def __init__(
        self,
        code: str,
        detail: str | None = None,
        *,
        errors: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.code = code
        self.kind = KINDS[code]
        self.detail = detail
        self.errors = tuple(errors)
        self.headers: Mapping[str, str] = headers or {}
        super().__init__(code)

    def __str__(self) -> str:
        return f"{self.code}: {self.detail or self.kind.title}"


class Invalid(Refusal):
    """A request whose parts are of the wrong type, range or number."""

    def __init__(self, *errors: Fault) -> None:
        super().__init__("validation", errors[0].detail if errors else None, errors=errors)


class Busy(Refusal):
    """Turned away: a queue is full, or an engine did not answer in time."""

    def __init__(self, detail: str | None = None, *, retry_after_seconds: int = 1) -> None:
        super().__init__("busy", detail, headers={"Retry-After": str(retry_after_seconds)})


class Mendable(Exception):
    """A command cannot go on, and its one sentence says what to do about it."""


def refuse(code: str, detail: str | None = None) -> Refusal:
    """The refusal of this code: `raise refuse("not_found")`."""
    return Refusal(code, detail)


def in_flight() -> Refusal:
    """The refusal of a request while another with its key is still being answered."""
    return Refusal("idempotency_key_in_flight", headers={"Retry-After": "1"})
