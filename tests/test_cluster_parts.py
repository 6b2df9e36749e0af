"""The parts of a cluster by themselves: places, configuration, what is missing, and a member's life."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from holdfast.cli.cluster_view import lines_of
from holdfast.cluster import programs
from holdfast.cluster.layout import Layout, free_port_base
from holdfast.cluster.logins import GROUPS, Logins
from holdfast.cluster.member import Member, Recipe
from holdfast.cluster.note import ClusterNote, MemberNote, read_note, running_note, write_note
from holdfast.cluster.parts.postgres import Passwords, node_state, patroni_configuration, rules
from holdfast.cluster.parts.services import service_members
from holdfast.cluster.picture import MemberState, Picture
from holdfast.engines import kafka_jars, processes
from holdfast.engines.data_folder import DataFolder, Shape
from holdfast.engines.postgres_server import PARAMETERS
from holdfast.errors import Mendable
from running_up import command, wait_until

PASSWORDS = Passwords("supersecret", "replsecret", "apisecret", "etcdsecret")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    (tmp_path / "logs").mkdir()
    return Layout(tmp_path, free_port_base(), 8000)


def linked(layout: Layout) -> Layout:
    return Layout(layout.path, layout.port_base, layout.gateway_port, layout.services_each, proxied=True)


# Places


def test_no_two_members_and_no_links_share_a_port(layout: Layout) -> None:
    layout = linked(Layout(layout.path, layout.port_base, 8000, services_each=9))
    own = [layout.port(name) for name in (*layout.postgres, *layout.gate, *layout.kafka, "etcd", "etcd-peer")]
    own += [layout.port(f"{kind}-{n}") for kind in ("patroni", "kafka-controller") for n in (1, 2, 3)]
    own += [layout.port(name) for role in ("auth", "tickets", "orders") for name in layout.service(role)]
    own += [layout.port(name) + 10_000 for name in layout.gate]
    own += [link.port for link in layout.links()]
    assert len(own) == len(set(own))
    outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(own) < outgoing


def test_services_go_by_links_only_where_there_are_some(layout: Layout) -> None:
    assert layout.links() == []
    assert layout.reached_port("kafka-2") == layout.port("kafka-2")
    assert layout.etcd_port_of("postgres-2") == layout.port("etcd")
    proxied = linked(layout)
    targets = {link.port: link.target_port for link in proxied.links()}
    assert targets[proxied.reached_port("kafka-2")] == layout.port("kafka-2")
    assert targets[proxied.etcd_port_of("postgres-2")] == layout.port("etcd")
    logins = Logins(proxied, dict.fromkeys((*GROUPS, "owner", "superuser"), "p"))
    for url in (logins.owner_url, logins.url("orders"), logins.replica_url("orders")):
        assert str(proxied.reached_port("postgres-1")) in url
        assert f":{layout.port('postgres-1')}" not in url


def test_a_port_that_another_program_has_is_seen(layout: Layout) -> None:
    import socket

    assert layout.taken_ports() == []
    with socket.create_server(("127.0.0.1", layout.port("patroni-3"))):
        assert layout.taken_ports() == [layout.port("patroni-3")]


# PostgreSQL


def test_a_commit_never_counts_on_one_machine_alone(layout: Layout) -> None:
    said = rules()
    assert said["synchronous_mode"] == "quorum"
    assert said["synchronous_mode_strict"] is True
    assert said["primary_start_timeout"] == 0
    parameters = said["postgresql"]["parameters"]  # type: ignore[index]
    assert parameters["synchronous_commit"] == "on"
    assert parameters["fsync"] == "on"
    assert PARAMETERS.keys() <= parameters.keys()


def test_patroni_itself_finds_nothing_wrong(layout: Layout, tmp_path: Path) -> None:
    configuration = patroni_configuration(layout, "postgres-2", 2, PASSWORDS)
    hosts = configuration["postgresql"]["pg_hba"]  # type: ignore[index]
    assert all("scram-sha-256" in line and "127.0.0.1/32" in line for line in hosts)
    file = tmp_path / "patroni.json"
    file.write_text(json.dumps(configuration))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "patroni", "--validate-config", "--ignore-listen-port", str(file)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    # It holds loopback addresses to be a mistake, and looks whether etcd is there.
    meant = re.compile(r'connect_address .*must not contain "127.0.0.1"|etcd3.host .* is not reachable')
    assert [line for line in (done.stdout + done.stderr).splitlines() if line and not meant.search(line)] == []


async def test_a_patroni_that_is_not_there_is_an_oserror(layout: Layout) -> None:
    with pytest.raises(OSError):
        await node_state(layout.port("patroni-1"))


# What is missing


@pytest.mark.parametrize(("program", "word"), [("etcd", "etcd-server"), ("java", "Java"), ("mvn", "Maven")])
def test_a_missing_program_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, word: str
) -> None:
    found = shutil.which
    monkeypatch.setenv("HOLDFAST_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: None if name == program else found(name) or f"/bin/{name}")
    monkeypatch.setattr(programs, "java", lambda: "java")
    with pytest.raises(Mendable, match=word):
        programs.check_programs()
    assert kafka_jars.cache_folder() == tmp_path


def test_where_nothing_is_missing_nothing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(programs, "java", lambda: "java")
    monkeypatch.setattr(programs, "unprivileged_prefix", tuple)
    assert programs.check_programs() == "/usr/bin/etcd"


def test_nothing_is_written_before_what_is_missing_is_said(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    nowhere.mkdir()
    done = command("cluster", "--data", str(tmp_path / "data"), home=tmp_path / "home", PATH=str(nowhere))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "data").exists()


# The data folder


def test_a_folder_of_one_shape_is_refused_to_the_other(tmp_path: Path) -> None:
    cluster = DataFolder(tmp_path / "data", Shape.CLUSTER)
    cluster.open()
    with pytest.raises(Mendable, match="Another `holdfast cluster` runs"):
        DataFolder(tmp_path / "data", Shape.CLUSTER).open()
    cluster.close()
    with pytest.raises(Mendable, match="folder of `holdfast cluster`"):
        DataFolder(tmp_path / "data").open()
    cluster.open()
    cluster.close()


def test_passwords_are_made_once(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data", Shape.CLUSTER)
    folder.open()
    made = folder.passwords("owner", "gate")
    assert folder.passwords("owner", "gate", "etcd").items() >= made.items()
    assert (folder.path / "secrets.json").stat().st_mode & 0o777 == 0o600
    folder.close()


def test_a_cluster_that_does_not_run_has_no_status(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data", Shape.CLUSTER)
    folder.open()
    member = MemberNote("etcd", "etcd", 1, processes.identify(os.getpid()), 0)
    note = ClusterNote(12_000, 8000, 2, proxied=False, members=(member,))
    write_note(folder, note)
    assert read_note(folder) == note
    with pytest.raises(Mendable, match="No `holdfast cluster` runs"):
        running_note(folder)
    folder.close()
    for what in ("status", "stop"):
        done = command("cluster", what, "--data", str(tmp_path / "data"), home=tmp_path / "home")
        assert done.returncode == 2
        assert "No `holdfast cluster` runs" in done.stderr


# A member


def sleeper(layout: Layout, script: str = "import time; time.sleep(600)", *, ready: bool = True) -> Member:
    """A member whose process sleeps."""
    from holdfast.engines.launch import leash

    async def is_ready() -> bool:
        return ready

    folder = layout.folder("sleeper")
    return Member(
        Recipe(
            "sleeper",
            "worker",
            None,
            folder,
            layout.log("sleeper"),
            lambda: [*leash("TERM"), sys.executable, "-c", script],
            is_ready,
            ready_seconds_max=1,
            stop_seconds=2,
        )
    )


async def test_a_member_lives_freezes_and_ends(layout: Layout) -> None:
    member = sleeper(layout)
    assert member.running() == []
    await member.begin()
    process = member.process
    assert process is not None
    await member.until_ready()
    member.freeze()
    wait_until(lambda: processes.is_frozen(process))
    assert member.is_alive
    await member.stop()  # also where it is frozen
    assert member.running() == []
    assert member.bury() == "was ended by signal 15"
    await member.begin()
    assert member.restarts == 1
    member.kill()
    wait_until(lambda: not member.is_alive)
    assert member.bury() == "was ended by signal 9"


async def test_one_that_withstands_is_killed(layout: Layout) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)"
    member = sleeper(layout, f"{deaf}; time.sleep(600)")
    await member.begin()
    wait_until(lambda: "deaf" in member.log.read_text())
    await member.stop()
    assert member.bury() == "was ended by signal 9"


async def test_one_that_does_not_come_up_is_told_with_its_last_word(layout: Layout) -> None:
    member = sleeper(layout, "import sys; sys.exit('no room')", ready=False)
    await member.begin()
    with pytest.raises(Mendable, match="sleeper was not ready within 1 seconds: no room"):
        await member.until_ready()
    member.bury()


@pytest.mark.parametrize("leashed", [True, False])
def test_nothing_outlives_a_killed_supervisor(layout: Layout, leashed: bool) -> None:
    """The control is a process without a leash, which lives on."""
    child = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
    script = (
        "import sys, time; from pathlib import Path; from holdfast.engines.launch import launch, leash;"
        f"p = launch([*(leash('TERM') if {leashed} else ()), *{child!r}], Path({str(layout.path)!r}), "
        f"Path({str(layout.log('child'))!r})); print(p.pid, flush=True); time.sleep(600)"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    process = processes.identify(int(supervisor.stdout.readline()))
    assert process is not None
    wait_until(lambda: layout.log("child").exists() and "up" in layout.log("child").read_text())
    supervisor.kill()
    supervisor.wait()
    supervisor.stdout.close()
    if leashed:
        wait_until(lambda: not processes.is_alive(process))
    else:
        time.sleep(0.3)
        assert processes.is_alive(process)
        processes.end([process])


def test_passwords_are_in_no_command_line(layout: Layout) -> None:
    settings = {role: {"database_url": "postgresql://x:verysecret@h/d"} for role in ("auth", "tickets", "orders")}
    for member in service_members(layout, settings, 1.0):
        assert "verysecret" not in " ".join(member.recipe.command())
        assert "verysecret" in member.recipe.environment["HOLDFAST_DATABASE_URL"]


def test_a_process_gets_no_engine_of_another_role(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_DATABASE_URL", "postgresql://elsewhere/x")
    monkeypatch.setenv("HOLDFAST_GATE_URL", "valkey://elsewhere")
    monkeypatch.setenv("HOLDFAST_HOUSE_TIME_ZONE", "Europe/Berlin")
    settings = {role: {"database_url": f"postgresql://{role}/x"} for role in ("auth", "tickets", "orders")}
    environment = service_members(layout, settings, 1.0)[0].recipe.environment
    assert environment["HOLDFAST_DATABASE_URL"] == "postgresql://auth/x"
    assert "HOLDFAST_GATE_URL" not in environment
    assert environment["HOLDFAST_HOUSE_TIME_ZONE"] == "Europe/Berlin"


# What is shown


def test_the_table_says_what_is_not_well() -> None:
    members = (
        MemberState("postgres-1", "postgres", "primary", "well", 12, 20811, 3725, 0),
        MemberState("gate-4", "gate", "", "held down", None, 20824, 0, 3),
    )
    picture = Picture(members, 312.4, None)
    lines = lines_of(picture)
    assert not picture.is_well
    assert "1:02:05" in lines[1]
    assert "held down" in lines[2]
    assert lines[-1] == "1 of 2 members are well · 312 orders/s · outbox ? old"
