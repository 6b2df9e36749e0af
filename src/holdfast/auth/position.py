"""What a caller has to see: the log position that they bring along, or whatever was done for them until now."""

from typing import Annotated, TypeAlias

from fastapi import Depends, Request

from holdfast.engines.hosts.position import ANYTHING, LATEST, parse_position
from holdfast.errors import refuse

HEADER = b"holdfast-position"
"""In the reply to a write: where the log ended when it was done. A read that brings it along sees that write, whichever
replica answers; without it the primary is asked where its log ends."""

_LETTERS_MAX = 17


def position_asked(value: bytes | None, *, is_signed_in: bool) -> int:
    """The position that a read must not be before. Raises bad_request for what was no position of ours."""
    if value is None:
        # Somebody who says who they are may look for what they have just done.
        return LATEST if is_signed_in else ANYTHING
    try:
        return parse_position(value[: _LETTERS_MAX + 1].decode("latin-1"))
    except ValueError as error:
        raise refuse("bad_request", "Holdfast-Position is what a reply of ours carried, as it was.") from error


# Not a plain function: FastAPI would run that in a thread.
async def _since(request: Request) -> int:
    values: dict[bytes, bytes] = {}
    for name, value in request.scope["headers"]:
        values[name] = value if name not in values else b"ambiguous"
    return position_asked(values.get(HEADER), is_signed_in=b"authorization" in values)


Since: TypeAlias = Annotated[int, Depends(_since)]
"""A route's parameter: the position of its request."""
