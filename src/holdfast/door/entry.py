"""The entry: a method and path table for the hot routes, and everything else to FastAPI."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias, TypeVar

import structlog

from holdfast import ids
from holdfast.door.exchange import (
    JSON,
    NO_STORE,
    Answer,
    Handler,
    Later,
    Receive,
    Request,
    Scope,
    Send,
    fields_of,
)
from holdfast.door.problems import CONTENT_TYPE, problem_body
from holdfast.engines.database import AWAY
from holdfast.errors import Busy, Refusal, refuse
from holdfast.settings import Settings

Api: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Say: TypeAlias = Callable[[Answer], None]
Done = TypeVar("Done")

_log = structlog.get_logger(__name__)

# Two segments after the room, at most: /orders/create, /orders/{id}, /orders/{id}/confirm, /events/{id}/tickets.
_PATH = re.compile(r"/(orders|events)/([^/]{1,64})(?:/([a-z]{1,20}))?")
_PROBLEM = b"content-type: " + CONTENT_TYPE + b"\r\n" + NO_STORE


class Entry:
    """Hot routes first, then `api`. `table` is keyed by method and pattern, such as ("POST", "/orders/*/confirm"); a
    path without `*` goes before one with it.

    A connection asks for a hot route itself (`find`, `admit`, `start`); as an ASGI app the entry does so for whoever
    has no such connection.
    """

    def __init__(self, api: Api, table: Mapping[tuple[str, str], Handler], settings: Settings) -> None:
        self._api = api
        self._table = {
            **table,
            ("GET", "/livez"): self._livez,
            ("POST", "/livez"): self._do_nothing,
            ("GET", "/readyz"): self._readyz,
        }
        self._whole = {route: (handler, "") for route, handler in self._table.items()}
        """The routes whose path is their pattern."""
        self._patterns: dict[str, list[str]] = {}
        for method, pattern in self._table:
            self._patterns.setdefault(pattern, []).append(method)
        self.body_bytes_max = settings.body_bytes_max
        self._under_way_max = settings.requests_waiting_max
        self._under_way = 0
        self.ready = False

    def find(self, method: str, path: str) -> tuple[Handler, str] | None:
        """The handler of a hot route and the id in its path; None where the path is not hot."""
        found = self._whole.get((method, path))
        if found is not None:
            return found
        pattern, path_id = path, ""
        if path not in self._patterns:
            match = _PATH.fullmatch(path)
            if match is None:
                return None
            room, path_id, action = match.groups()
            pattern = f"/{room}/*" if action is None else f"/{room}/*/{action}"
            if pattern not in self._patterns:
                return None
        return self._table.get((method, pattern)) or self._refuse_method(pattern), path_id

    def admit(self) -> bool:
        """Counts one request as under way, if it may be; then `leave` must follow."""
        if self._under_way >= self._under_way_max:
            return False
        self._under_way += 1
        return True

    def leave(self) -> None:
        """One request is no longer under way."""
        self._under_way -= 1

    def start(self, handler: Handler, request: Request, say: Say) -> "asyncio.Task[Answer] | None":
        """Has a request answered: `say` is called once, at once or later. Returns the task that it takes, if any."""
        try:
            answer = handler(request)
        except Exception as error:
            say(explain(error))
            return None
        if isinstance(answer, Answer):
            say(_signed(answer, ids.new_request_id()))
            return None
        if isinstance(answer, Later):
            reply, finish = answer
            reply.when_done(lambda done: _say_later(finish, done, say))
            return None
        task = asyncio.ensure_future(answer)
        task.add_done_callback(lambda done: _say_later(asyncio.Future.result, done, say))
        return task

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request, as an ASGI app."""
        if not self.admit():
            await _send(send, busy())
            return
        try:
            found = self.find(scope["method"], scope["path"])
            if found is None:
                await self._api(scope, receive, send)
                return
            handler, path_id = found
            request = await self._read(scope, receive, path_id)
            answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
            self.start(handler, request, lambda said: None if answer.done() else answer.set_result(said))
            await _send(send, await answer)
        finally:
            self.leave()

    async def _read(self, scope: Scope, receive: Receive, path_id: str) -> Request:
        bytes_max = self.body_bytes_max
        fields = fields_of(scope["headers"])
        is_too_large = declares_more(fields, bytes_max)
        body = bytearray()
        more_body = True
        while more_body and not is_too_large:
            message = await receive()
            if message["type"] == "http.disconnect":
                return Request(fields, scope["query_string"], path_id, None, bytes_max)
            body += message.get("body", b"")
            more_body = message.get("more_body", False)
            is_too_large = len(body) > bytes_max
        return Request(fields, scope["query_string"], path_id, bytes(body), bytes_max, is_too_large=is_too_large)

    def _refuse_method(self, pattern: str) -> Handler:
        def refuse_method(_: Request) -> Answer:
            raise Refusal("method_not_allowed", headers={"Allow": ", ".join(self._patterns[pattern])})

        return refuse_method

    def _livez(self, _: Request) -> Answer:
        return Answer(200, JSON, b'{"status":"ok"}')

    def _do_nothing(self, request: Request) -> Answer:
        # What a request costs before anything is done for it: the bench holds every other figure against this one.
        request.body()
        return self._livez(request)

    def _readyz(self, request: Request) -> Answer:
        # This process alone: a shared engine in here would take every replica out at once.
        if not self.ready:
            raise Busy("This process is ending.")
        return self._livez(request)


def _say_later(finish: Callable[[Done], Answer | Refusal], done: Done, say: Say) -> None:
    try:
        found = finish(done)
        answer = _signed(found, ids.new_request_id()) if isinstance(found, Answer) else explain(found)
    except asyncio.CancelledError:
        answer = explain(Busy("This process is ending."))
    except Exception as error:
        answer = explain(error)
    say(answer)


def declares_more(fields: Mapping[bytes, bytes], bytes_max: int) -> bool:
    """Whether a request's Content-Length is beyond so many bytes."""
    length = fields.get(b"content-length", b"")
    return length.isdigit() and int(length[:20]) > bytes_max


def busy() -> Answer:
    """What is said to one request too many."""
    return explain(Busy("Too many requests are under way."))


def explain(error: Exception) -> Answer:
    """A refusal as a problem; whatever else escapes is a bug of ours, told in the log alone."""
    request_id = ids.new_request_id()
    if isinstance(error, Refusal):
        return _problem(error, request_id)
    if isinstance(error, AWAY):
        _log.warning("engine away", request_id=request_id, error=type(error).__name__)
        return _problem(Busy("An engine did not answer in time."), request_id)
    _log.error("unexpected error", request_id=request_id, exc_info=error)
    return _problem(refuse("internal"), request_id)


def _problem(refusal: Refusal, request_id: str) -> Answer:
    head = _PROBLEM
    for name, value in refusal.headers.items():
        head += b"%b: %b\r\n" % (name.lower().encode(), value.encode())
    return _signed(Answer(refusal.kind.status, head, problem_body(refusal, request_id)), request_id)


def _signed(answer: Answer, request_id: str) -> Answer:
    """The answer with what every one has."""
    status, head, body = answer
    if status == 304:
        return Answer(status, b"%bx-request-id: %b\r\n" % (head, request_id.encode()), body)
    marks = b"%bx-content-type-options: nosniff\r\nx-request-id: %b\r\ncontent-length: %d\r\n"
    return Answer(status, marks % (head, request_id.encode(), len(body)), body)


async def _send(send: Send, answer: Answer) -> None:
    headers = [tuple(line.split(b": ", 1)) for line in answer.head.split(b"\r\n")[:-1]]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
