"""`holdfast cluster` as its user knows it: everything starts, sells, heals, is shown, and leaves nothing behind."""

import json
import os
import select
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.cluster.note import read_note
from holdfast.cluster.programs import check_programs
from holdfast.engines import processes
from holdfast.engines.data_folder import DataFolder, Shape
from holdfast.engines.kafka_jars import cache_folder
from holdfast.errors import Mendable
from running_up import command, environment_of, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(900)]

READY_SECONDS_MAX = 300
"""Kafka's jars may have to be fetched first; and the machine may have other things to do."""
SETTLE_SECONDS_MAX = 120


class Running:
    """One run of `cluster --json`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.data = home.with_name("data")
        self.errors = home.with_name("errors.txt")
        self.environment = environment_of(home) | {"HOLDFAST_CACHE_DIR": str(cache_folder())}
        self.process: subprocess.Popen[bytes] | None = None
        self.answer: dict[str, Any] = {}

    def start(self) -> None:
        """Starts it; returns when it is ready."""
        with self.errors.open("a") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "holdfast.cli.main", "cluster", "--json", "--port", "0", "--data", self.data],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, cwd=self.home.parent,
                env=self.environment,
            )  # fmt: skip
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], READY_SECONDS_MAX)
        line = self.process.stdout.readline() if readable else b""
        assert line, f"it did not come up: {self.errors.read_text()}"
        self.answer = json.loads(line)

    def status(self) -> dict[str, Any]:
        """What `status --json` says."""
        done = command("cluster", "status", "--json", "--data", str(self.data), home=self.home)
        said: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (0 if said["well"] else 1)
        return said

    def members(self) -> dict[str, dict[str, Any]]:
        """The members of the status by name."""
        return {member["name"]: member for member in self.status()["members"]}

    def everything(self) -> list[processes.Process]:
        """Every process of its members that runs."""
        folder = DataFolder(self.data, Shape.CLUSTER)
        note = read_note(folder)
        assert note is not None
        noted = [one.process for one in note.members if one.process is not None and processes.is_alive(one.process)]
        members = self.data / "members"
        servers = [one for n in (1, 2, 3) for one in processes.running_in(members / f"postgres-{n}/data", "postgres")]
        return noted + servers

    def request(self, method: str, path: str, body: object = None, **headers: str) -> dict[str, Any]:
        """The JSON that the gateway answers."""
        request = urllib.request.Request(
            f"{self.answer['url']}{path}", method=method, data=None if body is None else json.dumps(body).encode()
        )
        for name, value in {"content-type": "application/json", **headers}.items():
            request.add_header(name.replace("_", "-"), value)
        with urllib.request.urlopen(request, timeout=20) as answer:
            said: dict[str, Any] = json.load(answer)
            return said

    def end(self) -> None:
        """Whatever may be left."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
        if self.process is not None:
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
        wait_until(lambda: not self.everything(), SETTLE_SECONDS_MAX)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    try:
        check_programs()
    except Mendable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    cluster = Running(tmp_path / "home")
    yield cluster
    cluster.end()


def test_it_starts_sells_heals_and_leaves_nothing(running: Running) -> None:
    running.start()
    said = running.status()
    assert said["well"], said
    members = {member["name"]: member for member in said["members"]}
    assert sorted(one["role"] for one in members.values() if one["kind"] == "postgres") == [
        "primary", "standby", "standby"]  # fmt: skip
    assert sum(one["role"] == "master" for one in members.values()) == 3
    assert {"relay-1", "relay-2", "expiry", "stats", "gateway", "orders-2", "kafka-3"} <= members.keys()

    # Alice buys through the gateway.
    alice = {"email": running.answer["demo_email"], "password": running.answer["demo_password"]}
    token = running.request("POST", "/users/login", alice)["access_token"]
    event = running.request("GET", "/events")["data"][0]["id"]
    tier = running.request("GET", f"/events/{event}/tickets")["data"][0]["id"]
    lines = {"event_id": event, "lines": [{"tier_id": tier, "quantity": 2}]}
    keys = {"authorization": f"Bearer {token}", "idempotency_key": "alice-1"}
    order = running.request("POST", "/orders/create", lines, **keys)
    paid = running.request("POST", f"/orders/{order['id']}/confirm", {"payment_token": "tok_ok"}, **keys)
    assert paid["status"] == "confirmed"

    # Who dies is started again.
    for name in ("orders-1", "relay-1", "gateway", "etcd"):
        before = members[name]["pid"]
        os.kill(before, signal.SIGKILL)
        wait_until(lambda name=name, before=before: running.members()[name]["pid"] not in (before, None))  # type: ignore[misc]
    wait_until(lambda: bool(running.status()["well"]), SETTLE_SECONDS_MAX)
    assert {name for name, member in running.members().items() if member["restarts"]} == {
        "orders-1", "relay-1", "gateway", "etcd"}  # fmt: skip

    # A killed supervisor leaves nothing, and loses nothing.
    process = running.process
    assert process is not None
    process.kill()
    process.wait()
    wait_until(lambda: not running.everything(), SETTLE_SECONDS_MAX)
    assert process.stdout is not None
    process.stdout.close()
    running.start()
    again = running.request("GET", f"/orders/{order['id']}", authorization=f"Bearer {token}")
    assert again["status"] == "confirmed"
    retried = running.request("POST", "/orders/create", lines, **keys)
    assert retried["id"] == order["id"]

    # It is told to stop from another shell.
    done = command("cluster", "stop", "--data", str(running.data), home=running.home)
    assert done.returncode == 0, done.stderr
    assert running.process is not None
    assert running.process.wait(30) == 0
    assert running.everything() == []
    with pytest.raises(urllib.error.URLError):
        running.request("GET", "/events")
