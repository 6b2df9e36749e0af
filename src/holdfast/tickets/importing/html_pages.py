"""The JSON-LD of a saved HTML page: the contents of its `<script type="application/ld+json">` tags.

A page is scanned, not parsed: only scripts and comments matter here, and a scan is linear however broken the page is.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

_START = re.compile(r"<!--|<script(?=[\s/>])", re.IGNORECASE)
_TYPE = re.compile(r"""\btype\s{0,9}=\s{0,9}["']?\s{0,9}application/ld\+json\b""", re.IGNORECASE)
_END = re.compile(r"</script(?=[\s/>])", re.IGNORECASE)
_ATTRIBUTES_LENGTH_MAX = 4_000

# What pages put around the JSON, for browsers of long ago: //<![CDATA[ … //]]>, /*<![CDATA[*/ … /*]]>*/, <!-- … -->
_OPENING_MARKS = ("//", "/*", "*/", "<!--", "<![CDATA[")
_CLOSING_MARKS = ("//", "/*", "*/", "-->", "]]>")
_MARKS_MAX = 6


class Script(NamedTuple):
    """One tag's content, and the line it begins in."""

    line: int
    text: str


def json_scripts(page: str) -> Iterator[Script]:
    """The JSON-LD scripts of a page, those in comments left out."""
    position, line, counted = 0, 1, 0
    while (start := _START.search(page, position)) is not None:
        if start[0] == "<!--":
            end = page.find("-->", start.end())
            if end < 0:
                return
            position = end + 3
            continue
        content = page.find(">", start.end(), start.end() + _ATTRIBUTES_LENGTH_MAX) + 1
        if content == 0:
            position = start.end()
            continue
        closing = _END.search(page, content)
        position = len(page) if closing is None else closing.start()
        if _TYPE.search(page, start.end(), content):
            line += page.count("\n", counted, content)
            counted = content
            yield Script(line, _unwrapped(page[content:position]))


def _unwrapped(text: str) -> str:
    """Without the marks around it; the lines before what is left stay lines, for what is said of its errors."""
    length = len(text)
    inner = text.lstrip()
    for _ in range(_MARKS_MAX):
        for mark in _OPENING_MARKS:
            inner = inner.removeprefix(mark).lstrip() if inner.startswith(mark) else inner
    before = "\n" * text.count("\n", 0, length - len(inner))
    inner = inner.rstrip()
    for _ in range(_MARKS_MAX):
        for mark in _CLOSING_MARKS:
            inner = inner.removesuffix(mark).rstrip() if inner.endswith(mark) else inner
    return before + inner
