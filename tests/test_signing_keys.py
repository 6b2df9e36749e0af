"""The file of signing keys: private, whole, rotated, and refused with a sentence where it cannot serve."""

import json
import stat
from pathlib import Path

import pytest
from joserfc.jwk import ECKey, OKPKey

from holdfast import ids
from holdfast.auth.signing_keys import create_signing_keys, load_signing_keys
from holdfast.auth.tokens import Tokens
from holdfast.errors import Mendable, Refusal
from holdfast.settings import Settings


def test_a_new_file_is_private_and_signs(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    create_signing_keys(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["keys.json"]
    (key,) = load_signing_keys(path)
    assert key.kid == key.thumbprint() == json.loads(path.read_text())["keys"][0]["kid"]
    assert key.is_private


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "keys.json").mkdir()
    with pytest.raises(OSError):
        create_signing_keys(tmp_path / "keys.json")
    assert [entry.name for entry in tmp_path.iterdir()] == ["keys.json"]


def test_the_first_key_signs_and_all_verify(tmp_path: Path) -> None:
    old, new, both = (tmp_path / name for name in ("old.json", "new.json", "both.json"))
    create_signing_keys(old)
    create_signing_keys(new)
    keys = [json.loads(path.read_text())["keys"][0] for path in (new, old)]
    both.write_text(json.dumps({"keys": keys}))

    user = ids.new_id()
    by_old = Tokens(Settings(signing_key_file=old)).issue(user, "buyer")
    rotated = Tokens(Settings(signing_key_file=both))
    assert rotated.verify(f"Bearer {by_old}".encode()).user_id == user
    by_both = rotated.issue(user, "buyer")
    assert Tokens(Settings(signing_key_file=new)).verify(f"Bearer {by_both}".encode()).user_id == user
    with pytest.raises(Refusal, match="token_invalid"):
        Tokens(Settings(signing_key_file=old)).verify(f"Bearer {by_both}".encode())


def test_no_file_is_set() -> None:
    with pytest.raises(Mendable, match="HOLDFAST_SIGNING_KEY_FILE"):
        load_signing_keys(None)


@pytest.mark.parametrize("name", ["missing.json", "."])
def test_an_unreadable_file_is_mendable(tmp_path: Path, name: str) -> None:
    with pytest.raises(Mendable, match="cannot be read"):
        load_signing_keys(tmp_path / name)


def _okp(**changes: object) -> dict[str, object]:
    return {**OKPKey.generate_key("Ed25519").as_dict(private=True), **changes}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "not JSON",
        "[]",
        "{}",
        '{"keys": 7}',
        '{"keys": [7]}',
        json.dumps({"keys": [OKPKey.generate_key("Ed25519").as_dict(private=False)]}),
        json.dumps({"keys": [OKPKey.generate_key("X25519").as_dict(private=True)]}),
        json.dumps({"keys": [OKPKey.generate_key("Ed448").as_dict(private=True)]}),
        json.dumps({"keys": [ECKey.generate_key("P-256").as_dict(private=True)]}),
        json.dumps({"keys": [_okp(d="short")]}),
        json.dumps({"keys": [_okp(d=["list"])]}),
        json.dumps({"keys": [_okp(x=OKPKey.generate_key("Ed25519").as_dict(private=False)["x"])]}),
        '{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}',
        "\x00\xff",
    ],
    ids=[
        "nothing", "text", "list", "no keys", "number", "numbers", "public", "X25519", "Ed448", "P-256", "short",
        "d a list", "not its own", "secret", "binary",
    ],
)  # fmt: skip
def test_a_file_that_is_no_private_key_set_is_mendable(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content)
    with pytest.raises(Mendable, match="is not a JWK set of private Ed25519 keys"):
        load_signing_keys(path)


def test_no_key_and_the_same_key_twice_are_mendable(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    same = _okp()
    for keys in ([], [same, same]):
        path.write_text(json.dumps({"keys": keys}))
        with pytest.raises(Mendable, match="different keys"):
            load_signing_keys(path)
