"""Refusals as RFC 9457 problem+json."""

import msgspec

from holdfast.errors import Fault, Refusal

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
