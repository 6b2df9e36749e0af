"""Those who come with a token, as the services beside auth know them: by its public keys, and by what one function of
its schema says of administrators."""

from uuid import UUID

from holdfast.auth.public_keys import LearningVerifier, verifier_of
from holdfast.engines.database import AWAY, Pool, load_statements
from holdfast.errors import Busy
from holdfast.settings import Settings

_STATEMENTS = load_statements("holdfast.auth", "auth.sql")


class Visitors:
    """What a process without the auth service has in its place."""

    def __init__(self, tokens: LearningVerifier, pool: Pool) -> None:
        self.tokens = tokens
        self._pool = pool

    async def is_administrator(self, user_id: UUID) -> bool:
        """Whether the database, now, says so. Raises Busy."""
        try:
            return bool(await self._pool.fetchval(_STATEMENTS["is_administrator"], user_id))
        except AWAY as error:
            raise Busy("The database did not answer in time.") from error

    async def close(self) -> None:
        """Asks for keys no more."""
        await self.tokens.close()


async def open_visitors(settings: Settings, pool: Pool) -> Visitors:
    """The visitors on this pool. Raises Mendable where the settings do not say whose tokens are good."""
    tokens = verifier_of(settings)
    await tokens.open()
    return Visitors(tokens, pool)
