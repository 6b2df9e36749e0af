"""One server process: the services of its roles, wired to the engines."""

import asyncio
import gc
from collections.abc import Awaitable, Callable

import structlog

from holdfast.auth.service import Auth, open_auth
from holdfast.door.api import build_api
from holdfast.door.entry import Entry
from holdfast.door.exchange import Handler, Receive, Scope, Send
from holdfast.door.hot import OrderRoutes, TicketRoutes
from holdfast.door.openapi import openapi_handler
from holdfast.engines.database import Pool, open_pool, open_reading_pool
from holdfast.gate.gate import Gate
from holdfast.orders.cancel import Cancel
from holdfast.orders.confirm import Confirm
from holdfast.orders.history import History
from holdfast.orders.reserve import Reserve
from holdfast.orders.warm import orders_ready
from holdfast.payments.provider import Sandbox
from holdfast.settings import Settings
from holdfast.tickets.availability import fresh_availability
from holdfast.tickets.catalogue import open_catalogue
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
        auth = open_auth(settings, pool)
        self._closers.append(auth.close)
        table: dict[tuple[str, str], Handler] = {}
        routers = []
        if "auth" in self._roles:
            routers.append(auth.router)
        if "tickets" in self._roles:
            catalogue = await open_catalogue(settings, pool)
            routers.append(ticket_routes(catalogue, auth.tokens, auth.accounts.is_administrator))
            availability = fresh_availability(settings, pool)
            self._services.append(availability.get_each)
            tickets = TicketRoutes(availability)
            table["GET", "/events/*/tickets"] = tickets.tickets
        if "orders" in self._roles:
            table |= await self._open_orders(pool, auth)
        api = build_api(settings, routers)
        table["GET", "/openapi.json"] = openapi_handler(api, self._roles)
        self.entry = Entry(api, table, settings)
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

    def _keep_warm(self, pool: Pool) -> None:
        stop = asyncio.Event()
        task = asyncio.create_task(keep_warm(self._settings, pool, self._services, stop), name="warm-up")

        async def end() -> None:
            stop.set()
            await asyncio.wait([task])

        self._closers.append(end)

    async def _open_orders(self, pool: Pool, auth: Auth) -> dict[tuple[str, str], Handler]:
        settings = self._settings
        gate = Gate(settings)
        await gate.open()
        reads = await open_reading_pool(settings)
        reserve = Reserve(settings, pool, gate, fresh_sales(settings, reads))
        confirm = Confirm(settings, pool, Sandbox(settings))
        cancel = Cancel(settings)
        self._services.append(orders_ready(reserve, confirm, cancel))
        self._closers += [reads.close, gate.close, cancel.drain, confirm.drain, reserve.drain]
        routes = OrderRoutes(
            settings, auth.tokens, auth.accounts.is_administrator, reserve, confirm, cancel, History(reads)
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
