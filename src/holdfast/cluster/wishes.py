"""What may be chosen about a cluster."""

from typing import NamedTuple


class Wishes(NamedTuple):
    """The options of a cluster."""

    port: int = 0
    """Where the gateway listens; 0 takes one of the cluster's own block."""
    services_each: int = 2
    """How many processes of each service."""
    proxied: bool = False
    """Whether services and gateway reach the others by links, which whoever starts the cluster has opened."""
