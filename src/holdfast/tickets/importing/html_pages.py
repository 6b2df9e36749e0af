"""The JSON-LD of a saved HTML page: the contents of its `<script type="application/ld+json">` tags.

A page is scanned, not parsed: only scripts and comments matter here, and a scan is linear however broken the page is.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

_START = re.compile(r"<!--|<script(?=[\s/>])", re.IGNORECASE)
_ATTRIBUTES = re.compile(r"""(?:[^>"']|"[^"]{0,2000}"|'[^']{0,2000}'){0,200}?>""")
_TYPE = re.compile(r"""\btype\s*=\s*["']?\s*application/ld\+json\b""", re.IGNORECASE)
_END = re.compile(r"</script(?=[\s/>])", re.IGNORECASE)
_OPENING_WRAPPER = re.compile(r"\s*(?:(?://|/\*)?\s*(?:<!--|<!\[CDATA\[)\s*(?:\*/)?\s*)+")
_CLOSING_WRAPPER = re.compile(r"(?:(?://|/\*)?\s*(?:-->|\]\]>)\s*(?:\*/)?\s*){1,4}\Z")
_WRAPPER_LENGTH_MAX = 64
_ATTRIBUTES_LENGTH_MAX = 4_000


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
        attributes = _ATTRIBUTES.match(page, start.end(), start.end() + _ATTRIBUTES_LENGTH_MAX)
        if attributes is None:
            position = start.end()
            continue
        closing = _END.search(page, attributes.end())
        position = len(page) if closing is None else closing.start()
        if _TYPE.search(attributes[0]):
            line += page.count("\n", counted, attributes.end())
            counted = attributes.end()
            yield Script(line, _unwrapped(page[attributes.end() : position]))


def _unwrapped(text: str) -> str:
    """Without the comment or CDATA marks that some pages put around it."""
    opening = _OPENING_WRAPPER.match(text)
    if opening is not None:
        # The lines before the content stay lines, for what a JSON error says.
        text = "\n" * opening[0].count("\n") + text[opening.end() :]
    tail = text[-_WRAPPER_LENGTH_MAX:]
    return text[: len(text) - len(tail)] + _CLOSING_WRAPPER.sub("", tail.rstrip())
