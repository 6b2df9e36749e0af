"""The services as processes of their own, as many of each as a test wants, each with its own role and settings."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from house import PASSWORD, done
from running_up import environment_of
from service_roles import Logins

START_SECONDS_MAX = 90
END_SECONDS_MAX = 60
SERVING = re.compile(r"Serving \w+ on (http://\S+)")


class Process:
    """One `holdfast serve …` or `holdfast work …`."""

    def __init__(self, name: str, arguments: list[str], environment: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._url = ""
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "holdfast.cli.main", *arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, env=dict(environment),
            )  # fmt: skip

    @property
    def url(self) -> str:
        """Where it serves, once it is ready."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self._url:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            found = SERVING.search(self.log.read_text())
            if found is None or not _is_ready(found[1]):
                time.sleep(0.02)
                continue
            self._url = found[1]
        return self._url

    def stop(self) -> int:
        """Asks it to end; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(END_SECONDS_MAX)

    def kill(self) -> None:
        """Ends it at once."""
        self.process.kill()
        self.process.wait()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


class Split:
    """The processes of one test. None but those of auth is told where the private keys are."""

    def __init__(self, roles: Logins, folder: Path) -> None:
        self._roles = roles
        self._folder = folder
        self.signing_key_file = roles.owner.signing_key_file
        self.processes: list[Process] = []
        self.jwks_url = ""

    def serve(self, service: str, **settings: str) -> Process:
        """One replica more of a service, on any port."""
        port = settings.pop("port", "0")
        if service == "auth":
            settings = {"signing_key_file": str(self.signing_key_file)} | settings
        else:
            settings = {"jwks_url": self.jwks_url} | settings
        if service == "orders":
            settings = {"gate_url": self._roles.owner.gate_url.get_secret_value()} | settings
        return self._start(service, ["serve", service, "--port", port], settings)

    def work(self, worker: str, **settings: str) -> Process:
        """One worker process more."""
        settings = {"gate_url": self._roles.owner.gate_url.get_secret_value()} | settings
        return self._start("workers", ["work", worker], settings)

    def _start(self, service: str, arguments: list[str], settings: Mapping[str, str]) -> Process:
        given = {"database_url": self._roles.urls[service]} | dict(settings)
        environment = environment_of(self._folder / "home")
        environment |= {f"HOLDFAST_{name.upper()}": value for name, value in given.items()}
        name = f"{arguments[1]}-{len(self.processes) + 1}"
        process = Process(name, arguments, environment, self._folder)
        self.processes.append(process)
        return process

    def stop(self) -> None:
        """Asks all that run to end, and sees that they end well and had nothing to regret."""
        running = [one for one in self.processes if one.process.poll() is None]
        for one in running:
            one.process.send_signal(signal.SIGTERM)
        for one in running:
            # A server hands the signal on to itself when all has ended.
            assert one.process.wait(END_SECONDS_MAX) in (0, -signal.SIGTERM), one.log.read_text()
        for one in self.processes:
            log = one.log.read_text()
            assert "Traceback" not in log, log
            assert "dead letter" not in log, log


@contextmanager
def split_house(roles: Logins, folder: Path) -> Iterator[Split]:
    """No process yet; none is left afterwards."""
    folder.mkdir(exist_ok=True)
    split = Split(roles, folder)
    try:
        yield split
        split.stop()
    finally:
        for one in split.processes:
            if one.process.poll() is None:
                one.kill()


class Person:
    """Somebody with an access token."""

    def __init__(self, auth_url: str, name: str, *, register: bool = True) -> None:
        self._auth_url = auth_url
        self._credentials = {"email": f"{name}@house.example", "password": PASSWORD}
        if register:
            done(httpx.post(f"{auth_url}/users/register", json=self._credentials, timeout=60), 201)
        self.headers: dict[str, str] = {}
        self.log_in()

    def log_in(self, auth_url: str | None = None) -> None:
        """Gets a new token."""
        reply = httpx.post(f"{auth_url or self._auth_url}/users/login", json=self._credentials, timeout=60)
        self.headers = {"Authorization": f"Bearer {done(reply)['access_token']}"}

    def ask(self, method: str, url: str, key: str = "", **request: Any) -> httpx.Response:
        """One request."""
        headers = self.headers | ({"Idempotency-Key": key} if key else {})
        return httpx.request(method, url, headers=headers, timeout=60, **request)


def environment_given(process: Process) -> str:
    """The environment that a process was started with."""
    return Path(f"/proc/{process.process.pid}/environ").read_text()
