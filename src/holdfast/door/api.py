"""The FastAPI half of the door: the services' routers in a frame that bounds what comes in and words what fails."""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, NoReturn
from urllib.parse import parse_qsl

import structlog
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from holdfast import __version__, ids
from holdfast.auth.position import HEADER
from holdfast.door.exchange import Mark, is_json
from holdfast.door.problems import CONTENT_TYPE, problem_body
from holdfast.engines.database import AWAY
from holdfast.errors import Busy, Fault, Invalid, Refusal, refuse
from holdfast.settings import Settings

# These take a file as it is, in whatever format, up to `import_bytes_max`; what is wrong with it is theirs to say.
_FILE_PATHS = frozenset({"/events/import"})
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_FAULTS_MAX = 20
_POINTER_LETTERS_MAX = 200

_CODES = {
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too_large",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "unsupported_media_type",
}

_PROBLEM = {
    "description": "A problem (RFC 9457); `code` is stable.",
    "content": {
        "application/problem+json": {
            "schema": {
                "type": "object",
                "required": ["type", "title", "status", "code", "request_id"],
                "properties": {
                    "type": {"type": "string"},
                    "title": {"type": "string"},
                    "status": {"type": "integer"},
                    "code": {"type": "string"},
                    "request_id": {"type": "string"},
                    "detail": {"type": "string"},
                    "errors": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["pointer", "detail"],
                            "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}},
                        },
                    },
                },
            }
        }
    },
}

_log = structlog.get_logger(__name__)


def build_api(settings: Settings, routers: list[APIRouter], mark: Mark | None = None) -> FastAPI:
    """The app of these routers. Every answer that is not success is a problem+json, and each carries X-Request-Id;
    that of a write says where the log ends, if `mark` knows.

    The OpenAPI document is left to the caller (`.openapi()`), who knows the routes in front of this app too.
    """
    api = FastAPI(
        title="Holdfast",
        version=__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses={"4XX": _PROBLEM, "5XX": _PROBLEM},
    )
    for router in routers:
        api.include_router(router)
    routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]

    # The handlers only translate: the frame, which is outside them, answers every refusal in one place.
    @api.exception_handler(HTTPException)
    async def translate_http(request: Request, error: HTTPException) -> NoReturn:
        # Not request.url, which cannot be made from every Host header.
        raise _of_http(error, routes, request.scope["path"]) from error

    @api.exception_handler(RequestValidationError)
    async def translate_invalid(request: Request, error: RequestValidationError) -> NoReturn:
        raise _of_validation(error, request.scope) from error

    api.add_middleware(_Frame, settings=settings, mark=mark)
    return api


class _Frame:
    """Around every request: its id, the bound and type of its body, and the one place where refusals are answered."""

    def __init__(self, app: ASGIApp, settings: Settings, mark: Mark | None) -> None:
        self._app = app
        self._settings = settings
        self._mark = mark

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        request_id = state.setdefault("request_id", "") or ids.new_request_id()
        state["request_id"] = request_id
        answer = _Answer(send, request_id, None if scope["method"] in _READING else self._mark)
        try:
            _refuse_repeated(scope["query_string"])
            await self._app(scope, _Body(self._settings, scope, receive).receive, answer.send)
        except Exception as error:
            if answer.started:
                # Half an answer cannot be taken back; the server logs this and closes the connection.
                raise
            await answer.send_problem(_refusal(error, scope, request_id))


def _refuse_repeated(query_string: bytes) -> None:
    """Twice is as good as wrong here too: FastAPI would silently take the last one."""
    if b"&" not in query_string:
        return
    seen = set()
    for name, _ in parse_qsl(query_string.decode("latin-1"), keep_blank_values=True):
        if name in seen:
            raise Invalid(Fault(name[:_POINTER_LETTERS_MAX], "This parameter was given twice."))
        seen.add(name)


def _refusal(error: Exception, scope: Scope, request_id: str) -> Refusal:
    if isinstance(error, Refusal):
        return error
    if isinstance(error, AWAY):
        _log.warning("engine away", request_id=request_id, method=scope["method"], path=scope["path"], exc_info=error)
        return Busy("The database did not answer in time.")
    _log.error("unexpected error", request_id=request_id, method=scope["method"], path=scope["path"], exc_info=error)
    return refuse("internal")


class _Answer:
    """The answer to one request, and whether it has begun."""

    def __init__(self, send: Send, request_id: str, mark: Mark | None) -> None:
        self._send = send
        self._request_id = request_id
        self._mark = mark
        self.started = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            marks = [(b"x-request-id", self._request_id.encode()), (b"x-content-type-options", b"nosniff")]
            if self._mark is not None and message["status"] < HTTPStatus.BAD_REQUEST:
                position = await self._mark()
                marks += [] if position is None else [(HEADER, position.encode())]
            message = {**message, "headers": [*message.get("headers", ()), *marks]}
        await self._send(message)

    async def send_problem(self, refusal: Refusal) -> None:
        body = problem_body(refusal, self._request_id)
        headers = [(b"content-type", CONTENT_TYPE), (b"content-length", str(len(body)).encode())]
        headers.append((b"cache-control", b"no-store"))
        headers += [(name.lower().encode(), value.encode()) for name, value in _headers(refusal).items()]
        await self.send({"type": "http.response.start", "status": refusal.kind.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


def _headers(refusal: Refusal) -> Mapping[str, str]:
    if refusal.kind.status == HTTPStatus.UNAUTHORIZED:
        return {"WWW-Authenticate": "Bearer", **refusal.headers}
    return refusal.headers


class _Body:
    """A request's body, read when the route first asks for it (so that 404 and 405 come before 413 and 415)."""

    def __init__(self, settings: Settings, scope: Scope, receive: Receive) -> None:
        self._scope = scope
        self._receive = receive
        self._is_file = scope["path"] in _FILE_PATHS
        self._bytes_max = settings.import_bytes_max if self._is_file else settings.body_bytes_max
        self._read = False

    async def receive(self) -> Message:
        if self._read:
            return await self._receive()
        self._read = True
        headers: dict[bytes, bytes] = {}
        for name, value in self._scope["headers"]:
            # Twice is as good as wrong: no two readers may choose differently.
            headers[name] = value if name not in headers else b"\x00"
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length[:20]) > self._bytes_max:
            raise self._too_large()
        body = bytearray()
        more = True
        while more:
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._bytes_max:
                raise self._too_large()
        self._scope["state"]["body_missing"] = not body
        if body and not self._is_file:
            _check_json(headers, bytes(body))
        return {"type": "http.request", "body": bytes(body), "more_body": False}

    def _too_large(self) -> Refusal:
        return refuse("too_large", f"At most {self._bytes_max} bytes are taken here.")


def _check_json(headers: Mapping[bytes, bytes], body: bytes) -> None:
    """Refuses what is not application/json, not JSON, or JSON with text that PostgreSQL or UTF-8 cannot hold."""
    plain = headers.get(b"content-encoding", b"identity").lower() == b"identity"
    if not is_json(headers.get(b"content-type", b"")) or not plain:
        raise refuse("unsupported_media_type")
    try:
        document = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise refuse("broken_json", "The body is not JSON as RFC 8259 has it, in UTF-8.") from error
    if b"\\u" in body:
        # Only an escape can bring these in: raw, neither is JSON.
        faults = [
            Fault(pointer, "The text must not contain NUL or half a surrogate pair.") for pointer in _bad(document)
        ]
        if faults:
            raise Invalid(*faults[:_FAULTS_MAX])


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _bad(document: object) -> list[str]:
    """The pointers of the texts that hold NUL or a lone surrogate; those of a name point to its object."""
    found: list[str] = []
    waiting: list[tuple[str, object]] = [("", document)]
    while waiting:
        pointer, value = waiting.pop()
        if isinstance(value, str) and not _storable(value):
            found.append(pointer)
        elif isinstance(value, list):
            waiting += [(f"{pointer}/{index}", item) for index, item in enumerate(value)]
        elif isinstance(value, dict):
            if not all(map(_storable, value)):
                found.append(pointer)
            waiting += [(pointer + _step(name), item) for name, item in value.items() if _storable(name)]
    return [pointer[:_POINTER_LETTERS_MAX] for pointer in found]


def _storable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def _of_http(error: HTTPException, routes: Sequence[APIRoute], path: str) -> Refusal:
    # FastAPI wraps whatever goes wrong while the body is read, our own refusals too.
    if isinstance(error.__cause__, Refusal):
        return error.__cause__
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = {method for route in routes if route.path_regex.match(path) for method in route.methods or ()}
        return Refusal("method_not_allowed", headers={"Allow": ", ".join(sorted(allowed))})
    if error.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return refuse("internal")
    return refuse(_CODES.get(HTTPStatus(error.status_code), "bad_request"))


def _of_validation(error: RequestValidationError, scope: Scope) -> Refusal:
    errors: Sequence[Any] = error.errors()
    if scope["state"].get("body_missing") and any(tuple(each["loc"]) == ("body",) for each in errors):
        return refuse("broken_json", "A JSON body is required.")
    return Invalid(*[_fault(each["loc"], each["msg"]) for each in errors[:_FAULTS_MAX]])


def _fault(location: Sequence[str | int], message: str) -> Fault:
    """The place and the rule; never the value, which may be a password."""
    if location and location[0] == "body":
        pointer = "".join(_step(part) for part in location[1:])
    else:
        pointer = ".".join(str(part) for part in location[1:])
    return Fault(pointer[:_POINTER_LETTERS_MAX], message.removeprefix("Value error, "))


def _step(part: str | int) -> str:
    """One step of a JSON pointer (RFC 6901)."""
    return "/" + str(part).replace("~", "~0").replace("/", "~1")
