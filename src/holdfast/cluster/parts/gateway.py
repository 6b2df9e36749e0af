"""The gateway in front of the services: a member around holdfast.gateway."""

import json
from collections.abc import Sequence

from holdfast.cluster.asking import ask
from holdfast.cluster.layout import HOST, SERVICES, Layout
from holdfast.cluster.member import Member, Recipe
from holdfast.engines.launch import leash
from holdfast.gateway import Address, Plan, configuration, envoy_command
from holdfast.settings import Settings


def gateway_member(layout: Layout, settings: Settings) -> Member:
    """Envoy."""
    folder = layout.folder("gateway")
    auth, tickets, orders = (
        tuple(Address(HOST, layout.reached_port(name)) for name in layout.service(role)) for role in SERVICES
    )
    plan = Plan(
        listen=Address(HOST, layout.port("gateway")),
        admin=Address(HOST, layout.port("gateway-admin")),
        settings=settings,
        auth=auth,
        tickets=tickets,
        orders=orders,
    )

    def command() -> Sequence[str]:
        file = folder / "envoy.json"
        file.write_text(json.dumps(configuration(plan)))
        return [*leash("TERM"), *envoy_command(file)]

    async def is_ready() -> bool:
        answer = await ask(layout.port("gateway-admin"), "/ready")
        return answer.status == 200 and answer.body.strip() == b"LIVE"

    recipe = Recipe(
        "gateway", "gateway", layout.port("gateway"), folder, layout.log("gateway"), command, is_ready, program="envoy"
    )
    return Member(recipe)
