"""Passwords: their rules, their cost, the bound on what waits, and the priority that lets purchases go first."""

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator

import pytest
from argon2 import PasswordHasher, extract_parameters

from holdfast.auth.passwords import Passwords, password_fault
from holdfast.errors import Busy
from holdfast.settings import Settings


@pytest.fixture
async def passwords() -> AsyncIterator[Passwords]:
    opened = Passwords(Settings(password_threads=1, password_queue_max=2))
    yield opened
    opened.close()


async def test_a_hash_has_the_recommended_parameters(passwords: Passwords) -> None:
    encoded = await passwords.hash("correct horse")
    assert encoded.startswith("$argon2id$")
    parameters = extract_parameters(encoded)
    assert (parameters.memory_cost, parameters.time_cost, parameters.parallelism) == (19456, 2, 1)
    assert not passwords.is_outdated(encoded)
    assert passwords.is_outdated(PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1).hash("correct horse"))


async def test_only_the_password_matches(passwords: Passwords) -> None:
    encoded = await passwords.hash("correct horse")
    assert await passwords.check(encoded, "correct horse")
    assert not await passwords.check(encoded, "Correct horse")
    assert not await passwords.check(None, "correct horse")
    assert not await passwords.check("not a hash", "correct horse")


async def test_the_keyboard_does_not_matter(passwords: Passwords) -> None:
    """é as one letter or as two, and full-width forms, are the same password."""
    encoded = await passwords.hash("caf\u00e9 １２３４")
    assert await passwords.check(encoded, "cafe\u0301 1234")


@pytest.mark.parametrize("password", ["12345678", "a" * 128, "密碼很長很長很長", "👩‍🎤 ticket", " 8 space"])
def test_a_password_may_be(password: str) -> None:
    assert password_fault(password) is None


@pytest.mark.parametrize("password", ["", "1234567", "a" * 129, "\ufdfa" * 8, "nul\0 in it", "half \ud800 pair"])
def test_a_password_may_not_be(password: str) -> None:
    """The fourth is one letter that normalises to eighteen."""
    assert password_fault(password) is not None


async def test_one_more_than_may_wait_is_turned_away(passwords: Passwords) -> None:
    release = asyncio.Event()
    entered = asyncio.Queue[int]()

    async def take(number: int) -> None:
        async with passwords.turn():
            entered.put_nowait(number)
            await release.wait()

    first = asyncio.create_task(take(0))
    assert await entered.get() == 0
    waiting = [asyncio.create_task(take(number)) for number in (1, 2)]
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await take(3)
    # One that goes away while it waits makes room.
    waiting[1].cancel()
    await asyncio.gather(waiting[1], return_exceptions=True)
    another = asyncio.create_task(take(4))
    release.set()
    await asyncio.gather(first, waiting[0], another)
    assert [entered.get_nowait(), entered.get_nowait()] == [1, 4]


async def test_a_turn_comes_back_after_a_failure(passwords: Passwords) -> None:
    for _ in range(5):
        with pytest.raises(ZeroDivisionError):
            async with passwords.turn():
                raise ZeroDivisionError


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority for each thread")
async def test_its_threads_give_way_and_no_other_does(passwords: Passwords) -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    inside = await asyncio.get_running_loop().run_in_executor(passwords._threads, niceness)
    assert inside == max(10, niceness())
    assert await asyncio.to_thread(niceness) == niceness() < inside
