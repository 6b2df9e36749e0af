"""The port to a payment provider, and the sandbox behind it.

A provider knows a payment by our payment id, so that asking twice is asking once. It is never called inside a
transaction of ours.
"""

from enum import Enum
from typing import Protocol
from uuid import UUID

from holdfast.clock import unix_seconds
from holdfast.settings import Settings


class Answer(Enum):
    """What a provider says of a payment."""

    AUTHORISED = "authorised"
    DECLINED = "declined"
    PENDING = "pending"
    """No answer in time, or not decided yet: ask again later."""
    UNKNOWN = "unknown"
    """The provider has never heard of it."""


class Provider(Protocol):
    """What Holdfast asks of a provider. A call may raise OSError or TimeoutError: the outcome is then unknown."""

    def accepts(self, token: str) -> bool:
        """Whether this can be a payment token of this provider at all."""

    async def authorise(self, payment_id: UUID, token: str, amount: int, currency: str) -> Answer:
        """Reserves the money. Idempotent by payment id."""

    async def look_up(self, payment_id: UUID, token: str) -> Answer:
        """What became of a payment that was asked for earlier."""

    async def capture(self, payment_id: UUID) -> None:
        """Takes reserved money. Idempotent."""

    async def void(self, payment_id: UUID) -> None:
        """Lets reserved money go, and refuses the payment should it still arrive. Idempotent."""


class Sandbox:
    """A provider without money. The token says how it behaves:

    tok_ok        authorised at once
    tok_declined  declined at once
    tok_timeout   does not answer, and never got the request: found unknown later
    tok_late      does not answer in time; authorised `sandbox_late_seconds` after the payment was begun

    It keeps nothing: what it answers follows from the token and from the time in the payment's id.
    """

    _TOKENS = frozenset({"tok_ok", "tok_declined", "tok_timeout", "tok_late"})

    def __init__(self, settings: Settings) -> None:
        self._late_seconds = settings.sandbox_late_seconds

    def accepts(self, token: str) -> bool:
        """Whether this is one of the four."""
        return token in self._TOKENS

    async def authorise(self, payment_id: UUID, token: str, amount: int, currency: str) -> Answer:
        """As the token says."""
        answer = await self.look_up(payment_id, token)
        return Answer.PENDING if answer is Answer.UNKNOWN else answer

    async def look_up(self, payment_id: UUID, token: str) -> Answer:
        """As the token says."""
        if token == "tok_ok":  # noqa: S105 - a sandbox token is no secret
            return Answer.AUTHORISED
        if token == "tok_declined":  # noqa: S105
            return Answer.DECLINED
        if token == "tok_late":  # noqa: S105
            begun = (payment_id.int >> 80) / 1000
            return Answer.AUTHORISED if unix_seconds() >= begun + self._late_seconds else Answer.PENDING
        return Answer.UNKNOWN

    async def capture(self, payment_id: UUID) -> None:
        """Nothing to take."""

    async def void(self, payment_id: UUID) -> None:
        """Nothing to let go."""
