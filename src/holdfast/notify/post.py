"""The mail server: where it is, one connection to it, and what its answers mean for a letter."""

import asyncio
from email.headerregistry import Address
from email.message import EmailMessage
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import aiosmtplib

from holdfast.auth.addresses import parse_address
from holdfast.errors import Mendable
from holdfast.settings import Settings

_PORTS = {"smtp": 25, "smtps": 465}
_CLOSING = 421
_PERMANENT = 500
_PLACE = "HOLDFAST_SMTP_URL"


class MailServer(NamedTuple):
    """Where letters are handed in, and in whose name."""

    host: str
    port: int
    username: str | None
    password: str | None
    tls: bool
    """From the first byte on. Otherwise STARTTLS is used where it is offered, and insisted on for a password."""
    sender: Address
    timeout_seconds: float

    @property
    def is_here(self) -> bool:
        """Whether it runs on this machine, where nobody listens to a password on its way."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


class Refused(Exception):
    """The mail server will never take this letter. `code` is its reply; what it said beside may hold an address."""

    def __init__(self, code: int | None) -> None:
        self.code = code
        super().__init__(f"reply {code}")


class PutOff(Refused):
    """It does not take this letter now."""


class PostAway(Exception):
    """No letter can be handed in: the mail server does not answer, or lets nobody in. Its text names nobody."""


def mail_server(settings: Settings) -> MailServer:
    """The mail server of these settings. Raises Mendable where they name none."""
    url = settings.smtp_url.get_secret_value()
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise Mendable(f"{_PLACE} is no address: write smtp://user:password@host:port, or smtps://.") from error
    if parts.scheme not in _PORTS or not parts.hostname or parts.path.strip("/") or parts.query:
        raise Mendable(f"{_PLACE} must be smtp://user:password@host:port, or smtps://; set it to write to buyers.")
    if (parts.username is None) != (parts.password is None):
        raise Mendable(f"{_PLACE} has a user without a password, or a password without a user: give both or neither.")
    return MailServer(
        parts.hostname,
        port or _PORTS[parts.scheme],
        None if parts.username is None else unquote(parts.username),
        None if parts.password is None else unquote(parts.password),
        parts.scheme == "smtps",
        _sender(settings.mail_from),
        settings.mail_timeout_seconds,
    )


class Post:
    """One connection to the mail server, made when a letter is to be handed in."""

    def __init__(self, server: MailServer) -> None:
        self._server = server
        self._connection: aiosmtplib.SMTP | None = None

    @property
    def sender(self) -> Address:
        """In whose name letters are written."""
        return self._server.sender

    async def hand_in(self, message: EmailMessage) -> None:
        """Returns when the mail server has taken the letter. Raises PutOff, Refused or PostAway."""
        connection = self._connection or await self._connect()
        try:
            await connection.send_message(message)
        except aiosmtplib.SMTPRecipientsRefused as error:
            raise self._meaning(error.recipients[0].code) from None
        except aiosmtplib.SMTPDataError as error:
            raise self._meaning(error.code) from None
        except aiosmtplib.SMTPNotSupported:
            # An address with letters beyond ASCII, and a server that knows no such thing.
            raise Refused(None) from None
        except aiosmtplib.SMTPResponseException as error:
            # Not of this letter's recipient or text: the sender, or everyone, is turned away.
            self.drop()
            raise PostAway(f"{type(error).__name__} {error.code}") from None
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            self.drop()
            raise PostAway(type(error).__name__) from None

    async def close(self) -> None:
        """Takes leave of the mail server."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            await connection.quit()
        except (aiosmtplib.SMTPException, OSError, TimeoutError):
            connection.close()

    def drop(self) -> None:
        """Lets the connection go as it is."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _meaning(self, code: int) -> Exception:
        if code == _CLOSING:
            self.drop()
            return PostAway(f"reply {code}")
        return Refused(code) if code >= _PERMANENT else PutOff(code)

    async def _connect(self) -> aiosmtplib.SMTP:
        server = self._server
        connection = aiosmtplib.SMTP(
            hostname=server.host,
            port=server.port,
            username=server.username,
            password=server.password,
            use_tls=server.tls,
            # None: where it is offered.
            start_tls=True if server.username and not server.tls and not server.is_here else None,
            local_hostname=server.sender.domain,
            timeout=server.timeout_seconds,
        )
        try:
            await connection.connect()
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            connection.close()
            code = getattr(error, "code", None)
            raise PostAway(type(error).__name__ + (f" {code}" if isinstance(code, int) else "")) from None
        except asyncio.CancelledError:
            connection.close()
            raise
        self._connection = connection
        return connection


def _sender(text: str) -> Address:
    name, bracket, rest = text.rpartition("<")
    address = parse_address(rest.removesuffix(">") if bracket else text)
    if address is None or (bracket and not text.endswith(">")) or not address.shown.isascii():
        raise Mendable("HOLDFAST_MAIL_FROM is no sender: write tickets@example.org, or Name <tickets@example.org>.")
    return Address(display_name=name.strip().strip('"'), addr_spec=address.shown)
