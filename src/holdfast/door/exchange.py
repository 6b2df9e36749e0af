"""One request of the hot table and its answer, in plain ASGI: no more is read of it than its route needs."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias, TypeVar
from urllib.parse import parse_qs

import msgspec

from holdfast.errors import Fault, Invalid, refuse

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]

JSON: tuple[bytes, bytes] = (b"content-type", b"application/json")
NO_STORE: tuple[bytes, bytes] = (b"cache-control", b"no-store")

Body = TypeVar("Body")

_WANTED = frozenset((b"authorization", b"content-type", b"content-length", b"idempotency-key", b"if-none-match"))
_KEY_LENGTH_MAX = 255


class Request:
    """What a hot route may ask of a request."""

    __slots__ = ("_fields", "_receive", "body_bytes_max", "path_id", "scope")

    def __init__(self, scope: Scope, receive: Receive, path_id: str, body_bytes_max: int) -> None:
        self.scope = scope
        self.path_id = path_id
        self.body_bytes_max = body_bytes_max
        self._receive = receive
        fields: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in _WANTED:
                # Twice is as good as wrong: no two readers may choose differently.
                fields[name] = value if name not in fields else b"\x00"
        self._fields = fields

    @property
    def authorization(self) -> bytes | None:
        """The Authorization header's value."""
        return self._fields.get(b"authorization")

    @property
    def if_none_match(self) -> bytes | None:
        """The If-None-Match header's value."""
        return self._fields.get(b"if-none-match")

    def idempotency_key(self) -> str:
        """The Idempotency-Key: 1 to 255 printable ASCII characters. Raises idempotency_key_missing or bad_request."""
        value = self._fields.get(b"idempotency-key")
        if not value:
            raise refuse(
                "idempotency_key_missing", "Send a new one with each purchase, the same one on a retry."
            )
        key = value.decode("latin-1")
        if len(key) > _KEY_LENGTH_MAX or not key.isascii() or not key.isprintable():
            raise refuse(
                "bad_request", f"Idempotency-Key is 1 to {_KEY_LENGTH_MAX} printable ASCII characters, once."
            )
        return key

    def query(self, *names: str) -> dict[str, str]:
        """The query's parameters. Raises Invalid for one that is unknown or given twice."""
        text = self.scope["query_string"].decode("latin-1")
        if not text:
            return {}
        found: dict[str, str] = {}
        for name, values in parse_qs(text, keep_blank_values=True, max_num_fields=20).items():
            if name not in names:
                raise Invalid(Fault(name[:50], "There is no such parameter."))
            if len(values) > 1:
                raise Invalid(Fault(name, "This parameter was given twice."))
            found[name] = values[0]
        return found

    async def body(self) -> bytes:
        """The whole body. Raises too_large."""
        declared = self._fields.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > self.body_bytes_max:
            raise refuse("too_large", f"A body here has at most {self.body_bytes_max} bytes.")
        message = await self._receive()
        body: bytes = message.get("body", b"")
        while message.get("more_body", False):
            message = await self._receive()
            body += message.get("body", b"")
            if len(body) > self.body_bytes_max:
                raise refuse("too_large", f"A body here has at most {self.body_bytes_max} bytes.")
        if message["type"] == "http.disconnect":
            raise refuse("bad_request", "The request ended before its body did.")
        return body

    def check_json(self) -> None:
        """Raises unsupported_media_type for anything but JSON."""
        value = self._fields.get(b"content-type", b"")
        if value != b"application/json" and value.partition(b";")[0].strip().lower() != b"application/json":
            raise refuse("unsupported_media_type")


def decode(decoder: msgspec.json.Decoder[Body], body: bytes) -> Body:
    """A decoded body. Raises broken_json, or Invalid with a pointer to what is wrong."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise Invalid(_fault(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise refuse("broken_json") from error


def _fault(text: str) -> Fault:
    # msgspec says: "Expected `int`, got `str` - at `$.lines[0].quantity`"
    detail, _, path = text.partition(" - at `")
    pointer = path.removesuffix("`").removeprefix("$").replace("[", "/").replace("]", "").replace(".", "/")
    return Fault(pointer, detail.replace("`", "") + ".")
