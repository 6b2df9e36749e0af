"""The auth service, put together."""

from fastapi import APIRouter

from holdfast.auth.accounts import Accounts
from holdfast.auth.passwords import Passwords
from holdfast.auth.routes import auth_routes
from holdfast.auth.setup import SetupLinks
from holdfast.auth.sign_ins import SignIns
from holdfast.auth.tokens import Tokens
from holdfast.engines.database import Pool, Reads
from holdfast.settings import Settings


class Auth:
    """The parts of the auth service of one process. Made in the event loop it serves, and closed there."""

    def __init__(self, settings: Settings, pool: Pool, reads: Reads | None = None) -> None:
        self.tokens = Tokens(settings)
        self.passwords = Passwords(settings)
        self.accounts = Accounts(settings, pool, self.tokens, self.passwords, reads)
        self.router: APIRouter = auth_routes(
            self.accounts, self.tokens, SetupLinks(pool, self.accounts), SignIns(settings)
        )

    def close(self) -> None:
        """Ends the threads that check passwords."""
        self.passwords.close()


def open_auth(settings: Settings, pool: Pool, reads: Reads | None = None) -> Auth:
    """The auth service; without `reads` all goes to the pool. Raises Mendable where the signing keys cannot serve."""
    return Auth(settings, pool, reads)
