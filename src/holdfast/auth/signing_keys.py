"""The keys that sign access tokens: a file with a JWK set (RFC 7517) of private Ed25519 keys.

The first key signs and all verify, so a key is rotated by putting a new one in front and taking the old one away once
the last token it signed has expired. A key's id is its thumbprint (RFC 7638).
"""

import os
import secrets
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
        keys = [_load(entry) for entry in document.keys]
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


class _KeySet(msgspec.Struct):
    keys: list[dict[str, str | list[str]]]


def _load(entry: dict[str, str | list[str]]) -> OKPKey:
    if entry.get("kty") != "OKP" or entry.get("crv") != "Ed25519" or "d" not in entry:
        raise ValueError("not a private Ed25519 key")
    # Only the key itself is taken over: the id is always the thumbprint, whatever the file says.
    key = OKPKey.import_key({name: entry[name] for name in ("kty", "crv", "x", "d")})
    if key.as_dict(private=False)["x"] != OKPKey.import_key(key.raw_value).as_dict(private=False)["x"]:
        raise ValueError("the public half is of another key")
    key.ensure_kid()
    return key
