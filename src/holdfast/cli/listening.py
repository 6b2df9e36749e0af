"""The listening socket: made once, before anything is started, and handed to the server processes."""

import errno
import ipaddress
import socket

from holdfast.errors import Mendable

BACKLOG = 4096


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises Mendable where the address cannot be had."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise Mendable(f"{host!r} is not an address of this machine: give one with --host.") from error
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        # Connections of a server that has just ended are still fading away; they must not keep the next one out.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise Mendable(_sentence(error, host, port)) from error
    return listener


def port_of(listener: socket.socket) -> int:
    """The port it listens on, also where any was asked for."""
    port: int = listener.getsockname()[1]
    return port


def reachable_host(listener: socket.socket) -> str:
    """The address under which this machine reaches the listener."""
    address = ipaddress.ip_address(listener.getsockname()[0])
    if address.is_unspecified:
        return "::1" if address.version == 6 else "127.0.0.1"
    return str(address)


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine can reach it."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def http_url(host: str, port: int) -> str:
    """The URL of a server there."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _sentence(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} on {host} is in use: stop the program that has it, or give another one with --port."
    if error.errno == errno.EACCES:
        return f"You may not listen on port {port}: give one above 1023 with --port."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is not an address of this machine: give one with --host."
    return f"Cannot listen on {host} port {port} ({error.strerror}): give another address with --host and --port."
