"""Dependencies with which a route asks who is calling."""

from collections.abc import Awaitable, Callable
from typing import Annotated
from uuid import UUID

from fastapi import Request, Security
from fastapi.security import HTTPBearer

from holdfast.auth.tokens import Identity, Verifier
from holdfast.errors import refuse

# Decides nothing: it makes the OpenAPI document say that a route wants a token.
_Documented = Annotated[object, Security(HTTPBearer(bearerFormat="JWT", scheme_name="access_token", auto_error=False))]


def signed_in(tokens: Verifier) -> Callable[[Request], Awaitable[Identity]]:
    """A dependency that answers with the caller's identity, or refuses with 401."""

    # Not a plain function: FastAPI would run that in a thread.
    async def identity(request: Request, _: _Documented = None) -> Identity:
        return await tokens.identify(authorization_of(request))

    return identity


def administrator(
    tokens: Verifier, is_administrator: Callable[[UUID], Awaitable[bool]]
) -> Callable[[Request], Awaitable[Identity]]:
    """A dependency that lets administrators alone pass (else 403).

    A token may outlive the role it was issued with, and an account may be made an administrator's while a token that
    someone else got for it still lives: both the token and the database must say so.
    """

    async def identity(request: Request, _: _Documented = None) -> Identity:
        found = await tokens.identify(authorization_of(request))
        if found.role != "admin" or not await is_administrator(found.user_id):
            raise refuse("forbidden")
        return found

    return identity


def authorization_of(request: Request) -> bytes | None:
    """The raw Authorization header, None where there is none. Two of them are as good as a wrong one."""
    values = [value for name, value in request.scope["headers"] if name == b"authorization"]
    if not values:
        return None
    return values[0] if len(values) == 1 else b"ambiguous"
