"""Texts of other people's pages: entities and tags taken out, cut to what can be stored."""

import html
import re

from holdfast.tickets.event_fields.texts import one_line, some_lines

# A text is looked at no further than this.
_LETTERS_MAX = 100_000
_BREAK = re.compile(r"<(?:br|/p|/div|/li|/h[1-6])\b[^<>]*>", re.IGNORECASE)
_TAG = re.compile(r"<[a-zA-Z/!][^<>]*>")
_BLANK_LINES = re.compile(r"\n\s*\n\s*")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def plain_line(text: str) -> str:
    """A name as people read it, on one line. Raises ValueError for what is no text."""
    return one_line(" ".join(_without_markup(text).split()))


def plain_lines(text: str) -> str:
    """A description as people read it, its paragraphs kept. Raises ValueError for what is no text."""
    lines = (" ".join(line.split()) for line in _without_markup(text).splitlines())
    return some_lines(_BLANK_LINES.sub("\n\n", "\n".join(lines)))


def cut(text: str, length_max: int) -> str:
    """The text, or as much of its beginning as there is room for."""
    return text if len(text) <= length_max else text[: length_max - 1].rstrip() + "…"


def _without_markup(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain NUL")
    text = text[:_LETTERS_MAX]
    # Some catalogues escape the tags themselves: these are seen only once the entities are resolved.
    for _ in range(2):
        text = html.unescape(_TAG.sub("", _BREAK.sub("\n", text)))
    return _CONTROL.sub("", _TAG.sub("", text))
