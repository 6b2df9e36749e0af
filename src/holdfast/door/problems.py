"""Refusals as RFC 9457 problem+json."""

from functools import cache

import msgspec

from holdfast.errors import Fault, Refusal, refuse

CONTENT_TYPE = b"application/problem+json"


class Problem(msgspec.Struct, omit_defaults=True):
    """The body of every answer that is not success."""

    type: str
    title: str
    status: int
    code: str
    request_id: str
    detail: str | None = None
    errors: tuple[Fault, ...] = ()


_encoder = msgspec.json.Encoder()


def problem_body(refusal: Refusal, request_id: str) -> bytes:
    """The problem+json body of a refusal."""
    if refusal.detail is None and not refusal.errors:
        before, after = _plain_form(refusal.code)
        return before + request_id.encode() + after
    return _encoded(refusal, request_id)


@cache
def _plain_form(code: str) -> tuple[bytes, bytes]:
    """What all refusals of one code have in common, around the request's id: in a rush most answers are such."""
    before, after = _encoded(refuse(code), "?").split(b"?", 1)
    return before, after


def _encoded(refusal: Refusal, request_id: str) -> bytes:
    return _encoder.encode(
        Problem(
            type=f"urn:holdfast:problem:{refusal.code}",
            title=refusal.kind.title,
            status=refusal.kind.status,
            code=refusal.code,
            request_id=request_id,
            detail=refusal.detail,
            errors=refusal.errors,
        )
    )
