"""The whole configuration of a gateway, as Envoy reads it: JSON, which is YAML too."""

from typing import Any

from holdfast.gateway.clusters import clusters, socket_address
from holdfast.gateway.limits import overload
from holdfast.gateway.listener import listener
from holdfast.gateway.plan import Plan


def configuration(plan: Plan) -> dict[str, Any]:
    """Bootstrap. Metrics are at /stats/prometheus of the admin port."""
    return {
        "node": {"id": "gateway", "cluster": "holdfast"},
        "admin": {"address": socket_address(plan.admin)},
        "overload_manager": overload(plan),
        "static_resources": {"listeners": [listener(plan)], "clusters": clusters(plan)},
    }
