"""One run of `holdfast up`, from the data folder to the last good-bye."""

import asyncio
import os
import socket
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from holdfast import __version__, clock
from holdfast.cli.checklist import Checklist
from holdfast.cli.children import Child, NurseryClient
from holdfast.cli.listening import http_url, is_loopback, listen, port_of, reachable_host
from holdfast.cli.log_watch import LogWatch
from holdfast.cli.migrate import migrate_database
from holdfast.cli.nursery_launch import Launched
from holdfast.cli.output import report
from holdfast.cli.stop_signals import stop_signals
from holdfast.cli.supervisor import Supervisor, end_leftovers
from holdfast.engines.data_folder import DataFolder, Running
from holdfast.engines.private_engines import private_engines
from holdfast.engines.processes import identify
from holdfast.errors import Mendable
from holdfast.settings import ENV_PREFIX, Settings, load_settings

READY_SECONDS_MAX = 60.0
_ASK_SECONDS_MAX = 5.0


class Wishes(NamedTuple):
    """The options of `up`."""

    host: str
    port: int
    demo: bool
    workers: int
    as_json: bool


def keep_house(launched: Launched, data: Path, wishes: Wishes) -> None:
    """Starts everything, and returns when it was told to stop. Raises Mendable, with nothing left behind."""
    settings = load_settings(server_processes=wishes.workers)
    folder = DataFolder(data)
    # Where nothing of ours can have the port, it is taken before anything is written.
    listener = _listen(wishes) if folder.is_new else None
    folder.open()
    try:
        running = folder.running()
        end_leftovers(running)
        listener = listener or _listen(wishes)
        asyncio.run(_House(launched, folder, running, settings, listener, wishes).run())
    finally:
        folder.close()


def _listen(wishes: Wishes) -> socket.socket:
    listener = listen(wishes.host, wishes.port)
    if wishes.demo and not is_loopback(listener):
        listener.close()
        raise Mendable(f"The demo is only for this machine, and others reach {wishes.host}: add --no-demo.")
    return listener


class _House:
    """One run of `up`."""

    def __init__(
        self,
        launched: Launched,
        folder: DataFolder,
        before: Running,
        settings: Settings,
        listener: socket.socket,
        wishes: Wishes,
    ) -> None:
        self._nursery = NurseryClient(launched)
        self._folder = folder
        self._settings = settings
        self._listener = listener
        self._wishes = wishes
        self._list = Checklist(to_error=wishes.as_json)
        self._engines = private_engines(
            folder,
            with_postgres=not settings.database_url.get_secret_value(),
            with_valkey=not settings.gate_url.get_secret_value(),
        )
        self._running = Running(
            supervisor=identify(os.getpid()),
            valkey_port=before.valkey_port,
            postgres_port=before.postgres_port,
            prepared=before.prepared,
        )
        # Its writing end is ours alone: when we are gone, however that came, the children see the pipe end.
        self._parent_pipe = os.pipe()
        self._began = launched.at_seconds

    async def run(self) -> None:
        """Starts, reports, and runs until it is told to stop."""
        stop, hurry = stop_signals()
        supervisor = Supervisor(self._folder, self._running, self._engines, self._say)
        logs = LogWatch(self._folder.logs, self._say)
        logs.start()
        watching = asyncio.create_task(logs.run())
        starting = asyncio.create_task(self._start(supervisor))
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                await stopped
            self._list.say("Stopping (Ctrl-C again hurries)")
        finally:
            for task in (starting, watching, stopped):
                task.cancel()
            await asyncio.wait({starting})
            self._listener.close()
            await supervisor.stop(hurry, self._settings.drain_notice_seconds + self._settings.drain_seconds)
            self._nursery.close()
        self._list.say("Stopped")

    async def _start(self, supervisor: Supervisor) -> None:
        self._list.say(f"Holdfast {__version__}, data in {self._folder.path}", "bold")
        self._engines.settle_ports()
        settings = self._settings = self._complete_settings()
        supervisor.servers, supervisor.workers = self._children(settings)
        supervisor.note()
        with self._list.step("PostgreSQL and Valkey") as remarks:
            if await supervisor.start_engines():
                remarks.append("were running")
        with self._list.step("schema") as remarks:
            ran, revision = await migrate_database(settings.database_url.get_secret_value())
            remarks.append(revision if ran else f"{revision}, nothing to do")
        if not self._running.prepared:
            await self._prepare(settings, supervisor)
        servers = "1 server" if self._wishes.workers == 1 else f"{self._wishes.workers} servers"
        with self._list.step(f"{servers} and a worker"):
            supervisor.start_children()
            link = asyncio.create_task(_setup_link(settings))
            await supervisor.unless_failed(self._until_ready())
        self._running.url = self._url()
        supervisor.note()
        seconds = clock.monotonic_seconds() - self._began
        self._list.say(f"ready in {seconds:.2f} s", "bold green")
        self._welcome(settings, seconds, await link)

    async def _prepare(self, settings: Settings, supervisor: Supervisor) -> None:
        from holdfast.first_run import prepare_first_run

        with self._list.step("demo event" if self._wishes.demo else "first run"):
            made = await prepare_first_run(settings, self._wishes.demo)
        if made.demo_password is not None:
            secrets = self._folder.secrets()
            secrets.demo_email, secrets.demo_password = made.demo_email, made.demo_password
            self._folder.keep(secrets)
        self._running.prepared = self._wishes.demo
        supervisor.note()

    async def _until_ready(self) -> None:
        deadline = clock.monotonic_seconds() + READY_SECONDS_MAX
        while clock.monotonic_seconds() < deadline:
            try:
                async with asyncio.timeout(_ASK_SECONDS_MAX):
                    if await self._is_ready():
                        return
            except (OSError, TimeoutError):
                pass
            await asyncio.sleep(0.02)
        raise Mendable(f"The servers were not ready within {READY_SECONDS_MAX:.0f} seconds: see {self._folder.logs}.")

    async def _is_ready(self) -> bool:
        host, port = reachable_host(self._listener), port_of(self._listener)
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(f"GET /readyz HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
            return b" 200 " in await reader.readline()
        finally:
            writer.close()

    def _welcome(self, settings: Settings, seconds: float, link: str | None) -> None:
        secrets = self._folder.secrets()
        answer: Mapping[str, object] = {
            "ready": True,
            "seconds": round(seconds, 3),
            "url": self._url(),
            "data": str(self._folder.path),
            "demo_email": secrets.demo_email if self._wishes.demo else None,
            "demo_password": secrets.demo_password if self._wishes.demo else None,
            "setup_link": link,
        }
        if self._wishes.as_json:
            report(answer, (), as_json=True)
            return
        self._list.say(f"\n  Events          {self._url()}/events")
        self._list.say(f"  OpenAPI         {self._url()}/openapi.json")
        if self._wishes.demo and secrets.demo_password:
            self._list.say(f"  Demo buyer      {secrets.demo_email}  password  {secrets.demo_password}")
        if link:
            self._list.say(f"  Administrator   {link}")
            self._list.say(f"                  (makes the first one; works once, for {_minutes(settings)} minutes)")
        self._list.say("\nCtrl-C stops everything.")

    def _children(self, settings: Settings) -> tuple[list[Child], list[Child]]:
        environment = {ENV_PREFIX + name.upper(): value for name, value in self._running.settings.items()}
        pipe, listener = self._parent_pipe[0], self._listener.fileno()

        def child(kind: str, name: str, *passed: int) -> Child:
            return Child(self._nursery, kind, name, environment, self._folder.logs / f"{name}.log", *passed)

        servers = [child("server", f"server-{n}", pipe, listener) for n in range(1, settings.server_processes + 1)]
        return servers, [child("worker", "worker", pipe)]

    def _complete_settings(self) -> Settings:
        """The settings with what this run adds; the same, as text, are for the children and the commands beside us."""
        added = {"server_processes": str(self._wishes.workers)}
        if self._engines.postgres is not None:
            added["database_url"] = self._engines.postgres.url()
        if self._engines.valkey is not None:
            added["gate_url"] = self._engines.valkey.url
        if self._settings.signing_key_file is None:
            added["signing_key_file"] = str(self._signing_key_file())
        if "public_url" not in self._settings.model_fields_set:
            added["public_url"] = self._url()
        self._running.settings = added
        return load_settings(**added)

    def _signing_key_file(self) -> Path:
        from holdfast.auth.signing_keys import create_signing_keys

        file = self._folder.signing_key_file
        if not file.exists():
            create_signing_keys(file)
        return file

    def _url(self) -> str:
        return http_url(reachable_host(self._listener), port_of(self._listener))

    def _say(self, text: str) -> None:
        self._list.say(text, "yellow")


async def _setup_link(settings: Settings) -> str | None:
    # In a thread: its imports take a while, during which the servers come up.
    first_run = await asyncio.to_thread(import_module, "holdfast.first_run")
    link: str | None = await first_run.new_setup_link(settings)
    return link


def _minutes(settings: Settings) -> int:
    return settings.setup_link_seconds // 60
