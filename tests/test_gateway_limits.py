"""What the gateway bounds by itself (rates, sizes, times, connections), in the services' words, and what it tells."""

import asyncio
import json
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from holdfast import ids
from holdfast.auth.signing_keys import create_signing_keys
from holdfast.clock import utc_now
from holdfast.gateway import Certificate
from holdfast.settings import Settings
from house import refused
from running_gateway import Asked, Change, Doubles, Reply, doubled

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY_BYTES_MAX = 4096
ALICE, BOB = ids.new_id(), ids.new_id()


@asynccontextmanager
async def behind(folder: Path, change: Change | None = None, **given: Any) -> AsyncIterator[Doubles]:
    """A gateway with these settings and this plan."""
    create_signing_keys(folder / "keys.json")
    changed = {name: given.pop(name) for name in list(given) if name in Settings.model_fields}
    settings = Settings(signing_key_file=folder / "keys.json", body_bytes_max=BODY_BYTES_MAX, **changed)
    async with doubled(settings, folder, change, **given) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Doubles]:
    """One whose limits are far away, but for sizes and times."""
    async with behind(tmp_path_factory.mktemp("limits"), read_seconds_max=0.5) as opened:
        yield opened


@asynccontextmanager
async def coming_from(house: Doubles, address: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client with another address."""
    transport = httpx.AsyncHTTPTransport(local_address=address)
    async with httpx.AsyncClient(base_url=house.gateway.url, transport=transport) as client:
        yield client


async def _codes(*replies: httpx.Response) -> Counter[str]:
    return Counter("ok" if reply.status_code == 200 else refused(reply) for reply in replies)


async def _reads(client: httpx.AsyncClient, times: int) -> Counter[str]:
    return await _codes(*[await client.get("/events") for _ in range(times)])


# Rates. Time goes on while we count, so that there may be one more.


async def test_an_address_has_its_rate(tmp_path: Path) -> None:
    async with behind(tmp_path, address_requests_per_second=2, burst_seconds=4) as house:
        found = await _reads(house.client, 30)
        assert found["429 rate_limited"] > 10
        assert found["ok"] >= 8
        reply = await house.client.get("/events")
        assert int(reply.headers.get("retry-after", 1)) >= 1
        # The control: it is the address that counts.
        async with coming_from(house, "127.0.0.2") as other:
            assert (await _reads(other, 4))["ok"] == 4


async def test_a_user_has_their_rate(tmp_path: Path) -> None:
    async with behind(tmp_path, user_requests_per_second=2, burst_seconds=2) as house:
        found = await _codes(*[await house.buy(ALICE) for _ in range(30)])
        assert found["429 rate_limited"] > 10
        assert found["ok"] >= 4
        assert (await house.buy(BOB)).status_code == 200
        assert len(house.asked("orders")) == found["ok"] + 1


async def test_everyone_together_has_a_rate(tmp_path: Path) -> None:
    async with behind(tmp_path, requests_per_second=2, burst_seconds=4) as house:
        assert (await _reads(house.client, 30))["429 rate_limited"] > 10
        async with coming_from(house, "127.0.0.2") as other:
            assert (await _reads(other, 4))["429 rate_limited"]


async def test_purchases_have_a_rate_of_their_own(tmp_path: Path) -> None:
    async with behind(tmp_path, purchases_per_second=1, purchases_burst=3) as house:
        found = await _codes(*[await house.buy() for _ in range(20)])
        assert found["ok"] >= 3
        assert found["429 rate_limited"] > 8
        assert await _reads(house.client, 20) == {"ok": 20}


async def test_sign_ins_of_an_address_have_a_rate_of_their_own(tmp_path: Path) -> None:
    async with behind(tmp_path, address_sign_ins_per_second=1, address_sign_ins_burst=3) as house:

        async def signs_in(client: httpx.AsyncClient, times: int) -> Counter[str]:
            return await _codes(*[await client.post("/users/login", json={}) for _ in range(times)])

        found = await signs_in(house.client, 20)
        assert found["ok"] >= 3
        assert found["429 rate_limited"] > 8
        async with coming_from(house, "127.0.0.2") as other:
            assert await signs_in(other, 3) == {"ok": 3}
        assert await _reads(house.client, 20) == {"ok": 20}


async def test_behind_a_trusted_proxy_its_word_is_the_address(tmp_path: Path) -> None:
    async with behind(tmp_path, proxies=1, address_requests_per_second=1, burst_seconds=2) as house:

        async def reads_as(forwarded: str) -> Counter[str]:
            headers = {"X-Forwarded-For": forwarded}
            return await _codes(*[await house.client.get("/events", headers=headers) for _ in range(12)])

        # Mallory writes the first address; the proxy adds what it saw.
        assert (await reads_as("198.51.100.66, 203.0.113.9"))["429 rate_limited"] > 5
        assert (await reads_as("198.51.100.67, 203.0.113.9"))["429 rate_limited"] > 5
        assert (await reads_as("198.51.100.66, 203.0.113.10"))["ok"] >= 2


async def test_a_client_cannot_choose_its_address(house: Doubles) -> None:
    await house.client.get("/events", headers={"X-Forwarded-For": "203.0.113.9"})
    # The last one is the gateway's; of a client on its own machine it says the machine's address.
    claimed, _, seen = house.asked("tickets")[-1].headers["x-forwarded-for"].rpartition(",")
    assert claimed == "203.0.113.9"
    assert seen not in ("", "203.0.113.9")


# Sizes and times


async def _chunks(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 1024):
        yield b"x" * 1024


@pytest.mark.parametrize("path", ["/orders/create", "/users/login", "/events"])
async def test_a_body_that_is_too_large_goes_no_further(house: Doubles, path: str) -> None:
    for content in (b"x" * (BODY_BYTES_MAX + 1), _chunks(4 * BODY_BYTES_MAX)):
        before = sum(len(house.asked(service)) for service in house.processes)
        reply = await house.client.post(path, content=content, headers=house.headers())
        assert refused(reply) == "413 too_large"
        assert reply.json()["detail"] == f"At most {BODY_BYTES_MAX} bytes are taken here."
        assert sum(len(house.asked(service)) for service in house.processes) == before


async def test_a_body_that_fits_arrives(house: Doubles) -> None:
    content = b"x" * BODY_BYTES_MAX
    assert (await house.client.post("/users/login", content=content)).status_code == 200
    assert ("/users/login", content) in [(asked.path, asked.body) for asked in house.asked("auth")]


async def test_a_catalogue_may_be_larger(house: Doubles) -> None:
    content = b"x" * 1_000_000
    assert (await house.client.post("/events/import", content=content, headers=house.headers())).status_code == 200
    assert ("/events/import", content) in [(asked.path, asked.body) for asked in house.asked("tickets")]


async def test_a_head_that_is_too_large(house: Doubles) -> None:
    for headers in ({"A": "x" * 33_000}, {f"A{number}": "x" for number in range(150)}):
        assert refused(await house.client.get("/events", headers=headers)) == "431 headers_too_large"


async def test_who_does_not_go_on_is_told_so(house: Doubles) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", house.gateway.plan.listen.port)
    writer.write(b"GET /events HTTP/1.1\r\nHost: x\r\nA:")
    status, problem = _problem(await reader.read())
    assert (status, problem["code"], problem["detail"]) == (400, "bad_request", "The request did not arrive in time.")
    writer.close()


@pytest.mark.parametrize("request_head", [b"NONSENSE\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n",
    b"POST /users/login HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
    b"POST /users/login HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET /events HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"])  # fmt: skip
async def test_what_cannot_be_read_is_a_problem(house: Doubles, request_head: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", house.gateway.plan.listen.port)
    writer.write(request_head)
    status, problem = _problem(await reader.read())
    assert (status, problem["code"]) == (400, "bad_request")
    writer.close()


def _problem(reply: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = reply.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    problem: dict[str, Any] = json.loads(body)
    assert headers["content-type"] == "application/problem+json"
    assert headers["x-request-id"] == problem["request_id"]
    return int(lines[0].split()[1]), problem


async def test_one_connection_too_many_is_closed(tmp_path: Path) -> None:
    async with behind(tmp_path, connections_max=2) as house:
        opened = [await asyncio.open_connection("127.0.0.1", house.gateway.plan.listen.port) for _ in range(3)]
        for _, writer in opened:
            writer.write(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        heads = await asyncio.gather(*(_first_line(reader) for reader, _ in opened))
        assert sorted(heads) == [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n"]
        for _, writer in opened:
            writer.close()


async def _first_line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ConnectionResetError:
        return b""


# What it tells


async def test_an_unknown_path_is_not_found(house: Doubles) -> None:
    for path in ("/", "/nothing", "/event", "/ordersx", "/usersx/y", "/stats", "/config_dump", "//orders/create"):
        assert refused(await house.client.get(path)) == "404 not_found", path
    assert "/nothing" not in [asked.path for service in house.processes for asked in house.asked(service)]


async def test_it_does_not_say_what_it_is(house: Doubles) -> None:
    for reply in (await house.client.get("/events"), await house.client.get("/nothing"), await house.buy()):
        told = {name for name in reply.headers if name.startswith(("x-envoy", "server", "via"))}
        assert not told
        assert "strict-transport-security" not in reply.headers


async def test_a_client_cannot_steer_it(house: Doubles) -> None:
    """Headers that an Envoy takes orders from, and a request's name, which is the gateway's to give."""
    orders = {"X-Envoy-Retry-On": "5xx", "X-Envoy-Upstream-Rq-Timeout-Ms": "1", "X-Request-Id": 'a"b'}
    await house.client.get("/events", headers=orders)
    headers = house.asked("tickets")[-1].headers
    assert not [name for name in headers if name.startswith("x-envoy")]
    assert headers["x-request-id"] != 'a"b'
    assert refused(await house.client.get("/nothing", headers=orders)) == "404 not_found"


async def test_the_access_log_has_no_secrets(house: Doubles) -> None:
    headers = house.headers(ALICE)
    await house.client.get("/users/me", params={"q": "bob@example.com"}, headers=headers)
    await house.client.post("/users/login", json={"email": "bob@example.com"})
    await house.client.get("/the-last-one")
    while "/the-last-one" not in house.gateway.log.read_text():
        await asyncio.sleep(0.02)
    lines = house.gateway.lines()
    (line,) = [line for line in lines if line["path"] == "/users/me"]
    assert (line["method"], line["status"], line["service"]) == ("GET", 200, "auth")
    assert (line["route"], line["user"], line["client"]) == ("GET /users/me", ids.encode(ids.USER, ALICE), "127.0.0.1")
    assert line["request_id"] == "req_1"
    text = house.gateway.log.read_text()
    assert "bob" not in text
    assert headers["Authorization"].removeprefix("Bearer ") not in text
    assert headers["Idempotency-Key"] not in text


async def test_its_metrics(house: Doubles) -> None:
    await house.client.get("/events")
    text = httpx.get(f"{house.gateway.admin}/stats/prometheus").text
    for name in (
        "envoy_cluster_upstream_rq_total",
        "envoy_http_downstream_rq_total",
        "envoy_cluster_membership_healthy",
        "envoy_http_local_rate_limit_rate_limited",
        "envoy_http_jwt_authn_denied",
        "envoy_cluster_outlier_detection_ejections_active",
        "envoy_cluster_circuit_breakers_default_remaining_cx",
    ):
        assert f"\n{name}" in text, name


# TLS and HTTP/2


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """One that we sign ourselves."""
    folder = tmp_path_factory.mktemp("certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(utc_now() - timedelta(days=1))
        .not_valid_after(utc_now() + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pair = Certificate(folder / "chain.pem", folder / "key.pem")
    pair.chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    kept = serialization.PrivateFormat.PKCS8
    pair.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, kept, serialization.NoEncryption()))
    return pair


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def encrypted(tmp_path_factory: pytest.TempPathFactory, certificate: Certificate) -> AsyncIterator[Doubles]:
    async with behind(tmp_path_factory.mktemp("tls"), certificate=certificate) as opened:
        yield opened


def _trusting(house: Doubles) -> ssl.SSLContext:
    certificate = house.gateway.plan.certificate
    assert certificate is not None
    return ssl.create_default_context(cafile=str(certificate.chain))


async def test_https(encrypted: Doubles) -> None:
    url = f"https://localhost:{encrypted.gateway.plan.listen.port}"
    async with httpx.AsyncClient(base_url=url, verify=_trusting(encrypted)) as client:
        for path, status in (("/nothing", 404), ("/users/me", 401), ("/events", 200)):
            reply = await client.get(path)
            assert reply.status_code == status
            assert reply.headers["strict-transport-security"].startswith("max-age=")
        assert encrypted.asked("tickets")[-1].headers["x-forwarded-proto"] == "https"


async def test_old_tls_is_not_spoken(encrypted: Doubles) -> None:
    context = _trusting(encrypted)
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.to_thread(_shake_hands, context, encrypted.gateway.plan.listen.port)


def _shake_hands(context: ssl.SSLContext, port: int) -> ssl.SSLSocket:
    connection = socket.create_connection(("localhost", port), timeout=20)
    try:
        return context.wrap_socket(connection, server_hostname="localhost")
    except BaseException:
        connection.close()
        raise


async def test_http_2(encrypted: Doubles) -> None:
    """A request in frames written by hand: HPACK's static table has all it needs but the path and the host."""
    context = _trusting(encrypted)
    context.set_alpn_protocols(["h2"])

    def ask() -> dict[int, list[bytes]]:
        with _shake_hands(context, encrypted.gateway.plan.listen.port) as connection:
            assert connection.selected_alpn_protocol() == "h2"
            fields = b"\x82\x87\x04\x07/events\x01\x09localhost"
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b"") + _frame(1, 5, 1, fields))
            return _frames(connection)

    frames = await asyncio.to_thread(ask)
    # `:status: 200` is the eighth of the static table.
    assert frames[1][0][0] == 0x88
    assert json.loads(b"".join(frames[0]))["by"].startswith("tickets")


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _frames(connection: ssl.SSLSocket) -> dict[int, list[bytes]]:
    """The payloads of what comes, by kind, until the first stream ends."""
    found: dict[int, list[bytes]] = {}
    with connection.makefile("rb") as file:
        while True:
            head = file.read(9)
            payload = file.read(int.from_bytes(head[:3], "big"))
            found.setdefault(head[3], []).append(payload)
            if head[5:] == b"\x00\x00\x00\x01" and head[3] in (0, 1) and head[4] & 1:
                return found


async def test_a_slow_answer_keeps_a_slow_client_from_nothing(house: Doubles) -> None:
    """`read_seconds_max` is the client's time: a service may take longer than that."""

    async def takes_its_time(_: Asked) -> Reply:
        await asyncio.sleep(0.8)
        return 200, {}, b"{}"

    house.answer("auth", takes_its_time)
    assert (await house.client.post("/users/login", json={})).status_code == 200
    for process in house.processes["auth"]:
        process.answer = process.say_name
