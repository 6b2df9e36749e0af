"""Who acts on events: their organisers and administrators, as the services behind the door tell them apart."""

from collections.abc import Awaitable, Callable
from typing import Annotated, NamedTuple
from uuid import UUID

from fastapi import Depends, Request

from holdfast.auth.identity import authorization_of, signed_in
from holdfast.auth.tokens import Identity, Verifier
from holdfast.errors import refuse

IsAdministrator = Callable[[UUID], Awaitable[bool]]
"""Whether the database says that this user is an administrator."""


class Actor(NamedTuple):
    """Who acts on the catalogue: an organiser on their own events, an administrator on everyone's."""

    user_id: UUID
    is_administrator: bool


class Callers:
    """Who calls: their token's role, and for administrators the database's word too."""

    def __init__(self, tokens: Verifier, is_administrator: IsAdministrator) -> None:
        self.organiser = self._organiser_dependency(tokens)
        self._tokens = tokens
        self._is_administrator = is_administrator

    def _organiser_dependency(self, tokens: Verifier) -> Callable[[Identity], Awaitable[Actor]]:
        async def organiser(identity: Annotated[Identity, Depends(signed_in(tokens))]) -> Actor:
            actor = await self._actor(identity)
            if actor is None:
                raise refuse("forbidden", "Only organisers and administrators may do this.")
            return actor

        return organiser

    async def anyone(self, request: Request) -> Actor | None:
        """The organiser or administrator who calls, None for everyone else."""
        authorization = authorization_of(request)
        return None if authorization is None else await self._actor(await self._tokens.identify(authorization))

    async def _actor(self, identity: Identity) -> Actor | None:
        if identity.role == "organiser":
            return Actor(identity.user_id, is_administrator=False)
        if identity.role == "admin" and await self._is_administrator(identity.user_id):
            return Actor(identity.user_id, is_administrator=True)
        return None
