"""A mail server for the tests: a real one on a loopback port, which refuses whom it is told to and keeps the rest."""

import email
import email.policy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from threading import Event
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

from conftest import free_port

PASSWORD = "post"


class Mailbox:
    """What came, and to whom nothing is brought."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self.recipients: list[str] = []
        self.replies: dict[str, str] = {}
        """By recipient: the reply to RCPT, where it is not to be taken."""
        self.reply_to_data = "250 taken"
        self.passwords: list[bytes] = []
        self.came = Event()

    def to(self, address: str) -> list[EmailMessage]:
        """The messages to this address."""
        return [message for message in self.messages if message["To"] == address]

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """The SMTP command."""
        if address in self.replies:
            return self.replies[address]
        envelope.rcpt_tos.append(address)
        return "250 known"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """The SMTP command."""
        if self.reply_to_data.startswith("250"):
            assert isinstance(envelope.content, bytes)
            message = email.message_from_bytes(envelope.content, policy=email.policy.default)
            assert isinstance(message, EmailMessage)
            self.messages.append(message)
            self.recipients += envelope.rcpt_tos
            self.came.set()
        return self.reply_to_data

    def authenticate(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        """Whether somebody may hand letters in."""
        self.passwords.append(data.password)
        return AuthResult(success=data.password == PASSWORD.encode(), handled=False)


@contextmanager
def mail_server(
    mailbox: Mailbox, *, port: int | None = None, with_password: bool = False, ascii_only: bool = False
) -> Iterator[int]:
    """A mail server, and its port."""
    wants: dict[str, Any] = {"auth_required": True, "auth_require_tls": False, "authenticator": mailbox.authenticate}
    with warnings.catch_warnings():
        # It says that asking for a password without TLS is no good idea, which between two threads it may be.
        warnings.simplefilter("ignore")
        controller = Controller(
            mailbox,
            "127.0.0.1",
            port or free_port(),
            enable_SMTPUTF8=not ascii_only,
            **(wants if with_password else {}),
        )
        controller.start()
        try:
            yield controller.port
        finally:
            controller.stop()
