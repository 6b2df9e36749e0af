"""What goes where: each route's service, whether it wants a token, and when it may be tried again.

The first entry that fits decides. What no entry names has no place here, and is answered 404 by the gateway itself.
"""

from enum import Enum
from typing import NamedTuple


class Service(Enum):
    """Whose processes answer."""

    AUTH = "auth"
    TICKETS = "tickets"
    ORDERS = "orders"


class Token(Enum):
    """What a request must bring. The services look for themselves all the same."""

    NONE = "none"
    IF_GIVEN = "if given"
    """It may come without, but not with a bad one."""
    NEEDED = "needed"


class Again(Enum):
    """When a request may be sent to another process."""

    UNSENT = "unsent"
    """Only if nothing of it was sent: of what a try that failed has done, nobody can tell."""
    ANY_TIME = "any time"
    """Also after a broken connection, silence, or 503: it reads, or its Idempotency-Key makes several of it one. A
    purchase without a key is refused before anything is done, so that it needs no rule of its own."""


class Kind(Enum):
    """What has limits of its own."""

    PURCHASE = "purchase"
    SIGN_IN = "sign-in"
    IMPORT = "import"


class Route(NamedTuple):
    """Requests of one kind. `method` empty: any."""

    service: Service
    method: str
    path: str
    """A whole path, where `*` stands for one segment; `/**` at its end for whatever follows, or nothing."""
    token: Token = Token.NONE
    again: Again = Again.UNSENT
    kind: Kind | None = None

    @property
    def name(self) -> str:
        """As the access log and the metrics have it."""
        return f"{self.method or '*'} {self.path}"


def _reads(service: Service, path: str, token: Token = Token.NONE) -> Route:
    return Route(service, "GET", path, token, Again.ANY_TIME)


def _buys(path: str) -> Route:
    return Route(Service.ORDERS, "POST", path, Token.NEEDED, Again.ANY_TIME, Kind.PURCHASE)


def _signs_in(path: str) -> Route:
    return Route(Service.AUTH, "POST", path, kind=Kind.SIGN_IN)


# The hottest first: every request is held against them in this order.
ROUTES = (
    _buys("/orders/create"),
    _buys("/orders/*/confirm"),
    _buys("/orders/*/cancel"),
    _reads(Service.TICKETS, "/events/*/tickets"),
    _reads(Service.ORDERS, "/orders/*", Token.NEEDED),
    _reads(Service.TICKETS, "/events"),
    _reads(Service.TICKETS, "/events/*", Token.IF_GIVEN),
    _reads(Service.TICKETS, "/events/*/sales", Token.NEEDED),
    _signs_in("/users/register"),
    _signs_in("/users/login"),
    _signs_in("/users/refresh"),
    _signs_in("/users/administrator"),
    Route(Service.AUTH, "POST", "/users/*/role", Token.NEEDED),
    _reads(Service.AUTH, "/users/me", Token.NEEDED),
    _reads(Service.AUTH, "/.well-known/jwks.json"),
    _reads(Service.AUTH, "/setup"),
    _reads(Service.TICKETS, "/organiser/events", Token.NEEDED),
    Route(Service.TICKETS, "POST", "/events/import", Token.NEEDED, kind=Kind.IMPORT),
    Route(Service.TICKETS, "POST", "/events/**", Token.NEEDED),
    Route(Service.TICKETS, "PATCH", "/events/**", Token.NEEDED),
    Route(Service.TICKETS, "DELETE", "/events/**", Token.NEEDED),
    # The auth service shows the document of all services; the others only their own part of it.
    _reads(Service.AUTH, "/openapi.json"),
    # What a request costs through the gateway, and whether there is anyone behind it.
    Route(Service.ORDERS, "", "/livez"),
    Route(Service.ORDERS, "", "/readyz"),
    # Unknown paths and methods of a service are the service's to refuse.
    Route(Service.ORDERS, "", "/orders/**"),
    Route(Service.TICKETS, "", "/events/**"),
    Route(Service.TICKETS, "", "/organiser/**"),
    Route(Service.AUTH, "", "/users/**"),
    Route(Service.AUTH, "", "/.well-known/**"),
    Route(Service.AUTH, "", "/setup"),
)
