"""E-mail addresses: what passes for one, and which of them are the same."""

import re
import unicodedata
from typing import NamedTuple

LETTERS_MAX = 254

# Dots stand between, not at the ends. Quoted local parts and address literals are left out: no buyer has one.
_LOCAL = re.compile(r"[^\s.@\"(),:;<>\[\\\]]+(\.[^\s.@\"(),:;<>\[\\\]]+)*")
_LABEL = re.compile(r"[^\W_]([\w-]{0,61}[^\W_])?")


class Address(NamedTuple):
    """An address as it is shown and mailed to, and the key under which it is the same as another."""

    shown: str
    key: str


def parse_address(text: str) -> Address | None:
    """The address, or None where `text` is none. No name server is asked."""
    shown = unicodedata.normalize("NFKC", text.strip())
    key = unicodedata.normalize("NFKC", shown.casefold())
    if max(len(shown), len(key)) > LETTERS_MAX or any(unicodedata.category(letter)[0] == "C" for letter in shown):
        return None
    local, at, domain = shown.rpartition("@")
    if not at or len(local) > 64 or not _LOCAL.fullmatch(local):
        return None
    labels = domain.split(".")
    if (len(labels) < 2 and domain != "localhost") or not all(map(_LABEL.fullmatch, labels)):
        return None
    return Address(shown, key)
