"""The entry: a method and path table for the hot routes, and everything else to FastAPI."""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import structlog

from holdfast import ids
from holdfast.door.exchange import JSON, Headers, Receive, Request, Scope, Send
from holdfast.door.hot import Answer, Handler
from holdfast.door.problems import CONTENT_TYPE, problem_body
from holdfast.engines.database import AWAY
from holdfast.errors import Busy, Refusal, refuse
from holdfast.settings import Settings

Api: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_log = structlog.get_logger(__name__)

# Two segments after the room, at most: /orders/create, /orders/{id}, /orders/{id}/confirm, /events/{id}/tickets.
_PATH = re.compile(r"/(orders|events)/([^/]{1,64})(?:/([a-z]{1,20}))?")


class Entry:
    """The ASGI app: hot routes first, then `api`. `table` is keyed by method and pattern, such as
    ("POST", "/orders/*/confirm"); a path without `*` goes before one with it."""

    def __init__(self, api: Api, table: Mapping[tuple[str, str], Handler], settings: Settings) -> None:
        self._api = api
        self._table = {
            **table,
            ("GET", "/livez"): self._livez,
            ("POST", "/livez"): self._do_nothing,
            ("GET", "/readyz"): self._readyz,
        }
        self._patterns: dict[str, list[str]] = {}
        for method, pattern in self._table:
            self._patterns.setdefault(pattern, []).append(method)
        self._body_bytes_max = settings.body_bytes_max
        self._under_way_max = settings.requests_waiting_max
        self._under_way = 0
        self.ready = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request."""
        if self._under_way >= self._under_way_max:
            request_id = ids.new_request_id()
            await self._answer(
                send, _problem(Busy("Too many requests are under way."), request_id), request_id.encode()
            )
            return
        self._under_way += 1
        try:
            await self._route(scope, receive, send)
        finally:
            self._under_way -= 1

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if path in self._patterns:
            await self._hot(scope, receive, send, path, "")
            return
        match = _PATH.fullmatch(path)
        if match is not None:
            room, path_id, action = match.groups()
            pattern = f"/{room}/*" if action is None else f"/{room}/*/{action}"
            if pattern in self._patterns:
                await self._hot(scope, receive, send, pattern, path_id)
                return
        await self._api(scope, receive, send)

    async def _hot(self, scope: Scope, receive: Receive, send: Send, pattern: str, path_id: str) -> None:
        request_id = ids.new_request_id()
        handler = self._table.get((scope["method"], pattern))
        try:
            if handler is None:
                allow = ", ".join(self._patterns[pattern])
                raise Refusal("method_not_allowed", headers={"Allow": allow})
            answer = await handler(Request(scope, receive, path_id, self._body_bytes_max))
        except Refusal as refusal:
            answer = _problem(refusal, request_id)
        except AWAY as error:
            _log.warning("engine away", request_id=request_id, path=pattern, error=type(error).__name__)
            answer = _problem(Busy("An engine did not answer in time."), request_id)
        except Exception as error:
            _log.error("unexpected error", request_id=request_id, path=pattern, exc_info=error)
            answer = _problem(refuse("internal"), request_id)
        await self._answer(send, answer, request_id.encode())

    async def _livez(self, _: Request) -> Answer:
        return Answer(200, [JSON], b'{"status":"ok"}')

    async def _do_nothing(self, request: Request) -> Answer:
        # What a request costs before anything is done for it: the bench holds every other figure against this one.
        await request.body()
        return await self._livez(request)

    async def _readyz(self, request: Request) -> Answer:
        # This process alone: a shared engine in here would take every replica out at once.
        if not self.ready:
            raise Busy("This process is ending.")
        return await self._livez(request)

    async def _answer(self, send: Send, answer: Answer, request_id: bytes) -> None:
        headers: Headers = [*answer.headers, (b"x-content-type-options", b"nosniff"), (b"x-request-id", request_id)]
        if answer.status != 304:
            headers.append((b"content-length", b"%d" % len(answer.body)))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})


def _problem(refusal: Refusal, request_id: str) -> Answer:
    headers: Headers = [(b"content-type", CONTENT_TYPE), (b"cache-control", b"no-store")]
    headers += [(name.lower().encode(), value.encode()) for name, value in refusal.headers.items()]
    return Answer(refusal.kind.status, headers, problem_body(refusal, request_id))
