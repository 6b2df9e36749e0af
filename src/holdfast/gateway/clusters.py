"""The services as the gateway sees them: where they are, which of their processes are well, and how much they take."""

from collections.abc import Sequence
from typing import Any

from holdfast.gateway.plan import HEALTH_SECONDS, UPSTREAM_IDLE_SECONDS, Address, Plan
from holdfast.gateway.routes import Service

_CONNECTIONS_MAX = 2048
_WAITING_MAX = 4096
_HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def clusters(plan: Plan) -> list[dict[str, Any]]:
    """One cluster for each service."""
    by_user = {"lb_policy": "MAGLEV", "maglev_lb_config": {"table_size": 8191}}
    least_busy = {"lb_policy": "LEAST_REQUEST"}
    return [
        _cluster(plan, Service.ORDERS, plan.orders) | by_user,
        _cluster(plan, Service.TICKETS, plan.tickets) | least_busy,
        _cluster(plan, Service.AUTH, plan.auth) | least_busy,
    ]


def _cluster(plan: Plan, service: Service, addresses: Sequence[Address]) -> dict[str, Any]:
    endpoints = [{"endpoint": {"address": socket_address(address)}} for address in addresses]
    return {
        "name": service.value,
        "type": "STATIC" if all(address.is_number for address in addresses) else "STRICT_DNS",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": service.value, "endpoints": [{"lb_endpoints": endpoints}]},
        "typed_extension_protocol_options": {
            _HTTP: {
                "@type": f"type.googleapis.com/{_HTTP}",
                "explicit_http_config": {"http_protocol_options": {}},
                "common_http_protocol_options": {"idle_timeout": f"{UPSTREAM_IDLE_SECONDS}s"},
            }
        },
        "common_lb_config": {
            # Only when nobody is well at all is everybody tried: it may be the asking that fails.
            "healthy_panic_threshold": {"value": 5},
        },
        "health_checks": [_health_check()],
        "outlier_detection": _ejection(),
        "circuit_breakers": {"thresholds": [_bounds(plan, len(addresses))]},
    }


def socket_address(address: Address) -> dict[str, Any]:
    """An Address message."""
    return {"socket_address": {"address": address.host, "port_value": address.port}}


def _health_check() -> dict[str, Any]:
    interval = f"{HEALTH_SECONDS}s"
    return {
        "timeout": "1s",
        "interval": interval,
        "no_traffic_interval": interval,
        # Silence and a refused connection must come thrice, since a busy machine is silent too; a 503 is believed at
        # once.
        "unhealthy_threshold": 3,
        "healthy_threshold": 1,
        "http_health_check": {"path": "/readyz"},
    }


def _ejection() -> dict[str, Any]:
    """Puts a process aside that does not answer, or answers 502 to 504 alone, though it says that it is ready."""
    return {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 5,
        "enforcing_consecutive_local_origin_failure": 100,
        # A database that is away makes everyone say 503; that is not the fault of one process, so it takes more.
        "consecutive_gateway_failure": 50,
        "enforcing_consecutive_gateway_failure": 100,
        "enforcing_consecutive_5xx": 0,
        "enforcing_success_rate": 0,
        "enforcing_local_origin_success_rate": 0,
        "interval": "1s",
        "base_ejection_time": "2s",
        "max_ejection_time": "10s",
        "max_ejection_percent": 50,
        # /readyz looks at the process alone, so it would call each one back at once.
        "successful_active_health_check_uneject_host": False,
    }


def _bounds(plan: Plan, processes: int) -> dict[str, Any]:
    return {
        "max_connections": _CONNECTIONS_MAX,
        "max_pending_requests": _WAITING_MAX,
        "max_requests": plan.settings.requests_waiting_max * processes,
        # A process that dies takes what it was answering along, which all may go to another at once; an engine that is
        # away must not be asked twice as often for it.
        "retry_budget": {"budget_percent": {"value": 25}, "min_retry_concurrency": 200},
        "track_remaining": True,
    }
