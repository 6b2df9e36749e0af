"""Runs the engines, the servers and the worker: starts them, starts again what ends, stops them in order."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Never, TypeVar

from holdfast.cli.children import Child, NurseryGone
from holdfast.engines import processes
from holdfast.engines.data_folder import DataFolder, Running
from holdfast.engines.launch import last_line
from holdfast.engines.postgres_server import PostgresServer
from holdfast.engines.private_engines import PrivateEngines
from holdfast.engines.valkey_server import ValkeyServer
from holdfast.engines.watching import Backoff, ended
from holdfast.errors import Mendable

_EARLY_ENDS_MAX = 3
_WORKER_SECONDS_MAX = 10.0
_SLACK_SECONDS = 5.0
_SETTLE_SECONDS_MAX = 10.0

_T = TypeVar("_T")


class Supervisor:
    """Everything that runs for one data folder. `running` is what the folder's state file says of it."""

    def __init__(
        self, folder: DataFolder, running: Running, engines: PrivateEngines, say: Callable[[str], None]
    ) -> None:
        self.servers: Sequence[Child] = ()
        self.workers: Sequence[Child] = ()
        self._folder = folder
        self._running = running
        self._engines = engines
        self._say = say
        self._watchers: list[asyncio.Task[None]] = []
        self._births: set[asyncio.Task[Any]] = set()
        self._engine_work: set[asyncio.Task[Any]] = set()
        self._failed: asyncio.Future[Never] = asyncio.get_running_loop().create_future()

    async def start_engines(self) -> bool:
        """Starts or adopts both engines; answers whether they were there already."""
        valkey, postgres = await asyncio.gather(
            _whole(self._engines.start_valkey(), self._engine_work),
            _whole(self._engines.start_postgres(), self._engine_work),
        )
        for name, engine in (("PostgreSQL", self._engines.postgres), ("Valkey", self._engines.valkey)):
            if engine is not None:
                self._watchers.append(asyncio.create_task(self._keep_engine(name, engine)))
        return valkey and postgres

    def start_children(self) -> None:
        """Starts the servers and the worker, and starts them again whenever they end."""
        for child in self._children():
            self._watchers.append(asyncio.create_task(self._keep(child)))

    async def unless_failed(self, work: Coroutine[object, object, _T]) -> _T:
        """Awaits `work`; raises Mendable as soon as a child keeps ending, since it can then not come to anything."""
        task = asyncio.create_task(work)
        either: set[asyncio.Future[Any]] = {task, self._failed}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else await self._failed
        finally:
            task.cancel()

    def note(self) -> None:
        """Records what runs, for the commands beside us and for whoever comes after us."""
        self._running.children = [child.process for child in self._children() if child.process]
        if self._engines.postgres is not None:
            self._running.postgres_port = self._engines.postgres.port
        if self._engines.valkey is not None:
            self._running.valkey_port = self._engines.valkey.port
        self._folder.note(self._running)

    async def stop(self, hurry: asyncio.Event, drain_seconds: float) -> None:
        """Ends all in order: servers, workers, Valkey, PostgreSQL. `hurry` cuts the waiting short."""
        for watcher in self._watchers:
            watcher.cancel()
        hurrying = asyncio.create_task(self._hurry(hurry))
        await _settle(self._births)
        await _end(self.servers, drain_seconds + _SLACK_SECONDS)
        await _end(self.workers, _WORKER_SECONDS_MAX)
        await _settle(self._engine_work)
        # What is not done by then is a recovery, which the next start does from its beginning.
        await asyncio.to_thread(self._engines.stop, hurry=hurry.is_set() or bool(self._engine_work))
        await _settle(self._engine_work)
        hurrying.cancel()
        self._running.supervisor = None
        self.note()

    def _children(self) -> list[Child]:
        return [*self.servers, *self.workers]

    async def _keep(self, child: Child) -> None:
        backoff = Backoff()
        while True:
            try:
                await _whole(child.begin(), self._births)
                self.note()
                how = await child.end()
            except NurseryGone:
                how = "could not be started"
                self._give_up("The program of the servers cannot be loaded: install it again with `make setup`.")
            await backoff.wait()
            if backoff.tries >= _EARLY_ENDS_MAX:
                reason = last_line(child.log) or "it left no word"
                self._give_up(f"{child.name} {how} again and again: {reason} (see {child.log}).")
            self._say(f"{child.name} {how}; starting it again")

    def _give_up(self, sentence: str) -> None:
        """Before `up` is ready what ends by itself is a failure; afterwards it is only started again."""
        if not self._running.url and not self._failed.done():
            self._failed.set_exception(Mendable(sentence))

    async def _keep_engine(self, name: str, engine: PostgresServer | ValkeyServer) -> None:
        backoff = Backoff()
        while True:
            await ended(engine.process)
            await backoff.wait()
            self._say(f"{name} has ended; starting it again")
            try:
                await _whole(asyncio.to_thread(engine.start), self._engine_work)
            except Mendable as error:
                self._say(str(error))

    async def _hurry(self, hurry: asyncio.Event) -> None:
        await hurry.wait()
        for child in self._children():
            if child.process is not None:
                processes.send(child.process, processes.KILL)
        await asyncio.to_thread(self._engines.stop, hurry=True)


async def _whole(work: Coroutine[object, object, _T], under_way: set[asyncio.Task[Any]]) -> _T:
    """Work that is never left half-way: `stop` waits for what is under way, so that nothing is started after it."""
    task = asyncio.create_task(work)
    under_way.add(task)
    task.add_done_callback(under_way.discard)
    # Whoever awaits it may be cancelled meanwhile; then nobody asks for its exception any more.
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return await asyncio.shield(task)


async def _settle(under_way: set[asyncio.Task[Any]]) -> None:
    if under_way:
        await asyncio.wait(under_way, timeout=_SETTLE_SECONDS_MAX)


async def _end(children: Sequence[Child], seconds: float) -> None:
    running = [child.process for child in children if child.process]
    await asyncio.to_thread(processes.end, running, processes.endings(seconds))


def end_leftovers(running: Running) -> None:
    """Ends the servers and the worker of a supervisor that was killed."""
    processes.end(process for process in running.children if processes.is_alive(process))
