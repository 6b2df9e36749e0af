"""Short questions over HTTP on the loopback address: is it ready, what are you?"""

import asyncio
import base64
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from holdfast.cluster.layout import HOST

ANSWER_SECONDS_MAX = 2.0


class Answer(NamedTuple):
    """A status and a body."""

    status: int
    body: bytes


async def ask(
    port: int,
    path: str,
    body: object = None,
    *,
    method: str = "",
    user: tuple[str, str] | None = None,
    seconds: float = ANSWER_SECONDS_MAX,
) -> Answer:
    """GET, or POST or another method with a JSON body. Raises OSError or TimeoutError where nobody answers HTTP."""
    async with asyncio.timeout(seconds):
        reader, writer = await asyncio.open_connection(HOST, port)
        try:
            writer.write(_request(method or ("GET" if body is None else "POST"), port, path, body, user))
            return _parsed(await reader.read())
        finally:
            writer.close()


async def answers(port: int, path: str) -> bool:
    """Whether GET there says 200. Raises OSError or TimeoutError where nobody answers."""
    return (await ask(port, path)).status == 200


def _request(method: str, port: int, path: str, body: object, user: tuple[str, str] | None) -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: close\r\n"
    if user is not None:
        head += f"Authorization: Basic {base64.b64encode(':'.join(user).encode()).decode()}\r\n"
    if body is None:
        return head.encode() + b"\r\n"
    content = msgspec.json.encode(body)
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


def _parsed(answer: bytes) -> Answer:
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(None, 2)
    if len(words) < 2 or not words[1].isdigit():
        raise OSError("no HTTP answer")
    chunked = b"transfer-encoding: chunked" in head.lower()
    return Answer(int(words[1]), b"".join(_chunks(body)) if chunked else body)


def _chunks(body: bytes) -> Iterator[bytes]:
    while body:
        length, _, rest = body.partition(b"\r\n")
        size = int(length.partition(b";")[0], 16)
        if not size:  # what follows are trailers
            return
        yield rest[:size]
        body = rest[size + 2 :]
