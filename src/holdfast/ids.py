"""The only module that makes ids.

Inside, an id is a UUIDv7 (RFC 9562: time-ordered, so that new rows land at the right end of an index). Outside it is
typed and opaque, TypeID style: a prefix, an underscore and the 128 bits in 26 characters of Crockford's base 32.
"""

import itertools
import os
from functools import lru_cache
from random import getrandbits, seed
from threading import Lock
from uuid import UUID

# The same as the standard library's, made, compared and hashed in C.
from asyncpg.pgproto.pgproto import UUID as FastUUID  # noqa: N811

from holdfast.clock import unix_milliseconds

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]
_VALUES = {letter: value for value, letter in enumerate(_ALPHABET)}
_ENCODED_LENGTH = 26

USER = "usr"
EVENT = "evt"
TIER = "tier"
ORDER = "ord"
TICKET = "tkt"
PAYMENT = "pay"
REQUEST = "req"

_process = os.urandom(6).hex()
_requests = itertools.count(1)


class _Source:
    """Where a process's ids come from: RFC 9562's UUIDv7 with a monotonic random tail (its method 2)."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = Lock()

    def next(self) -> int:
        now = unix_milliseconds()
        with self._lock:
            if now > self._last >> 80:
                # 74 random bits, under the version and the variant.
                tail = int.from_bytes(os.urandom(10), "big")
                candidate = (now << 80 | tail) & ~(0xF << 76 | 0x3 << 62) | 0x7 << 76 | 0x2 << 62
            else:
                # The same millisecond, or a clock set back: on by a step that nobody can guess, in 62 bits of which
                # a process does not come to the end.
                candidate = self._last + 1 + getrandbits(32)
            self._last = candidate
        return candidate


def _start_afresh() -> None:
    global _process, _requests, _source  # a forked process must not go on in its parent's sequences
    _process, _requests, _source = os.urandom(6).hex(), itertools.count(1), _Source()
    seed()


_source = _Source()
os.register_at_fork(after_in_child=_start_afresh)


def new_id() -> UUID:
    """A new UUIDv7, greater than every one this process made before."""
    return FastUUID(_source.next().to_bytes(16, "big"))


def new_request_id() -> str:
    """A name for one request in logs and answers: this process and a count. It is no key, so it need not be a UUID."""
    return f"{REQUEST}_{_process}{next(_requests):x}"


@lru_cache(maxsize=8192)
def encode(prefix: str, value: UUID) -> str:
    """`(tier, UUID)` as `tier_01h…`."""
    number = value.int
    # 13 groups of ten bits, two letters each; the first group has only eight bits in use.
    return prefix + "_" + "".join([_PAIRS[number >> shift & 1023] for shift in range(120, -1, -10)])


@lru_cache(maxsize=8192)  # a rush asks for the same event and tiers again and again
def decode(prefix: str, text: str) -> UUID | None:
    """The UUID of a typed id, or None where `text` is not an id of this type."""
    if len(text) != len(prefix) + 1 + _ENCODED_LENGTH or not text.startswith(prefix) or text[len(prefix)] != "_":
        return None
    number = 0
    for letter in text[len(prefix) + 1 :]:
        value = _VALUES.get(letter)
        if value is None:
            return None
        number = number << 5 | value
    return FastUUID(number.to_bytes(16, "big")) if number < 1 << 128 else None
