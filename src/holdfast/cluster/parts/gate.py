"""The gate's nodes, three masters with a replica each: members around engines/valkey_cluster.py."""

import asyncio
from collections.abc import Sequence

from holdfast.cluster.layout import Layout
from holdfast.cluster.member import Member, Recipe
from holdfast.engines.launch import leash
from holdfast.engines.valkey_cluster import ClusterNode, ValkeyCluster


def gate_cluster(layout: Layout, password: str) -> ValkeyCluster:
    """The cluster as its engine knows it."""
    ports = [layout.port(name) for name in layout.gate]
    announced = [layout.reached_port(name) for name in layout.gate]
    return ValkeyCluster(layout.path / "members", ports, password, announced_ports=announced)


def gate_members(layout: Layout, cluster: ValkeyCluster) -> list[Member]:
    """The nodes, which are to be made into a cluster (`form`) once all of them answer."""
    return [_member(layout, node) for node in cluster.nodes]


def _member(layout: Layout, node: ClusterNode) -> Member:
    def command() -> Sequence[str]:
        return [*leash("KILL"), *node.prepare()]

    async def is_ready() -> bool:
        return await asyncio.to_thread(node.answers)

    recipe = Recipe(
        node.name, "gate", node.port, node.folder, layout.log(node.name), command, is_ready, program="valkey-server"
    )
    return Member(recipe)
