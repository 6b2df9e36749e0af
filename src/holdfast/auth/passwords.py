"""Passwords: their rules, and argon2id in a bounded pool of threads that give way to everything else."""

import asyncio
import os
import secrets
import sys
import threading
import unicodedata
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from holdfast.errors import Busy
from holdfast.settings import Settings

LETTERS_MIN = 8
LETTERS_MAX = 128

# OWASP's recommendation: 19 MiB, two passes, one lane.
_MEMORY_KIB = 19 * 1024
_PASSES = 2
_NICENESS = 10


def normalised(password: str) -> str:
    """The same password, whichever keyboard typed it (NFKC)."""
    return unicodedata.normalize("NFKC", password)


def password_fault(password: str) -> str | None:
    """What is wrong with a new password. Length is the only rule: rules of composition make worse passwords."""
    # As it is sent too: one letter may stand for eighteen.
    lengths = (len(password), len(normalised(password)))
    if min(lengths) < LETTERS_MIN or max(lengths) > LETTERS_MAX:
        return f"A password has {LETTERS_MIN} to {LETTERS_MAX} letters."
    if "\0" in password or any("\ud800" <= letter <= "\udfff" for letter in password):
        return "A password must not contain NUL or half a surrogate pair."
    return None


class Passwords:
    """Hashes and checks passwords. Belongs to one event loop; a check takes about 20 ms of one core."""

    def __init__(self, settings: Settings) -> None:
        self._hasher = PasswordHasher(time_cost=_PASSES, memory_cost=_MEMORY_KIB, parallelism=1)
        # What an unknown user's password is checked against, so that it takes as long as a known one's.
        self._nobodys = self._hasher.hash(secrets.token_urlsafe(32))
        self._threads = ThreadPoolExecutor(settings.password_threads, "passwords", initializer=_give_way)
        self._turns = asyncio.Semaphore(settings.password_threads)
        self._waiting = 0
        self._waiting_max = settings.password_queue_max

    def close(self) -> None:
        """Ends the threads; a check that is under way still finishes."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for a free thread; what `check` and `hash` need to be called in. Busy when too many wait."""
        if self._waiting >= self._waiting_max:
            raise Busy("Too many passwords wait to be checked.")
        self._waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._turns.release()

    async def hash(self, password: str) -> str:
        """The encoded hash."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._hasher.hash, normalised(password))

    async def check(self, encoded: str | None, password: str) -> bool:
        """Whether it is the password of this hash. None, which no password has, takes as long."""
        work = partial(self._verify, encoded or self._nobodys, normalised(password))
        matches = await asyncio.get_running_loop().run_in_executor(self._threads, work)
        return matches and encoded is not None

    def is_outdated(self, encoded: str) -> bool:
        """Whether it was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(encoded)

    def _verify(self, encoded: str, password: str) -> bool:
        try:
            return self._hasher.verify(encoded, password)
        except (VerificationError, InvalidHashError):
            return False


def _give_way() -> None:
    """Lowers this thread's priority, so that purchases come first. Linux alone has a priority for each thread."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
