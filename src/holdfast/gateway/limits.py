"""Rates, sizes and loads that the gateway turns away by itself."""

from typing import Any

from holdfast.gateway.plan import Plan
from holdfast.gateway.routes import Kind

SUBJECT_HEADER = "x-holdfast-subject"
"""Who a verified token names: what users are spread over processes by, and their rate is counted by."""

METADATA = "holdfast"

_ADDRESS = {"masked_remote_address": {"v4_prefix_mask_len": 32, "v6_prefix_mask_len": 64}}
_KIND = {
    "metadata": {
        "descriptor_key": "kind",
        "metadata_key": {"key": METADATA, "path": [{"key": "kind"}]},
        "source": "ROUTE_ENTRY",
    }
}
_SUBJECT = {"request_headers": {"header_name": SUBJECT_HEADER, "descriptor_key": "subject"}}


def rates_of_all(plan: Plan) -> dict[str, Any]:
    """The filter in front: everyone together, each address, purchases, and sign-ins of each address."""
    settings = plan.settings
    burst = plan.burst_seconds
    limits = [
        _limit({"masked_remote_address": None}, plan.address_requests_per_second, burst),
        _limit({"kind": Kind.PURCHASE.value}, settings.purchases_per_second, 1, settings.purchases_burst),
        _limit(
            {"kind": Kind.SIGN_IN.value, "masked_remote_address": None},
            settings.address_sign_ins_per_second,
            1,
            settings.address_sign_ins_burst,
        ),
    ]
    return {
        **_filter("rates_of_all", plan, limits, [[_ADDRESS], [_KIND], [_KIND, _ADDRESS]]),
        "token_bucket": _bucket(plan.requests_per_second, plan.requests_per_second * burst),
    }


def rates_of_users(plan: Plan) -> dict[str, Any]:
    """The filter behind the tokens: each user."""
    limits = [_limit({"subject": None}, plan.user_requests_per_second, plan.burst_seconds)]
    return {**_filter("rates_of_users", plan, limits, [[_SUBJECT]]), "always_consume_default_token_bucket": False}


def _filter(name: str, plan: Plan, limits: list[dict[str, Any]], actions: list[list[dict[str, Any]]]) -> dict[str, Any]:
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    return {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        "stat_prefix": name,
        "filter_enabled": {"runtime_key": f"holdfast.{name}.enabled", **always},
        "filter_enforced": {"runtime_key": f"holdfast.{name}.enforced", **always},
        "rate_limits": [{"actions": some} for some in actions],
        "descriptors": limits,
        "max_dynamic_descriptors": plan.clients_max,
    }


def _limit(
    entries: dict[str, str | None], per_second: float, burst_seconds: int, burst: int | None = None
) -> dict[str, Any]:
    """A bucket for one value of each entry, or for each value where None is given."""
    return {
        "entries": [{"key": key, "value": value} if value else {"key": key} for key, value in entries.items()],
        "token_bucket": _bucket(per_second, burst or int(per_second * burst_seconds)),
    }


def _bucket(per_second: float, burst: int) -> dict[str, Any]:
    # The least that Envoy fills is one; less often than once a second, then.
    seconds = 1 if per_second >= 1 else 1 / per_second
    return {
        "max_tokens": max(burst, 1),
        "tokens_per_fill": max(int(per_second), 1),
        "fill_interval": f"{seconds:.3f}s",
    }


def overload(plan: Plan) -> dict[str, Any]:
    """OverloadManager: connections beyond the bound are closed, and requests are refused before memory is gone."""
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            {
                "name": "envoy.resource_monitors.fixed_heap",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
                    "max_heap_size_bytes": plan.memory_bytes_max,
                },
            },
            {
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3."
                    "DownstreamConnectionsConfig",
                    "max_active_downstream_connections": plan.connections_max,
                },
            },
        ],
        "actions": [
            _when_memory("shrink_heap", 0.85),
            _when_memory("disable_http_keepalive", 0.90),
            _when_memory("stop_accepting_requests", 0.95),
        ],
    }


def _when_memory(action: str, share: float) -> dict[str, Any]:
    trigger = {"name": "envoy.resource_monitors.fixed_heap", "threshold": {"value": share}}
    return {"name": f"envoy.overload_actions.{action}", "triggers": [trigger]}
