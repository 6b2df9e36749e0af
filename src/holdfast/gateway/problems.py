"""What the gateway says by itself: the same problem+json that the services would say."""

from typing import Any

from holdfast.door.problems import CONTENT_TYPE, problem_body
from holdfast.errors import KINDS, refuse
from holdfast.gateway.plan import Plan

# What cannot be read has no id of its own, but its connection has.
_REQUEST_ID = "req_%CONNECTION_ID%_%REQ(X-REQUEST-ID)%"
_TOKEN_REFUSED = "response.code_details.startsWith('jwt_authn_access_denied')"  # noqa: S105
_EXPIRED = "response.code_details.contains('expired')"
# The keys have not been had yet: that is our fault, and the token may be good.
_NO_KEYS = "response.code_details.contains('Jwks') && response.code_details.contains('fetch')"
# Two years, as browsers' lists of such hosts want it.
_STRICT_TRANSPORT = "max-age=63072000; includeSubDomains"
_NOT_GIVEN = "(!('authorization' in request.headers) || request.headers['authorization'] == '')"


def local_replies(plan: Plan) -> dict[str, Any]:
    """LocalReplyConfig: the first mapper that fits gives an answer its status, headers and body."""
    mappers = _mappers(plan.settings.body_bytes_max)
    for mapper in mappers:
        # What fits no route has no route's headers either.
        mapper["headers_to_add"] += safe_headers(plan)
    return {"mappers": mappers}


def safe_headers(plan: Plan) -> list[dict[str, Any]]:
    """What every answer says, whoever made it, beside what the services say themselves."""
    return [] if plan.certificate is None else [header("strict-transport-security", _STRICT_TRANSPORT)]


def _mappers(body_bytes_max: int) -> list[dict[str, Any]]:
    again = {"retry-after": "1"}
    bad_token = {"www-authenticate": 'Bearer error="invalid_token"'}
    return [
        _mapper(_says(f"{_TOKEN_REFUSED} && {_NO_KEYS}"), "busy", again),
        _mapper(_says(f"{_TOKEN_REFUSED} && {_NOT_GIVEN}"), "token_missing", {"www-authenticate": "Bearer"}),
        _mapper(_says(f"{_TOKEN_REFUSED} && {_EXPIRED}"), "token_expired", bad_token),
        _mapper(_says(_TOKEN_REFUSED), "token_invalid", bad_token),
        _mapper(_is(404), "not_found"),
        _mapper(_is(413), "too_large", detail=f"At most {body_bytes_max} bytes are taken here."),
        _mapper(_is(429), "rate_limited", again),
        _mapper(_is(431), "headers_too_large"),
        _mapper(_is(408), "bad_request", detail="The request did not arrive in time."),
        _mapper(_is(500), "internal"),
        # Nobody is there, nobody answers in time, or everything is full: a retry may find it otherwise.
        _mapper(_is(500, "GE"), "busy", again),
        _mapper(_is(400, "GE"), "bad_request"),
    ]


def _mapper(
    when: dict[str, Any], code: str, headers: dict[str, str] | None = None, detail: str | None = None
) -> dict[str, Any]:
    body = problem_body(refuse(code, detail), _REQUEST_ID).decode()
    every = {"x-request-id": _REQUEST_ID, "cache-control": "no-store", "x-content-type-options": "nosniff"}
    return {
        "filter": when,
        "status_code": KINDS[code].status,
        "headers_to_add": [header(name, value) for name, value in {**every, **(headers or {})}.items()],
        "body_format_override": {
            "text_format_source": {"inline_string": body},
            "omit_empty_values": True,
            "content_type": CONTENT_TYPE.decode(),
        },
    }


def header(name: str, value: str) -> dict[str, Any]:
    """A HeaderValueOption that replaces what may be there."""
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _is(status: int, how: str = "EQ") -> dict[str, Any]:
    value = {"default_value": status, "runtime_key": "holdfast.local_replies"}
    return {"status_code_filter": {"comparison": {"op": how, "value": value}}}


def _says(expression: str) -> dict[str, Any]:
    return {
        "extension_filter": {
            "name": "envoy.access_loggers.extension_filters.cel",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
                "expression": expression,
            },
        }
    }
