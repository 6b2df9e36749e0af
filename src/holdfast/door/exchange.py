"""One request of the hot table and its answer: no more is read of it than its route needs."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, NamedTuple, TypeAlias, TypeVar
from urllib.parse import parse_qs

import msgspec

from holdfast.auth.position import HEADER, position_asked
from holdfast.errors import Fault, Invalid, Refusal, refuse
from holdfast.orders.batch import Reply

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]

JSON = b"content-type: application/json\r\n"
NO_STORE = b"cache-control: no-store\r\n"
NO_CACHE = b"cache-control: no-cache\r\n"

Mark: TypeAlias = Callable[[], Awaitable[str | None]]
"""Where the log ends now, for the reply to a write that was just committed; None where no reader needs to know."""

Body = TypeVar("Body")

_NO_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_KEY_LENGTH_MAX = 255
_PARAMETERS_MAX = 20
_FAULT_LETTERS_MAX = 200


class Answer(NamedTuple):
    """Status, header lines as they go out (each with its CRLF), and body."""

    status: int
    head: bytes
    body: bytes


class Later(NamedTuple):
    """An answer that waits for a reply: `finish` makes it of the reply when that is done, raises, or returns what it
    refuses: raised thousands of times a second, exceptions leave much to be cleared away."""

    reply: Reply[Any]
    finish: Callable[[Reply[Any]], Answer | Refusal]


Handler: TypeAlias = "Callable[[Request], Answer | Later | Awaitable[Answer]]"
"""Answers at once, from a reply, or as a coroutine, whichever is the least that its route needs. Raises a Refusal."""


class Request:
    """What a hot route may ask of a request. Its body was read before: whole, or None where it ended too early or was
    larger than `body_bytes_max`."""

    __slots__ = ("_body", "_body_bytes_max", "_fields", "_is_too_large", "path_id", "query_string")

    def __init__(
        self,
        fields: Mapping[bytes, bytes],
        query_string: bytes,
        path_id: str,
        body: bytes | None,
        body_bytes_max: int,
        *,
        is_too_large: bool = False,
    ) -> None:
        self.query_string = query_string
        self.path_id = path_id
        self._body = body
        self._body_bytes_max = body_bytes_max
        self._is_too_large = is_too_large
        self._fields = fields

    @property
    def authorization(self) -> bytes | None:
        """The Authorization header's value."""
        return self._fields.get(b"authorization")

    @property
    def if_none_match(self) -> bytes | None:
        """The If-None-Match header's value."""
        return self._fields.get(b"if-none-match")

    @property
    def since(self) -> int:
        """The log position that what is read must not be before. Raises bad_request."""
        return position_asked(self._fields.get(HEADER), is_signed_in=b"authorization" in self._fields)

    def idempotency_key(self) -> str:
        """The Idempotency-Key: 1 to 255 printable ASCII characters. Raises idempotency_key_missing or bad_request."""
        value = self._fields.get(b"idempotency-key")
        if not value:
            raise refuse("idempotency_key_missing", "Send a new one with each purchase, the same one on a retry.")
        key = value.decode("latin-1")
        if len(key) > _KEY_LENGTH_MAX or not key.isascii() or not key.isprintable():
            raise refuse("bad_request", f"Idempotency-Key is 1 to {_KEY_LENGTH_MAX} printable ASCII characters, once.")
        return key

    def query(self, *names: str) -> dict[str, str]:
        """The query's parameters. Raises Invalid for one that is unknown or given twice."""
        text = self.query_string.decode("latin-1")
        if not text:
            return {}
        found: dict[str, str] = {}
        try:
            given = parse_qs(text, keep_blank_values=True, max_num_fields=_PARAMETERS_MAX)
        except ValueError as error:
            raise refuse("bad_request", f"At most {_PARAMETERS_MAX} parameters are read.") from error
        for name, values in given.items():
            if name not in names:
                raise Invalid(Fault(name[:_FAULT_LETTERS_MAX], "There is no such parameter."))
            if len(values) > 1:
                raise Invalid(Fault(name, "This parameter was given twice."))
            found[name] = values[0]
        return found

    def body(self) -> bytes:
        """The whole body. Raises too_large."""
        if self._is_too_large:
            raise refuse("too_large", f"At most {self._body_bytes_max} bytes are taken here.")
        if self._body is None:
            raise refuse("bad_request", "The request ended before its body did.")
        return self._body

    def check_json(self) -> None:
        """Raises unsupported_media_type for anything but JSON in UTF-8."""
        value = self._fields.get(b"content-type", b"")
        if (value != b"application/json" and not is_json(value)) or self._fields.get(
            b"content-encoding", b"identity"
        ).lower() != b"identity":
            raise refuse("unsupported_media_type")


def fields_of(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """A request's header fields by their names in lower case."""
    fields: dict[bytes, bytes] = {}
    for name, value in headers:
        # Twice is as good as wrong: no two readers may choose differently.
        fields[name] = value if name not in fields else b"\x00"
    return fields


def marked(position: str | None) -> bytes:
    """The header line with a write's position, where it has one."""
    return b"" if position is None else b"%b: %b\r\n" % (HEADER, position.encode())


def is_json(content_type: bytes) -> bool:
    """Whether a Content-Type says JSON in UTF-8."""
    media_type, _, parameters = content_type.lower().partition(b";")
    charset = parameters.strip().removeprefix(b"charset=").strip(b'" ')
    return media_type.strip() == b"application/json" and charset in (b"", b"utf-8", b"utf8")


def decode(decoder: msgspec.json.Decoder[Body], body: bytes) -> Body:
    """A decoded body. Raises broken_json, or Invalid with a pointer to what is wrong."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        fault = _fault(str(error))
    except _NO_JSON as error:
        raise refuse("broken_json") from error
    # msgspec stopped at the first wrong value; what follows it may be no JSON at all.
    try:
        msgspec.json.decode(body)
    except msgspec.ValidationError:
        pass  # a number that Python cannot hold
    except _NO_JSON as error:
        raise refuse("broken_json") from error
    raise Invalid(fault)


def _fault(text: str) -> Fault:
    # msgspec says: "Expected `int`, got `str` - at `$.lines[0].quantity`"
    detail, _, path = text.partition(" - at `")
    pointer = path.removesuffix("`").removeprefix("$").replace("[", "/").replace("]", "").replace(".", "/")
    # "Object contains unknown field `name`", "Object missing required field `name`"
    about, is_field, name = detail.partition(" field `")
    if is_field:
        detail = about + " field"
        pointer += "/" + name.removesuffix("`").replace("~", "~0").replace("/", "~1")
    return Fault(pointer[:_FAULT_LETTERS_MAX], detail.replace("`", "")[:_FAULT_LETTERS_MAX] + ".")
