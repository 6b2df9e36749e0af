"""Texts: what may be stored and searched. Each function answers the cleaned text or raises ValueError with why."""

import re
import unicodedata
from urllib.parse import urlsplit

NAME_LENGTH_MAX = 200
ADDRESS_LENGTH_MAX = 500
DESCRIPTION_LENGTH_MAX = 20_000
URL_LENGTH_MAX = 2_000

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CONTROL_BUT_LINES = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def one_line(text: str) -> str:
    """A name or an address: trimmed, composed (NFC), with no control characters."""
    text = _composed(text)
    if _CONTROL.search(text):
        raise ValueError("must not contain control characters")
    return text


def some_lines(text: str) -> str:
    """A description: as `one_line`, and line breaks and tabs may stand in it."""
    text = _composed(text.replace("\r\n", "\n"))
    if _CONTROL_BUT_LINES.search(text):
        raise ValueError("must not contain control characters other than line breaks and tabs")
    return text


def web_address(text: str) -> str:
    """An absolute http or https address, since it is shown as a link."""
    text = one_line(text)
    if len(text) > URL_LENGTH_MAX:
        raise ValueError(f"must have at most {URL_LENGTH_MAX} characters")
    if not _is_web_address(text):
        raise ValueError("must be an http or https address")
    return text


def _is_web_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and " " not in text
    except ValueError:
        return False


def _composed(text: str) -> str:
    if _SURROGATE.search(text):
        raise ValueError("must be well-formed Unicode")
    return unicodedata.normalize("NFC", text.strip())
