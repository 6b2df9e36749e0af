"""`holdfast up`: everything on one machine, by one command."""

import asyncio
import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from holdfast import __version__, clock
from holdfast.cli.checklist import Checklist
from holdfast.cli.children import Child
from holdfast.cli.listening import http_url, is_loopback, listen, port_of, reachable_host
from holdfast.cli.log_watch import LogWatch
from holdfast.cli.migrate import migrate_database
from holdfast.cli.output import DATA_DEFAULT, DataOption, JsonOption, report
from holdfast.cli.supervisor import Supervisor, end_leftovers
from holdfast.engines.data_folder import DataFolder, Running
from holdfast.engines.private_engines import private_engines
from holdfast.engines.processes import identify
from holdfast.errors import Mendable
from holdfast.settings import ENV_PREFIX, Settings, load_settings

READY_SECONDS_MAX = 60.0
_ASK_SECONDS_MAX = 5.0


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(up)


class Wishes(NamedTuple):
    """The options of `up`."""

    host: str
    port: int
    demo: bool
    workers: int
    as_json: bool


def up(
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 takes any.")] = 8000,
    data: DataOption = DATA_DEFAULT,
    demo: Annotated[
        bool, typer.Option(help="Put a demo event on sale at the first start; only on the loopback address.")
    ] = True,
    workers: Annotated[
        int, typer.Option(min=1, max=16, help="How many server processes.", show_default="one a core, at most 2")
    ] = min(2, os.cpu_count() or 1),
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    as_json: JsonOption = False,
) -> None:
    """Start everything on this machine: engines, schema, servers, workers. Ctrl-C stops it.

    Everything is kept in the data folder. An engine that is given by HOLDFAST_DATABASE_URL or HOLDFAST_GATE_URL is
    used instead of a private one.
    """
    wishes = Wishes(host, port, demo, workers, as_json)
    settings = load_settings(demo=demo, server_processes=workers)
    folder = DataFolder(data)
    # Where nothing of ours can have the port, it is taken before anything is written.
    listener = _listen(wishes) if folder.is_new else None
    folder.open()
    try:
        running = folder.running()
        end_leftovers(running)
        listener = listener or _listen(wishes)
        asyncio.run(_House(folder, running, settings, listener, wishes).run())
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
        self, folder: DataFolder, before: Running, settings: Settings, listener: socket.socket, wishes: Wishes
    ) -> None:
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
        self._began = clock.monotonic_seconds()

    async def run(self) -> None:
        """Starts, reports, and runs until it is told to stop."""
        stop, hurry = _on_signals()
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
            starting.cancel()
            watching.cancel()
            self._listener.close()
            await supervisor.stop(hurry, self._settings.drain_seconds)
        self._list.say("Stopped")

    async def _start(self, supervisor: Supervisor) -> None:
        self._list.say(f"Holdfast {__version__}, data in {self._folder.path}", "bold")
        self._engines.settle_ports()
        settings = self._settings = self._complete_settings()
        supervisor.servers, supervisor.workers = self._children(settings)
        # While the engines start, the children make their imports.
        supervisor.spawn()
        with self._list.step("PostgreSQL and Valkey") as remarks:
            if await supervisor.start_engines():
                remarks.append("were running")
        with self._list.step("schema") as remarks:
            ran, revision = await migrate_database(settings.database_url.get_secret_value())
            remarks.append(revision if ran else f"{revision}, nothing to do")
        if not self._running.prepared:
            await self._prepare(settings)
        with self._list.step(f"{self._wishes.workers} server(s) and a worker"):
            supervisor.go()
            await supervisor.unless_failed(self._until_ready())
        self._running.url = self._url()
        supervisor.note()
        await self._welcome(settings)

    async def _prepare(self, settings: Settings) -> None:
        from holdfast.assemble import prepare_first_run

        with self._list.step("demo event" if self._wishes.demo else "first run"):
            made = await prepare_first_run(settings, self._wishes.demo)
        if made.demo_password is not None:
            secrets = self._folder.secrets()
            secrets.demo_email, secrets.demo_password = made.demo_email, made.demo_password
            self._folder.keep(secrets)
        self._running.prepared = self._wishes.demo

    async def _until_ready(self) -> None:
        deadline = clock.monotonic_seconds() + READY_SECONDS_MAX
        while clock.monotonic_seconds() < deadline:
            try:
                if await asyncio.wait_for(self._is_ready(), _ASK_SECONDS_MAX):
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

    async def _welcome(self, settings: Settings) -> None:
        from holdfast.assemble import new_setup_link

        link = await new_setup_link(settings)
        secrets = self._folder.secrets()
        seconds = clock.monotonic_seconds() - self._began
        answer: Mapping[str, object] = {
            "ready": True,
            "seconds": round(seconds, 3),
            "url": self._url(),
            "data": str(self._folder.path),
            "demo_email": secrets.demo_email if self._wishes.demo else None,
            "demo_password": secrets.demo_password if self._wishes.demo else None,
            "setup_link": link,
        }
        self._list.say(f"ready in {seconds:.2f} s", "bold green")
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
        environment = os.environ | {ENV_PREFIX + name.upper(): value for name, value in self._running.settings.items()}
        fd = self._listener.fileno()
        servers = [
            Child(
                f"server {number}",
                ("serve", "all", "--fd", str(fd)),
                environment,
                self._folder.logs / f"server-{number}.log",
                fd,
            )
            for number in range(1, settings.server_processes + 1)
        ]
        worker = Child("worker", ("work", "all"), environment, self._folder.logs / "worker.log")
        return servers, [worker]

    def _complete_settings(self) -> Settings:
        """The settings with what this run adds; the same, as text, are for the children and the commands beside us."""
        added = {"demo": str(self._wishes.demo).lower(), "server_processes": str(self._wishes.workers)}
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


def _minutes(settings: Settings) -> int:
    return settings.setup_link_seconds // 60


def _on_signals() -> tuple[asyncio.Event, asyncio.Event]:
    """Two events: the first signal to stop, and the second."""
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, asked)
    return stop, hurry
