"""How the services beside auth know its keys: the public halves, from its key set over HTTP or from a file.

They are renewed while nobody waits, and asked for once more when a token names a key that is not known: so a new key is
known with its first token. While the auth service is away, what was known before stays good; a token that nobody can
judge then is answered with 503, and not with a 401 that would make its owner throw it away.
"""

import asyncio
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.request import ProxyHandler, Request, build_opener

import structlog

from holdfast.auth.signing_keys import parse_public_keys
from holdfast.auth.tokens import Verifier
from holdfast.clock import monotonic_seconds
from holdfast.errors import Busy, Mendable
from holdfast.settings import Settings

RENEW_SECONDS = 60.0
"""How long a key that was taken away stays good at most. A key set is also given out as good for 300 s."""
_RETRY_SECONDS, _RETRY_SECONDS_MAX = 1.0, 30.0
_ASK_AGAIN_SECONDS = 1.0
"""Tokens that name whatever they like make us ask no more often than this."""
_ANSWER_SECONDS_MAX = 2.0
_DOCUMENT_BYTES_MAX = 64 * 1024

_log = structlog.get_logger(__name__)


class LearningVerifier(Verifier):
    """Verifies with the keys of `sources`, addresses or one file, of which the first that answers is believed."""

    def __init__(self, settings: Settings, sources: Sequence[str | Path], renew_seconds: float = RENEW_SECONDS) -> None:
        super().__init__(settings, {})
        self._sources = sources
        self._renew_seconds = renew_seconds
        self._is_answered = False
        """Whether the last time we asked, somebody answered."""
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Asks for the first time. A file that cannot serve is Mendable; an address may answer later."""
        await self._ask_once()
        if not self._is_answered and isinstance(self._sources[0], Path):
            raise Mendable(
                f"{self._sources[0]} is not a JWK set of Ed25519 keys that can be read: let "
                "HOLDFAST_SIGNING_KEY_FILE name one, or HOLDFAST_JWKS_URL the auth service's."
            )
        self._renewing = asyncio.create_task(self._renew(), name="keys")

    async def close(self) -> None:
        """Asks no more."""
        tasks = [task for task in (self._renewing, self._asking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def learn(self) -> None:
        """Asks now, once for all who wait, unless somebody has answered a moment ago. Raises Busy where nobody did."""
        if self._asking is not None or monotonic_seconds() - self._asked_at >= _ASK_AGAIN_SECONDS:
            await self._ask_once()
        if not self._is_answered:
            raise Busy("The keys of the auth service are not known yet.")

    async def _ask_once(self) -> None:
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask(), name="ask for keys")
        # Shielded: one who leaves does not take the answer away from the others.
        await asyncio.shield(self._asking)

    async def _ask(self) -> None:
        try:
            for source in self._sources:
                try:
                    keys = parse_public_keys(await asyncio.to_thread(_read, source))
                except (OSError, HTTPException, ValueError) as error:
                    _log.warning("keys not learnt", source=str(source), reason=f"{type(error).__name__}: {error}")
                    continue
                self._is_answered = True
                if keys != self._public_keys:
                    _log.info("keys learnt", kids=sorted(keys))
                    self.trust(keys)
                return
            self._is_answered = False
        finally:
            self._asked_at = monotonic_seconds()
            self._asking = None

    async def _renew(self) -> None:
        retry_seconds = _RETRY_SECONDS
        while True:
            if self._is_answered:
                retry_seconds = _RETRY_SECONDS
                await asyncio.sleep(self._renew_seconds)
            else:
                await asyncio.sleep(retry_seconds)
                retry_seconds = min(retry_seconds * 2, _RETRY_SECONDS_MAX)
            await self._ask_once()


def verifier_of(settings: Settings) -> LearningVerifier:
    """The verifier of a service beside auth. Raises Mendable where nothing says whose tokens are good."""
    if settings.jwks_url:
        return LearningVerifier(settings, settings.jwks_url)
    if settings.signing_key_file is not None:
        return LearningVerifier(settings, [settings.signing_key_file])
    raise Mendable(
        "Nothing says whose tokens are good: put the address of the auth service's keys "
        "(http://…/.well-known/jwks.json) into HOLDFAST_JWKS_URL, or the path of a JWK set into "
        "HOLDFAST_SIGNING_KEY_FILE."
    )


def _read(source: str | Path) -> bytes:
    """The document. Raises OSError, HTTPException or ValueError."""
    if isinstance(source, Path):
        return source.read_bytes()
    # Without proxies: the auth service is one of ours.
    opener = build_opener(ProxyHandler({}))
    with opener.open(Request(source), timeout=_ANSWER_SECONDS_MAX) as answer:  # noqa: S310  # checked by the settings
        document: bytes = answer.read(_DOCUMENT_BYTES_MAX + 1)
    if len(document) > _DOCUMENT_BYTES_MAX:
        raise ValueError(f"it has more than {_DOCUMENT_BYTES_MAX} bytes")
    return document
