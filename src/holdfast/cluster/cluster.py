"""A whole cluster on one machine: started in the order in which its members need each other, watched, and stopped.

    cluster = Cluster(DataFolder(path, Shape.CLUSTER), Wishes(proxied=True))
    for link in cluster.layout.links(): ...          # whoever wants to cut them opens them now
    await cluster.start()
    primary = await cluster.primary()
    cluster.hold_down(primary.name)
    primary.kill(whole=True)                         # PostgreSQL and its Patroni
    ...
    cluster.release(primary.name)
    await cluster.stop()

A member that ends is started again, as a service manager would; one that is held down is not, until it is released.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Never

from holdfast import clock
from holdfast.auth.signing_keys import create_signing_keys
from holdfast.cluster.layout import SERVICES, Layout, free_port_base
from holdfast.cluster.logins import GROUPS, Logins
from holdfast.cluster.member import Member
from holdfast.cluster.note import ClusterNote, MemberNote, read_note, write_note
from holdfast.cluster.parts.etcd import etcd_member, protect_etcd
from holdfast.cluster.parts.gate import gate_cluster, gate_members
from holdfast.cluster.parts.gateway import gateway_member
from holdfast.cluster.parts.kafka import kafka_members, kafka_url
from holdfast.cluster.parts.postgres import Passwords, PostgresMember, apply_rules, node_state, postgres_members
from holdfast.cluster.parts.services import AWAITING_KAFKA, WORKERS, Environment, service_members, worker_members
from holdfast.cluster.programs import check_programs
from holdfast.cluster.wishes import Wishes
from holdfast.engines import processes
from holdfast.engines.data_folder import DataFolder, Running
from holdfast.engines.launch import last_line
from holdfast.engines.watching import Backoff, ended
from holdfast.errors import Mendable
from holdfast.settings import load_settings

Told = Callable[[str, float], None]
"""Is told what stands now, and how many seconds that took."""

_EARLY_ENDS_MAX = 3
_PASSWORDS = ("superuser", "replication", "interface", "etcd", "etcd-root", "owner", "gate", *GROUPS)
_PRIMARY_SECONDS_MAX = 60.0
_SLACK_SECONDS = 5.0
_KEYS = "/.well-known/jwks.json"
_OWN_PORT = 5  # the gateway's in its block, where none was asked for


class Cluster:
    """The cluster of one data folder."""

    def __init__(
        self,
        folder: DataFolder,
        wishes: Wishes,
        say: Callable[[str], None] = lambda text: None,
        told: Told = lambda what, seconds: None,
    ) -> None:
        """Takes the folder, and ends what a killed supervisor left in it. Raises Mendable, with nothing started yet."""
        program = check_programs()
        self._given = load_settings()
        self._say, self._told = say, told
        self.folder = folder
        folder.open()
        try:
            self.layout = _layout(folder, wishes)
            self._end_leftovers()
            self._build(program)
            self._check_ports()
        except BaseException:
            folder.close()
            raise

    def _build(self, program: str) -> None:
        layout, passwords = self.layout, self.folder.passwords(*_PASSWORDS)
        before = self.folder.running()
        self.logins = Logins(layout, passwords)
        self._etcd_passwords = passwords["etcd-root"], passwords["etcd"]
        self._postgres_passwords = Passwords(*(passwords[name] for name in Passwords._fields))
        self.gate = gate_cluster(layout, passwords["gate"])
        self.settings_by_role = {role: self._settings_of(role) for role in (*SERVICES, "workers")}
        owner = self._settings_of("owner")
        self.settings = load_settings(**owner)
        """As the owner of the database has them: for migrations, audits, and the commands beside the cluster."""
        grace = self.settings.drain_notice_seconds + self.settings.drain_seconds + _SLACK_SECONDS
        self.postgres = postgres_members(layout, self._postgres_passwords)
        made: list[Member] = [
            etcd_member(layout, program),
            *self.postgres,
            *gate_members(layout, self.gate),
            *kafka_members(layout),
            *service_members(layout, self.settings_by_role, grace),
            *worker_members(layout, self.settings_by_role["workers"]),
            gateway_member(layout, self.settings),
        ]
        self.members = {member.name: member for member in made}
        self.running = Running(
            supervisor=processes.identify(os.getpid()), settings=dict(owner), prepared=before.prepared
        )
        self._watchers: list[asyncio.Task[None]] = []
        self._failed: asyncio.Future[Never] | None = None
        self._is_up = False

    def member(self, name: str) -> Member:
        """A member by its name, such as `gate-1`, `kafka-2`, `orders-1`, `relay-2` or `gateway`."""
        return self.members[name]

    def kind(self, kind: str) -> list[Member]:
        """All members of a kind: etcd, postgres, gate, kafka, auth, tickets, orders, worker, gateway."""
        return [member for member in self.members.values() if member.kind == kind]

    def hold_down(self, name: str) -> None:
        """From now on this member is not started again when it ends."""
        self.members[name].may_run.clear()
        self._note()

    def release(self, name: str) -> None:
        """Lets this member run again; if it has ended it is started at once."""
        self.members[name].may_run.set()
        self._note()

    async def primary(self) -> PostgresMember:
        """The node that is PostgreSQL's primary. Raises Mendable where there is none for a minute."""
        deadline = clock.monotonic_seconds() + _PRIMARY_SECONDS_MAX
        while clock.monotonic_seconds() < deadline:
            for number, member in enumerate(self.postgres, start=1):
                try:
                    if (await node_state(self.layout.port(f"patroni-{number}"))).role == "primary":
                        return member
                except (OSError, TimeoutError):
                    continue
            await asyncio.sleep(0.1)
        raise Mendable(f"PostgreSQL has no primary: see {self.folder.logs}.")

    async def standbys(self) -> list[PostgresMember]:
        """The other nodes, running or not."""
        primary = await self.primary()
        return [member for member in self.postgres if member is not primary]

    @property
    def signing_key_file(self) -> Path:
        """With which the auth service signs; whoever mints tokens for a drill uses it too."""
        file = self._given.signing_key_file or self.folder.signing_key_file
        if not file.exists():
            create_signing_keys(file)
        return file

    @property
    def url(self) -> str:
        """Where the gateway serves."""
        return self.settings.public_url

    async def start(self) -> None:
        """Starts everything; returns when all of it can be used. Raises Mendable; then `stop` is still to be called."""
        self._failed = asyncio.get_running_loop().create_future()
        self._note()
        try:
            async with asyncio.TaskGroup() as group:
                failing = group.create_task(_raised(self._failed))
                kafka = group.create_task(self._start_kafka())
                gate = group.create_task(self._start_gate())
                database = group.create_task(self._start_database())
                services = group.create_task(self._start_services(database, gate))
                workers = group.create_task(self._start_workers(database, gate, kafka))
                await asyncio.wait([kafka, gate, database, services, workers])
                failing.cancel()
        except* Mendable as errors:
            raise Mendable(str(_first(errors))) from errors
        self._is_up = True
        self.running.url = self.url
        self._note()

    async def stop(self, hurry: asyncio.Event | None = None) -> None:
        """Ends all members, those first that others do not need; nothing of them is left. `hurry` kills them."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        stopping = asyncio.create_task(self._stop_in_order())
        hurrying = asyncio.create_task(hurry.wait()) if hurry is not None else None
        await asyncio.wait({stopping} | ({hurrying} if hurrying else set()), return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            for member in self.members.values():
                for process in member.running():
                    processes.send(process, processes.KILL)
        await stopping
        if hurrying:
            hurrying.cancel()
        self.running.supervisor = None
        self._note()
        self.folder.close()

    async def _stop_in_order(self) -> None:
        primary = await self._primary_now()
        standbys = [member for member in self.postgres if member is not primary]
        services = [member for role in SERVICES for member in self.kind(role)]
        for some in (self.kind("gateway"), services, self.kind("worker")):
            await _stop(some)
        await asyncio.gather(_stop(self.kind("kafka")), _stop(self.kind("gate")), _stop(standbys))
        await _stop([primary] if primary else [])
        await _stop(self.kind("etcd"))

    async def _primary_now(self) -> PostgresMember | None:
        if not any(member.is_alive for member in self.postgres):
            return None
        try:
            async with asyncio.timeout(3):
                return await self.primary()
        except TimeoutError:
            return None

    async def _start_kafka(self) -> None:
        began = clock.monotonic_seconds()
        brokers = self.kind("kafka")
        await asyncio.gather(*(self._begin(broker) for broker in brokers))
        await asyncio.gather(*(broker.until_ready() for broker in brokers))
        self._told("Kafka, 3 brokers", clock.monotonic_seconds() - began)

    async def _start_gate(self) -> None:
        began = clock.monotonic_seconds()
        nodes = self.kind("gate")
        await asyncio.gather(*(self._begin(node) for node in nodes))
        await asyncio.gather(*(node.until_ready() for node in nodes))
        await asyncio.to_thread(self.gate.form)
        self._told("gate, 3 masters and 3 replicas", clock.monotonic_seconds() - began)

    async def _start_database(self) -> None:
        began = clock.monotonic_seconds()
        etcd = self.members["etcd"]
        await self._begin(etcd)
        await etcd.until_ready()
        await protect_etcd(self.layout, *self._etcd_passwords)
        self._told("etcd", clock.monotonic_seconds() - began)
        await asyncio.gather(*(self._begin(node) for node in self.postgres))
        await asyncio.gather(*(node.until_ready() for node in self.postgres))
        primary = await self.primary()
        await apply_rules(self.layout, self._postgres_passwords)
        self._told("PostgreSQL, 1 primary and 2 standbys", clock.monotonic_seconds() - began)
        began = clock.monotonic_seconds()
        ran = await self.logins.prepare(primary.name)
        self._told(f"schema and roles{f', {ran[-1]}' if ran else ''}", clock.monotonic_seconds() - began)

    async def _start_services(self, *needed: "asyncio.Task[None]") -> None:
        await asyncio.gather(*needed)
        began = clock.monotonic_seconds()
        members = [member for role in SERVICES for member in self.kind(role)]
        await asyncio.gather(*(self._begin(member) for member in members))
        # The gateway asks for the keys of tokens when it starts, and not soon again.
        await asyncio.gather(*(member.until_ready() for member in members if member.kind == "auth"))
        gateway = self.members["gateway"]
        await self._begin(gateway)
        await asyncio.gather(*(member.until_ready() for member in (*members, gateway)))
        each = self.layout.services_each
        self._told(f"auth, tickets, orders: {each} of each; gateway", clock.monotonic_seconds() - began)

    async def _start_workers(
        self, database: "asyncio.Task[None]", gate: "asyncio.Task[None]", kafka: "asyncio.Task[None]"
    ) -> None:
        await asyncio.gather(database, gate)
        workers = self.kind("worker")
        later = [one for one in workers if WORKERS[one.name] in AWAITING_KAFKA]
        await asyncio.gather(*(self._begin(one) for one in workers if one not in later))
        await kafka
        await asyncio.gather(*(self._begin(one) for one in later))

    async def _begin(self, member: Member) -> None:
        await member.begin()
        self._note()
        self._watchers.append(asyncio.create_task(self._keep(member)))

    async def _keep(self, member: Member) -> None:
        """Starts a member again whenever it ends."""
        backoff = Backoff()
        while True:
            await ended(member.process)
            how = member.bury()
            self._note()
            if member.may_run.is_set():
                await backoff.wait()
                if backoff.tries >= _EARLY_ENDS_MAX:
                    reason = last_line(member.log) or "it left no word"
                    self._give_up(f"{member.name} {how} again and again: {reason} (see {member.log}).")
                self._say(f"{member.name} {how}; starting it again")
            await member.may_run.wait()
            try:
                await member.begin()
            except (Mendable, OSError) as error:
                self._say(f"{member.name} cannot be started again: {error}")
            self._note()

    def _give_up(self, sentence: str) -> None:
        """Before everything is up what ends by itself is a failure; afterwards it is only started again."""
        if not self._is_up and self._failed is not None and not self._failed.done():
            self._failed.set_exception(Mendable(sentence))

    def _note(self) -> None:
        layout = self.layout
        members = tuple(
            MemberNote(one.name, one.kind, one.port, one.process, one.restarts, not one.may_run.is_set())
            for one in self.members.values()
        )
        note = ClusterNote(layout.port_base, layout.gateway_port, layout.services_each, layout.proxied, members)
        write_note(self.folder, note)
        self.running.children = [one.process for one in members if one.process is not None]
        self.folder.note(self.running)

    def _settings_of(self, role: str) -> Environment:
        """The settings of the processes of one role, and what it needs to reach."""
        owner = role == "owner"
        settings = {
            "database_url": self.logins.owner_url if owner else self.logins.url(role),
            "public_url": f"http://127.0.0.1:{self.layout.gateway_port}",
            "server_processes": str(self.layout.services_each),
            "trusted_proxies": "127.0.0.1",
            "drain_notice_seconds": str(self._given.drain_notice_seconds or 2.0),
        }
        if role in ("auth", "owner"):
            settings["signing_key_file"] = str(self.signing_key_file)
        if role in ("tickets", "orders"):
            # The private keys stay with the auth service.
            keys = (f"http://127.0.0.1:{self.layout.port(name)}{_KEYS}" for name in self.layout.service("auth"))
            settings["jwks_url"] = ",".join(keys)
            settings["replica_database_url"] = self.logins.replica_url(role)
        if role in ("orders", "workers", "owner"):
            settings["gate_url"] = self.gate.url
        if role in ("tickets", "workers", "owner"):
            settings["kafka_url"] = kafka_url(self.layout)
        # Everything shares one machine: what is gathered, and not sent by ones and twos, leaves more of it to the sale.
        gathering = {"kafka_partitions": "4", "publish_poll_seconds": "0.5", "batch_apart_seconds": "0.02"}
        settings |= {name: value for name, value in gathering.items() if name not in self._given.model_fields_set}
        if role == "workers" and (smtp_url := self._given.smtp_url.get_secret_value()):
            settings["smtp_url"] = smtp_url
        return settings

    def _end_leftovers(self) -> None:
        """Ends what a killed supervisor left. Its members were told to end when it did; they may be at it still."""
        noted = read_note(self.folder)
        left = [one.process for one in noted.members if one.process is not None] if noted else []
        processes.end([process for process in left if processes.is_alive(process)], processes.endings(20.0))

    def _check_ports(self) -> None:
        for member in self.members.values():
            member.end_leftovers()
        if taken := self.layout.taken_ports():
            raise Mendable(
                f"Port {taken[0]}, which a member of {self.folder.path} has, is in use by another program: stop that, "
                "or give another folder with --data."
            )


def _layout(folder: DataFolder, wishes: Wishes) -> Layout:
    before = read_note(folder)
    base = before.port_base if before else free_port_base()
    return Layout(Path(folder.path), base, wishes.port or base + _OWN_PORT, wishes.services_each, wishes.proxied)


async def _stop(members: Sequence[Member]) -> None:
    """Asks some members to end, all at once, and sees to it that they do."""
    for member in members:
        member.thaw()
    asked = [member for member in members if member.process is not None]
    seconds = max((member.recipe.stop_seconds for member in asked), default=0.0)
    await asyncio.to_thread(
        processes.end, [member.process for member in asked if member.process], processes.endings(seconds)
    )
    await asyncio.gather(*(asyncio.to_thread(member.end_leftovers) for member in members))
    for member in asked:
        member.bury()


async def _raised(failed: "asyncio.Future[Never]") -> None:
    await failed


def _first(errors: BaseExceptionGroup[Mendable]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
