"""The keys that sign access tokens: a file with a JWK set (RFC 7517) of private Ed25519 keys.

The first key signs and all verify. A key is rotated in three steps, each with a restart of the auth service: a new one
is put at the end, so that everyone comes to know it; then in front; and the old one is taken away once the last token
that it signed has expired. Where one process is all there is, the first step can be left out. A key's id is its
thumbprint (RFC 7638).

Only the auth service needs this file. The others verify with the public halves: see auth/public_keys.py.
"""

import os
import secrets
from base64 import urlsafe_b64decode
from pathlib import Path

import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from holdfast.errors import Mendable

_KEYS_MAX = 16


def load_signing_keys(path: Path | None) -> list[OKPKey]:
    """The keys of the file, the signing one first. Raises Mendable where it cannot serve."""
    if path is None:
        raise Mendable("No signing key is set: put the path of a private JWK set into HOLDFAST_SIGNING_KEY_FILE.")
    try:
        document = msgspec.json.decode(path.read_bytes(), type=_KeySet)
        keys = [_load_private(entry) for entry in document.keys]
    except OSError as error:
        raise Mendable(
            f"The signing keys in {path} cannot be read ({error.strerror}): "
            "let HOLDFAST_SIGNING_KEY_FILE name a file that can."
        ) from error
    except (msgspec.DecodeError, JoseError, ValueError, TypeError, KeyError) as error:
        raise Mendable(
            f"{path} is not a JWK set of private Ed25519 keys: restore a backup of it, or remove it to have a new one "
            "made (everyone must then log in again)."
        ) from error
    if not 0 < len(keys) <= _KEYS_MAX or len({key.kid for key in keys}) != len(keys):
        raise Mendable(f"{path} must hold 1 to {_KEYS_MAX} different keys: take away what is too much.")
    return keys


def create_signing_keys(path: Path) -> None:
    """Writes a set with one new key, readable by its owner alone; the file appears whole or not at all."""
    key = OKPKey.generate_key("Ed25519", auto_kid=True)
    body = msgspec.json.encode({"keys": [key.as_dict(private=True, alg="EdDSA", use="sig")]})
    draft = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def parse_public_keys(document: bytes) -> dict[str, bytes]:
    """The public keys of a JWK set, by their ids: what else is in it, private halves too, is left alone. Raises
    ValueError."""
    try:
        entries = msgspec.json.decode(document, type=_KeySet).keys
        keys = {str(key.kid): public_part(key) for key in (_load(entry, ("kty", "crv", "x")) for entry in entries)}
    except (msgspec.DecodeError, JoseError, TypeError, KeyError) as error:
        raise ValueError("it is not a JWK set of Ed25519 keys") from error
    if not 0 < len(keys) <= _KEYS_MAX:
        raise ValueError(f"it must hold 1 to {_KEYS_MAX} keys")
    return keys


def public_part(key: OKPKey) -> bytes:
    """The 32 bytes that a signature of this key is checked with."""
    return urlsafe_b64decode(str(key.as_dict(private=False)["x"]) + "==")


class _KeySet(msgspec.Struct):
    keys: list[dict[str, str | list[str]]]


def _load_private(entry: dict[str, str | list[str]]) -> OKPKey:
    key = _load(entry, ("kty", "crv", "x", "d"))
    if key.as_dict(private=False)["x"] != OKPKey.import_key(key.raw_value).as_dict(private=False)["x"]:
        raise ValueError("the public half is of another key")
    return key


def _load(entry: dict[str, str | list[str]], members: tuple[str, ...]) -> OKPKey:
    if entry.get("kty") != "OKP" or entry.get("crv") != "Ed25519":
        raise ValueError("not an Ed25519 key")
    # Only the key itself is taken over: the id is always the thumbprint, whatever the file says.
    key = OKPKey.import_key({name: entry[name] for name in members})
    key.ensure_kid()
    return key
