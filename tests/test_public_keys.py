"""The services beside auth know its public keys: by an address or a file, through rotations, and while auth is away."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from joserfc.jwk import OKPKey

from holdfast import ids
from holdfast.auth import public_keys
from holdfast.auth.public_keys import LearningVerifier, verifier_of
from holdfast.auth.signing_keys import create_signing_keys, load_signing_keys
from holdfast.auth.tokens import KeyUnknown, Tokens
from holdfast.errors import Busy, Mendable, Refusal
from holdfast.settings import Settings, load_settings

ALICE = ids.new_id()


class Signer:
    """The auth service's keys, and their rotation."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "signing-keys.json"
        create_signing_keys(self.file)

    def token(self) -> bytes:
        """A token of Alice's, by the first key."""
        return f"Bearer {Tokens(Settings(signing_key_file=self.file)).issue(ALICE, 'buyer')}".encode()

    def jwks(self) -> bytes:
        """What the auth service publishes."""
        return json.dumps(Tokens(Settings(signing_key_file=self.file)).jwks()).encode()

    def rotate(self, *, keep_old: bool) -> None:
        """A new key signs; the old one stays, or goes."""
        old = json.loads(self.file.read_text())["keys"] if keep_old else []
        create_signing_keys(self.file)
        new = json.loads(self.file.read_text())["keys"]
        self.file.write_text(json.dumps({"keys": new + old}))


class KeyServer:
    """The auth service's address of keys, in Mallory's hands too."""

    def __init__(self) -> None:
        self.document = b""
        self.status = 200
        self.asked = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(outer.document)))
                self.end_headers()
                self.wfile.write(outer.document)

            def log_message(self, *_: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/.well-known/jwks.json"


class Clock:
    """The time between two questions."""

    def __init__(self) -> None:
        self.now = 0.0

    def read(self) -> float:
        return self.now


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path)


@pytest.fixture
def address(signer: Signer) -> Iterator[KeyServer]:
    server = KeyServer()
    server.document = signer.jwks()
    thread = Thread(target=server.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.server.shutdown()
    server.server.server_close()
    thread.join()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    moved = Clock()
    monkeypatch.setattr(public_keys, "monotonic_seconds", moved.read)
    return moved


@asynccontextmanager
async def learning(*sources: str | Path, renew_seconds: float = 3600) -> AsyncIterator[LearningVerifier]:
    verifier = LearningVerifier(Settings(), sources, renew_seconds)
    try:
        await verifier.open()
        yield verifier
    finally:
        await verifier.close()


async def outcome(verifier: LearningVerifier, token: bytes) -> str:
    """`alice`, or the code of a refusal."""
    try:
        identity = await verifier.identify(token)
    except Refusal as refusal:
        return refusal.code
    assert identity.user_id == ALICE
    return "alice"


async def test_a_new_key_is_known_with_its_first_tokens(signer: Signer, address: KeyServer, clock: Clock) -> None:
    async with learning(address.url) as verifier:
        before = signer.token()
        assert await outcome(verifier, before) == "alice"
        signer.rotate(keep_old=True)
        address.document, clock.now = signer.jwks(), 60
        after = [signer.token() for _ in range(20)]
        with pytest.raises(KeyUnknown):
            verifier.verify(after[0])
        # All of them wait for one question.
        assert set(await asyncio.gather(*(outcome(verifier, token) for token in after))) == {"alice"}
        assert await outcome(verifier, before) == "alice"
        assert address.asked == 2


async def test_a_key_that_is_gone_takes_its_tokens_along(signer: Signer, address: KeyServer, clock: Clock) -> None:
    async with learning(address.url) as verifier:
        stolen = signer.token()
        assert await outcome(verifier, stolen) == "alice"
        signer.rotate(keep_old=False)
        address.document, clock.now = signer.jwks(), 60
        assert await outcome(verifier, signer.token()) == "alice"
        # It stood in the cache of verified ones.
        assert await outcome(verifier, stolen) == "token_invalid"


async def test_keys_are_renewed_while_nobody_asks(signer: Signer, address: KeyServer) -> None:
    async with learning(address.url, renew_seconds=0.01) as verifier:
        signer.rotate(keep_old=True)
        address.document = signer.jwks()
        async with asyncio.timeout(20):
            while True:
                try:
                    assert verifier.verify(signer.token()).user_id == ALICE
                except KeyUnknown:
                    await asyncio.sleep(0.01)
                else:
                    break


async def test_mallory_cannot_make_us_ask(signer: Signer, address: KeyServer, clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "mallory").mkdir()
    mallory = Signer(tmp_path / "mallory")
    async with learning(address.url) as verifier:
        clock.now = 60
        for _ in range(50):
            assert await outcome(verifier, mallory.token()) == "token_invalid"
            mallory.rotate(keep_old=False)
        assert address.asked == 2


async def test_known_keys_outlive_the_auth_service(signer: Signer, address: KeyServer, clock: Clock) -> None:
    async with learning(address.url) as verifier:
        address.status, clock.now = 503, 60
        assert await outcome(verifier, signer.token()) == "alice"
        signer.rotate(keep_old=True)
        # Nobody can tell: a 401 would make Alice throw a good token away.
        assert await outcome(verifier, signer.token()) == "busy"
        address.status, address.document, clock.now = 200, signer.jwks(), 120
        assert await outcome(verifier, signer.token()) == "alice"


async def test_a_start_does_not_need_the_auth_service(
    signer: Signer, address: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(public_keys, "_RETRY_SECONDS", 0.01)
    address.status = 503
    async with learning(address.url) as verifier:
        with pytest.raises(Busy):
            await verifier.identify(signer.token())
        assert await outcome(verifier, b"Bearer nonsense") == "token_invalid"
        address.status = 200
        # It asks again by itself.
        async with asyncio.timeout(20):
            while await outcome(verifier, signer.token()) != "alice":
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<html>",
        b"{}",
        b'{"keys": []}',
        b'{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}',
        json.dumps({"keys": [OKPKey.generate_key("X25519").as_dict(private=False)]}).encode(),
        json.dumps({"keys": [OKPKey.generate_key("Ed25519").as_dict(private=False) for _ in range(17)]}).encode(),
        b" " * 70_000,
    ],
    ids=["nothing", "HTML", "no keys", "empty", "secret", "X25519", "too many", "too long"],
)
async def test_what_is_no_key_set_changes_nothing(
    signer: Signer, address: KeyServer, clock: Clock, document: bytes
) -> None:
    async with learning(address.url) as verifier:
        address.document, clock.now = document, 60
        with pytest.raises(Busy):
            await verifier.learn()
        assert await outcome(verifier, signer.token()) == "alice"


async def test_the_first_address_that_answers_is_believed(signer: Signer, address: KeyServer) -> None:
    nobody = "http://127.0.0.1:1/.well-known/jwks.json"
    async with learning(nobody, address.url, nobody) as verifier:
        assert await outcome(verifier, signer.token()) == "alice"


async def test_a_file_of_public_keys_is_enough(signer: Signer, tmp_path: Path, clock: Clock) -> None:
    public = tmp_path / "public.json"
    public.write_bytes(signer.jwks())
    assert '"d"' not in public.read_text()
    async with learning(public) as verifier:
        assert await outcome(verifier, signer.token()) == "alice"
        signer.rotate(keep_old=False)
        public.write_bytes(signer.jwks())
        clock.now = 60
        assert await outcome(verifier, signer.token()) == "alice"


async def test_of_a_private_file_only_the_public_halves_are_taken(signer: Signer) -> None:
    async with learning(signer.file) as verifier:
        assert await outcome(verifier, signer.token()) == "alice"
        (key,) = load_signing_keys(signer.file)
        assert not any(key.raw_value == value for value in vars(verifier).values())
        assert not hasattr(verifier, "issue")


async def test_an_id_is_always_the_thumbprint(signer: Signer, address: KeyServer, tmp_path: Path) -> None:
    """Mallory, whose key stands in the set as another's would, signs with it under that name."""
    (tmp_path / "mallory").mkdir()
    mallory = Signer(tmp_path / "mallory")
    ours, hers = json.loads(signer.jwks())["keys"], json.loads(mallory.jwks())["keys"]
    address.document = json.dumps({"keys": [*ours, {**hers[0], "kid": ours[0]["kid"]}]}).encode()
    async with learning(address.url) as verifier:
        assert await outcome(verifier, signer.token()) == "alice"
        assert await outcome(verifier, mallory.token()) == "alice"


async def test_what_cannot_serve_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(Mendable, match="HOLDFAST_JWKS_URL"):
        verifier_of(Settings())
    for content in (None, "not JSON"):
        file = tmp_path / "keys.json"
        if content is not None:
            file.write_text(content)
        with pytest.raises(Mendable, match="is not a JWK set"):
            async with learning(file):
                pass
    for url in ("auth:8000", "file:///etc/passwd", "http://", "ftp://auth/keys"):
        with pytest.raises(Mendable, match="HOLDFAST_JWKS_URL: is http"):
            load_settings(jwks_url=url)
    urls = load_settings(jwks_url="http://a/keys, https://b:1/keys").jwks_url
    assert urls == ("http://a/keys", "https://b:1/keys")
