"""`holdfast gateway`: the configuration of the Envoy in front of the services."""

import json
from pathlib import Path
from typing import Annotated

import typer

from holdfast.errors import Mendable

Addresses = Annotated[str, typer.Option(metavar="HOST:PORT,…", help="The processes of this service.")]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(gateway)


def gateway(
    auth: Addresses,
    tickets: Addresses,
    orders: Addresses,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where clients connect to.")] = "127.0.0.1:8080",
    tls_cert: Annotated[Path | None, typer.Option(help="The certificate and its chain, in PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, in PEM.")] = None,
    admin_port: Annotated[
        int, typer.Option(min=1, max=65535, help="A loopback port for /ready and /stats/prometheus.")
    ] = 9901,
    rate: Annotated[int, typer.Option(min=1, help="Requests a second of everyone together.")] = 50_000,
    address_rate: Annotated[int, typer.Option(min=1, help="Requests a second of one network address.")] = 5_000,
    user_rate: Annotated[int, typer.Option(min=1, help="Requests a second of one signed-in user.")] = 50,
    connections: Annotated[int, typer.Option(min=1, help="Open connections of clients.")] = 20_000,
    memory: Annotated[int, typer.Option(min=64, help="MiB of memory, near which requests are refused.")] = 512,
    proxies: Annotated[int, typer.Option(min=0, help="Trusted proxies in front of the gateway.")] = 0,
    access_log: Annotated[bool, typer.Option(help="Whether each request is logged on standard output.")] = True,
) -> None:
    """Print the configuration of an Envoy that stands in front of the services, as JSON.

    Run it with `envoy -c FILE --concurrency 1`. Sizes, time-outs and the rates of purchases and sign-ins are those of
    the services: give both the same HOLDFAST_… settings, and the services HOLDFAST_TRUSTED_PROXIES.
    """
    from holdfast.gateway import Address, Certificate, Plan, configuration, parse_address, parse_addresses
    from holdfast.settings import load_settings

    if (tls_cert is None) != (tls_key is None):
        raise Mendable("A certificate needs its key: give both --tls-cert and --tls-key, or neither.")
    plan = Plan(
        listen=parse_address(listen, "--listen"),
        auth=parse_addresses(auth, "--auth"),
        tickets=parse_addresses(tickets, "--tickets"),
        orders=parse_addresses(orders, "--orders"),
        settings=load_settings(),
        admin=Address("127.0.0.1", admin_port),
        certificate=Certificate(tls_cert.absolute(), tls_key.absolute()) if tls_cert and tls_key else None,
        requests_per_second=rate,
        address_requests_per_second=address_rate,
        user_requests_per_second=user_rate,
        connections_max=connections,
        memory_bytes_max=memory * 1024 * 1024,
        proxies=proxies,
        access_log=access_log,
    )
    typer.echo(json.dumps(configuration(plan), indent=2))
