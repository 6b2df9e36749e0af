"""One server process: the services of its roles, wired to the engines."""

import asyncio
import gc
from collections.abc import Awaitable, Callable

import structlog

from holdfast.auth.actors import IsAdministrator
from holdfast.auth.service import open_auth
from holdfast.auth.tokens import Verifier
from holdfast.auth.visitors import open_visitors
from holdfast.door.api import build_api
from holdfast.door.entry import Entry
from holdfast.door.exchange import Handler, Receive, Scope, Send
from holdfast.door.hot import OrderRoutes, TicketRoutes
from holdfast.door.openapi import openapi_handler
from holdfast.engines.database import Pool, Reads, open_pool, open_reads
from holdfast.errors import Mendable
from holdfast.gate.gate import Gate
from holdfast.orders.cancel import Cancel
from holdfast.orders.confirm import Confirm
from holdfast.orders.history import History
from holdfast.orders.reserve import Reserve
from holdfast.orders.warm import orders_ready
from holdfast.payments.provider import Sandbox
from holdfast.settings import Settings
from holdfast.stats.routes import sales_routes
from holdfast.stats.sales import SalesReader
from holdfast.tickets.availability import AvailabilityFeed, fresh_availability
from holdfast.tickets.catalogue import Catalogue
from holdfast.tickets.routes import ticket_routes
from holdfast.tickets.sale import fresh_sales
from holdfast.tickets.warm import GetReady, keep_warm

_GARBAGE_THRESHOLD = 50_000

ROLES = ("auth", "tickets", "orders")

_log = structlog.get_logger(__name__)


class House:
    """One server process: the services of its roles, opened by the ASGI lifespan and drained at its end."""

    def __init__(self, settings: Settings, roles: frozenset[str]) -> None:
        self._settings = settings
        self._roles = roles
        self.entry: Entry | None = None
        """There once it is open."""
        self.refusal: Mendable | None = None
        """Why it could not be opened, where somebody can mend that."""
        self._closers: list[Callable[[], Awaitable[None] | None]] = []
        self._services: list[GetReady] = []
        """What gets ready for a sale before it opens."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI app."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif self.entry is not None:
            await self.entry(scope, receive, send)

    async def open(self) -> None:
        """Opens the services. Needs the running event loop of this process."""
        settings = self._settings
        pool = await open_pool(settings)
        self._closers.append(pool.close)
        reads = await open_reads(settings)
        self._closers.append(reads.close)
        table: dict[tuple[str, str], Handler] = {}
        routers = []
        tokens: Verifier
        is_administrator: IsAdministrator
        if "auth" in self._roles:
            auth = open_auth(settings, pool, reads)
            self._closers.append(auth.close)
            tokens, is_administrator = auth.tokens, auth.accounts.is_administrator
            routers.append(auth.router)
        else:
            # The private keys stay with the auth service.
            visitors = await open_visitors(settings, pool)
            self._closers.append(visitors.close)
            tokens, is_administrator = visitors.tokens, visitors.is_administrator
        if "tickets" in self._roles:
            # An import makes the house organiser: a start needs no engine.
            catalogue = Catalogue(settings, pool, reads)
            routers.append(ticket_routes(catalogue, tokens, is_administrator))
            routers.append(sales_routes(SalesReader(reads), tokens, is_administrator))
            availability = fresh_availability(settings, reads)
            if settings.kafka_url.get_secret_value():
                self._follow_inventory(AvailabilityFeed(availability))
            self._services.append(availability.get_each)
            tickets = TicketRoutes(availability)
            table["GET", "/events/*/tickets"] = tickets.tickets
        if "orders" in self._roles:
            table |= await self._open_orders(pool, reads, tokens, is_administrator)
        documented, documented_roles = routers, self._roles
        if self._roles == {"auth"}:
            # The auth service shows the document of all: that is where the gateway asks for it.
            catalogue = Catalogue(settings, pool, reads)
            documented = [
                *routers,
                ticket_routes(catalogue, tokens, is_administrator),
                sales_routes(SalesReader(reads), tokens, is_administrator),
            ]
            documented_roles = frozenset(ROLES)
        table["GET", "/openapi.json"] = openapi_handler(
            lambda: build_api(settings, documented).openapi(), documented_roles
        )
        self.entry = Entry(build_api(settings, routers, reads.position), table, settings)
        if self._services:
            self._keep_warm(pool)
        # What lives as long as the process need not be looked through again and again in the middle of a rush.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_GARBAGE_THRESHOLD)
        self.entry.ready = True

    async def close(self) -> None:
        """Drains what is under way, then lets the engines go."""
        if self.entry is not None:
            self.entry.ready = False
        while self._closers:
            closing = self._closers.pop()()
            if closing is not None:
                await closing

    def _follow_inventory(self, feed: AvailabilityFeed) -> None:
        # Kafka's client is not loaded where there is no Kafka.
        from holdfast.outbox.inventory_feed import follow_inventory

        stop = asyncio.Event()
        following = asyncio.create_task(follow_inventory(self._settings, feed.on_stock, feed.on_event, stop))

        async def end() -> None:
            stop.set()
            await following

        self._closers.append(end)

    def _keep_warm(self, pool: Pool) -> None:
        stop = asyncio.Event()
        task = asyncio.create_task(keep_warm(self._settings, pool, self._services, stop), name="warm-up")

        async def end() -> None:
            stop.set()
            await asyncio.wait([task])

        self._closers.append(end)

    async def _open_orders(
        self, pool: Pool, reads: Reads, tokens: Verifier, is_administrator: IsAdministrator
    ) -> dict[tuple[str, str], Handler]:
        settings = self._settings
        gate = Gate(settings)
        await gate.open()
        mark = reads.position if reads.has_replicas else None
        reserve = Reserve(settings, pool, gate, fresh_sales(settings, reads.pool), mark)
        confirm = Confirm(settings, pool, Sandbox(settings))
        cancel = Cancel(settings)
        self._services.append(orders_ready(reserve, confirm, cancel))
        self._closers += [gate.close, cancel.drain, confirm.drain, reserve.drain]
        routes = OrderRoutes(
            settings, tokens, is_administrator, reserve, confirm, cancel, History(reads), reads.position
        )
        return {
            ("POST", "/orders/create"): routes.create,
            ("POST", "/orders/*/confirm"): routes.confirm,
            ("POST", "/orders/*/cancel"): routes.cancel,
            ("GET", "/orders/*"): routes.read,
        }

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.open()
        except Exception as error:
            if isinstance(error, Mendable):
                self.refusal = error
            else:
                _log.error("cannot start", exc_info=error)
            await self.close()
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.close()
        await send({"type": "lifespan.shutdown.complete"})


def build_app(settings: Settings, role: str) -> House:
    """The ASGI app of one role, or of all."""
    return House(settings, frozenset(ROLES if role == "all" else (role,)))
