"""Access tokens: JWTs (RFC 7519) signed with Ed25519, and the bounded memory of those already verified.

joserfc makes tokens and keys. It is libsodium that checks a signature, in half of OpenSSL's time: in a rush, most
tokens are seen for the first time.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Literal
from uuid import UUID

import msgspec
import structlog
from joserfc import jws
from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError

from holdfast import ids
from holdfast.auth.signing_keys import load_signing_keys, public_part
from holdfast.clock import monotonic_seconds, unix_seconds
from holdfast.errors import Refusal
from holdfast.settings import Settings

ISSUER = "holdfast"
ALGORITHM = "EdDSA"
ACCESS_TOKEN_SECONDS_MAX = 3600
Role = Literal["buyer", "organiser", "admin"]

# A token of ours is under 500 bytes; the bound keeps what is hashed and parsed small.
_AUTHORIZATION_BYTES_MAX = 2048
_CLOCK_SKEW_SECONDS = 5
# The clocks of two machines may be some minutes apart before buyers suffer for it: a token of ours that seems to come
# from so far in the future is good.
_CLOCK_SKEW_SECONDS_MAX = 600
_COMPLAINT_SECONDS = 60
_BEARER = re.compile(rb"(?i:bearer) (([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+))\.([A-Za-z0-9_-]{86})")
_HEADS_MAX = 64

_log = structlog.get_logger(__name__)


class Identity(msgspec.Struct, frozen=True):
    """Who a request comes from, as its token says."""

    user_id: UUID
    role: Role
    expires_at: float
    """Unix seconds."""


class KeyUnknown(Refusal):
    """A token_invalid of a token that names a key which is not known here. It may be one that is newer than what we
    know: `Verifier.identify` asks."""

    def __init__(self) -> None:
        super().__init__("token_invalid", headers=_challenge("token_invalid"))


class Verifier:
    """Verifies access tokens with public keys, by their ids. Belongs to one event loop."""

    def __init__(self, settings: Settings, public_keys: Mapping[str, bytes]) -> None:
        self._public_keys = dict(public_keys)
        self._heads: dict[bytes, bytes | None] = {}
        """A token's first part -> the public key that it names, or None where it may not."""
        # Keyed by a hash of the whole header value; only what was verified is ever put in.
        self._verified: OrderedDict[bytes, Identity] = OrderedDict()
        self._verified_max = settings.token_cache_entries_max
        self._complained_at = float("-inf")

    def verify(self, authorization: bytes | None) -> Identity:
        """The identity in an Authorization header's value, of which a cached one costs a hash and a look-up.

        Raises the refusals token_missing, token_invalid (KeyUnknown among them) and token_expired.
        """
        if not authorization:
            raise _refusal("token_missing")
        if len(authorization) > _AUTHORIZATION_BYTES_MAX:
            raise _refusal("token_invalid")
        key = sha256(authorization).digest()
        identity = self._verified.get(key)
        if identity is None:
            identity = self._read(authorization)
            self._verified[key] = identity
            if len(self._verified) > self._verified_max:
                self._verified.popitem(last=False)
        else:
            self._verified.move_to_end(key)
        if identity.expires_at <= unix_seconds():
            del self._verified[key]
            raise _refusal("token_expired")
        return identity

    async def identify(self, authorization: bytes | None) -> Identity:
        """The same, but that a key which is not known is asked for once. Raises Busy where nobody can tell."""
        try:
            return self.verify(authorization)
        except KeyUnknown:
            await self.learn()
        return self.verify(authorization)

    async def learn(self) -> None:
        """Finds out what keys there are by now. Here all are known from the start."""

    def trust(self, public_keys: Mapping[str, bytes]) -> None:
        """These keys, and no others, are good from now on."""
        if not public_keys.keys() >= self._public_keys.keys():
            # Whatever a key that is gone has signed goes with it.
            self._verified.clear()
        self._public_keys = dict(public_keys)
        self._heads.clear()

    def _read(self, authorization: bytes) -> Identity:
        """Verifies in full. The algorithm is pinned: what the token's header says about it only has to agree."""
        match = _BEARER.fullmatch(authorization)
        if match is None:
            raise _refusal("token_invalid")
        signed, head, payload, last = match.groups()
        try:
            public_key, signature = self._key_of(head), _part(last)
            if public_key is None:
                raise KeyUnknown
            if urlsafe_b64encode(signature).rstrip(b"=") != last:
                # 64 bytes leave four spare bits in the last letter: without this, sixteen spellings of a token would be
                # valid and each would take a place in the cache.
                raise _refusal("token_invalid")
            crypto_sign_open(signature + signed, public_key)
            claims = _decode_claims(_part(payload))
        except (BadSignatureError, msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise _refusal("token_invalid") from error
        user_id = ids.decode(ids.USER, claims.sub)
        if user_id is None or not _plausible(claims):
            raise _refusal("token_invalid")
        if claims.iat > unix_seconds() + _CLOCK_SKEW_SECONDS:
            self._complain(claims.iat - unix_seconds())
        return Identity(user_id, claims.role, float(claims.exp))

    def _complain(self, seconds: float) -> None:
        if monotonic_seconds() - self._complained_at >= _COMPLAINT_SECONDS:
            self._complained_at = monotonic_seconds()
            _log.warning(
                f"this machine's clock is {seconds:.0f} s behind that of an auth service: set them right, or tokens "
                "are good for longer or shorter than they say"
            )

    def _key_of(self, head: bytes) -> bytes | None:
        """The public key that a token's first part names. All of ours have one of a few."""
        if head not in self._heads:
            if len(self._heads) >= _HEADS_MAX:
                self._heads.clear()
            self._heads[head] = self._public_keys.get(_decode_head(_part(head)).kid)
        return self._heads[head]


class Tokens(Verifier):
    """Issues access tokens too, with the private keys. Belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        keys = load_signing_keys(settings.signing_key_file)
        super().__init__(settings, {str(key.kid): public_part(key) for key in keys})
        self.lifetime_seconds = settings.access_token_seconds
        self._keys = keys

    def issue(self, user_id: UUID, role: Role) -> str:
        """A new token for this user, good for `lifetime_seconds`."""
        now = int(unix_seconds())
        claims = _Claims(
            iss=ISSUER,
            sub=ids.encode(ids.USER, user_id),
            role=role,
            iat=now,
            exp=now + self.lifetime_seconds,
            jti=ids.new_id().hex,
        )
        signing_key = self._keys[0]
        header = {"alg": ALGORITHM, "kid": signing_key.kid, "typ": "JWT"}
        return jws.serialize_compact(header, msgspec.json.encode(claims), signing_key, registry=_registry)

    def jwks(self) -> dict[str, list[dict[str, str | list[str]]]]:
        """The public halves of the keys, for others who verify our tokens."""
        return {"keys": [key.as_dict(private=False, alg=ALGORITHM, use="sig") for key in self._keys]}


class _Head(msgspec.Struct, forbid_unknown_fields=True):
    alg: Literal["EdDSA"]
    kid: str
    typ: Literal["JWT"] = "JWT"


class _Claims(msgspec.Struct):
    iss: str
    sub: str
    role: Role
    iat: int
    exp: int
    jti: str


class _Registry(jws.JWSRegistry):
    """EdDSA alone. joserfc warns of the name, since RFC 9864 splits it by curve; verifiers elsewhere know only this
    one, and which curve is meant is settled here by the keys, which are all Ed25519."""

    def get_alg(self, name: str) -> Any:
        if name != ALGORITHM:
            raise ValueError("another algorithm")
        return self.algorithms[ALGORITHM]


_registry = _Registry()
_decode_head = msgspec.json.Decoder(_Head).decode
_decode_claims = msgspec.json.Decoder(_Claims).decode


def _part(text: bytes) -> bytes:
    """A part of a token: base64url without padding. Raises ValueError."""
    return urlsafe_b64decode(text + b"==")


def _plausible(claims: _Claims) -> bool:
    return (
        claims.iss == ISSUER
        and 0 <= claims.iat <= unix_seconds() + _CLOCK_SKEW_SECONDS_MAX
        and claims.iat < claims.exp <= claims.iat + ACCESS_TOKEN_SECONDS_MAX
    )


def _refusal(code: str) -> Refusal:
    return Refusal(code, headers=_challenge(code))


def _challenge(code: str) -> dict[str, str]:
    return {"WWW-Authenticate": "Bearer" if code == "token_missing" else 'Bearer error="invalid_token"'}
