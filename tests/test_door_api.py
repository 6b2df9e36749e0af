"""The frame around the FastAPI half: every error is a problem, every reply has its id, every body is bounded."""

import json
from collections.abc import AsyncIterator
from typing import Annotated

import httpx
import pytest
import structlog
from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict

from auth_house import code
from holdfast.door.api import build_api
from holdfast.errors import KINDS, Busy, Refusal, refuse
from holdfast.settings import Settings

SETTINGS = Settings(body_bytes_max=1024, import_bytes_max=4096)


class Thing(BaseModel):
    """A body."""

    model_config = ConfigDict(strict=True, extra="forbid")
    number: int
    inner: list[dict[str, int]] = []


def _routes() -> APIRouter:
    router = APIRouter()

    @router.get("/things")
    async def things(limit: Annotated[int, Query(ge=1, le=100)] = 10) -> dict[str, int]:
        return {"limit": limit}

    @router.post("/things")
    async def make(thing: Thing) -> Thing:
        return thing

    @router.post("/optional")
    async def optional(thing: Thing | None = None) -> dict[str, bool]:
        return {"given": thing is not None}

    @router.post("/bodiless")
    async def bodiless() -> dict[str, bool]:
        return {"done": True}

    @router.post("/events/import")
    async def take(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    @router.get("/failing/{how}")
    async def failing(how: str) -> None:
        if how in KINDS:
            raise refuse(how)
        raise {
            "bug": ZeroDivisionError("secret detail"),
            "away": ConnectionRefusedError("secret address"),
            "timeout": TimeoutError("secret"),
            "later": Busy("Later.", retry_after_seconds=7),
            "headers": Refusal("rate_limited", headers={"RateLimit": '"x";r=0'}),
        }[how]

    @router.get("/half")
    async def half() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"half "
            raise ZeroDivisionError

        return StreamingResponse(parts())

    @router.get("/named")
    async def named(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.state.request_id)

    return router


@pytest.fixture
def api() -> FastAPI:
    return build_api(SETTINGS, [_routes()])


@pytest.fixture
async def client(api: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(api)
    async with httpx.AsyncClient(transport=transport, base_url="http://house.example") as opened:
        yield opened


async def test_every_reply_has_its_own_id(client: httpx.AsyncClient) -> None:
    replies = [await client.get(path) for path in ("/things", "/things", "/nowhere", "/failing/later")]
    names = {reply.headers["x-request-id"] for reply in replies}
    assert len(names) == 4
    assert all(name.startswith("req_") for name in names)
    assert [reply.headers.get("cache-control") for reply in replies] == [None, None, "no-store", "no-store"]
    assert all(reply.headers["x-content-type-options"] == "nosniff" for reply in replies)


async def test_an_id_given_by_the_entry_is_kept(api: FastAPI) -> None:
    async def entry(scope: dict[str, object], receive: object, send: object) -> None:
        scope["state"] = {"request_id": "req_given"}
        await api(scope, receive, send)  # type: ignore[arg-type]

    async with httpx.AsyncClient(transport=httpx.ASGITransport(entry), base_url="http://x") as client:  # type: ignore[arg-type]
        assert (await client.get("/named")).text == "req_given"
        assert (await client.get("/nowhere")).json()["request_id"] == "req_given"


@pytest.mark.parametrize("path", ["/", "/nowhere", "/things/", "/docs", "/redoc", "/openapi.json", "/%00", "/\u00e9"])
async def test_an_unknown_path_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    reply = await client.get(path)
    assert (reply.status_code, code(reply)) == (404, "not_found")


@pytest.mark.parametrize("method", ["DELETE", "PUT", "PATCH", "OPTIONS", "TRACE", "BREW"])
async def test_a_wrong_method_is_told_the_right_ones(client: httpx.AsyncClient, method: str) -> None:
    reply = await client.request(method, "/things", content=b"not even JSON")
    assert (reply.status_code, code(reply)) == (405, "method_not_allowed")
    assert reply.headers["allow"] == "GET, POST"


@pytest.mark.parametrize("host", ["[", "[::1", "a:b:c", "x y", "\u00e9", "x" * 5000])
async def test_an_odd_host_is_no_matter(client: httpx.AsyncClient, host: str) -> None:
    headers = {b"Host": host.encode()}
    assert (await client.get("/things", headers=headers)).status_code == 200
    assert code(await client.get("/nowhere", headers=headers)) == "not_found"
    assert code(await client.put("/things", headers=headers)) == "method_not_allowed"


async def test_the_path_comes_before_the_body(client: httpx.AsyncClient) -> None:
    assert code(await client.post("/nowhere", content=b"x" * 100_000)) == "not_found"


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json; charset=latin-1",
        "application/json; charset=utf-16",
        "application/vnd.api+json",
        "application/jsonx",
        "json",
    ],
)
async def test_another_content_type_is_refused(client: httpx.AsyncClient, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    reply = await client.post("/things", content=b'{"number": 1}', headers=headers)
    assert (reply.status_code, code(reply)) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"']
)
async def test_json_is_taken(client: httpx.AsyncClient, content_type: str) -> None:
    reply = await client.post("/things", content=b'{"number": 1}', headers={"Content-Type": content_type})
    assert reply.status_code == 200


async def test_a_packed_body_is_refused(client: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert code(await client.post("/things", content=b"{}", headers=headers)) == "unsupported_media_type"


async def test_a_body_has_its_bound(client: httpx.AsyncClient) -> None:
    async def chunks(size: int) -> AsyncIterator[bytes]:
        yield b'{"number": 1'
        for _ in range(size):
            yield b" " * 100
        yield b"}"

    headers = {"Content-Type": "application/json"}
    fitting = b'{"number": 1' + b" " * (1024 - 13) + b"}"
    assert (await client.post("/things", content=fitting, headers=headers)).status_code == 200
    assert (await client.post("/things", content=chunks(10), headers=headers)).status_code == 200
    for content in (b" " + fitting, chunks(11), chunks(100_000)):
        reply = await client.post("/things", content=content, headers=headers)
        assert (reply.status_code, code(reply)) == (413, "too_large")
    for length in ("99999999999999999999999999", "1025"):
        reply = await client.post("/things", content=b"{}", headers={**headers, "Content-Length": length})
        assert (reply.status_code, code(reply)) == (413, "too_large")


async def test_a_file_has_its_own_bound_and_any_type(client: httpx.AsyncClient) -> None:
    for content_type in ("text/csv", "text/html", "application/ld+json"):
        reply = await client.post("/events/import", content=b"x" * 4096, headers={"Content-Type": content_type})
        assert reply.json() == {"bytes": 4096}
    assert code(await client.post("/events/import", content=b"x" * 4097)) == "too_large"


async def test_a_body_may_be_left_out_where_it_may(client: httpx.AsyncClient) -> None:
    assert (await client.post("/optional")).json() == {"given": False}
    assert (await client.post("/optional", json={"number": 1})).json() == {"given": True}
    assert (await client.post("/bodiless")).json() == {"done": True}
    assert code(await client.post("/things")) == "broken_json"
    assert code(await client.post("/optional", content=b"{}")) == "unsupported_media_type"


async def test_faults_have_pointers(client: httpx.AsyncClient) -> None:
    reply = await client.post("/things", json={"number": "1", "inner": [{"a": 1}, {"b/c": None}], "more": 1})
    assert (reply.status_code, code(reply)) == (422, "validation")
    assert [error["pointer"] for error in reply.json()["errors"]] == ["/number", "/inner/1/b~1c", "/more"]
    reply = await client.get("/things", params={"limit": "many"})
    assert [error["pointer"] for error in reply.json()["errors"]] == ["limit"]
    assert "many" not in reply.text


@pytest.mark.parametrize("number", ["1" * 400, "-" + "9" * 100, "1e400", "1.5", "true", '"1"', "null"])
async def test_odd_numbers(client: httpx.AsyncClient, number: str) -> None:
    headers = {"Content-Type": "application/json"}
    reply = await client.post("/things", content=f'{{"number": {number}}}', headers=headers)
    assert reply.status_code in (200, 422)
    if reply.status_code == 422:
        assert code(reply) == "validation"


@pytest.mark.parametrize("name", sorted(KINDS))
async def test_every_code_is_answered_as_declared(client: httpx.AsyncClient, name: str) -> None:
    reply = await client.get(f"/failing/{name}")
    assert (reply.status_code, code(reply)) == (KINDS[name].status, name)
    assert reply.json()["title"] == KINDS[name].title
    assert ("www-authenticate" in reply.headers) == (reply.status_code == 401)


async def test_a_refusals_headers_are_sent(client: httpx.AsyncClient) -> None:
    assert (await client.get("/failing/headers")).headers["ratelimit"] == '"x";r=0'
    assert (await client.get("/failing/later")).headers["retry-after"] == "7"


@pytest.mark.parametrize("how", ["away", "timeout"])
async def test_an_engine_that_is_away_is_busy(client: httpx.AsyncClient, how: str) -> None:
    with structlog.testing.capture_logs() as logs:
        reply = await client.get(f"/failing/{how}")
    assert (reply.status_code, code(reply)) == (503, "busy")
    assert reply.headers["retry-after"] == "1"
    assert "secret" not in reply.text
    assert [(log["log_level"], log["request_id"]) for log in logs] == [("warning", reply.headers["x-request-id"])]


async def test_a_bug_is_logged_and_not_shown(client: httpx.AsyncClient) -> None:
    with structlog.testing.capture_logs() as logs:
        reply = await client.get("/failing/bug")
    assert (reply.status_code, code(reply)) == (500, "internal")
    assert set(reply.json()) == {"type", "title", "status", "code", "request_id"}
    (log,) = logs
    assert (log["log_level"], log["request_id"], log["path"]) == (
        "error",
        reply.headers["x-request-id"],
        "/failing/bug",
    )
    assert isinstance(log["exc_info"], ZeroDivisionError)


async def test_half_an_answer_is_not_taken_for_a_whole_one(client: httpx.AsyncClient) -> None:
    with pytest.raises(ZeroDivisionError):
        await client.get("/half")


def test_the_document_names_problems_and_nothing_else(api: FastAPI) -> None:
    document = api.openapi()
    assert document["openapi"].startswith("3.1")
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert set(operation["responses"]) <= {"200", "201", "204", "4XX", "5XX"}, path
            assert set(operation["responses"]["4XX"]["content"]) == {"application/problem+json"}
    assert "HTTPValidationError" not in json.dumps(document)
