"""The OpenAPI document: valid, whole, and true. A fuzzer that believes it finds nothing that it does not say."""

import asyncio
import contextlib
import json
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from schemathesis.core.failures import FailureGroup

from conftest import Engines
from holdfast.assemble import House as App
from holdfast.assemble import build_app
from holdfast.auth.tokens import Tokens
from holdfast.engines.database import Pool, open_pool
from holdfast.settings import Settings
from house import Served, open_house, serving_alone
from test_http_owners import ROUTES

SEED = int(os.environ.get("HOLDFAST_FUZZ_SEED", "20261122"))
EXAMPLES = {GenerationMode.POSITIVE: 20, GenerationMode.NEGATIVE: 12}
OPERATIONS = sorted({route.operation for route in ROUTES})
NOT_CHECKED = {
    "positive_data_acceptance": "a sale refuses what is well-formed: sold out, unknown, wrong password",
    "use_after_free": "looks at a sequence of requests, and these stand alone",
    "ensure_resource_availability": "looks at a sequence of requests, and these stand alone",
    "object_level_authorization": "wants two users configured: test_http_owners has all of them",
}
NOT_CHECKED_OF = {
    ("POST /events/import", "negative_data_rejection"): "takes any bytes, and reports what it finds in them",
}


# The document as it stands


@pytest.fixture
async def app(settings: Settings, pool: Pool) -> Any:
    opened = build_app(settings, "all")
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def document(app: App) -> dict[str, Any]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://house.example") as client:
        reply = await client.get("/openapi.json")
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/json")
    document: dict[str, Any] = reply.json()
    return document


def operations_of(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each operation with its name."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


async def test_the_document_is_valid(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    schemathesis.openapi.from_dict(document).validate()
    named = [operation["operationId"] for _, operation in operations_of(document)]
    assert len(named) == len(set(named))
    for reference in re.findall(r"'\$ref': '([^']+)'", str(document)):
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"], reference


async def test_an_invalid_document_is_seen_to_be_so(document: dict[str, Any]) -> None:
    """The control of the test above."""
    document["paths"]["/events"]["get"]["responses"] = 7
    with pytest.raises(Exception, match="7 is not of type"):
        schemathesis.openapi.from_dict(document).validate()


async def test_the_document_has_every_route(app: App, document: dict[str, Any]) -> None:
    entry = app.entry
    assert entry is not None
    api: Any = entry._api
    served = {f"{method} {pattern}" for method, pattern in entry._table}
    served |= {
        f"{method} {route.path}" for router in (api.router,) for route in flat(router) for method in route.methods or ()
    }
    told = {re.sub(r"\{\w+\}", "*", name) for name, _ in operations_of(document)}
    assert told == {re.sub(r"\{\w+\}", "*", name) for name in served} - {"GET /openapi.json"}


def flat(router: Any) -> Iterator[Any]:
    """The routes of a router and of those in it."""
    for route in router.routes:
        if hasattr(route, "methods"):
            yield route
        else:
            yield from flat(getattr(route, "router", None) or route.original_router)


async def test_every_operation_tells_its_success_and_its_problems(document: dict[str, Any]) -> None:
    for name, operation in operations_of(document):
        responses = operation["responses"]
        successes = {status: response for status, response in responses.items() if status[0] in "23"}
        assert successes, name
        for status, response in successes.items():
            assert ("content" in response) == (status not in ("204", "304")), (name, status)
            assert all(content.get("schema") for content in response.get("content", {}).values()), (name, status)
        assert operation.get("summary"), name
        for status in responses.keys() - successes.keys():
            assert set(responses[status]["content"]) == {"application/problem+json"}, (name, status)
        assert {"4XX", "5XX"} <= responses.keys(), name


@pytest.mark.parametrize("role", ["tickets", "orders"])
async def test_a_role_tells_its_own_routes_alone(settings: Settings, pool: Pool, role: str) -> None:
    app = build_app(settings, role)
    await app.open()
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://house.example") as client:
        document = (await client.get("/openapi.json")).json()
        rooms = {
            "tickets": ("/events", "/organiser"),
            "orders": ("/orders",),
        }
        for path in document["paths"]:
            assert path.startswith((*rooms[role], "/livez", "/readyz"))
        assert len(document["paths"]) > 3
        assert (await client.post("/orders/create")).status_code == (401 if role == "orders" else 404)
    await app.close()


async def test_the_auth_service_tells_everyones_routes(settings: Settings, pool: Pool) -> None:
    """That is where the gateway asks for the document; what it tells of others it does not answer itself."""
    documents = []
    for role in ("auth", "all"):
        app = build_app(settings, role)
        await app.open()
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://house.example") as client:
            documents.append((await client.get("/openapi.json")).json())
            assert (await client.get("/events")).status_code == (404 if role == "auth" else 200)
        await app.close()
    assert documents[0] == documents[1]


# The document as it is lived up to


class Fuzzed(NamedTuple):
    """The server that is fuzzed, what it says of itself, and an administrator's token."""

    served: Served
    schema: Any
    operations: dict[str, Any]
    authorization: dict[str, str]


@pytest.fixture(scope="module")
def fuzzed(engines: Engines) -> Iterator[Fuzzed]:
    many = {"user_purchases_burst": 100_000, "address_sign_ins_burst": 100_000, "password_threads": 2}
    with serving_alone(engines, **many) as served:
        schema: Any = schemathesis.openapi.from_url(f"http://127.0.0.1:{served.server.port}/openapi.json")
        operations = {operation.label: operation for operation in (one.ok() for one in schema.get_all_operations())}
        things = asyncio.run(make_things(served.settings))
        token = Tokens(served.settings).issue(things["ada"], "admin")
        yield Fuzzed(served, schema, operations, {"Authorization": f"Bearer {token}"})


async def make_things(settings: Settings) -> dict[str, Any]:
    """A published event, a draft and an order, all of Ada's, and their ids by the names that parameters have."""
    pool = await open_pool(settings)
    async with open_house(settings, pool) as house:
        event, draft = await house.event("ada"), await house.event("ada", published=False)
        order = await house.order("ada", f"key of {event['id']}", event)
        things = {
            "ada": house.users["ada"],
            "event_id": [event["id"], draft["id"]],
            "tier_id": [event["tiers"][0]["id"], draft["tiers"][0]["id"]],
            "order_id": [order["id"]],
            "user_id": [house.id("bob")],
            "id": [order["id"], house.id("ada"), house.id("bob")],
        }
    await pool.close()
    return things


def test_every_operation_is_fuzzed(fuzzed: Fuzzed) -> None:
    assert sorted(fuzzed.operations) == OPERATIONS
    assert set(NOT_CHECKED) <= {check.__name__ for check in CHECKS.get_all()}


def test_a_lie_of_the_document_is_found(fuzzed: Fuzzed) -> None:
    """The control of the test below."""
    document = fuzzed.schema.raw_schema
    lying = json.loads(json.dumps(document))
    lying["components"]["schemas"]["Status"]["properties"]["status"] = {"const": "no"}
    lying["paths"]["/readyz"]["get"]["responses"].pop("200")
    url = f"http://127.0.0.1:{fuzzed.served.server.port}"
    for told, is_true in ((document, True), (lying, False)):
        for path in ("/livez", "/readyz"):
            case = schemathesis.openapi.from_dict(told)[path]["GET"].Case()
            with contextlib.nullcontext() if is_true else pytest.raises(FailureGroup):
                case.call_and_validate(base_url=url)


@pytest.mark.parametrize("mode", list(EXAMPLES), ids=lambda mode: mode.value)
@pytest.mark.parametrize("name", OPERATIONS)
def test_what_the_document_promises_is_kept(fuzzed: Fuzzed, name: str, mode: GenerationMode) -> None:
    print(f"seed {SEED} (HOLDFAST_FUZZ_SEED)")  # noqa: T201  # shown when it fails
    operation = fuzzed.operations[name]
    things = asyncio.run(make_things(fuzzed.served.settings))
    left_out = {*NOT_CHECKED, *(check for operation, check in NOT_CHECKED_OF if operation == name)}
    checks = [check for check in CHECKS.get_all() if check.__name__ not in left_out]

    @hypothesis.seed(SEED)
    @hypothesis.settings(
        max_examples=EXAMPLES[mode],
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(data=st.data())
    def fuzz(data: st.DataObject) -> None:
        case = data.draw(operation.as_strategy(generation_mode=mode))
        if mode is GenerationMode.POSITIVE:
            make_real(data, case, things)
        case.call_and_validate(headers=fuzzed.authorization, checks=checks, timeout=20)

    try:
        fuzz()
    except hypothesis.errors.Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE
        assert not operation.query
        assert not operation.body


def make_real(data: st.DataObject, case: Any, things: dict[str, Any]) -> None:
    """Puts real ids into most cases, since what comes after an unknown id would never be reached."""
    for name in case.path_parameters or {}:
        if data.draw(st.integers(0, 3)):
            case.path_parameters[name] = data.draw(st.sampled_from(things[name]))
    if isinstance(case.body, dict) and "lines" in case.body and data.draw(st.integers(0, 3)):
        case.body["event_id"] = things["event_id"][0]
        for line in case.body["lines"][:1]:
            line["tier_id"] = things["tier_id"][0]
    if isinstance(case.body, dict) and "payment_token" in case.body and data.draw(st.booleans()):
        case.body["payment_token"] = data.draw(st.sampled_from(["tok_ok", "tok_declined", "tok_late"]))
