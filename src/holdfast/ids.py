"""The only module that makes ids.

Inside, an id is a UUIDv7 (RFC 9562: time-ordered, so that new rows land at the right end of an index). Outside it is
typed and opaque, TypeID style: a prefix, an underscore and the 128 bits in 26 characters of Crockford's base 32.
"""

import itertools
import os
from functools import lru_cache
from threading import Lock
from uuid import UUID

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

_lock = Lock()
_last = 0
_process = os.urandom(6).hex()
_requests = itertools.count(1)


def new_id() -> UUID:
    """A new UUIDv7, greater than every one this process made before."""
    global _last  # the one counter that keeps a process's ids in order
    candidate = unix_milliseconds() << 80 | int.from_bytes(os.urandom(10), "big")
    candidate = candidate & ~(0xF << 76) | 0x7 << 76
    candidate = candidate & ~(0x3 << 62) | 0x2 << 62
    with _lock:
        if candidate <= _last:
            # The same millisecond (or a clock set back): count up in the random tail, which is 62 bits wide.
            candidate = _last + 1
        _last = candidate
    return UUID(int=candidate)


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
    return UUID(int=number) if number < 1 << 128 else None
