"""What clients connect to: HTTP/1.1 and HTTP/2, the filters a request passes, and the routes behind them."""

import re
from typing import Any

from holdfast.auth.tokens import ISSUER
from holdfast.gateway import limits, problems
from holdfast.gateway.clusters import socket_address
from holdfast.gateway.limits import METADATA, SUBJECT_HEADER
from holdfast.gateway.plan import Certificate, Plan
from holdfast.gateway.routes import ROUTES, Again, Kind, Route, Service, Token

_TYPE = "type.googleapis.com/envoy.extensions."
_HTTP = f"{_TYPE}filters.http."
_JWT, _BUFFER = "envoy.filters.http.jwt_authn", "envoy.filters.http.buffer"

# Between two requests of a client, and between two bytes of one that should go on.
_CLIENT_IDLE_SECONDS = 75
_STREAM_IDLE_SECONDS_MIN = 60
_ARRIVE_SECONDS_MAX = 300
_SIGN_IN_SECONDS_MAX = 30
_IMPORT_SECONDS_MAX = 300
_BUFFER_BYTES = 256 * 1024
_STREAMS_MAX = 100
_HEADERS_MAX = 100
_KEYS_SECONDS = 10
_TOKENS_REMEMBERED = 10_000

_LOG_FIELDS = {
    "time": "%START_TIME%",
    "request_id": "%RESP(X-REQUEST-ID)%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "user": f"%REQ({SUBJECT_HEADER})%",
    "method": "%REQ(:METHOD)%",
    "path": "%PATH(NQ:PATH)%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "why": "%RESPONSE_CODE_DETAILS%",
    "flags": "%RESPONSE_FLAGS%",
    "route": "%ROUTE_NAME%",
    "service": "%UPSTREAM_CLUSTER%",
    "process": "%UPSTREAM_HOST%",
    "tries": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "milliseconds": "%DURATION%",
    "bytes_in": "%BYTES_RECEIVED%",
    "bytes_out": "%BYTES_SENT%",
}


def listener(plan: Plan) -> dict[str, Any]:
    """The one listener."""
    chain: dict[str, Any] = {
        "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": _connections(plan)}]
    }
    if plan.certificate is not None:
        chain["transport_socket"] = _tls(plan.certificate)
    return {
        "name": "clients",
        "address": socket_address(plan.listen),
        "tcp_backlog_size": 4096,
        "per_connection_buffer_limit_bytes": _BUFFER_BYTES,
        "filter_chains": [chain],
    }


def _tls(certificate: Certificate) -> dict[str, Any]:
    pair = {
        "certificate_chain": {"filename": str(certificate.chain)},
        "private_key": {"filename": str(certificate.key)},
    }
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_TYPE}transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "tls_certificates": [pair],
                "alpn_protocols": ["h2", "http/1.1"],
            },
        },
    }


def _connections(plan: Plan) -> dict[str, Any]:
    return {
        "@type": f"{_TYPE}filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "clients",
        "codec_type": "AUTO",
        "http2_protocol_options": {
            "max_concurrent_streams": _STREAMS_MAX,
            "initial_stream_window_size": 64 * 1024,
            "initial_connection_window_size": 1024 * 1024,
        },
        "common_http_protocol_options": {
            "idle_timeout": f"{_CLIENT_IDLE_SECONDS}s",
            "max_headers_count": _HEADERS_MAX,
        },
        "max_request_headers_kb": plan.header_kilobytes_max,
        "request_headers_timeout": _seconds(plan.settings.read_seconds_max),
        "request_timeout": f"{_ARRIVE_SECONDS_MAX}s",
        # Waiting for an answer is silence too.
        "stream_idle_timeout": _seconds(max(_STREAM_IDLE_SECONDS_MIN, plan.answer_seconds + 5)),
        # The address that connects is the client's; what a client says about itself is only passed on.
        "use_remote_address": True,
        "xff_num_trusted_hops": plan.proxies,
        "normalize_path": True,
        "server_header_transformation": "PASS_THROUGH",
        "early_header_mutation_extensions": [_forget_subject()],
        "local_reply_config": problems.local_replies(plan),
        "access_log": [_access_log()] if plan.access_log else [],
        "http_filters": [
            {"name": "rates_of_all", "typed_config": limits.rates_of_all(plan)},
            {"name": _JWT, "typed_config": _tokens()},
            {"name": "rates_of_users", "typed_config": limits.rates_of_users(plan)},
            {"name": _BUFFER, "typed_config": _buffer(plan)},
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_HTTP}router.v3.Router", "suppress_envoy_headers": True},
            },
        ],
        "route_config": {
            "name": "routes",
            "virtual_hosts": [
                {
                    "name": "house",
                    "domains": ["*"],
                    "routes": [_route(plan, route) for route in ROUTES],
                    # The same as the last one of X-Forwarded-For, which the services read.
                    "request_headers_to_remove": ["x-envoy-external-address"],
                    "response_headers_to_add": problems.safe_headers(plan),
                }
            ],
        },
    }


def _forget_subject() -> dict[str, Any]:
    """Only a verified token may say who somebody is."""
    return {
        "name": "forget_subject",
        "typed_config": {
            "@type": f"{_TYPE}http.early_header_mutation.header_mutation.v3.HeaderMutation",
            "mutations": [{"remove": SUBJECT_HEADER}],
        },
    }


def _tokens() -> dict[str, Any]:
    # The scheme is written in any case. Whoever writes it otherwise than in these three is told to write it right.
    spellings = [{"name": "Authorization", "value_prefix": f"{scheme} "} for scheme in ("Bearer", "bearer", "BEARER")]
    provider = {
        "issuer": ISSUER,
        "from_headers": spellings,
        # The services verify it too.
        "forward": True,
        "claim_to_headers": [{"header_name": SUBJECT_HEADER, "claim_name": "sub"}],
        "require_expiration": True,
        # The services are exact; a gateway whose clock is a little off should not be stricter than they are.
        "clock_skew_seconds": 30,
        "jwt_cache_config": {"jwt_cache_size": _TOKENS_REMEMBERED},
        "remote_jwks": {
            "http_uri": {"uri": "http://auth/.well-known/jwks.json", "cluster": Service.AUTH.value, "timeout": "2s"},
            # Fetched beside the traffic; while the service is away the last keys stay good.
            "async_fetch": {"failed_refetch_duration": "1s"},
            "cache_duration": f"{_KEYS_SECONDS}s",
        },
    }
    needed = {"provider_name": ISSUER}
    return {
        "@type": f"{_HTTP}jwt_authn.v3.JwtAuthentication",
        "providers": {ISSUER: provider},
        "requirement_map": {
            Token.NEEDED.value: needed,
            Token.IF_GIVEN.value: {"requires_any": {"requirements": [needed, {"allow_missing": {}}]}},
        },
    }


def _buffer(plan: Plan) -> dict[str, Any]:
    """A body is read whole, up to its bound, before a service hears of it: a slow client keeps no connection to one."""
    return {"@type": f"{_HTTP}buffer.v3.Buffer", "max_request_bytes": plan.settings.body_bytes_max}


def _route(plan: Plan, route: Route) -> dict[str, Any]:
    action: dict[str, Any] = {
        "cluster": route.service.value,
        "timeout": _seconds(_timeout(plan, route)),
        "retry_policy": _retries(plan, route),
    }
    if route.service is Service.ORDERS:
        # All requests of a user meet in one process, whose rates and keys under way are exact for them.
        action["hash_policy"] = [{"header": {"header_name": SUBJECT_HEADER}}]
    if route.kind is Kind.IMPORT:
        action["idle_timeout"] = f"{_IMPORT_SECONDS_MAX}s"
    made: dict[str, Any] = {"name": route.name, "match": _match(route), "route": action}
    if route.kind is not None:
        made["metadata"] = {"filter_metadata": {METADATA: {"kind": route.kind.value}}}
    made["typed_per_filter_config"] = _own_filters(route)
    return made


def _match(route: Route) -> dict[str, Any]:
    match: dict[str, Any]
    if route.path.endswith("/**"):
        match = {"path_separated_prefix": route.path.removesuffix("/**")}
    elif "*" in route.path:
        match = {"safe_regex": {"regex": re.escape(route.path).replace(r"\*", "[^/]+")}}
    else:
        match = {"path": route.path}
    if route.method:
        match["headers"] = [{"name": ":method", "string_match": {"exact": route.method}}]
    return match


def _timeout(plan: Plan, route: Route) -> float:
    if route.kind is Kind.IMPORT:
        return _IMPORT_SECONDS_MAX
    return _SIGN_IN_SECONDS_MAX if route.kind is Kind.SIGN_IN else plan.answer_seconds


def _retries(plan: Plan, route: Route) -> dict[str, Any]:
    unsent = "connect-failure,refused-stream,reset-before-request"
    policy: dict[str, Any] = {
        "retry_on": unsent,
        "num_retries": 2,
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {"@type": f"{_TYPE}retry.host.previous_hosts.v3.PreviousHostsPredicate"},
            }
        ],
        # A user's hash is turned about for each attempt, and may come out at the same process again and again.
        "host_selection_retry_max_attempts": 20,
    }
    if route.again is Again.ANY_TIME:
        policy |= {
            "retry_on": f"{unsent},reset,retriable-status-codes",
            "retriable_status_codes": [503],
            "per_try_timeout": _seconds(plan.try_seconds),
        }
    return policy


def _own_filters(route: Route) -> dict[str, Any]:
    if route.token is Token.NONE:
        tokens: dict[str, Any] = {"disabled": True}
    else:
        tokens = {"requirement_name": route.token.value}
    own = {_JWT: {"@type": f"{_HTTP}jwt_authn.v3.PerRouteConfig", **tokens}}
    if route.kind is Kind.IMPORT:
        # Passed on as it comes: the service has its own bound, and takes one at a time.
        own[_BUFFER] = {"@type": f"{_HTTP}buffer.v3.BufferPerRoute", "disabled": True}
    return own


def _access_log() -> dict[str, Any]:
    """A line for each request: never a token, a query or anything of a body."""
    return {
        "name": "envoy.access_loggers.stdout",
        "typed_config": {
            "@type": f"{_TYPE}access_loggers.stream.v3.StdoutAccessLog",
            "log_format": {"json_format": _LOG_FIELDS},
        },
    }


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}s"
