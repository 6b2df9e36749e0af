"""The gateway's configuration: Envoy takes every form of it, its limits fit the services', and what cannot work is
refused in a sentence."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from holdfast.cli.main import build_app
from holdfast.errors import Mendable
from holdfast.gateway import Address, Certificate, Plan, configuration, envoy_program, parse_address, parse_addresses
from holdfast.gateway.routes import ROUTES, Again, Kind, Token
from holdfast.settings import Settings
from running_up import command
from test_gateway_limits import certificate

__all__ = ["certificate"]

HERE = "127.0.0.1"
SERVICES: dict[str, Any] = {
    "auth": (Address(HERE, 8101),),
    "tickets": (Address(HERE, 8201), Address(HERE, 8202)),
    "orders": (Address(HERE, 8301), Address(HERE, 8302)),
}


def _plan(**changed: Any) -> Plan:
    return Plan(**{"listen": Address(HERE, 8080), "settings": Settings(), **SERVICES, **changed})


def _is_taken(document: Any, folder: Path) -> bool:
    file = folder / "envoy.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    arguments = [str(envoy_program()), "--mode", "validate", "--config-path", str(file), "--log-level", "error"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert "warn" not in done.stderr, done.stderr
    return done.returncode == 0


def _connections(document: dict[str, Any]) -> dict[str, Any]:
    (listener,) = document["static_resources"]["listeners"]
    found: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return found


# Envoy's word


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"orders": (Address("orders.house.example", 8000),), "listen": Address("0.0.0.0", 8443)},
        {"listen": Address("::1", 8080), "auth": (Address("::1", 8101),)},
        {"proxies": 2, "access_log": False},
        {"requests_per_second": 1, "address_requests_per_second": 1, "user_requests_per_second": 1, "clients_max": 1},
        {
            "settings": Settings(
                purchases_per_second=0.25, purchases_burst=1, body_bytes_max=1024, header_bytes_max=4096
            )
        },
        {"settings": Settings(header_bytes_max=256 * 1024, read_seconds_max=0.05, database_timeout_seconds=60)},
    ],
)
def test_envoy_takes_it(tmp_path: Path, changed: dict[str, Any]) -> None:
    assert _is_taken(configuration(_plan(**changed)), tmp_path)


def test_envoy_takes_it_with_a_certificate(tmp_path: Path, certificate: Certificate) -> None:
    assert _is_taken(configuration(_plan(certificate=certificate)), tmp_path)


def test_the_control_envoy_does_not_take_everything(tmp_path: Path) -> None:
    document = configuration(_plan())
    _connections(document)["no_such_field"] = 1
    assert not _is_taken(document, tmp_path)
    document = configuration(_plan())
    document["static_resources"]["clusters"].pop()
    assert not _is_taken(document, tmp_path)


def test_the_command_prints_what_envoy_takes(tmp_path: Path) -> None:
    arguments = ["gateway", "--auth", f"{HERE}:1", "--tickets", f"{HERE}:2,{HERE}:3", "--orders", "orders.example:4"]
    settings = {"HOLDFAST_BODY_BYTES_MAX": "2048"}
    more = ["--listen", f"{HERE}:5", "--admin-port", "6", "--address-rate", "7", "--proxies", "1", "--no-access-log"]
    done = command(*arguments, *more, home=tmp_path / "home", **settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert _is_taken(done.stdout, tmp_path)
    document = json.loads(done.stdout)
    connections = _connections(document)
    assert (connections["xff_num_trusted_hops"], connections["access_log"]) == (1, [])
    assert connections["http_filters"][3]["typed_config"]["max_request_bytes"] == 2048
    assert document["admin"]["address"]["socket_address"] == {"address": HERE, "port_value": 6}
    names = [cluster["name"] for cluster in document["static_resources"]["clusters"]]
    assert sorted(names) == ["auth", "orders", "tickets"]


# How limits relate


@pytest.mark.parametrize("database_seconds", [0.1, 5, 60])
def test_its_times_fit_the_services(database_seconds: float) -> None:
    document = configuration(_plan(settings=Settings(database_timeout_seconds=database_seconds)))
    for cluster in document["static_resources"]["clusters"]:
        (options,) = cluster["typed_extension_protocol_options"].values()
        # A service closes what rests for 30 s; nothing may be sent on that.
        assert _seconds(options["common_http_protocol_options"]["idle_timeout"]) < 30
        assert cluster["outlier_detection"]["max_ejection_percent"] <= 50
    connections = _connections(document)
    for route in connections["route_config"]["virtual_hosts"][0]["routes"]:
        action = route["route"]
        assert _seconds(action["timeout"]) <= _seconds(action.get("idle_timeout", connections["stream_idle_timeout"]))
        if "per_try_timeout" in action["retry_policy"]:
            # A service says by itself that its database is away, and more than one try fits.
            one_try = _seconds(action["retry_policy"]["per_try_timeout"])
            assert database_seconds < one_try < _seconds(action["timeout"]) / 2


def _seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_only_reading_and_purchases_are_repeated() -> None:
    for route in ROUTES:
        assert (route.again is Again.ANY_TIME) == (route.method == "GET" or route.kind is Kind.PURCHASE), route
        if route.kind is Kind.PURCHASE:
            assert route.token is Token.NEEDED


def test_every_route_is_met_before_one_that_hides_it() -> None:
    """The first that fits decides, so `/**` stands behind everything of its own folder."""
    for number, route in enumerate(ROUTES):
        for earlier in ROUTES[:number]:
            if earlier.path.endswith("/**") and earlier.method in ("", route.method):
                assert not route.path.startswith(earlier.path.removesuffix("**")), (earlier, route)


# What cannot work


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"orders": ()}, "no address of the service orders"),
        ({"admin": Address("0.0.0.0", 9901)}, "admin port"),
        ({"admin": Address("localhost", 9901)}, "admin port"),
        ({"requests_per_second": 0}, "requests_per_second"),
        ({"connections_max": 0}, "connections_max"),
        ({"burst_seconds": 0}, "burst_seconds"),
    ],
)
def test_a_plan_that_cannot_work(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Mendable, match=sentence):
        _plan(**changed)


def test_addresses() -> None:
    assert parse_addresses("a:1, [::1]:2,127.0.0.1:65535", "--x") == (
        Address("a", 1),
        Address("::1", 2),
        Address("127.0.0.1", 65535),
    )
    assert parse_addresses("", "--x") == ()


@pytest.mark.parametrize("text", ["a", ":1", "a:", "a:b", "a:-1", "a:65536", "::1", "x::y:1", ""])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(Mendable, match="mend --listen"):
        parse_address(text, "--listen")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--orders", "x"], "mend --orders"),
        (["--orders", ""], "no address of the service orders"),
        (["--orders", "a:1", "--tls-cert", "x.pem"], "needs its key"),
    ],
)
def test_the_command_says_what_to_mend(arguments: list[str], sentence: str) -> None:
    every = ["gateway", "--auth", "a:1", "--tickets", "a:1", *arguments]
    with pytest.raises(Mendable, match=sentence):
        build_app(every)(every, standalone_mode=False)
