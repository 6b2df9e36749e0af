"""Access tokens: JWTs (RFC 7519) signed with Ed25519, and the bounded memory of those already verified."""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict
from hashlib import sha256
from typing import Any, Literal
from uuid import UUID

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from holdfast import ids
from holdfast.auth.signing_keys import load_signing_keys
from holdfast.clock import unix_seconds
from holdfast.errors import Refusal
from holdfast.settings import Settings

ISSUER = "holdfast"
ALGORITHM = "EdDSA"
ACCESS_TOKEN_SECONDS_MAX = 3600
Role = Literal["buyer", "organiser", "admin"]

# A token of ours is under 500 bytes; the bound keeps what is hashed and parsed small.
_AUTHORIZATION_BYTES_MAX = 2048
_CLOCK_SKEW_SECONDS = 5
_BEARER = re.compile(rb"(?i:bearer) ([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.([A-Za-z0-9_-]{86}))")


class Identity(msgspec.Struct, frozen=True):
    """Who a request comes from, as its token says."""

    user_id: UUID
    role: Role
    expires_at: float
    """Unix seconds."""


class Tokens:
    """Issues and verifies access tokens. Belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        keys = load_signing_keys(settings.signing_key_file)
        self.lifetime_seconds = settings.access_token_seconds
        self._signing_key = keys[0]
        self._keys = {str(key.kid): key for key in keys}
        # Keyed by a hash of the whole header value; only what was verified is ever put in.
        self._verified: OrderedDict[bytes, Identity] = OrderedDict()
        self._verified_max = settings.token_cache_entries_max

    def verify(self, authorization: bytes | None) -> Identity:
        """The identity in an Authorization header's value, of which a cached one costs a hash and a look-up.

        Raises the refusals token_missing, token_invalid and token_expired.
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
        header = {"alg": ALGORITHM, "kid": self._signing_key.kid, "typ": "JWT"}
        return jws.serialize_compact(header, msgspec.json.encode(claims), self._signing_key, registry=_registry)

    def jwks(self) -> dict[str, list[dict[str, str | list[str]]]]:
        """The public halves of the keys, for others who verify our tokens."""
        return {"keys": [key.as_dict(private=False, alg=ALGORITHM, use="sig") for key in self._keys.values()]}

    def _read(self, authorization: bytes) -> Identity:
        """Verifies in full. The algorithm is pinned: what the token's header says about it only has to agree."""
        match = _BEARER.fullmatch(authorization)
        if match is None or not _canonical(match[2]):
            raise _refusal("token_invalid")
        try:
            parts = jws.extract_compact(match[1], registry=_registry)
            key = self._keys.get(str(parts.protected.get("kid")))
            if key is None or not _signed_by(parts, key):
                raise _refusal("token_invalid")
            claims = _decode_claims(parts.payload)
        except (JoseError, msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
            raise _refusal("token_invalid") from error
        user_id = ids.decode(ids.USER, claims.sub)
        if user_id is None or not _plausible(claims):
            raise _refusal("token_invalid")
        return Identity(user_id, claims.role, float(claims.exp))


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
_decode_claims = msgspec.json.Decoder(_Claims).decode


def _signed_by(parts: jws.CompactSignature, key: OKPKey) -> bool:
    return parts.protected.get("typ", "JWT") == "JWT" and jws.validate_compact(parts, key, registry=_registry)


def _canonical(signature: bytes) -> bool:
    # 64 bytes leave four spare bits in the last letter: without this, sixteen spellings of a token would be valid and
    # each would take a place in the cache.
    return urlsafe_b64encode(urlsafe_b64decode(signature + b"==")).rstrip(b"=") == signature


def _plausible(claims: _Claims) -> bool:
    return (
        claims.iss == ISSUER
        and 0 <= claims.iat <= unix_seconds() + _CLOCK_SKEW_SECONDS
        and claims.iat < claims.exp <= claims.iat + ACCESS_TOKEN_SECONDS_MAX
    )


def _refusal(code: str) -> Refusal:
    challenge = "Bearer" if code == "token_missing" else 'Bearer error="invalid_token"'
    return Refusal(code, headers={"WWW-Authenticate": challenge})
