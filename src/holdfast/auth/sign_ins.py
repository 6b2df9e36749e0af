"""How many registrations and log-ins one address of the network may try."""

import ipaddress
import math

from fastapi import Request, Response

from holdfast.errors import Refusal
from holdfast.rates import Rate
from holdfast.settings import Settings

_POLICY = "sign-in"


class SignIns:
    """A limit for each address, in the memory of this process. `admit` is a dependency of the routes it guards."""

    def __init__(self, settings: Settings) -> None:
        self._rate = Rate(settings.address_sign_ins_per_second, settings.address_sign_ins_burst)
        window = max(math.ceil(self._rate.burst / self._rate.per_second), 1)
        self._policy = f'"{_POLICY}";q={self._rate.burst};w={window}'

    async def admit(self, request: Request, response: Response) -> None:
        """Takes one from the caller's address. Raises rate_limited."""
        # The server has put a forwarded address here only if it came from a trusted proxy.
        key = _network(request.client.host if request.client else "")
        wait = self._rate.take(key)
        if wait > 0:
            seconds = str(math.ceil(wait))
            limit = f'"{_POLICY}";r=0;t={seconds}'
            headers = {"Retry-After": seconds, "RateLimit-Policy": self._policy, "RateLimit": limit}
            raise Refusal("rate_limited", "Too many sign-ins from this address.", headers=headers)
        response.headers["RateLimit-Policy"] = self._policy
        response.headers["RateLimit"] = f'"{_POLICY}";r={self._rate.remaining(key)}'


def _network(host: str) -> str:
    """What counts as one address: of IPv6 the /64, since whoever has one address of it has them all."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host[:64]
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address.packed, 64), strict=False))
