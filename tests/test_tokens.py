"""Access tokens against Mallory: only what our key signed, as we sign it, for as long as it says, gets in."""

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from joserfc.jwk import OKPKey

from holdfast import ids
from holdfast.auth import tokens as tokens_module
from holdfast.auth.signing_keys import create_signing_keys, load_signing_keys
from holdfast.auth.tokens import Identity, Tokens
from holdfast.clock import unix_seconds
from holdfast.errors import Refusal
from holdfast.settings import Settings

ALICE = ids.new_id()


@pytest.fixture
def house(tmp_path: Path) -> Settings:
    path = tmp_path / "keys.json"
    create_signing_keys(path)
    return Settings(signing_key_file=path, token_cache_entries_max=100)


@pytest.fixture
def tokens(house: Settings) -> Tokens:
    return Tokens(house)


class Time:
    """The wall clock in Mallory's hands."""

    def __init__(self) -> None:
        self.now = unix_seconds()

    def read(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    moved = Time()
    monkeypatch.setattr(tokens_module, "unix_seconds", moved.read)
    return moved


def _part(content: object) -> str:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def _claims(**changes: Any) -> dict[str, Any]:
    now = int(unix_seconds())
    claims = {
        "iss": "holdfast",
        "sub": ids.encode(ids.USER, ALICE),
        "role": "admin",
        "iat": now,
        "exp": now + 900,
        "jti": "x",
        **changes,
    }
    return {name: value for name, value in claims.items() if value is not None}


def _signed(key: OKPKey, claims: object, **header: object) -> bytes:
    """A token signed with this key, whatever it says."""
    head = {"alg": "EdDSA", "kid": key.kid, "typ": "JWT", **header}
    head = {name: value for name, value in head.items() if value is not None}
    signing_input = f"{_part(head)}.{_part(claims)}"
    signature = key.private_key.sign(signing_input.encode())  # type: ignore[union-attr]
    return f"Bearer {signing_input}.{_part(signature)}".encode()


def _key(house: Settings) -> OKPKey:
    return load_signing_keys(house.signing_key_file)[0]


def _refused(tokens: Tokens, authorization: bytes | None) -> Refusal:
    with pytest.raises(Refusal) as caught:
        tokens.verify(authorization)
    assert caught.value.kind.status == 401
    assert caught.value.headers["WWW-Authenticate"].startswith("Bearer")
    assert not tokens._verified
    return caught.value


def test_an_issued_token_says_who_it_is(tokens: Tokens) -> None:
    identity = tokens.verify(f"Bearer {tokens.issue(ALICE, 'organiser')}".encode())
    assert (identity.user_id, identity.role) == (ALICE, "organiser")
    assert unix_seconds() + 890 < identity.expires_at <= unix_seconds() + 900


def test_the_control_a_token_signed_by_hand_is_good(house: Settings, tokens: Tokens) -> None:
    """Without this, the refusals below could all have one harmless cause."""
    assert tokens.verify(_signed(_key(house), _claims())).user_id == ALICE


def test_a_token_names_its_key_and_kind(house: Settings, tokens: Tokens) -> None:
    header = json.loads(base64.urlsafe_b64decode(tokens.issue(ALICE, "buyer").split(".")[0] + "=="))
    assert header == {"alg": "EdDSA", "kid": _key(house).kid, "typ": "JWT"}


def test_the_published_keys_are_public(house: Settings, tokens: Tokens) -> None:
    (published,) = tokens.jwks()["keys"]
    assert "d" not in published
    assert published["kid"] == _key(house).kid
    assert (published["alg"], published["use"], published["crv"]) == ("EdDSA", "sig", "Ed25519")


@pytest.mark.parametrize(
    "authorization",
    [
        b"Bearer",
        b"Bearer ",
        b"Bearer x",
        b"Bearer a.b.c",
        b"Basic YWxpY2U6c2VjcmV0",
        b"Bearer ..",
        b"Bearer \xff\xfe.\x00.x",
        b"Bearer " + b"a" * 5_000_000,
        b"ambiguous",
    ],
)
def test_what_is_no_token_is_refused(tokens: Tokens, authorization: bytes) -> None:
    assert _refused(tokens, authorization).code == "token_invalid"


@pytest.mark.parametrize("authorization", [None, b""])
def test_nothing_is_missing(tokens: Tokens, authorization: bytes | None) -> None:
    assert _refused(tokens, authorization).code == "token_missing"


@pytest.mark.parametrize("algorithm", ["none", "None", "HS256", "ES256", "Ed25519", "Ed448", "eddsa", "", 7, None])
def test_another_algorithm_is_refused(house: Settings, tokens: Tokens, algorithm: object) -> None:
    """Even under our own key's signature: the algorithm is pinned."""
    assert _refused(tokens, _signed(_key(house), _claims(), alg=algorithm)).code == "token_invalid"


def test_an_unsigned_token_is_refused(house: Settings, tokens: Tokens) -> None:
    head = _part({"alg": "none", "kid": _key(house).kid})
    for signature in ("", "A" * 86):
        assert _refused(tokens, f"Bearer {head}.{_part(_claims())}.{signature}".encode()).code == "token_invalid"


def test_the_public_key_is_no_shared_secret(house: Settings, tokens: Tokens) -> None:
    """Algorithm confusion: HMAC under what everyone may read at /.well-known/jwks.json."""
    published = tokens.jwks()["keys"][0]
    for secret in (base64.urlsafe_b64decode(str(published["x"]) + "="), json.dumps(published).encode()):
        signing_input = f"{_part({'alg': 'HS256', 'kid': published['kid']})}.{_part(_claims())}"
        signature = hmac.digest(secret, signing_input.encode(), hashlib.sha256)
        assert _refused(tokens, f"Bearer {signing_input}.{_part(signature)}".encode()).code == "token_invalid"


def test_a_forged_key_is_refused(house: Settings, tokens: Tokens) -> None:
    mallorys = OKPKey.generate_key("Ed25519", auto_kid=True)
    for header in (
        {},
        {"kid": _key(house).kid},
        {"kid": None},
        {"kid": ""},
        {"kid": ["x"]},
        {"kid": _key(house).kid, "jwk": mallorys.as_dict(private=False)},
        {"jwk": mallorys.as_dict(private=False)},
        {"jku": "https://mallory.example/jwks.json"},
        {"kid": "../../dev/null"},
    ):
        assert _refused(tokens, _signed(mallorys, _claims(), **header)).code == "token_invalid"


@pytest.mark.parametrize("header", [{"crit": ["exp"]}, {"b64": False, "crit": ["b64"]}, {"typ": "refresh"}, {"typ": 7}])
def test_odd_headers_are_refused(house: Settings, tokens: Tokens, header: dict[str, object]) -> None:
    assert _refused(tokens, _signed(_key(house), _claims(), **header)).code == "token_invalid"


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "mallory"},
        {"iss": None},
        {"sub": None},
        {"sub": "usr_x"},
        {"sub": str(ALICE)},
        {"sub": ids.encode(ids.ORDER, ALICE)},
        {"sub": 7},
        {"role": None},
        {"role": "root"},
        {"role": ["admin"]},
        {"exp": None},
        {"exp": "2099"},
        {"exp": int(unix_seconds()) + 900.5},
        {"exp": 10**400},
        {"exp": 2**63},
        {"exp": True},
        {"exp": int(unix_seconds()) + 7200},
        {"exp": 0},
        {"iat": int(unix_seconds()) + 86400, "exp": int(unix_seconds()) + 86500},
        {"iat": -1, "exp": 3},
        {"iat": None},
        {"jti": None},
    ],
)
def test_odd_claims_are_refused(house: Settings, tokens: Tokens, changes: dict[str, object]) -> None:
    assert _refused(tokens, _signed(_key(house), _claims(**changes))).code == "token_invalid"


@pytest.mark.parametrize("payload", [b"", b"[]", b"null", b"7", b"\xff", b"{", b"[" * 900])
def test_odd_payloads_are_refused(house: Settings, tokens: Tokens, payload: bytes) -> None:
    assert _refused(tokens, _signed(_key(house), payload)).code == "token_invalid"


def test_a_changed_letter_anywhere_is_refused(tokens: Tokens) -> None:
    good = f"Bearer {tokens.issue(ALICE, 'buyer')}".encode()
    for place in range(7, len(good)):
        changed = b"A" if good[place : place + 1] != b"A" else b"B"
        if good[place : place + 1] != b".":
            assert _refused(tokens, good[:place] + changed + good[place + 1 :]).code == "token_invalid"


def test_a_token_has_one_spelling(tokens: Tokens) -> None:
    """Else one token would fill the cache: base 64 has spare bits, and Python's decoder skips what it does not know."""
    token = tokens.issue(ALICE, "buyer")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(token[-1])
    spellings = [token[:-1] + alphabet[last ^ spare] for spare in range(1, 16)]
    spellings += [token + "=", token + "==", token + "\n", token + " ", " " + token, token[:-5] + "!" + token[-5:]]
    for spelling in spellings:
        assert _refused(tokens, f"Bearer {spelling}".encode()).code == "token_invalid"


def test_a_cached_token_expires_all_the_same(tokens: Tokens, time: Time) -> None:
    good = f"Bearer {tokens.issue(ALICE, 'buyer')}".encode()
    expires_at = tokens.verify(good).expires_at
    time.now = expires_at - 0.001
    assert tokens.verify(good).user_id == ALICE
    time.now = expires_at
    assert _refused(tokens, good).code == "token_expired"
    assert _refused(tokens, good).code == "token_expired"


def test_the_cache_is_bounded_and_forgets_the_least_recently_used(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued = [f"Bearer {tokens.issue(UUID(int=number), 'buyer')}".encode() for number in range(250)]
    for token in issued:
        tokens.verify(issued[0])
        tokens.verify(token)
        assert len(tokens._verified) <= 100
    read: list[bytes] = []
    original = tokens._read

    def note(value: bytes) -> Identity:
        read.append(value)
        return original(value)

    monkeypatch.setattr(tokens, "_read", note)
    for token in issued:
        assert tokens.verify(token).user_id == UUID(int=issued.index(token))
    assert issued[0] not in read
    assert len(read) >= 150


def test_malformed_tokens_take_no_place(tokens: Tokens) -> None:
    good = f"Bearer {tokens.issue(ALICE, 'buyer')}".encode()
    tokens.verify(good)
    for number in range(1000):
        with pytest.raises(Refusal):
            tokens.verify(good[:-8] + f"{number:08}".encode())
    assert len(tokens._verified) == 1
